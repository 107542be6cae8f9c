"""A part of the agent with a bug runs again; the others never notice."""

from __future__ import annotations

import itertools
import logging

import pytest
import trio

from p2pcache.agent.supervise import FIRST_PAUSE_S, GOOD_LIFE_S, LAST_PAUSE_S, keep_running


async def test_a_part_that_breaks_runs_again_later_and_later(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
):
    began: list[float] = []

    async def breaks() -> None:
        began.append(trio.current_time())
        await trio.lowlevel.checkpoint()
        if len(began) == 10:
            await trio.sleep(GOOD_LIFE_S + 1)
        if len(began) <= 10:
            raise RuntimeError("dictionary changed size during iteration")

    with caplog.at_level(logging.ERROR):
        await keep_running(breaks)
    pauses = [later - one for one, later in itertools.pairwise(began)]
    assert pauses[:3] == [FIRST_PAUSE_S, 2 * FIRST_PAUSE_S, 4 * FIRST_PAUSE_S]
    assert pauses[8] == LAST_PAUSE_S
    assert pauses[9] == pytest.approx(GOOD_LIFE_S + 1 + FIRST_PAUSE_S), "a good life: as the first"
    assert len(caplog.records) == 10
    assert all(record.exc_info for record in caplog.records)


async def test_one_that_is_cancelled_is_not_run_again(autojump_clock: trio.testing.MockClock):
    runs = 0

    async def waits() -> None:
        nonlocal runs
        runs += 1
        await trio.sleep_forever()

    with trio.move_on_after(5):
        await keep_running(waits)
    assert runs == 1
