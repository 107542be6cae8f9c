"""Background pulls yield to foreground ones, and go on after them. Virtual time."""

from __future__ import annotations

import trio

from p2pcache.agent.priority import LINGER_S, YIELD_S, Priority


class Work:
    """Takes `seconds` in all, over however many runs; needs `stop_s` to stop."""

    def __init__(self, seconds: float, stop_s: float = 0.0) -> None:
        self.seconds, self.left_s, self.stop_s = seconds, seconds, stop_s
        self.runs = 0
        self.running = False

    async def __call__(self) -> None:
        self.runs += 1
        self.running = True
        began = trio.current_time()
        try:
            await trio.sleep(self.left_s)
        finally:
            self.left_s -= trio.current_time() - began
            with trio.CancelScope(shield=True):
                await trio.sleep(self.stop_s)
            self.running = False


async def test_without_anybody_who_waits_it_runs_at_once(autojump_clock):
    work = Work(10)
    began = trio.current_time()
    await Priority().background(work)
    assert work.runs == 1
    assert trio.current_time() - began < work.seconds + LINGER_S / 2, "it waited for nobody"


async def test_a_foreground_pull_begins_when_the_background_has_stopped(autojump_clock):
    priority, work = Priority(), Work(10, stop_s=0.1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(priority.background, work)
        await trio.sleep(1)
        began = trio.current_time()
        async with priority.foreground(), priority.foreground():
            assert not work.running
            assert 0.05 < trio.current_time() - began < 0.15
            await trio.sleep(60)
            assert not work.running
        await trio.sleep(LINGER_S / 2)
        assert not work.running, "the next file of the same script is waited for"
        await trio.sleep(LINGER_S)
        assert work.running
    assert work.left_s < 0.001
    assert work.runs == 2, "it went on, and ended"


async def test_one_that_does_not_stop_is_not_waited_for_for_ever(autojump_clock):
    priority, work = Priority(), Work(10, stop_s=60)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(priority.background, work)
        await trio.sleep(1)
        began = trio.current_time()
        async with priority.foreground():
            assert YIELD_S - 0.01 < trio.current_time() - began < YIELD_S + 1
        nursery.cancel_scope.cancel()


async def test_what_waits_for_its_turn_can_be_cancelled(autojump_clock):
    priority, work = Priority(), Work(10)
    async with priority.foreground():
        with trio.move_on_after(5) as scope:
            await priority.background(work)
    assert scope.cancelled_caught
    assert work.runs == 0
