"""Logins as docker, podman and Ollama keep them, and what the settings of registries take."""

from __future__ import annotations

import base64
import json
import os
import stat
from typing import TYPE_CHECKING, Any

import pytest

from p2pcache.agent.args import Args
from p2pcache.agent.localapi import calls
from p2pcache.config.registries import registry_hosts, with_choices
from p2pcache.config.registry_login import login_for, ollama_models
from p2pcache.content.refs import parse_ref
from p2pcache.content.registry_refs import OciRef, OllamaRef
from p2pcache.errors import LocalFault, UsageError
from p2pcache.sources.port import RegistryLogin

if TYPE_CHECKING:
    from pathlib import Path

SECRET = "the-secret-of-a-login"
HELPER = """#!/bin/sh
read server
case "$server" in
  with.example) echo '{"Username":"me","Secret":"the-secret-of-a-login"}';;
  token.example) echo '{"Username":"<token>","Secret":"the-secret-of-a-login"}';;
  https://index.docker.io/v1/) echo '{"Username":"hub","Secret":"the-secret-of-a-login"}';;
  broken.example) echo 'the-secret-of-a-login'; exit 2;;
  nonsense.example) echo '[]';;
  *) echo 'credentials not found in native keychain'; exit 1;;
esac
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    helper = tmp_path / "bin" / "docker-credential-fake"
    helper.parent.mkdir()
    helper.write_text(HELPER)
    helper.chmod(helper.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{helper.parent}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


def keep(file: Path, **said: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(said))


def auth(user: str = "me", password: str = SECRET) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


def found(home: Path, ref: str, **environment: str) -> dict[str, str]:
    parsed = parse_ref(ref)
    assert isinstance(parsed, OciRef | OllamaRef)
    return login_for(parsed, {"HOME": str(home), **environment})


def said(host: str, user: str = "me") -> dict[str, str]:
    return {"registry_host": host, "registry_user": user, "registry_password": SECRET}


def test_nobody_is_logged_in_where_nothing_is_kept(home: Path) -> None:
    assert found(home, "oci://with.example/a") == {}
    keep(home / ".docker" / "config.json", auths={"other.example": auth()})
    assert found(home, "oci://with.example/a") == {}
    assert found(home, "ollama://x") == {}


@pytest.mark.parametrize(
    "key", ["r.example:5000", "https://r.example:5000", "https://r.example:5000/v2/"]
)
def test_docker_login_is_found_under_each_of_its_keys(home: Path, key: str) -> None:
    keep(home / ".docker" / "config.json", auths={key: auth(password=SECRET + "\0\0")})
    assert found(home, "oci://r.example:5000/a/b") == said("r.example:5000")
    assert found(home, "oci://r.example/a/b") == {}, "another port is another registry"


def test_docker_config_and_podmans_files_are_looked_into_in_order(home: Path) -> None:
    keep(home / ".config/containers/auth.json", auths={"r.example": auth("podman")})
    assert found(home, "oci://r.example/a") == said("r.example", "podman")
    keep(home / "run/containers/auth.json", auths={"r.example": auth("runtime")})
    runtime = {"XDG_RUNTIME_DIR": str(home / "run")}
    assert found(home, "oci://r.example/a", **runtime) == said("r.example", "runtime")
    keep(home / "elsewhere/config.json", auths={"r.example": auth("docker")})
    docker = {**runtime, "DOCKER_CONFIG": str(home / "elsewhere")}
    assert found(home, "oci://r.example/a", **docker) == said("r.example", "docker")
    keep(home / "named.json", auths={"r.example": auth("named")})
    named = {**docker, "REGISTRY_AUTH_FILE": str(home / "named.json")}
    assert found(home, "oci://r.example/a", **named) == said("r.example", "named")


def test_podman_knows_logins_of_one_repository(home: Path) -> None:
    keep(
        home / ".config/containers/auth.json",
        auths={"r.example": auth("all"), "r.example/team/a": auth("one")},
    )
    assert found(home, "oci://r.example/team/a") == said("r.example", "one")
    assert found(home, "oci://r.example/team/b") == said("r.example", "all")


def test_tokens_are_found_too(home: Path) -> None:
    keep(
        home / ".docker/config.json",
        auths={
            "id.example": {**auth("x", ""), "identitytoken": SECRET},
            "bearer.example": {"registrytoken": SECRET},
        },
    )
    assert found(home, "oci://id.example/a")["registry_identity"] == SECRET
    assert found(home, "oci://bearer.example/a")["registry_bearer"] == SECRET


def test_helpers_are_called_as_docker_calls_them(home: Path) -> None:
    keep(home / ".docker/config.json", credsStore="fake", auths={"with.example": {}})
    assert found(home, "oci://with.example/a") == said("with.example")
    assert found(home, "oci://token.example/a")["registry_identity"] == SECRET
    assert found(home, "oci://docker.io/library/a") == said("docker.io", "hub")
    assert found(home, "oci://none.example/a") == {}
    keep(home / ".docker/config.json", credHelpers={"with.example": "fake"})
    assert found(home, "oci://with.example/a") == said("with.example")


@pytest.mark.parametrize(
    ("helper", "host"),
    [("fake", "broken.example"), ("fake", "nonsense.example"), ("missing", "a.example"),
     ("../bin/docker-credential-fake", "a.example"), ("", "a.example")],
)  # fmt: skip
def test_a_helper_that_fails_is_named_and_its_words_are_not(
    home: Path, helper: str, host: str
) -> None:
    keep(home / ".docker/config.json", credHelpers={host: helper})
    with pytest.raises(LocalFault) as caught:
        found(home, f"oci://{host}/a")
    assert "docker-credential-" in caught.value.message
    assert SECRET not in f"{caught.value.message} {caught.value.hint} {caught.value.__cause__}"


def test_files_that_make_no_sense_say_so_or_nothing(home: Path) -> None:
    (home / ".docker").mkdir()
    config = home / ".docker/config.json"
    for text in ("[]", '{"auths": []}', '{"auths": {"r.example": {"auth": "%%%"}}}',
                 '{"auths": {"r.example": {"auth": "/w=="}}}', '{"auths": {"r.example": 1}}',
                 '{"auths": {"r.example": {"username": 1, "password": 2}}}'):  # fmt: skip
        config.write_text(text)
        assert found(home, "oci://r.example/a") == {}
    config.write_text("{")
    with pytest.raises(LocalFault, match=r"config\.json"):
        found(home, "oci://r.example/a")


def test_ollamas_key_is_for_its_models_alone_and_comes_after_a_login(home: Path) -> None:
    (home / ".ollama").mkdir()
    (home / ".ollama/id_ed25519").write_text("the key")
    assert found(home, "oci://r.example/a") == {}
    assert found(home, "ollama://r.example/a") == {
        "registry_host": "r.example", "registry_ollama_key": "the key",
    }  # fmt: skip
    keep(home / ".docker/config.json", auths={"r.example": auth()})
    assert found(home, "ollama://r.example/a") == said("r.example")


def test_ollamas_models_are_where_it_keeps_them(home: Path) -> None:
    assert ollama_models({"HOME": str(home)}) == home / ".ollama" / "models"
    assert ollama_models({"OLLAMA_MODELS": str(home / "m")}) == home / "m"


def test_a_login_shows_nothing_of_itself() -> None:
    login = RegistryLogin("h", "me", SECRET, SECRET, SECRET, SECRET)
    credentials = Args({"credentials": said("h")}).credentials()
    assert credentials.registry == RegistryLogin("h", "me", SECRET)
    assert SECRET not in f"{login!r} {credentials!r} {credentials}"
    assert Args({"credentials": {"registry_user": "me"}}).credentials().registry is None


def test_hosts_of_registries_are_read() -> None:
    assert registry_hosts("none") == registry_hosts(" ") == frozenset()
    assert registry_hosts("Loopback, r.example:5000") == {"loopback", "r.example:5000"}
    for text in ("http://r.example", "a b", "r.example:port"):
        with pytest.raises(ValueError, match="host"):
            registry_hosts(text)


def test_choices_become_a_part_of_the_ref() -> None:
    own = with_choices("oci://h/a", None, None)
    assert own.startswith("oci://h/a:latest?platform=linux/")
    assert with_choices(own, None, None) == own
    wish = with_choices("docker://h/a:1?layout=oci", "linux/s390x", "files")
    assert wish == "oci://h/a:1?platform=linux/s390x&layout=files"
    assert with_choices("ollama://x", None, None) == "ollama://x"
    for bad in (("ollama://x", "linux/amd64", None), ("hf://a/b", None, "oci")):
        with pytest.raises(UsageError, match="platforms"):
            with_choices(*bad)
    for bad in (("oci://h/a", "linux", None), ("oci://h/a", None, "tar")):
        with pytest.raises(UsageError):
            with_choices(*bad)


def test_a_model_is_shown_to_ollama_where_its_user_expects_it(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("OLLAMA_MODELS", raising=False)
    own = str(home / ".ollama/models")

    def where(ref: str = "ollama://x", **options: Any) -> object:
        return calls.get(ref, credentials={}, **options).args["ollama"]

    assert where() is None, "a store of another program is not made unasked"
    assert where(to_ollama=True) == where(to_ollama=True, to=str(home)) == own
    monkeypatch.setenv("OLLAMA_MODELS", str(home / "named"))
    assert where() == str(home / "named"), "who names it wants them there"
    assert where(to=str(home)) is None
    assert where(to_ollama=False) is None
    assert where(to_ollama=str(home / "other")) == str(home / "other")
    assert where("hf://a/b") is None
    assert where("hf://a/b", to_ollama=True) == str(home / "named"), "a GGUF, when asked for"
    assert where("hf://a/b", ollama_name="x:y") == str(home / "named"), "a name is such a wish"
    assert where("hf://a/b", ollama_name="x:y", to_ollama=False) is None
