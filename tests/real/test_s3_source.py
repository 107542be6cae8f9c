"""The S3 source against a real MinIO, and against one whose answers are another's."""

from __future__ import annotations

import base64
import datetime
import hashlib
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError

import pytest
import trio

from p2pcache.config.s3 import buckets
from p2pcache.config.settings import load
from p2pcache.content.digests import sha256_digest
from p2pcache.content.push_record import SHA256_METADATA
from p2pcache.content.refs import parse_ref
from p2pcache.content.s3_refs import S3Ref
from p2pcache.errors import (
    Denied,
    LocalFault,
    NotFound,
    P2PCacheError,
    Unavailable,
    Untrusted,
    UsageError,
)
from p2pcache.sources.port import AwsLogin, Credentials, Listing
from p2pcache.sources.s3.options import BucketOptions, S3Options
from p2pcache.sources.s3.source import S3Source
from tests.contract.check_source import read
from tests.support.certs import make_server_cert
from tests.support.connect_proxy import ConnectProxy
from tests.support.minio import PASSWORD, REGION, USER, Minio, minio
from tests.support.s3_proxy import Ask, Reply, S3Proxy, s3_proxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from p2pcache.lanes.orders import Location

run_in_thread: Any = trio.to_thread.run_sync
ROOT = AwsLogin(USER, PASSWORD)
QUICK = S3Options(request_timeout_s=1.0, deadline_s=60.0)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Minio]:
    with minio(tmp_path_factory.mktemp("minio")) as running:
        yield running


@pytest.fixture(scope="module")
def models(server: Minio) -> Any:
    """A bucket that no test changes."""
    s3 = server.bucket(
        "models",
        {"llama/a.bin": b"aaa", "llama/sub/b.bin": b"", "llama-2/no.bin": b"no", "top.bin": b"top"},
    )
    s3.put_object(Bucket="models", Key="llama/", Body=b"")  # as consoles mark folders
    s3.put_object(Bucket="models", Key="sums/sum", Body=b"hi", ChecksumAlgorithm="SHA256")
    ours = {SHA256_METADATA: hashlib.sha256(b"ho").hexdigest()}
    s3.put_object(Bucket="models", Key="sums/ours", Body=b"ho", Metadata=ours)
    s3.put_object(Bucket="models", Key="sums/other", Body=b"hu", Metadata={"sha256": "0" * 64})
    parts = s3.create_multipart_upload(
        Bucket="models", Key="sums/parts", ChecksumAlgorithm="SHA256"
    )
    part = s3.upload_part(
        Bucket="models", Key="sums/parts", UploadId=parts["UploadId"], PartNumber=1, Body=b"he",
        ChecksumAlgorithm="SHA256",
    )  # fmt: skip
    told = {"PartNumber": 1, "ETag": part["ETag"], "ChecksumSHA256": part["ChecksumSHA256"]}
    s3.complete_multipart_upload(
        Bucket="models", Key="sums/parts", UploadId=parts["UploadId"],
        MultipartUpload={"Parts": [told]},
    )  # fmt: skip
    return s3


@pytest.fixture
def proxy(server: Minio, models: object) -> Iterator[S3Proxy]:
    with s3_proxy(server) as running:
        yield running


def source(url: str, options: S3Options = QUICK, **bucket: Any) -> S3Source:
    common = BucketOptions(endpoint=url, **bucket)
    return S3Source(run_in_thread, replace(options, common=common))


async def ask(
    url: str, key: str | None, login: AwsLogin | None = ROOT, bucket: str = "models", **more: Any
) -> Listing:
    ref = S3Ref(bucket, key and key.rstrip("/"), folder=bool(key and key.endswith("/")))
    return await source(url, **more).list(ref, Credentials(aws=login))


async def refusal(kind: type[P2PCacheError], url: str, *args: Any, **more: Any) -> P2PCacheError:
    with pytest.raises(P2PCacheError) as seen:
        await ask(url, *args, **more)
    assert type(seen.value) is kind, (seen.value, seen.value.hint)
    assert PASSWORD not in f"{seen.value.message} {seen.value.hint}"
    return seen.value


def refused(location: Location) -> int:
    """The status of an address that does not work."""
    with pytest.raises(HTTPError) as seen:
        read(location)
    seen.value.close()
    return seen.value.code


def paths(listing: Listing) -> list[str]:
    return [file.path for file in listing.files]


# -- what a ref means -----------------------------------------------------------------------------


async def test_a_folder_is_what_lies_below_its_slash(server: Minio, models: object) -> None:
    for key in ("llama", "llama/"):
        assert paths(await ask(server.url, key)) == ["a.bin", "sub/b.bin"]
    assert "llama-2/no.bin" in paths(await ask(server.url, None))
    assert paths(await ask(server.url, "top.bin")) == ["top.bin"]
    with pytest.raises(NotFound):
        await ask(server.url, "top.bin/")


async def test_only_a_sha256_of_the_whole_object_names_it(server: Minio, models: object) -> None:
    listing = await ask(server.url, "sums")
    digests = {file.path: file.digest for file in listing.files}
    assert digests == {
        "sum": sha256_digest(hashlib.sha256(b"hi").digest()),
        "ours": sha256_digest(hashlib.sha256(b"ho").digest()),
        "other": None,  # metadata of others may mean anything
        "parts": None,  # a checksum of checksums
    }
    assert "2 of 4" in listing.notes[0]
    versions = {file.path: file.validator for file in listing.files}
    assert versions["other"] is not None
    assert versions["sum"] is None


async def test_the_region_is_found_and_the_addresses_are_signed_for_it(
    server: Minio, models: object
) -> None:
    bucket = source(server.url, region="us-west-9")
    listing = await bucket.list(S3Ref("models", "llama"), Credentials(aws=ROOT))
    location = await bucket.locate(listing, listing.files[0].key, Credentials(aws=ROOT))
    assert f"%2F{REGION}%2Fs3" in location.url
    assert await trio.to_thread.run_sync(read, location) == b"aaa"


async def test_who_listed_before_a_restart_signs_for_the_buckets_region_after_it(
    server: Minio, models: object
) -> None:
    listing = await ask(server.url, "llama/")
    anew = source(server.url)  # has listed nothing
    location = await anew.locate(listing, listing.files[0].key, Credentials(aws=ROOT))
    assert f"%2F{REGION}%2Fs3" in location.url
    assert await trio.to_thread.run_sync(read, location) == b"aaa"


async def test_a_head_that_does_not_tell_the_region_is_asked_again_in_the_right_one(
    proxy: S3Proxy,
) -> None:
    def silent(ask: Ask) -> Reply | None:
        elsewhere = "us-west-9" in ask.headers.get("authorization", "")
        return Reply(400) if ask.method == "HEAD" and elsewhere else None

    proxy.fault = silent
    assert paths(await ask(proxy.url, "top.bin", region="us-west-9")) == ["top.bin"]


SUM = base64.b64encode(hashlib.sha256(b"top").digest()).decode()


@pytest.mark.parametrize(
    ("kind", "etag", "value", "taken"),
    [
        ("FULL_OBJECT", '"e"', SUM, True),
        ("FULL_OBJECT", '"e-2"', SUM, True),
        (None, '"e"', SUM, True),
        ("COMPOSITE", '"e"', SUM, False),
        (None, '"e-2"', SUM, False),
        ("FULL_OBJECT", '"e"', f"{SUM}-2", False),
        ("FULL_OBJECT", '"e"', SUM[:-8], False),
    ],
)
async def test_a_checksum_of_parts_is_no_checksum_of_the_object(
    proxy: S3Proxy, kind: str | None, etag: str, value: str, taken: bool
) -> None:
    told = [("ETag", etag), ("x-amz-checksum-sha256", value)]
    if kind is not None:
        told.append(("x-amz-checksum-type", kind))
    proxy.fault = lambda ask: Reply(200, headers=tuple(told), body=b"top")
    (file,) = (await ask(proxy.url, "top.bin")).files
    assert (file.digest is not None) == taken


async def test_a_private_authority_is_trusted_and_a_proxy_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cert = make_server_cert(tmp_path / "ca")
    with minio(tmp_path / "minio", tls=cert) as secure, ConnectProxy() as tunnel:
        secure.bucket("models", {"f": b"behind TLS"})
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{tunnel.port}")
        monkeypatch.setenv("no_proxy", "")
        private = replace(QUICK, ca_file=str(cert.ca_file))
        bucket, who = source(secure.url, private), Credentials(aws=ROOT)
        listing = await bucket.list(S3Ref("models", "f"), who)
        assert tunnel.tunnels == [f"127.0.0.1:{secure.port}"] * len(tunnel.tunnels) != []
        location = await bucket.locate(listing, listing.files[0].key, who)
        assert location.tls.ca_file == str(cert.ca_file)
        assert await trio.to_thread.run_sync(read, location) == b"behind TLS"
        error = await refusal(Untrusted, secure.url, "f")
        assert "certificate" in error.message


async def test_a_bucket_in_the_hosts_name_is_asked_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`models.s3.example` is known to the proxy alone, through which all of it goes."""
    with minio(tmp_path, domain="s3.example") as hosted, s3_proxy(hosted) as proxy:
        hosted.bucket("models", {"d/f f": b"of a host"})
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.setenv("no_proxy", "")
        bucket, who = source("http://s3.example", style="virtual"), Credentials(aws=ROOT)
        listing = await bucket.list(S3Ref("models", "d"), who)
        location = await bucket.locate(listing, listing.files[0].key, who)
        assert location.url.startswith("http://models.s3.example/d/f%20f?")
        assert await trio.to_thread.run_sync(read, location) == b"of a host"
    assert {ask.headers["host"] for ask in proxy.seen} == {"models.s3.example"}


async def test_a_version_is_read_as_it_was_listed(server: Minio) -> None:
    s3 = server.bucket("versioned")
    enabled = {"Status": "Enabled"}
    s3.put_bucket_versioning(Bucket="versioned", VersioningConfiguration=enabled)
    first = s3.put_object(Bucket="versioned", Key="d/f", Body=b"first")["VersionId"]
    bucket, who = source(server.url), Credentials(aws=ROOT)
    listing = await bucket.list(S3Ref("versioned", "d"), who)
    s3.put_object(Bucket="versioned", Key="d/f", Body=b"other")
    location = await bucket.locate(listing, listing.files[0].key, who)
    assert await trio.to_thread.run_sync(read, location) == b"first"
    by_name = await bucket.list(S3Ref("versioned", "d/f", first), who)
    assert (by_name.immutable, by_name.mutable, by_name.files[0].size) == (first, False, 5)
    assert not await bucket.gives(S3Ref("versioned", "d"), listing.immutable, who)
    for wrong in ("nope", "00000000-0000-0000-0000-000000000000"):
        with pytest.raises((NotFound, UsageError)) as seen:
            await bucket.list(S3Ref("versioned", "d/f", wrong), who)
        assert seen.value.hint is not None
        assert "%40" in seen.value.hint


async def test_who_may_not_read_versions_reads_the_newest_one_if_it_is_the_listed_one(
    server: Minio,
) -> None:
    s3 = server.bucket("newest")
    enabled = {"Status": "Enabled"}
    s3.put_bucket_versioning(Bucket="newest", VersioningConfiguration=enabled)
    s3.put_object(Bucket="newest", Key="d/f", Body=b"first")
    bucket, who = source(server.url), Credentials(aws=ROOT)
    with s3_proxy(server) as proxy:
        proxy.fault = lambda ask: Reply(403) if "versionId" in ask.query else None
        bucket = source(proxy.url)
        listing = await bucket.list(S3Ref("newest", "d"), who)
        location = await bucket.locate(listing, listing.files[0].key, who)
        assert await trio.to_thread.run_sync(read, location) == b"first"
    assert "If-Match" in dict(location.headers)


async def test_a_public_bucket_needs_no_login(server: Minio) -> None:
    s3 = server.bucket("public", {"d/f": b"for all"})
    statement = {
        "Effect": "Allow", "Principal": "*", "Action": ["s3:GetObject", "s3:ListBucket"],
        "Resource": ["arn:aws:s3:::public", "arn:aws:s3:::public/*"],
    }  # fmt: skip
    s3.put_bucket_policy(
        Bucket="public", Policy=_json({"Version": "2012-10-17", "Statement": [statement]})
    )
    bucket = source(server.url, anonymous=True)
    listing = await bucket.list(S3Ref("public", "d"), Credentials())
    location = await bucket.locate(listing, listing.files[0].key, Credentials())
    assert (listing.gated, listing.credential_used) == (False, False)
    assert "?" not in location.url
    assert await trio.to_thread.run_sync(read, location) == b"for all"
    signed = await ask(server.url, "d", bucket="public")
    assert signed.gated, "what a login read is kept among those who have one"
    told = await source(server.url, public=True).list(S3Ref("public"), Credentials(aws=ROOT))
    assert (told.gated, told.credential_used) == (False, True)


def _json(value: object) -> str:
    import json

    return json.dumps(value)


async def test_a_session_of_sts_reads_and_one_that_ended_is_said_to_have(
    server: Minio, models: object
) -> None:
    session = server.client("sts").assume_role(
        RoleArn="arn:aws:iam::1:role/any", RoleSessionName="test", DurationSeconds=900
    )["Credentials"]
    login = AwsLogin(session["AccessKeyId"], session["SecretAccessKey"], session["SessionToken"])
    bucket = source(server.url)
    listing = await bucket.list(S3Ref("models", "llama"), Credentials(aws=login))
    location = await bucket.locate(listing, listing.files[0].key, Credentials(aws=login))
    assert await trio.to_thread.run_sync(read, location) == b"aaa"
    broken = replace(login, session_token="not a token")
    assert (await refusal(Denied, server.url, "llama", broken)).hint is not None


async def test_a_profile_of_the_agents_user_is_a_login(
    server: Minio, models: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config").write_text(
        f"[profile lab]\naws_access_key_id = {USER}\naws_secret_access_key = {PASSWORD}\n"
        f"endpoint_url = {server.url}\ns3 =\n    addressing_style = path\n"
    )
    environment = {"AWS_CONFIG_FILE": str(tmp_path / "config")}
    monkeypatch.setenv("AWS_CONFIG_FILE", environment["AWS_CONFIG_FILE"])
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    ref, caller = S3Ref("models", "llama"), Credentials()
    for setting, value in (("PROFILE", "lab"), ("BUCKETS", "models profile=lab")):
        config = load(tmp_path, environment | {f"P2PCACHE_S3_{setting}": value})
        own = S3Source(run_in_thread, config.s3)
        assert own.endpoint(ref, caller) == server.url, "as the profile says"
        listing = await own.list(ref, caller)
        assert listing.endpoint == server.url
        location = await own.locate(listing, listing.files[0].key, caller)
        assert await trio.to_thread.run_sync(read, location) == b"aaa"
    missing = S3Options(common=BucketOptions(endpoint=server.url, profile="nobody"))
    with pytest.raises(LocalFault, match="nobody") as seen:
        await S3Source(run_in_thread, missing).list(ref, caller)
    assert "s3.profile" in (seen.value.hint or "")


async def test_the_requester_says_that_they_pay(proxy: S3Proxy) -> None:
    bucket = source(proxy.url, requester_pays=True)
    listing = await bucket.list(S3Ref("models", "llama"), Credentials(aws=ROOT))
    location = await bucket.locate(listing, listing.files[0].key, Credentials(aws=ROOT))
    await trio.to_thread.run_sync(read, location)
    assert {ask.headers.get("x-amz-request-payer") for ask in proxy.seen} == {"requester"}
    asked = [ask for ask in proxy.seen if not ask.reads]  # `read` is the test's own client
    assert all(ask.headers["user-agent"].startswith("p2pcache/") for ask in asked)


# -- names from outside ---------------------------------------------------------------------------


def page(*keys: str, more: str = "") -> Reply:
    rows = "".join(
        f'<Contents><Key>{key}</Key><Size>1</Size><ETag>"e"</ETag></Contents>' for key in keys
    )
    body = f"<?xml version='1.0'?><ListBucketResult>{rows}{more}</ListBucketResult>"
    return Reply(200, body=body.encode())


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        (["d/../../etc/passwd"], "component '..'"),
        (["d//etc/passwd"], "component ''"),
        (["d/a//b"], "component ''"),
        (["d/C:/x"], "drive"),
        (["d/a\\b"], "backslash"),
        (["d/a&#10;b"], "control"),
        (["d/" + "x" * 300], "255"),
        (["d/full/"], "component ''"),
        (["d/"], "component ''"),
        (["d/a", "d/a/b"], "is an object"),
        (["d/a", "d/a"], "twice"),
        (["elsewhere/a"], "not below"),
    ],
)
async def test_a_key_that_no_folder_can_hold_is_refused_before_a_byte(
    proxy: S3Proxy, keys: list[str], why: str
) -> None:
    proxy.fault = lambda ask: page(*keys) if ask.lists else Reply(404)
    head = Reply(200, headers=(("ETag", '"e"'),), body=b"x")
    proxy.fault = lambda ask: page(*keys) if ask.lists else head
    error = await refusal(Untrusted, proxy.url, "d/")
    assert why in error.message
    assert not proxy.reads()


async def test_a_list_without_an_end_ends(proxy: S3Proxy) -> None:
    again = "<IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken>"
    proxy.fault = lambda ask: page("d/a", more=again)
    assert "without an end" in (await refusal(Untrusted, proxy.url, "d/")).message
    proxy.fault = lambda ask: page("d/a", more=again.replace(">t<", f">{len(proxy.seen)}<"))
    few = replace(QUICK, max_files=3)
    assert "more than 3" in (await refusal(Untrusted, proxy.url, "d/", options=few)).message


async def test_a_reply_that_is_too_long_is_not_read_to_its_end(proxy: S3Proxy) -> None:
    proxy.fault = lambda ask: Reply(200, body=b" " * 3_000_000)
    small = replace(QUICK, max_reply_bytes=1 << 20)
    assert "longer than" in (await refusal(Untrusted, proxy.url, "d/", options=small)).message


async def test_an_object_that_changes_while_it_is_listed_is_noticed(proxy: S3Proxy) -> None:
    proxy.fault = lambda ask: page("llama/a.bin") if ask.lists else None
    assert "changed" in (await refusal(Untrusted, proxy.url, "llama/")).message


async def test_many_objects_are_not_asked_one_by_one(proxy: S3Proxy) -> None:
    few = replace(QUICK, max_heads=3)
    listing = await ask(proxy.url, "sums/", options=few)
    assert [file.digest for file in listing.files] == [None] * 4
    assert [one.method for one in proxy.seen] == ["GET", "GET"], "one to learn the region"
    assert "4 of 4" in listing.notes[0]


# -- who must act ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("login", "error", "hint"),
    [
        (AwsLogin(USER, "wrong"), Denied, "AWS_SECRET_ACCESS_KEY"),
        (AwsLogin("nobody", "wrong"), Denied, "AWS_ACCESS_KEY_ID"),
    ],
)
@pytest.mark.parametrize("key", [None, "top.bin", "llama/"])
async def test_a_wrong_login_is_the_users_to_mend(
    server: Minio, models: object, login: AwsLogin, error: type[P2PCacheError], hint: str,
    key: str | None,
) -> None:  # fmt: skip
    seen = await refusal(error, server.url, key, login)
    assert hint in (seen.hint or "")


async def test_a_missing_bucket_and_a_missing_key_are_told_apart(
    server: Minio, models: object
) -> None:
    assert "no such bucket" in (await refusal(NotFound, server.url, "k", bucket="nope")).message
    assert "no such bucket" in (await refusal(NotFound, server.url, None, bucket="nope")).message
    assert "s3://models/nope" in (await refusal(NotFound, server.url, "nope")).message


Row = tuple[Reply, type[P2PCacheError], str]
ROWS: dict[str, Row] = {
    "403": (Reply(403, "AccessDenied"), Denied, "s3:GetObject"),
    "404 bucket": (Reply(404, "NoSuchBucket"), NotFound, "endpoint"),
    "410": (Reply(410), NotFound, "key"),
    "expired": (Reply(400, "ExpiredToken"), Denied, "log in again"),
    "archived": (Reply(403, "InvalidObjectState"), Denied, "restore"),
    "clock": (Reply(403, "RequestTimeTooSkewed"), LocalFault, "set the clock"),
    "region": (Reply(301, "PermanentRedirect"), UsageError, "s3.region"),
    "odd": (Reply(400, "InvalidArgument"), UsageError, ""),
    "451": (Reply(451), Denied, ""),
    "429": (Reply(429, headers=(("Retry-After", "7"),)), Unavailable, ""),
    "slow down": (Reply(503, "SlowDown", (("Retry-After", "7"),)), Unavailable, ""),
    "500": (Reply(500, "InternalError"), Unavailable, ""),
    "502": (Reply(502, body=b"<html>bad gateway"), Unavailable, ""),
    "501": (Reply(501, "NotImplemented"), UsageError, ""),
    "silent": (Reply(wait_s=4), Unavailable, "network"),
    "cut": (Reply(cut_after=20), Unavailable, ""),
    "html": (Reply(200, body=b"<html><p>welcome"), Untrusted, "endpoint"),
    "other xml": (Reply(200, body=b"<html></html>"), Untrusted, "endpoint"),
}


@pytest.mark.parametrize("name", ROWS)
async def test_each_refusal_of_a_list_names_who_must_act(proxy: S3Proxy, name: str) -> None:
    reply, error, hint = ROWS[name]
    proxy.fault = lambda ask: reply
    seen = await refusal(error, proxy.url, "llama/")
    assert hint in (seen.hint or "")
    if isinstance(seen, Unavailable) and reply.headers:
        assert seen.retry_after_s == 7.0
    assert len(proxy.seen) <= 2, "the library tries nothing again by itself"


async def test_a_refused_head_says_why_although_it_has_no_words(proxy: S3Proxy) -> None:
    proxy.fault = lambda ask: Reply(403, "RequestTimeTooSkewed")
    await refusal(LocalFault, proxy.url, "top.bin")
    proxy.fault = lambda ask: Reply(403) if ask.method == "HEAD" else None
    assert "s3:GetObject" in ((await refusal(Denied, proxy.url, "top.bin")).hint or "")


async def test_a_server_that_is_not_there_or_has_another_certificate(
    server: Minio, models: object
) -> None:
    assert "cannot be reached" in (await refusal(Unavailable, "http://127.0.0.1:9", "k")).message
    secure = server.url.replace("http:", "https:")
    assert "cannot be reached" in (await refusal(Unavailable, secure, "k")).message


async def test_without_boto3_the_error_says_what_to_install(
    server: Minio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "botocore", None)
    assert "p2pcache[s3]" in ((await refusal(LocalFault, server.url, "k")).hint or "")


# -- addresses ------------------------------------------------------------------------------------


async def test_an_address_ends_and_the_next_one_works(server: Minio, models: object) -> None:
    clock = [datetime.datetime.now(datetime.UTC).timestamp() - 3600]
    common = BucketOptions(endpoint=server.url)
    bucket = S3Source(
        run_in_thread, replace(QUICK, common=common, url_valid_s=60), lambda: clock[0]
    )
    who = Credentials(aws=ROOT)
    listing = await bucket.list(S3Ref("models", "llama"), who)
    old = await bucket.locate(listing, listing.files[0].key, who)
    assert await trio.to_thread.run_sync(refused, old) == 403
    clock[0] += 3600
    fresh = await bucket.locate(listing, listing.files[0].key, who)
    assert fresh != old
    assert await trio.to_thread.run_sync(read, fresh) == b"aaa"


async def test_what_signs_is_asked_for_once_for_many_files(server: Minio, models: object) -> None:
    calls: list[str] = []

    async def counted(fn: Callable[[Any], Any], request: Any) -> Any:
        calls.append(fn.__name__)
        return await run_in_thread(fn, request)

    bucket = S3Source(counted, replace(QUICK, common=BucketOptions(endpoint=server.url)))
    who = Credentials(aws=ROOT)
    listing = await bucket.list(S3Ref("models", "sums"), who)
    for file in listing.files:
        await bucket.locate(listing, file.key, who)
    assert calls == ["list_s3"]
    other = Credentials(aws=AwsLogin("nobody", "wrong"))
    location = await bucket.locate(listing, listing.files[0].key, other)
    assert "nobody" in location.url, "nobody's addresses are signed by another's login"
    assert calls == ["list_s3", "grant_s3"]


async def test_an_object_that_was_replaced_is_not_read(server: Minio) -> None:
    s3 = server.bucket("replaced", {"f": b"first"})
    bucket, who = source(server.url), Credentials(aws=ROOT)
    listing = await bucket.list(S3Ref("replaced", "f"), who)
    s3.put_object(Bucket="replaced", Key="f", Body=b"other")
    location = await bucket.locate(listing, listing.files[0].key, who)
    assert await trio.to_thread.run_sync(refused, location) == 412


def test_the_proxy_tells_lists_from_objects() -> None:
    assert Ask("GET", "/models", {}, {}).lists
    assert Ask("GET", "/models/a", {}, {}).reads


async def test_a_bucket_of_a_store_that_the_ref_names_is_listed_and_read(
    server: Minio, models: object
) -> None:
    """CoreWeave's and Cloudflare's were not at hand: a line of settings says where they are."""
    said = buckets(f"cw://models endpoint={server.url} style=path")
    bucket = S3Source(run_in_thread, replace(QUICK, buckets=dict(said)))
    who, ref = Credentials(aws=ROOT), parse_ref("cw://models/llama/")
    listing = await bucket.list(ref, who)
    assert [file.path for file in listing.files] == ["a.bin", "sub/b.bin"]
    assert listing.endpoint == server.url == bucket.endpoint(ref, who)
    location = await bucket.locate(listing, listing.files[0].key, who)
    assert await trio.to_thread.run_sync(read, location) == b"aaa"
    with pytest.raises(NotFound, match="cw://models/none"):
        await bucket.list(parse_ref("cw://models/none"), who)
