"""OpenStack Swift's s3api, which copied not all of S3: a folder comes from it, and goes there."""

from __future__ import annotations

import hashlib
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import pytest

from p2pcache import errors
from p2pcache.sources.s3.listing import SHA256_METADATA
from tests.support.agents import Agent, running_agent
from tests.support.blobs import MIB
from tests.support.bucket_faults import FAULTS
from tests.support.partial_files import some_bytes
from tests.support.s3_proxy import Ask, Reply, s3_proxy
from tests.support.swift import PASSWORD, signing_key, swift, temporary_url
from tests.support.watched_pull import QUICK

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.s3_server import S3Server

pytestmark = pytest.mark.slow

FILES = {
    "config.json": b'{"name": "swift"}',
    "sub dir/tökens #1.json": some_bytes(70_000, b"swift tokens"),
    "empty": b"",
    "model-1.bin": some_bytes(11 * MIB + 5, b"swift 1"),  # in two parts: its ETag is no MD5
    "model-2.bin": some_bytes(3 * MIB, b"swift 2"),  # with its sha256, as p2pcache writes it
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with swift(tmp_path_factory.mktemp("swift")) as running:
        s3 = running.client()
        s3.create_bucket(Bucket="models")
        for path, body in FILES.items():
            known = {SHA256_METADATA: hashlib.sha256(body).hexdigest()}
            put_s3(s3, path, body, known if path == "model-2.bin" else {})
        yield running


def put_s3(s3: Any, path: str, body: bytes, metadata: dict[str, str]) -> None:
    """One object; by parts when it has more than 8 MiB, as boto3's own transfers do."""
    key = f"demo/{path}"
    if len(body) <= 8 * MIB:
        s3.put_object(Bucket="models", Key=key, Body=body, Metadata=metadata)
        return
    upload = s3.create_multipart_upload(Bucket="models", Key=key)["UploadId"]
    parts = []
    for number, start in enumerate(range(0, len(body), 8 * MIB), start=1):
        sent = s3.upload_part(
            Bucket="models", Key=key, UploadId=upload, PartNumber=number,
            Body=body[start : start + 8 * MIB],
        )  # fmt: skip
        parts.append({"PartNumber": number, "ETag": sent["ETag"]})
    s3.complete_multipart_upload(
        Bucket="models", Key=key, UploadId=upload, MultipartUpload={"Parts": parts}
    )


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    offline = {"AWS_EC2_METADATA_DISABLED": "true"}  # no test asks 169.254.169.254
    settings = {**QUICK, "resolve.ttl": "0s"}
    with running_agent(tmp_path_factory.mktemp("agent"), settings=settings, **offline) as running:
        yield running


def test_a_folder_comes_whole_and_is_named_by_what_arrived(
    tmp_path: Path, server: S3Server, agent: Agent
) -> None:
    with agent.client() as client:
        listed = client.resolve("s3://models/demo", credentials=server.aws)
    known = [file["path"] for file in listed["files"] if file.get("sha256")]
    assert set(known) <= {"model-2.bin", "empty"}, "nothing else says what it is"
    out = tmp_path / "out"
    agent.get("s3://models/demo", credentials=server.aws, to=str(out))
    shown = {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()}
    assert shown == FILES
    again = agent.get("s3://models/demo", credentials=server.aws, offline=True)
    assert again["fetched_bytes"] == 0


@pytest.mark.parametrize(
    ("ref", "secret", "kind"),
    [
        ("s3://models/demo", "wrong", errors.Denied),
        ("s3://models/nothing", PASSWORD, errors.NotFound),
        ("s3://no-such-bucket/demo", PASSWORD, errors.NotFound),
    ],
)
def test_what_cannot_be_read_is_said_to_be_so(
    server: S3Server, agent: Agent, ref: str, secret: str, kind: type[errors.P2PCacheError]
) -> None:
    with pytest.raises(errors.P2PCacheError) as refused:
        agent.get(ref, credentials={**server.aws, "aws_secret_access_key": secret})
    assert type(refused.value) is kind, refused.value
    assert refused.value.hint
    assert secret not in f"{refused.value.message} {refused.value.hint}" or secret == "wrong"


@pytest.mark.parametrize("name", ["403", "gone", "500", "slow down", "429", "cut", "silent"])
def test_each_fault_of_a_pull_says_who_must_act_and_shows_nothing(
    tmp_path: Path, server: S3Server, name: str
) -> None:
    which, reply, error, words = FAULTS[name]
    out = tmp_path / "out"
    impatient = {**QUICK, "fetch.patience": "1s"}
    offline = {"AWS_EC2_METADATA_DISABLED": "true"}
    with (
        s3_proxy(server) as proxy,
        running_agent(tmp_path / "agent", settings=impatient, **offline) as agent,
    ):
        proxy.fault = lambda ask: reply if which(ask) else None
        login = {**server.aws, "aws_endpoint_url": proxy.url}
        with pytest.raises(errors.P2PCacheError) as seen:
            agent.get("s3://models/demo", to=str(out), credentials=login)
        assert type(seen.value) is error, (seen.value, seen.value.hint)
        assert words in seen.value.message
        assert not list(out.rglob("model-1*"))
        proxy.fault = lambda ask: None
        agent.get("s3://models/demo", to=str(out), credentials=login)
    assert {str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()} == set(FILES)


def test_a_pull_longer_than_its_addresses_hold_gets_fresh_ones_of_swift(
    tmp_path: Path, server: S3Server
) -> None:
    offline = {"AWS_EC2_METADATA_DISABLED": "true"}
    settings = {"s3.url_valid": "2s", "fetch.limit_rate": "3 MiB", "fetch.max_streams": "2"}
    with (
        s3_proxy(server) as proxy,
        running_agent(tmp_path / "agent", settings=settings, **offline) as slow,
    ):
        login = {**server.aws, "aws_endpoint_url": proxy.url}
        slow.get("s3://models/demo", to=str(tmp_path / "out"), credentials=login)
        stamps = {ask.query["X-Amz-Date"][0] for ask in proxy.reads() if "model-1" in ask.path}
    assert len(stamps) > 1
    assert (tmp_path / "out" / "model-1.bin").read_bytes() == FILES["model-1.bin"]


@pytest.mark.parametrize("kind", ["presigned", "temporary"])
def test_an_address_of_swift_that_ended_says_when_and_a_new_one_goes_on(
    tmp_path: Path, server: S3Server, kind: str
) -> None:
    key, body, out = "signed/m.bin", some_bytes(11 * MIB, kind.encode()), tmp_path / "out"
    server.client().put_object(Bucket="models", Key=key, Body=body)  # whole: one container's key
    signing_key(server, "models", "a key of ours")  # opens no parts, which are in another

    def signed(valid_s: int) -> str:
        if kind == "temporary":
            return temporary_url(server, "models", key, "a key of ours", valid_s)
        named = {"Bucket": "models", "Key": key}
        return str(server.client().generate_presigned_url("get_object", named, valid_s))

    settings = {"fetch.limit_rate": "2 MiB", "fetch.max_streams": "1", "resolve.ttl": "0s"}
    with running_agent(tmp_path / "agent", settings=settings) as agent:
        over = signed(1)
        time.sleep(2)
        with pytest.raises(errors.Denied, match=r"its signature expired at 20\d\d-.* UTC") as seen:
            agent.get(over, to=str(out))
        said = f"{seen.value.message} {seen.value.hint}"
        assert not any(value in said for _, value in parse_qsl(over) if len(value) > 25)
        with pytest.raises(errors.Denied, match=r"expired at 20\d\d-.* UTC"):
            agent.get(signed(4), to=str(out))
        assert not out.exists()
        done = agent.get(signed(600), to=str(out))
    assert (out / "m.bin").read_bytes() == body
    assert done["fetched_bytes"] < len(body) - MIB, "what was verified is kept"


def is_part(ask: Ask) -> bool:
    return "partNumber" in ask.query


def test_a_push_that_is_refused_is_told_and_what_passes_is_tried_again(
    tmp_path: Path, server: S3Server, agent: Agent
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "big.bin").write_bytes(some_bytes(34 * MIB, b"refused by swift"))
    s3 = server.bucket("refused")
    passing = [
        Reply(wait_s=2.0), Reply(404, "NoSuchUpload"), Reply(429), Reply(503, "SlowDown"),
        Reply(500), Reply(cut_body=MIB),
    ]  # fmt: skip
    with s3_proxy(server) as proxy, agent.client() as client:
        login = {**server.aws, "aws_endpoint_url": proxy.url}

        def push(to: str, **other: str) -> None:
            client.push(str(tmp_path / "folder"), to=to, to_credentials=login | other)

        with pytest.raises(errors.NotFound):
            push("s3://not-there/m")
        with pytest.raises(errors.Denied):
            push("s3://refused/m", aws_secret_access_key="wrong")
        refusal, words = Reply(403, "AccessDenied"), "access"
        proxy.fault = lambda ask: refusal if is_part(ask) else None
        for _ in range(2):
            with pytest.raises(errors.Denied, match=words):
                push("s3://refused/m")
            refusal, words = Reply(400, "ExpiredToken"), "expired"
        assert "Contents" not in s3.list_objects_v2(Bucket="refused", Prefix="m/big")
        proxy.fault = lambda ask: passing.pop() if passing and is_part(ask) else None
        push("s3://refused/m")
    assert passing == []
    body = s3.get_object(Bucket="refused", Key="m/big.bin")["Body"].read()
    assert body == (tmp_path / "folder" / "big.bin").read_bytes()


def test_a_folder_that_is_pushed_is_there_for_everybody_and_not_sent_twice(
    tmp_path: Path, server: S3Server, agent: Agent
) -> None:
    for path, body in FILES.items():
        (tmp_path / "folder" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / path).write_bytes(body[::-1])
    s3 = server.bucket("pushed")
    with agent.client() as client:
        calls = {"to": "s3://pushed/m", "to_credentials": server.aws}
        first, second = (client.push(str(tmp_path / "folder"), **calls)["to"] for _ in range(2))
    assert first is not None
    assert second is not None
    assert first["sent_objects"] == len(FILES)
    assert second["sent_objects"] == 0
    for path, body in FILES.items():
        assert s3.get_object(Bucket="pushed", Key=f"m/{path}")["Body"].read() == body[::-1]
    done = agent.get("s3://pushed/m", credentials=server.aws, to=str(tmp_path / "out"))
    assert done["notes"] == [], "the record of the push names each file"
    assert (tmp_path / "out" / "model-1.bin").read_bytes() == FILES["model-1.bin"][::-1]
    with agent.client() as client:
        (tmp_path / "folder" / "config.json").write_bytes(b"{}")
        changed = client.push(str(tmp_path / "folder"), **calls)["to"]
    assert changed is not None
    assert changed["sent_objects"] == 1
    assert any("no conditional writes" in note for note in changed["notes"])
