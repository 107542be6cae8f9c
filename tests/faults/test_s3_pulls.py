"""Whole pulls from a bucket: a real MinIO, and one that fails on the way. Nothing is half seen."""

from __future__ import annotations

import hashlib
import threading
from typing import TYPE_CHECKING, Any

import pytest

from p2pcache import errors
from tests.support.agents import Agent, no_traceback, running_agent
from tests.support.blobs import MIB
from tests.support.bucket_faults import FAULTS, bad_range, large, model, shown, unfinished
from tests.support.minio import PASSWORD, USER, Minio, minio
from tests.support.partial_files import some_bytes
from tests.support.pulling import Pull
from tests.support.s3_proxy import Ask, Reply, S3Proxy, s3_proxy
from tests.support.watched_pull import QUICK

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OFFLINE = {"AWS_EC2_METADATA_DISABLED": "true"}  # no test asks 169.254.169.254


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Minio]:
    with minio(tmp_path_factory.mktemp("minio")) as running:
        yield running


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    settings = {**QUICK, "resolve.ttl": "0s"}
    with running_agent(tmp_path_factory.mktemp("agent"), settings=settings, **OFFLINE) as running:
        yield running


@pytest.fixture
def proxy(server: Minio) -> Iterator[S3Proxy]:
    with s3_proxy(server) as running:
        yield running


def asks(url: str) -> dict[str, str]:
    return {
        "aws_access_key_id": USER,
        "aws_secret_access_key": PASSWORD,
        "aws_endpoint_url": url,
    }


def test_a_folder_comes_once_and_is_named_by_what_arrived(
    server: Minio, agent: Agent, tmp_path: Path
) -> None:
    files = model("once", large=26 * MIB + 17)
    server.bucket("once", {f"m/{path}": body for path, body in files.items()})
    out, ref = tmp_path / "out", "s3://once/m"
    done = agent.get(ref, to=str(out), credentials=server.aws)
    assert shown(out) == files
    assert done["fetched_bytes"] == sum(map(len, files.values()))
    assert any("named by what arrived" in note for note in done["notes"])
    again = agent.get(ref, to=str(tmp_path / "two"), refresh=True, credentials=server.aws)
    assert shown(tmp_path / "two") == files
    assert again["fetched_bytes"] > 0, "refresh reads again"
    third = agent.get(ref, to=str(tmp_path / "three"), credentials=server.aws)
    assert third["fetched_bytes"] == 0, "its ETags are what they were"
    assert unfinished(agent) == []


def test_a_sha256_of_the_bucket_is_checked(server: Minio, agent: Agent, tmp_path: Path) -> None:
    body = some_bytes(2 * MIB, b"checked")
    s3 = server.bucket("checked")
    s3.put_object(Bucket="checked", Key="good", Body=body, ChecksumAlgorithm="SHA256")
    wrong = {"p2pcache-sha256": hashlib.sha256(b"else").hexdigest()}
    s3.put_object(Bucket="checked", Key="bad", Body=some_bytes(2 * MIB, b"w"), Metadata=wrong)
    done = agent.get("s3://checked/good", to=str(tmp_path), credentials=server.aws)
    assert shown(tmp_path) == {"good": body}
    assert done["notes"] == []
    with pytest.raises(errors.Untrusted):
        agent.get("s3://checked/bad", to=str(tmp_path), credentials=server.aws)
    assert shown(tmp_path) == {"good": body}
    assert unfinished(agent) == []


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_says_who_must_act_and_shows_nothing(
    server: Minio, proxy: S3Proxy, agent: Agent, tmp_path: Path, name: str
) -> None:
    which, reply, error, words = FAULTS[name]
    files = model(name)
    bucket = f"fault-{name.replace(' ', '-')}"
    server.bucket(bucket, {f"m/{path}": body for path, body in files.items()})
    proxy.fault = lambda ask: reply if which(ask) else None
    out = tmp_path / "out"
    with pytest.raises(errors.P2PCacheError) as seen:
        agent.get(f"s3://{bucket}/m/", to=str(out), credentials=asks(proxy.url))
    assert type(seen.value) is error, (seen.value, seen.value.hint)
    assert words in seen.value.message
    assert not out.exists() or shown(out) == {}
    proxy.fault = lambda ask: None
    agent.get(f"s3://{bucket}/m/", to=str(out), credentials=asks(proxy.url))
    assert shown(out) == files


@pytest.mark.parametrize("reply", [Reply(503, "SlowDown"), Reply(cut_after=200_000)])
def test_what_passes_is_tried_again(
    server: Minio, proxy: S3Proxy, agent: Agent, tmp_path: Path, reply: Reply
) -> None:
    name = f"again-{reply.status}"
    files = model(name)
    server.bucket(name, files)
    proxy.fault = lambda ask: reply if large(ask) and len(proxy.reads()) < 4 else None
    agent.get(f"s3://{name}", to=str(tmp_path), credentials=asks(proxy.url))
    assert shown(tmp_path) == files


def test_an_object_that_changes_on_its_way_is_not_mixed_of_two(
    server: Minio, proxy: S3Proxy, agent: Agent, tmp_path: Path
) -> None:
    old, new = model("old"), model("new")
    s3 = server.bucket("mixed", old)
    changed = threading.Event()

    def change(ask: Ask) -> None:
        if bad_range(ask) and not changed.is_set():
            changed.set()
            for key, body in new.items():
                s3.put_object(Bucket="mixed", Key=key, Body=body)

    proxy.fault = change
    with pytest.raises(errors.Untrusted, match="changed while it was fetched"):
        agent.get("s3://mixed", to=str(tmp_path), credentials=asks(proxy.url))
    assert changed.is_set()
    assert shown(tmp_path) == {}
    agent.get("s3://mixed", to=str(tmp_path), credentials=asks(proxy.url))
    assert shown(tmp_path) == new


def test_a_small_object_that_changed_is_not_taken_for_the_listed_one(
    server: Minio, proxy: S3Proxy, agent: Agent, tmp_path: Path
) -> None:
    s3 = server.bucket("small", {"a.json": b"old a"})

    def change(ask: Ask) -> None:
        if ask.reads:
            s3.put_object(Bucket="small", Key="a.json", Body=b"new a")

    proxy.fault = change
    with pytest.raises(errors.Untrusted, match="changed while it was fetched"):
        agent.get("s3://small", to=str(tmp_path), credentials=asks(proxy.url))
    assert shown(tmp_path) == {}


def test_a_pull_longer_than_its_addresses_hold_gets_fresh_ones(
    server: Minio, proxy: S3Proxy, tmp_path: Path
) -> None:
    files = model("expiring", large=12 * MIB)
    server.bucket("expiring", files)
    settings = {"s3.url_valid": "2s", "fetch.limit_rate": "3 MiB", "fetch.max_streams": "2"}
    with running_agent(tmp_path / "agent", settings=settings, **OFFLINE) as slow:
        slow.get("s3://expiring", to=str(tmp_path / "out"), credentials=asks(proxy.url))
    assert shown(tmp_path / "out") == files
    stamps = {ask.query["X-Amz-Date"][0] for ask in proxy.reads() if "model-1" in ask.path}
    assert len(stamps) > 1


def test_what_was_verified_survives_a_kill(server: Minio, proxy: S3Proxy, tmp_path: Path) -> None:
    files = model("killed", large=30 * MIB)
    server.bucket("killed", files)
    settings = {"fetch.limit_rate": "4 MiB"}
    with running_agent(tmp_path / "agent", settings=settings, **OFFLINE) as first:
        with Pull(first, "s3://killed", credentials=asks(proxy.url)) as pull:
            pull.wait_bytes(16 * MIB)  # 4 s: flushed by age after two
            first.kill()
        assert pull.error is not None
    with running_agent(tmp_path / "agent", **OFFLINE) as second:
        done = second.get("s3://killed", to=str(tmp_path / "out"), credentials=asks(proxy.url))
        assert shown(tmp_path / "out") == files
        assert done["fetched_bytes"] <= sum(map(len, files.values())) - 4 * MIB
        assert unfinished(second) == []


SECRET = "wJalrXUtnFEMI-K7MDENG-very-secret"
TOKENS = ("X-Amz-Signature", "X-Amz-Credential", "X-Amz-Security-Token")


def test_no_secret_is_ever_written_or_said(server: Minio, tmp_path: Path) -> None:
    said: list[Any] = []
    with s3_proxy(server) as proxy, running_agent(tmp_path / "agent", **OFFLINE) as agent:
        files = model("secret")
        server.bucket("secret", files)
        credentials = asks(proxy.url)
        said.append(agent.get("s3://secret", to=str(tmp_path / "out"), credentials=credentials))
        proxy.fault = lambda ask: Reply(403, "AccessDenied") if ask.reads else None
        server.client().put_object(Bucket="secret", Key="model-1.bin", Body=b"x" * 3 * MIB)
        for wrong in ({}, {"aws_secret_access_key": SECRET, "aws_session_token": f"{SECRET}-2"}):
            with pytest.raises(errors.P2PCacheError) as seen:
                agent.get("s3://secret", refresh=True, credentials=credentials | wrong)
            said.append((str(seen.value), seen.value.hint))
        said.append(agent.why())
        with agent.client() as client:
            said += [client.status(), list(client.ls())]
        no_traceback(agent)
    texts = [repr(said).encode()]
    texts += [path.read_bytes() for path in (tmp_path / "agent").rglob("*") if path.is_file()]
    for text in texts:
        for word in (PASSWORD, SECRET, *TOKENS):
            assert word.encode() not in text
