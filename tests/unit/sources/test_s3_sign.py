"""Signed addresses are those that botocore gives for the same login, moment and object."""

from __future__ import annotations

import calendar
import hashlib
import time
from urllib.parse import parse_qs, urlsplit

import boto3
import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pcache.sources.s3.sign import Grant, object_url, signed_headers, signed_url

SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"


def theirs(client: object, key: str, version: str | None, pays: bool, valid_s: int) -> str:
    fields = {"Bucket": "models", "Key": key}
    if version is not None:
        fields["VersionId"] = version
    if pays:
        fields["RequestPayer"] = "requester"
    url: str = client.generate_presigned_url("get_object", fields, ExpiresIn=valid_s)  # type: ignore[attr-defined]
    return url


def client(endpoint: str | None, style: str, token: str | None) -> object:
    return boto3.client(
        "s3", endpoint_url=endpoint, region_name="eu-west-1",
        aws_access_key_id="AKIA1", aws_secret_access_key=SECRET, aws_session_token=token,
        config=Config(signature_version="s3v4", s3={"addressing_style": style}),
    )  # fmt: skip


CLIENTS = {
    (base, token): client(endpoint, style, token)
    for token in (None, "token/+==")
    for base, endpoint, style in (
        ("https://models.s3.eu-west-1.amazonaws.com", None, "virtual"),
        ("http://127.0.0.1:9000/models", "http://127.0.0.1:9000", "path"),
        ("https://s3.example/gate/models", "https://s3.example:443/gate", "path"),
    )
}


def fields(url: str) -> tuple[str, str, dict[str, list[str]]]:
    parts = urlsplit(url)
    netloc = parts.netloc.removesuffix(":443")
    return netloc, parts.path, parse_qs(parts.query, strict_parsing=True)


@pytest.mark.parametrize(("base", "token"), list(CLIENTS))
@settings(max_examples=25)  # botocore takes milliseconds for one
@given(
    key=st.text(st.characters(codec="utf-8"), min_size=1, max_size=20).map(lambda k: f"k{k}"),
    version=st.none() | st.text("abz09._-+/ =", min_size=1, max_size=8),
    pays=st.booleans(),
    valid_s=st.integers(1, 604800),
)
def test_ours_and_botocores_are_one(
    base: str, token: str | None, key: str, version: str | None, pays: bool, valid_s: int
) -> None:
    url = theirs(CLIENTS[base, token], key, version, pays, valid_s)
    stamp = parse_qs(urlsplit(url).query)["X-Amz-Date"][0]
    now = calendar.timegm(time.strptime(stamp, "%Y%m%dT%H%M%SZ"))
    grant = Grant(base, "eu-west-1", "AKIA1", SECRET, token, pays)
    ours = signed_url(grant, key, version, now_unix_s=now + 0.7, valid_s=valid_s)
    assert fields(ours) == fields(url)


@pytest.mark.parametrize(("base", "token"), list(CLIENTS))
@settings(max_examples=10)
@given(
    key=st.text(st.characters(codec="utf-8"), min_size=1, max_size=20).map(lambda k: f"k{k}"),
    query=st.dictionaries(st.sampled_from(["partNumber", "uploadId"]), st.text(max_size=9)),
    body=st.binary(max_size=50),
)
def test_headers_are_signed_as_botocore_signs_them(
    base: str, token: str | None, key: str, query: dict[str, str], body: bytes
) -> None:
    sha256 = hashlib.sha256(body).hexdigest()
    grant = Grant(base, "eu-west-1", "AKIA1", SECRET, token)
    url = object_url(grant, key, query)
    sent = {"x-amz-meta-p2pcache-sha256": sha256, "if-none-match": "*"}
    login = Credentials("AKIA1", SECRET, token)
    request = AWSRequest("PUT", url, headers=dict(sent), data=body)
    S3SigV4Auth(login, "s3", "eu-west-1").add_auth(request)
    now = calendar.timegm(time.strptime(request.context["timestamp"], "%Y%m%dT%H%M%SZ"))
    ours = signed_headers(grant, "PUT", url, sent, sha256, now_unix_s=now + 0.3)
    theirs = {name.lower(): value for name, value in request.headers.items()}
    assert ours["authorization"] == theirs["authorization"]


def test_without_a_login_there_is_no_signature() -> None:
    grant = Grant("https://models.s3.amazonaws.com", "us-east-1")
    url = signed_url(grant, "a b/c", None, now_unix_s=0, valid_s=60)
    assert url == "https://models.s3.amazonaws.com/a%20b/c"
    assert signed_url(grant, "c", "v1", now_unix_s=0, valid_s=60).endswith("/c?versionId=v1")


def test_nothing_secret_is_shown() -> None:
    grant = Grant("https://models.s3.amazonaws.com", "us-east-1", "AKIA1", SECRET, "token")
    assert not any(word in repr(grant) for word in ("AKIA1", SECRET, "token"))
