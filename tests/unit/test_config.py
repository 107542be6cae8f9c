"""Environment to values. The environment is the subject here, so it is set."""

import os
from pathlib import Path

import pytest

from p2pcache import config
from p2pcache.agent.args import Args
from p2pcache.config import settings
from p2pcache.errors import UsageError
from p2pcache.sources.port import AwsLogin


@pytest.fixture
def environment(monkeypatch, tmp_path):
    for name, _ in config.ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return monkeypatch


def test_home_is_the_variable_or_the_users_cache(environment, tmp_path):
    assert config.home() == tmp_path / ".cache" / "p2pcache"
    environment.setenv("P2PCACHE_HOME", "~/elsewhere")
    assert config.home() == tmp_path / "elsewhere"


def test_a_home_too_long_for_a_socket_gets_a_short_stand_in_of_its_own(environment, tmp_path):
    short = Path("/srv/p2pcache")
    assert config.socket_path(short) == short / "agent.sock"
    limit = config.environment.MAX_SOCKET_PATH_BYTES - len("/agent.sock")
    fits, long, other = (Path("/" + "h" * n) for n in (limit - 1, limit, limit + 1))
    assert config.socket_path(fits).parent == fits
    stand_ins = {config.socket_path(home) for home in (long, other)}
    assert len(stand_ins) == 2
    for path in stand_ins:
        assert path.parent == Path(f"/tmp/p2pcache-{os.getuid()}")
        assert len(os.fsencode(path)) <= config.environment.MAX_SOCKET_PATH_BYTES
    environment.setenv("XDG_RUNTIME_DIR", "/run/user/7")
    assert config.socket_path(long).parent == Path("/run/user/7/p2pcache")


def test_a_multibyte_home_is_measured_in_bytes(environment):
    assert config.socket_path(Path("/" + "ü" * 60)).parent != Path("/" + "ü" * 60)


def test_the_hub_cache_follows_hugging_faces_own_rules(environment, tmp_path):
    assert config.hub_cache_dir() == tmp_path / ".cache/huggingface/hub"
    environment.setenv("XDG_CACHE_HOME", "/xdg")
    assert config.hub_cache_dir() == Path("/xdg/huggingface/hub")
    environment.setenv("HF_HOME", "/hf")
    assert config.hub_cache_dir() == Path("/hf/hub")
    environment.setenv("HUGGINGFACE_HUB_CACHE", "/old")
    assert config.hub_cache_dir() == Path("/old")
    environment.setenv("HF_HUB_CACHE", "/new")
    assert config.hub_cache_dir() == Path("/new")


def test_hugging_faces_paths_may_name_variables(environment, tmp_path):
    environment.setenv("SCRATCH", str(tmp_path / "scratch"))
    environment.setenv("HF_HOME", "$SCRATCH/hf")
    assert config.hub_cache_dir() == tmp_path / "scratch/hf/hub"
    environment.setenv("HF_TOKEN_PATH", "${SCRATCH}/token")
    (tmp_path / "scratch").mkdir()
    (tmp_path / "scratch" / "token").write_text("from-file")
    assert config.caller_credentials() == {"hf_token": "from-file"}
    environment.setenv("HF_HUB_CACHE", "~/$NOT_SET/hub")
    assert config.hub_cache_dir() == tmp_path / "$NOT_SET/hub"


def test_credentials_come_from_the_variables_then_the_file(environment, tmp_path):
    assert config.caller_credentials() == {}
    environment.setenv("HF_HOME", str(tmp_path))
    (tmp_path / "token").write_text("from-file\n")
    assert config.caller_credentials() == {"hf_token": "from-file"}
    environment.setenv("HUGGING_FACE_HUB_TOKEN", "older")
    assert config.caller_credentials()["hf_token"] == "older"
    environment.setenv("HF_TOKEN", " newer\n")
    environment.setenv("HF_ENDPOINT", "http://127.0.0.1:8000/")
    assert config.caller_credentials() == {
        "hf_token": "newer",
        "hf_endpoint": "http://127.0.0.1:8000",
    }


def test_the_login_for_s3_is_that_of_boto3s_variables(environment):
    environment.setenv("AWS_ACCESS_KEY_ID", "AKIA1")
    environment.setenv("AWS_SECRET_ACCESS_KEY", " secret\n")
    environment.setenv("AWS_ENDPOINT_URL", "http://all:1")
    environment.setenv("AWS_DEFAULT_REGION", "eu-1")
    assert config.caller_credentials() == {
        "aws_access_key_id": "AKIA1",
        "aws_secret_access_key": "secret",
        "aws_endpoint_url": "http://all:1",
        "aws_region": "eu-1",
    }
    environment.setenv("AWS_ENDPOINT_URL_S3", "http://s3:2")
    environment.setenv("AWS_REGION", "eu-2")
    environment.setenv("AWS_PROFILE", "lab")
    environment.setenv("AWS_SESSION_TOKEN", "token")
    again = config.caller_credentials()
    assert (again["aws_endpoint_url"], again["aws_region"]) == ("http://s3:2", "eu-2")
    assert (again["aws_profile"], again["aws_session_token"]) == ("lab", "token")
    taken = Args({"credentials": again}).credentials().aws
    assert taken == AwsLogin("AKIA1", "secret", "token", "lab", "eu-2", "http://s3:2")


def test_a_user_who_disabled_the_implicit_token_sends_none(environment, tmp_path):
    environment.setenv("HF_HOME", str(tmp_path))
    (tmp_path / "token").write_text("secret")
    environment.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")
    assert config.caller_credentials() == {}


def test_no_color_and_no_progress_count_when_set_to_something(environment):
    environment.setenv("NO_COLOR", "")
    assert config.terminal_options().color
    environment.setenv("NO_COLOR", "1")
    environment.setenv("P2PCACHE_NO_PROGRESS", "1")
    assert config.terminal_options() == config.TerminalOptions(color=False, progress=False)
    environment.delenv("NO_COLOR")
    environment.setenv("TERM", "dumb")
    assert config.terminal_options() == config.TerminalOptions(False, False, redraws=False)


def test_a_relative_path_in_a_setting_counts_from_the_home(tmp_path):
    named = {"P2PCACHE_STORE_PATH": "blobs", "P2PCACHE_TLS_CA_FILE": "ca.pem"}
    loaded = settings.load(tmp_path, named)
    assert loaded.store_path == tmp_path / "blobs"
    assert loaded.ca_file == str(tmp_path / "ca.pem")
    assert settings.load(tmp_path, {"P2PCACHE_STORE_PATH": "/srv"}).store_path == Path("/srv")


@pytest.mark.parametrize("value", ["0", "much"])
def test_a_capacity_that_is_none_is_refused_by_the_variables_name(tmp_path, value):
    with pytest.raises(UsageError, match="P2PCACHE_STORE_CAPACITY"):
        settings.load(tmp_path, {"P2PCACHE_STORE_CAPACITY": value})


def test_variables_in_hugging_faces_folders_mean_what_they_mean_to_huggingface_hub(
    monkeypatch, tmp_path
):
    monkeypatch.setenv("SCRATCH", str(tmp_path))
    monkeypatch.setenv("HF_HOME", "$SCRATCH/hf")
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.delenv("HUGGINGFACE_HUB_CACHE", raising=False)
    assert config.hub_cache_dir() == tmp_path / "hf" / "hub"
    monkeypatch.setenv("HF_HUB_CACHE", "${SCRATCH}/hub")
    assert config.hub_cache_dir() == tmp_path / "hub"
