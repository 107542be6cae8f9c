"""Slow pulls are slow alone: what is fast beside them stays fast."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio

from p2pcache.lanes.orders import BLOCK_BYTES
from p2pcache.transfer.workers import WorkerOptions, open_workers
from tests.support import faulty_http as fh
from tests.support.agents import running_agent
from tests.support.blobs import MIB, write_blob
from tests.support.faulty_http import FaultyServer
from tests.support.partial_files import PATIENT, PartialFiles, some_bytes
from tests.support.watched_pull import QUICK, at_most, other_client, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with FaultyServer() as running:
        yield running


def dripping(size: int, bytes_per_s: int) -> fh.Answer:
    """Above the floor of 256 bytes/s, so nothing ends it."""

    def answer(ask: fh.Exchange) -> bool:
        start, end = ask.range or (0, size)
        ask.head(
            206, ETag='"v"', Content_Length=end - start,
            Content_Range=f"bytes {start}-{end - 1}/{size}",
        )  # fmt: skip
        for at in range(start, end, bytes_per_s // 20):
            if ask.stopping.is_set():
                return False
            ask.send(bytes(min(bytes_per_s // 20, end - at)))
            ask.wait(0.05)
        return True  # closing here would meet the next request of a kept connection

    return answer


def test_slow_pulls_do_not_keep_others_from_being_hashed(
    server: FaultyServer, tmp_path: Path
) -> None:
    fast = write_blob(tmp_path / "fast", 3 * MIB)
    with (
        running_agent(tmp_path, settings=QUICK) as agent,
        agent.client() as client,
        ExitStack() as slow,
    ):
        for number in range(5):
            url = server.on(f"/slow{number}", dripping(2 * MIB, 2000))
            slow.enter_context(other_client(agent, url))
        wait_until(
            lambda: all(len(server.headers_of(f"/slow{n}")) > 1 for n in range(5)),
            "the bodies of five slow pulls",
        )
        with at_most(15):
            assert client.push(str(fast.path))["sha256"] == fast.sha256
            assert client.verify()["checked"] == 1


def test_a_blob_that_comes_in_spurts_is_hashed_all_the_same(
    server: FaultyServer, tmp_path: Path
) -> None:
    data = some_bytes(8 * MIB, b"spurts")

    def in_spurts(ask: fh.Exchange) -> bool:
        if ask.number > 1:
            ask.wait(1.4)  # longer than a follower waits
        return fh.ranged(data, ETag='"v"')(ask)

    settings = {"fetch.max_streams": "1"}
    with running_agent(tmp_path, settings=settings) as agent:
        url = server.on("/f", in_spurts)
        agent.get(url, to=str(tmp_path / "out"))
        assert (tmp_path / "out" / "f").read_bytes() == data


async def test_each_pull_has_a_fetch_slot_of_its_own(server: FaultyServer, tmp_path: Path) -> None:
    slow = PartialFiles(tmp_path / "slow", BLOCK_BYTES)
    fast = PartialFiles(tmp_path / "fast", BLOCK_BYTES)
    slow_order = slow.order(server.on("/slow", dripping(BLOCK_BYTES, 2000)), limits=PATIENT)
    fast_order = fast.order(server.on("/fast", fh.ranged(some_bytes(BLOCK_BYTES))))
    two_asked = partial(wait_until, lambda: len(server.headers_of("/slow")) == 2, "two requests")
    with trio.fail_after(20):
        async with (
            open_workers(WorkerOptions(max_fetchers=1)) as workers,
            trio.open_nursery() as tasks,
        ):
            one, other = workers.share(), workers.share()
            for _ in range(3):
                tasks.start_soon(one.fetch, slow_order)
            await trio.to_thread.run_sync(two_asked)
            report = await other.fetch(fast_order)
            assert (report.fault, report.done) == (None, BLOCK_BYTES)
            tasks.cancel_scope.cancel()
