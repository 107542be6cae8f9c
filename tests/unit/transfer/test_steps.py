"""The machine's clock, and what counts as brought by a pull."""

from __future__ import annotations

from types import SimpleNamespace

import trio

from p2pcache.transfer import events as ev
from p2pcache.transfer.machine import Statistics
from p2pcache.transfer.machine.owners import OwnerOptions
from p2pcache.transfer.policy import TransferOptions
from p2pcache.transfer.steps import Setup, Steps
from p2pcache.transfer.want import Wanted
from p2pcache.transfer.watching import Watching
from tests.support.machine_world import MIB, specs


class Noted:
    """A watcher that keeps the times."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def began(self, setup, paths) -> None:
        pass

    def step(self, now, events, actions) -> None:
        self.times.append(now)

    def ended(self, now, tally) -> None:
        self.times.append(now)


def test_a_wake_that_was_waited_for_is_reached_whatever_rounding_says():
    """Else the machine asks for the same wake again, for ever, under a clock that jumps."""
    zero = 1e6 + 0.1
    at = next(n / 7 for n in range(1, 100) if (zero + n / 7) - zero < n / 7)
    clock, noted = [zero], Noted()
    setup = Setup(
        tuple(specs(MIB)), (None,), MIB, 1, TransferOptions(), 7, True, (), None, (), OwnerOptions()
    )
    steps = Steps(setup, ["a"], lambda: clock[0], noted)
    clock[0] = steps.deadline(at)
    steps.take([ev.Tick()], reached=at)
    clock[0] = zero
    steps.take([ev.Tick()])
    steps.close()
    assert noted.times == [at, at, at], "and it never goes backwards"


async def test_what_an_earlier_pull_left_is_no_second_of_this_one(autojump_clock):
    growing = SimpleNamespace(live_bytes=lambda: 500 * MIB, waits_for=None,
                              wanted=Wanted("a", 900 * MIB, None, "a"))  # fmt: skip
    empty = Statistics(sources=(), fetched_bytes=0, duplicate_bytes=0, retries=0, complete_blobs=0)
    open_blobs: dict = {}
    watching = Watching([growing.wanted], {}, open_blobs, lambda: empty, lambda _: None)
    watching.progress()
    await trio.sleep(0.5)
    open_blobs[0] = growing
    watching.here_bytes += growing.live_bytes()
    for _ in range(10):
        await trio.sleep(0.5)
        watching.progress()
    assert watching.best_bytes_per_s == 0.0
