"""Settings of buckets: what is read, what is refused, and who counts before whom."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import botocore.session
import pytest

from p2pcache import config
from p2pcache.config.aws_profile import profile_endpoint
from p2pcache.config.s3 import buckets, format_buckets
from p2pcache.config.settings import load
from p2pcache.content.s3_refs import S3Ref
from p2pcache.errors import UsageError
from p2pcache.sources.port import AwsLogin, Credentials
from p2pcache.sources.s3.client import open_client, request_for
from p2pcache.sources.s3.options import PUBLIC_S3, BucketOptions, S3Options
from p2pcache.sources.s3.source import S3Source

if TYPE_CHECKING:
    from pathlib import Path

TEXT = (
    "models endpoint=https://minio.example:9000 region=eu-1 profile=lab style=virtual; "
    "open anonymous=on requester_pays=off public=on"
)


def test_what_is_written_comes_back() -> None:
    found = buckets(TEXT)
    assert dict(found) == {
        "models": BucketOptions("https://minio.example:9000", "eu-1", "lab", "virtual"),
        "open": BucketOptions(anonymous=True, requester_pays=False, public=True),
    }
    assert format_buckets(found) == TEXT
    assert format_buckets(buckets("none")) == "none"


@pytest.mark.parametrize(
    "text",
    [
        "m", "-- region=a", "models/key region=a", "models region", "models region=",
        "models region=EU_1", "models style=dns", "models anonymous=yes", "models key=secret",
        "models region=a region=b", "models region=a; models region=b",
        "models endpoint=ftp://host", "models endpoint=https://u:p@host",
        "models endpoint=https://host?x=1", "models endpoint=https://host:99999",
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        buckets(text)


@pytest.mark.parametrize(
    ("key", "value"),
    [("endpoint", "minio"), ("region", "!"), ("style", "dns"), ("url_valid", "8d"),
     ("url_valid", "0.5s"), ("anonymous", "maybe")],
)  # fmt: skip
def test_a_bad_setting_is_named(tmp_path: Path, key: str, value: str) -> None:
    with pytest.raises(UsageError, match=f"s3.{key}"):
        load(tmp_path, {f"P2PCACHE_S3_{key.upper()}": value})


def test_the_agents_own_environment_names_the_endpoint_where_no_setting_does(
    tmp_path: Path,
) -> None:
    environment = {"AWS_ENDPOINT_URL": "http://a:1", "AWS_ENDPOINT_URL_S3": "http://b:2"}
    assert load(tmp_path, environment).s3.common.endpoint == "http://b:2"
    environment["P2PCACHE_S3_ENDPOINT"] = "http://c:3/"
    assert load(tmp_path, environment).s3.common.endpoint == "http://c:3"


PROFILES = """
[default]
region = eu-1
endpoint_url = http://default:1
[profile lab]
endpoint_url = http://lab:2
[profile both]
endpoint_url = http://both:3
services = stores
[services stores]
s3 =
    endpoint_url = http://stores:4
    addressing_style = path
dynamodb =
    endpoint_url = http://other:5
[profile none]
region = eu-1
"""


@pytest.mark.parametrize(
    ("profile", "endpoint"),
    [
        (None, "http://default:1"),
        ("default", "http://default:1"),
        ("lab", "http://lab:2"),
        ("both", "http://stores:4"),
        ("none", None),
        ("nobody", None),
    ],
)
def test_a_profiles_endpoint_is_what_boto3_would_take(
    tmp_path: Path, profile: str | None, endpoint: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "config"
    file.write_text(PROFILES)
    assert profile_endpoint(profile, {"AWS_CONFIG_FILE": str(file)}) == endpoint
    monkeypatch.setenv("AWS_CONFIG_FILE", str(file))
    if profile != "nobody":
        session = botocore.session.Session(profile=profile)
        session.set_credentials("AKIA1", "secret")
        theirs = session.create_client("s3", region_name="eu-1").meta.endpoint_url
        assert theirs == (endpoint or "https://s3.eu-1.amazonaws.com")


@pytest.mark.parametrize("text", [None, "endpoint_url", "[default\nendpoint_url = x", "\xff"])
def test_without_a_readable_file_there_is_no_endpoint(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "config").write_text(text, encoding="latin-1")
    assert profile_endpoint(None, {"AWS_CONFIG_FILE": str(tmp_path / "config")}) is None


def test_the_callers_profile_names_the_endpoint_where_no_variable_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config").write_text(PROFILES)
    for name, _ in config.ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    assert "aws_endpoint_url" not in config.caller_credentials(), "nobody named a profile"
    monkeypatch.setenv("AWS_PROFILE", "lab")
    assert config.caller_credentials()["aws_endpoint_url"] == "http://lab:2"
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://variable:6")
    assert config.caller_credentials()["aws_endpoint_url"] == "http://variable:6"


async def unasked(*_: object) -> Any:
    raise AssertionError("nobody is to be asked")


def endpoint(options: S3Options, login: AwsLogin | None = None) -> str:
    return S3Source(unasked, options).endpoint(S3Ref("models", "k"), Credentials(aws=login))


def test_a_buckets_own_endpoint_counts_before_the_callers_and_that_before_the_general_one() -> None:
    caller = AwsLogin(endpoint_url="http://caller:1/")
    general = S3Options(BucketOptions(endpoint="http://all:2"))
    own = S3Options(general.common, {"models": BucketOptions(endpoint="http://own:3")})
    assert endpoint(S3Options()) == PUBLIC_S3
    assert endpoint(general) == "http://all:2"
    assert endpoint(general, caller) == "http://caller:1"
    assert endpoint(own, caller) == "http://own:3"
    with pytest.raises(UsageError, match="endpoint"):
        endpoint(general, AwsLogin(endpoint_url="minio:9000"))


def test_a_login_is_not_shown() -> None:
    login = AwsLogin("AKIA1", "secret", "token")
    assert "secret" not in f"{login} {Credentials(aws=login)!r}"
    assert "AKIA1" not in f"{login} {Credentials(aws=login)!r}"


def test_the_store_that_a_ref_names_is_asked_whatever_the_endpoint_of_others() -> None:
    account, caller = "0123456789abcdef" * 2, AwsLogin(endpoint_url="http://caller:1")
    for bucket, asked, style in (
        (f"r2:{account}.models", f"https://{account}.r2.cloudflarestorage.com", None),
        ("cw:models", "https://cwobject.com", "virtual"),
    ):
        options = S3Options(BucketOptions(endpoint="http://all:2"))
        request = request_for(options, bucket, caller)
        assert request.bucket_options.endpoint == asked
        assert (request.bucket_options.style, request.name_there) == (style, "models")
        client, _ = open_client(request)
        with contextlib.closing(client):
            url = client.generate_presigned_url("get_object", {"Bucket": "models", "Key": "k"})
        assert url.partition("?")[0] in (f"{asked}/models/k", "https://models.cwobject.com/k")


def test_a_line_of_settings_moves_a_bucket_of_a_store_elsewhere() -> None:
    text = "cw://models endpoint=http://cwlota.com; models region=eu-1"
    assert format_buckets(buckets(text)) == text
    options = S3Options(buckets=dict(buckets(text)))
    given = request_for(options, "cw:models", None).bucket_options
    assert (given.endpoint, given.style, given.region) == ("http://cwlota.com", "virtual", None)
    for bad in ("cw://models/folder public=on", "r2://models public=on", "s3://models public=on"):
        with pytest.raises(ValueError, match="is not a bucket"):
            buckets(bad)
