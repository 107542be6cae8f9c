"""Shared pulls: what one of them does wrong stays its own."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest
import trio
import trio.lowlevel
import trio.testing

from p2pcache.agent.pulls import Pulls
from p2pcache.errors import Interrupted, P2PCacheError
from p2pcache.store.blobs import BlobInfo
from p2pcache.transfer.pull import NOTHING
from p2pcache.transfer.want import PullReport

REPORT = PullReport({}, NOTHING, 0, 0, 0.0, 0.0, 0.0, 0.0)


class Held:
    """What a store holds for one scope."""

    scopes: ClassVar[list[Held]] = []

    def __init__(self) -> None:
        self.blobs: list[bytes] = []
        self.open = False
        Held.scopes.append(self)

    def __enter__(self):
        self.open = True
        return self.blobs.extend

    def __exit__(self, *_: object) -> None:
        self.open = False


def nothing(sha256s: object) -> None:
    """Nobody holds."""


async def ignore(progress: object) -> None:
    """Nobody looks."""


async def test_a_bug_in_one_pull_is_told_to_its_waiters_and_ends_nothing_else(nursery, caplog):
    pulls = Pulls(nursery, lambda: 0.0, Held)

    async def broken(watch: object, hold: object) -> PullReport:
        await trio.lowlevel.checkpoint()
        raise KeyError("a bug")

    async def fine(watch: object, hold: object) -> PullReport:
        await trio.sleep(0.01)
        return REPORT

    reports = []

    async def wait_fine() -> None:
        reports.append(await pulls.wait_pulled("fine", "fine", fine, ignore, nothing))

    with trio.fail_after(10):
        async with trio.open_nursery() as waiting:
            waiting.start_soon(wait_fine)
            with pytest.raises(P2PCacheError, match="KeyError"):
                await pulls.wait_pulled("broken", "broken", broken, ignore, nothing)
    assert reports == [REPORT]
    assert "Traceback" in caplog.text
    assert pulls.running() == []


async def test_blobs_are_held_without_a_gap_until_every_waiter_has_its_own_hold(nursery):
    pulls = Pulls(nursery, lambda: 0.0, Held)
    arrived = BlobInfo(b"s" * 32, 5, None, None, Path("/x"), False)
    go_on = trio.Event()
    told = []

    async def bring(watch: object, hold) -> PullReport:
        hold([arrived.sha256])
        await go_on.wait()
        return PullReport({"f": arrived}, NOTHING, 0, 0, 0.0, 0.0, 0.0, 0.0)

    async def wait() -> None:
        def hold(sha256s) -> None:
            assert shared.open, "the pull's own hold is still there"
            told.extend(sha256s)

        await pulls.wait_pulled("one", "one", bring, ignore, hold)

    with trio.fail_after(10):
        async with trio.open_nursery() as waiting:
            waiting.start_soon(wait)
            waiting.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            shared = Held.scopes[-1]
            assert shared.blobs == [arrived.sha256]
            go_on.set()
    assert told == [arrived.sha256] * 2
    assert not shared.open


async def test_an_agent_that_stops_begins_no_pull(nursery):
    pulls = Pulls(nursery, lambda: 0.0, Held)
    began = []

    async def pull(watch: object, hold: object) -> PullReport:
        began.append(watch)
        return REPORT

    pulls.stop()
    with pytest.raises(Interrupted, match="stopping"):
        await pulls.wait_pulled("a", "a", pull, ignore, ignore)
    assert (began, pulls.running()) == ([], [])
