"""Agents that know nothing of each other push the same to one bucket: one sends, and when it is
killed another goes on.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TYPE_CHECKING, Any

import pytest

from p2pcache import errors
from tests.real.test_push_s3 import OFFLINE, push, record, stored, written
from tests.support.agents import Agent, running_agent
from tests.support.blobs import MIB
from tests.support.minio import Minio, minio
from tests.support.partial_files import some_bytes
from tests.support.s3_proxy import Ask, s3_proxy
from tests.support.watched_pull import QUICK, at_most

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

AGENTS = 4


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Minio]:
    with minio(tmp_path_factory.mktemp("minio")) as running:
        yield running


@pytest.fixture(scope="module")
def agents(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Agent]]:
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(
                running_agent(tmp_path_factory.mktemp("agent"), settings=QUICK, **OFFLINE)
            )
            for _ in range(AGENTS)
        ]


def model(name: str, megabytes: int) -> dict[str, bytes]:
    large = megabytes * MIB // 2
    return {
        "config.json": name.encode(),
        "model-1.bin": some_bytes(large, name.encode() + b"1"),
        "model-2.bin": some_bytes(large - 5, name.encode() + b"2"),
    }


def all_at_once(agents: list[Agent], given: Path, to: str, aws: dict[str, str]) -> list[Any]:
    """What each got: its answer, or its error."""
    with ThreadPoolExecutor(len(agents)) as pool:
        work = [pool.submit(push, agent, given, to, aws) for agent in agents]
        return [future.exception() or future.result() for future in as_completed(work)]


@pytest.mark.slow
def test_four_that_push_at_once_send_it_once(
    server: Minio, agents: list[Agent], tmp_path: Path
) -> None:
    bucket, files = "once", model("once", 300)
    given, total = written(tmp_path / "folder", files), sum(map(len, files.values()))
    server.bucket(bucket)
    with s3_proxy(server) as proxy, at_most(120):
        aws = {**server.aws, "aws_endpoint_url": proxy.url}
        done = all_at_once(agents, given, f"s3://{bucket}/m", aws)
        taken = proxy.taken_bytes
    assert total <= taken <= 1.05 * total, taken / total
    assert sum(told["sent_bytes"] for told in done) == total
    assert sum(told["sent_objects"] for told in done) == 3, done
    there = stored(server, bucket)
    assert {key: there[f"m/{key}"] for key in files} == files
    rows = record(server, bucket)["files"]
    assert {key: rows[key]["sha256"] for key in files} == {
        key: hashlib.sha256(body).hexdigest() for key, body in files.items()
    }
    assert "m/.p2pcache/pushing" not in there


MOMENTS: dict[str, Callable[[Ask], bool]] = {
    "a part": lambda ask: ask.query.get("partNumber") == ["3"],
    "the end of an upload": lambda ask: ask.method == "POST" and "uploadId" in ask.query,
    "the record": lambda ask: ask.writes and ask.path.endswith("/.p2pcache/ref"),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_when_the_one_that_sends_is_killed_another_goes_on(
    server: Minio, agents: list[Agent], tmp_path: Path, moment: str
) -> None:
    bucket, files = "killed-" + moment.replace(" ", "-"), model(moment, 100)
    given, total = written(tmp_path / "folder", files), sum(map(len, files.values()))
    s3 = server.bucket(bucket)
    killed: list[int] = []

    def kill(ask: Ask) -> None:
        if not killed and MOMENTS[moment](ask):
            killed.append(0)
            body = s3.get_object(Bucket=bucket, Key="m/.p2pcache/pushing")["Body"].read()
            killed[0] = json.loads(body)["pid"]
            os.kill(killed[0], signal.SIGKILL)

    with s3_proxy(server) as proxy, at_most(120):
        proxy.fault = kill
        aws = {**server.aws, "aws_endpoint_url": proxy.url}
        done = all_at_once(agents[:3], given, f"s3://{bucket}/m", aws)
        taken = proxy.taken_bytes
    failed = [told for told in done if isinstance(told, Exception)]
    assert len(failed) == 1
    assert isinstance(failed[0], errors.P2PCacheError), failed
    for agent in agents:
        if agent.process is not None and agent.process.pid == killed[0]:
            agent.kill()
            agent.start()
    there = stored(server, bucket)
    assert {key: there[f"m/{key}"] for key in files} == files
    rows = record(server, bucket)["files"]
    assert {key: rows[key]["sha256"] for key in files} == {
        key: hashlib.sha256(body).hexdigest() for key, body in files.items()
    }
    assert "m/.p2pcache/pushing" not in there
    assert taken <= total + 5 * 16 * MIB, "what had arrived is not sent again"
    for key in files:
        left = s3.list_multipart_uploads(Bucket=bucket, Prefix=f"m/{key}").get("Uploads", [])
        for one in left:  # one without a part may be anybody's: it stays
            told = s3.list_parts(Bucket=bucket, Key=one["Key"], UploadId=one["UploadId"])
            assert not told.get("Parts")
