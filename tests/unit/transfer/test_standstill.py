"""How a process finds out that it stood still."""

from __future__ import annotations

import time

import trio
import trio.testing

from p2pcache.transfer.standstill import BEAT_S, LATE_S, Standstill


async def test_a_loop_that_was_stopped_says_for_how_long_once() -> None:
    clock = Standstill()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(clock.run)
        await trio.sleep(0.3)
        assert clock.take() == 0.0
        time.sleep(LATE_S + 2 * BEAT_S)  # noqa: ASYNC251 - what it is to notice
        assert LATE_S < clock.take() < LATE_S + 5
        assert clock.take() == 0.0
        nursery.cancel_scope.cancel()


async def test_a_loop_that_waits_is_no_loop_that_stood_still(
    autojump_clock: trio.testing.MockClock,
) -> None:
    clock = Standstill()
    await trio.sleep(60)  # it does not run yet
    async with trio.open_nursery() as nursery:
        nursery.start_soon(clock.run)
        await trio.sleep(60)
        assert clock.take() == 0.0
        nursery.cancel_scope.cancel()
