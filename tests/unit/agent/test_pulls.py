"""Shared pulls: what one of them does wrong stays its own."""

from __future__ import annotations

import pytest
import trio
import trio.lowlevel

from p2pcache.agent.pulls import Pulls
from p2pcache.errors import P2PCacheError
from p2pcache.transfer.pull import NOTHING
from p2pcache.transfer.want import PullReport

REPORT = PullReport({}, NOTHING, 0, 0, 0.0, 0.0, 0.0, 0.0)


async def ignore(progress: object) -> None:
    """Nobody looks."""


async def test_a_bug_in_one_pull_is_told_to_its_waiters_and_ends_nothing_else(nursery, caplog):
    pulls = Pulls(nursery, lambda: 0.0)

    async def broken(watch: object) -> PullReport:
        await trio.lowlevel.checkpoint()
        raise KeyError("a bug")

    async def fine(watch: object) -> PullReport:
        await trio.sleep(0.01)
        return REPORT

    reports = []

    async def wait_fine() -> None:
        reports.append(await pulls.wait_pulled("fine", "fine", fine, ignore))

    with trio.fail_after(10):
        async with trio.open_nursery() as waiting:
            waiting.start_soon(wait_fine)
            with pytest.raises(P2PCacheError, match="KeyError"):
                await pulls.wait_pulled("broken", "broken", broken, ignore)
    assert reports == [REPORT]
    assert "Traceback" in caplog.text
    assert pulls.running() == []
