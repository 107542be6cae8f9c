"""What a store has of a push that is not over, and loses or mistakes; small files under a rate."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import pytest

from tests.real.test_push_clouds import push, written
from tests.support.agents import Agent, running_agent
from tests.support.blobs import MIB
from tests.support.clouds import OFFLINE, Azure, Gcs, running_cloud
from tests.support.partial_files import some_bytes
from tests.support.s3_proxy import Ask, Reply, s3_proxy
from tests.support.watched_pull import QUICK, at_most

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def gcs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gcs]:
    with running_cloud("gcs", tmp_path_factory.mktemp("gcs")) as running:
        assert isinstance(running, Gcs)
        yield running


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    with running_agent(tmp_path_factory.mktemp("agent"), settings=QUICK, **OFFLINE) as running:
        yield running


def test_a_session_that_is_over_stands_for_no_object(
    gcs: Gcs, agent: Agent, tmp_path: Path
) -> None:
    """Google's store goes on to answer it with the object that it made, also when that is gone."""
    files = {"large.bin": some_bytes(17 * MIB, b"over")}
    folder, to = written(tmp_path / "d", files), gcs.ref("over/m")
    gcs.fill("over", {})
    over: dict[str, bytes] = {}  # by the session

    def answer(ask: Ask) -> Reply | None:
        if ask.headers.get("content-range", "").startswith(f"bytes {16 * MIB}-"):
            (session,) = ask.query["upload_id"]
            if session in over:
                return Reply(200, body=over[session])
            over.setdefault(session, b"")
            return Reply(lost=True) if len(over) == 1 else None
        return gcs.door(ask)

    with s3_proxy(gcs.server) as proxy, at_most(60):
        proxy.fault = answer
        push(agent, folder, to, gcs.asks(proxy.url))
        over = dict.fromkeys(over, json.dumps(gcs.server.about("over", "m/large.bin")).encode())
        gcs.server.call("DELETE", "/storage/v1/b/over/o/m%2Flarge.bin")
        push(agent, folder, to, gcs.asks(proxy.url))
    assert gcs.read("over", "m/large.bin") == files["large.bin"]
    told = json.loads(gcs.read("over", "m/.p2pcache/ref"))["files"]["large.bin"]
    assert told["version"] == gcs.server.about("over", "m/large.bin")["generation"]


def test_staged_blocks_that_are_gone_are_asked_for_again(agent: Agent, tmp_path: Path) -> None:
    """Azure ends them when a blob is written beside them; Azurite keeps them."""
    large = some_bytes(17 * MIB, b"ended")
    (tmp_path / "large.bin").write_bytes(large)
    gone = [Reply(400, "InvalidBlockList")]
    with running_cloud("azure", tmp_path / "azure") as cloud, s3_proxy(cloud.server) as proxy:
        assert isinstance(cloud, Azure)
        cloud.fill("ended", {})
        proxy.fault = lambda ask: (
            gone.pop() if ask.writes and ask.query.get("comp") == ["blocklist"] and gone else None
        )
        with at_most(60):
            push(agent, tmp_path / "large.bin", cloud.ref("ended/m"), cloud.asks(proxy.url))
        assert gone == []
        assert cloud.read("ended", "m/large.bin") == large


def test_small_files_keep_to_a_rate_too(gcs: Gcs, agent: Agent, tmp_path: Path) -> None:
    """By the lane, then, which alone keeps one."""
    files = {f"{n}.bin": some_bytes(MIB - n, b"small %d" % n) for n in range(3)} | {"none": b""}
    gcs.fill("slow", {})
    folder, total = written(tmp_path / "d", files), sum(map(len, files.values()))
    with s3_proxy(gcs.server) as proxy, at_most(60):
        proxy.fault = gcs.door
        began = time.monotonic()
        push(agent, folder, gcs.ref("slow/m"), gcs.asks(proxy.url), limit_rate=2 * MIB)
        assert time.monotonic() - began > 1.2
        assert proxy.taken_bytes == total, "PUTs are the lane's"
    assert {name: gcs.read("slow", f"m/{name}") for name in files} == files
