"""Pushes to a bucket that fail on the way: a real MinIO, and faults between. Nothing is half seen,
and what arrived is not sent again.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from p2pcache import errors
from tests.real.test_push_s3 import OFFLINE, push, record, stored, written
from tests.support.agents import Agent, running_agent
from tests.support.blobs import MIB
from tests.support.minio import PASSWORD, USER, Minio, minio
from tests.support.partial_files import some_bytes
from tests.support.s3_proxy import Ask, Reply, S3Proxy, s3_proxy
from tests.support.watched_pull import QUICK, at_most

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Minio]:
    with minio(tmp_path_factory.mktemp("minio")) as running:
        yield running


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    with running_agent(tmp_path_factory.mktemp("agent"), settings=QUICK, **OFFLINE) as running:
        yield running


@pytest.fixture
def proxy(server: Minio) -> Iterator[S3Proxy]:
    with s3_proxy(server) as running:
        yield running


def asks(url: str, **more: str) -> dict[str, str]:
    return {
        "aws_access_key_id": USER, "aws_secret_access_key": PASSWORD, "aws_endpoint_url": url,
        **more,
    }  # fmt: skip


def folder(where: Path, name: str, large: int = 34 * MIB) -> Path:
    files = {"a.json": name.encode(), "big.bin": some_bytes(large, name.encode())}
    return written(where / "folder", files)


def uploads(server: Minio, bucket: str, key: str = "m/big.bin") -> list[str]:
    """In parts, and not complete."""
    said = server.client().list_multipart_uploads(Bucket=bucket, Prefix=key)
    return [row["UploadId"] for row in said.get("Uploads", ())]


def is_part(ask: Ask) -> bool:
    return "partNumber" in ask.query


LASTING: dict[str, tuple[Callable[[Ask], bool], Reply, type[Exception], str]] = {
    "403": (is_part, Reply(403, "AccessDenied"), errors.Denied, "does not allow access"),
    "expired": (is_part, Reply(400, "ExpiredToken"), errors.Denied, "has expired"),
    "full": (is_part, Reply(507, "XMinioStorageFull"), errors.Denied, "no room"),
    "quota": (is_part, Reply(403, "QuotaExceeded"), errors.Denied, "no room"),
    "small quota": (
        lambda ask: ask.path.endswith("a.json") and ask.writes,
        Reply(400, "XMinioAdminBucketQuotaExceeded"), errors.Denied, "no room",
    ),
    "no list": (
        lambda ask: "list-type" in ask.query, Reply(403, "AccessDenied"), errors.Denied, "access",
    ),
    "no record": (
        lambda ask: ask.path.endswith("/ref") and ask.writes,
        Reply(403, "AccessDenied"), errors.Denied, "access",
    ),
    "clock": (is_part, Reply(403, "RequestTimeTooSkewed"), errors.LocalFault, "clock"),
    "html": (is_part, Reply(200, body=b"<html>"), errors.Untrusted, "which version"),
}  # fmt: skip


@pytest.mark.parametrize("name", LASTING)
def test_what_lasts_is_told_and_the_next_push_sends_the_rest(
    server: Minio, agent: Agent, proxy: S3Proxy, tmp_path: Path, name: str
) -> None:
    when, reply, error, words = LASTING[name]
    bucket = "lasts-" + name.replace(" ", "-")
    server.bucket(bucket)
    given, to = folder(tmp_path, name, 18 * MIB), f"s3://{bucket}/m"
    proxy.fault = lambda ask: reply if when(ask) else None
    with at_most(60), pytest.raises(error, match=words) as caught:
        push(agent, given, to, asks(proxy.url))
    assert PASSWORD not in repr(caught.value.args)
    assert "m/.p2pcache/ref" not in stored(server, bucket)
    assert "m/.p2pcache/pushing" not in stored(server, bucket), "who comes next need not wait"
    proxy.fault = lambda ask: None
    with at_most(60):
        push(agent, given, to, asks(proxy.url))
    assert record(server, bucket)["files"].keys() == {"a.json", "big.bin"}
    assert uploads(server, bucket) == []


PASSING = {
    "slow down": Reply(503, "SlowDown"),
    "429": Reply(429, headers=(("Retry-After", "1"),)),
    "500": Reply(500, "InternalError"),
    "bad digest": Reply(400, "BadDigest"),
    "cut": Reply(cut_body=5 * MIB),
    "no such upload": Reply(404, "NoSuchUpload"),
    "late": Reply(wait_s=3.0),
}


@pytest.mark.parametrize("name", PASSING)
def test_what_passes_is_tried_again_and_nobody_hears_of_it(
    server: Minio, agent: Agent, proxy: S3Proxy, tmp_path: Path, name: str
) -> None:
    bucket = "passes-" + name.replace(" ", "-")
    server.bucket(bucket)
    given = folder(tmp_path, name)
    failures = iter(range(2))
    proxy.fault = lambda ask: PASSING[name] if is_part(ask) and next(failures, -1) >= 0 else None
    with at_most(60):
        push(agent, given, f"s3://{bucket}/m", asks(proxy.url))
    assert stored(server, bucket)["m/big.bin"] == (given / "big.bin").read_bytes()
    assert uploads(server, bucket) == []


def test_a_wrong_login_and_a_missing_bucket_are_told(
    server: Minio, agent: Agent, tmp_path: Path
) -> None:
    given = folder(tmp_path, "login", 100)
    server.bucket("login")
    wrong = asks(server.url, aws_secret_access_key="wrong-secret-here")
    with pytest.raises(errors.Denied, match="does not accept the login"):
        push(agent, given, "s3://login/m", wrong)
    with pytest.raises(errors.NotFound, match="no such bucket"):
        push(agent, given, "s3://no-such-bucket/m", server.aws)
    assert stored(server, "login") == {}
    assert "wrong-secret" not in agent.log.read_text()


def test_bytes_that_are_damaged_here_do_not_go_out(
    server: Minio, agent: Agent, tmp_path: Path
) -> None:
    given = folder(tmp_path, "damaged")
    server.bucket("damaged")
    with agent.client() as client:
        done = client.push(str(given))
    sha256 = hashlib.sha256((given / "big.bin").read_bytes()).hexdigest()
    blob = agent.home / "blobs-v1" / sha256[:2] / sha256
    before = blob.stat()
    blob.chmod(0o644)
    with blob.open("r+b") as file:
        file.seek(20 * MIB)
        file.write(b"another byte")
    os.utime(blob, ns=(before.st_atime_ns, before.st_mtime_ns))  # the disk did it, nobody wrote
    blob.chmod(0o444)
    try:
        with at_most(60), pytest.raises(errors.LocalFault, match="damaged on this disk"):
            push(agent, done["manifest"], "s3://damaged/m", server.aws)
        assert "m/big.bin" not in stored(server, "damaged")
    finally:
        blob.unlink()


def test_two_that_push_other_content_to_one_folder_do_it_one_after_the_other(
    server: Minio, agent: Agent, tmp_path: Path
) -> None:
    one, two = folder(tmp_path / "1", "one"), folder(tmp_path / "2", "two")
    server.bucket("both")
    with at_most(60), ThreadPoolExecutor(2) as pool:
        work = [pool.submit(push, agent, given, "s3://both/m", server.aws) for given in (one, two)]
        done = [future.result() for future in work]
    assert sorted(bool(told["notes"]) for told in done) == [False, True], "one waited"
    last = next(given for given, told in zip((one, two), done, strict=True) if told["notes"])
    there = stored(server, "both")
    assert there["m/big.bin"] == (last / "big.bin").read_bytes()
    assert there["m/a.json"] == (last / "a.json").read_bytes()


def test_what_another_writer_puts_there_meanwhile_is_not_overwritten(
    server: Minio, agent: Agent, proxy: S3Proxy, tmp_path: Path
) -> None:
    for name, key in (("new", "m/big.bin"), ("small", "m/a.json")):
        given, bucket = folder(tmp_path / name, name), f"meanwhile-{name}"
        s3 = server.bucket(bucket)
        once = iter([True])

        def meddle(
            ask: Ask, s3: Any = s3, bucket: str = bucket, key: str = key,
            once: Iterator[bool] = once,
        ) -> None:  # fmt: skip
            ours = ask.path == f"/{bucket}/{key}" and ask.method in ("PUT", "POST")
            if ours and "uploads" not in ask.query and next(once, False):
                s3.put_object(Bucket=bucket, Key=key, Body=b"theirs")

        proxy.fault = meddle
        with at_most(60), pytest.raises(errors.Conflict, match="by somebody else"):
            push(agent, given, f"s3://{bucket}/m", asks(proxy.url))
        assert stored(server, bucket)[key] == b"theirs"
        assert "m/.p2pcache/ref" not in stored(server, bucket)
        # of the other file the parts that arrived stay, for the next push
        assert name == "small" or uploads(server, bucket) == []


def test_what_was_sent_before_a_kill_is_not_sent_again(
    server: Minio, proxy: S3Proxy, tmp_path: Path
) -> None:
    size = 120 * MIB
    given = folder(tmp_path, "killed", size)
    server.bucket("killed")
    gone = threading.Event()
    with running_agent(tmp_path / "agent", settings=QUICK, **OFFLINE) as agent:

        def kill() -> None:
            while proxy.taken_bytes < size // 2:
                time.sleep(0.005)
            agent.kill()
            gone.set()

        thread = threading.Thread(target=kill)
        thread.start()
        with at_most(60), pytest.raises(errors.P2PCacheError):
            push(agent, given, "s3://killed/m", asks(proxy.url), limit_rate=100 * MIB)
        thread.join()
        assert "m/big.bin" not in stored(server, "killed")
        before = proxy.taken_bytes
        agent.start()
        with at_most(60):
            done = push(agent, given, "s3://killed/m", asks(proxy.url))
    assert stored(server, "killed")["m/big.bin"] == (given / "big.bin").read_bytes()
    assert proxy.taken_bytes - before <= size - size // 2 + 5 * 16 * MIB + MIB
    assert done["sent_bytes"] < size
    assert done["sent_bytes"] + done["resumed_bytes"] == done["missing_bytes"]
    assert uploads(server, "killed") == []


def test_parts_of_other_bytes_are_not_taken_for_ours(
    server: Minio, agent: Agent, tmp_path: Path
) -> None:
    given = folder(tmp_path, "foreign")
    s3 = server.bucket("foreign")
    told = s3.create_multipart_upload(Bucket="foreign", Key="m/big.bin", ChecksumAlgorithm="SHA256")
    s3.upload_part(
        Bucket="foreign", Key="m/big.bin", UploadId=told["UploadId"], PartNumber=1,
        Body=some_bytes(16 * MIB, b"of another"), ChecksumAlgorithm="SHA256",
    )  # fmt: skip
    with at_most(60):
        push(agent, given, "s3://foreign/m", server.aws)
    assert stored(server, "foreign")["m/big.bin"] == (given / "big.bin").read_bytes()
    assert uploads(server, "foreign") == [told["UploadId"]], "somebody else's is left alone"


def test_an_upload_that_began_for_another_file_does_not_name_this_one(
    server: Minio, agent: Agent, tmp_path: Path
) -> None:
    """A file of which the first part alone had gone out, and which changed behind that."""
    given = folder(tmp_path, "renamed")
    whole = (given / "big.bin").read_bytes()
    s3, key = server.bucket("renamed"), {"Bucket": "renamed", "Key": "m/big.bin"}
    told = s3.create_multipart_upload(
        **key, Metadata={"p2pcache-sha256": "0" * 64}, ChecksumAlgorithm="SHA256"
    )
    s3.upload_part(
        **key, UploadId=told["UploadId"], PartNumber=1, Body=whole[: 16 * MIB],
        ChecksumAlgorithm="SHA256",
    )  # fmt: skip
    with at_most(60):
        push(agent, given, "s3://renamed/m", server.aws)
    about = s3.head_object(**key)
    assert about["Metadata"]["p2pcache-sha256"] == hashlib.sha256(whole).hexdigest()
    assert stored(server, "renamed")["m/big.bin"] == whole
    row = record(server, "renamed")["files"]["big.bin"]
    assert row["version"] == about["ETag"].strip('"')
    assert uploads(server, "renamed") == []


def test_files_of_a_private_folder_need_the_users_word(
    server: Minio, agent: Agent, tmp_path: Path
) -> None:
    given = folder(tmp_path, "private", 3 * MIB)
    sha256 = hashlib.sha256((given / "big.bin").read_bytes()).hexdigest()
    server.bucket("private")
    with agent.client() as client:
        client.adopt(given, private=True, wait=True)
        with pytest.raises(errors.Denied, match="gated or private"):
            client.push(f"sha256:{sha256}", to="s3://private/m", to_credentials=server.aws)
        assert stored(server, "private") == {}
        done = client.push(
            f"sha256:{sha256}", to="s3://private/m", to_credentials=server.aws, allow_gated=True
        )
        client.unadopt(given)
    assert done["to"] is not None
    assert done["to"]["sent_objects"] == 1


def test_a_rate_is_kept_to(server: Minio, agent: Agent, tmp_path: Path) -> None:
    given = folder(tmp_path, "slow", 20 * MIB)
    server.bucket("slow")
    began = time.monotonic()
    push(agent, given, "s3://slow/m", server.aws, limit_rate=10 * MIB)
    assert 1.5 < time.monotonic() - began < 12


def test_a_push_that_is_interrupted_leaves_nothing_half_seen(
    server: Minio, agent: Agent, proxy: S3Proxy, tmp_path: Path
) -> None:
    given = folder(tmp_path, "stopped")
    server.bucket("stopped")
    reached = threading.Event()

    def hold(ask: Ask) -> Reply | None:
        if is_part(ask):
            reached.set()
            return Reply(wait_s=30)
        return None

    proxy.fault = hold
    client = agent.client()
    with ThreadPoolExecutor(1) as pool:
        work = pool.submit(
            client.push, str(given), to="s3://stopped/m", to_credentials=asks(proxy.url)
        )
        assert reached.wait(30)
        client.close()
        with at_most(30), pytest.raises(Exception):  # noqa: B017, PT011 - its socket was closed
            work.result()
    s3 = server.client()

    def keys() -> set[str]:
        return {row["Key"] for row in s3.list_objects_v2(Bucket="stopped").get("Contents", ())}

    deadline = time.monotonic() + 20
    while "m/.p2pcache/pushing" in keys():
        assert time.monotonic() < deadline, "the lease is given back"
        time.sleep(0.1)
    left = {key for key in keys() if "/manifests/" not in key}
    assert left <= {"m/a.json"}


def test_a_store_without_conditions_gets_plain_writes_and_the_user_hears_of_it(
    server: Minio, agent: Agent, proxy: S3Proxy, tmp_path: Path
) -> None:
    """As OpenStack Swift does: `If-None-Match: *` is known there, `If-Match` is answered 501."""
    given = folder(tmp_path, "plain")
    server.bucket("plain", {"m/big.bin": b"older", "m/a.json": b"older"})
    proxy.fault = lambda ask: Reply(501, "NotImplemented") if "if-match" in ask.headers else None
    with at_most(60):
        done = push(agent, given, "s3://plain/m", asks(proxy.url))
    assert any("no conditional writes" in note for note in done["notes"])
    there = stored(server, "plain")
    assert there["m/big.bin"] == (given / "big.bin").read_bytes()
    assert there["m/a.json"] == (given / "a.json").read_bytes()
    assert record(server, "plain")["files"].keys() == {"a.json", "big.bin"}


def test_just_these_bytes_that_came_meanwhile_are_taken_and_no_parts_stay(
    server: Minio, agent: Agent, proxy: S3Proxy, tmp_path: Path
) -> None:
    given = folder(tmp_path, "meanwhile")
    s3, body = server.bucket("meanwhile"), (given / "big.bin").read_bytes()
    made: list[str] = []

    def other(ask: Ask) -> None:
        if ask.method == "POST" and "uploadId" in ask.query and not made:
            sha256 = hashlib.sha256(body).hexdigest()
            s3.put_object(
                Bucket="meanwhile", Key="m/big.bin", Body=body,
                Metadata={"p2pcache-sha256": sha256},
            )  # fmt: skip
            made.append(sha256)

    proxy.fault = other
    push(agent, given, "s3://meanwhile/m", asks(proxy.url))
    assert made
    assert uploads(server, "meanwhile") == []
    assert record(server, "meanwhile")["files"]["big.bin"]["sha256"] == made[0]


def test_a_file_whose_last_answer_was_lost_is_not_sent_again(
    server: Minio, agent: Agent, proxy: S3Proxy, tmp_path: Path
) -> None:
    given = folder(tmp_path, "lost")
    server.bucket("lost")
    lost: list[str] = []

    def lose(ask: Ask) -> Reply | None:
        completes = ask.method == "POST" and "uploadId" in ask.query
        small = ask.method == "PUT" and ask.path.endswith("a.json")
        if (completes or small) and ask.path not in lost:
            lost.append(ask.path)
            return Reply(lost=True)
        return None

    proxy.fault = lose
    with at_most(60):
        done = push(agent, given, "s3://lost/m", asks(proxy.url))
    assert len(lost) == 2
    assert proxy.taken_bytes < 34 * MIB + 100_000
    assert (done["sent_bytes"], done["sent_objects"]) == (34 * MIB + 4, 2)
    assert record(server, "lost")["files"].keys() == {"a.json", "big.bin"}
    assert uploads(server, "lost") == []
