"""Bulk bytes of pushes: so many requests at once, counted while they run.

One `Uploads` for each destination of HTTP; adapters hand it orders (`lanes.send_part`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Protocol, TypeVar

import trio

from p2pcache.destinations.faults import error_of
from p2pcache.errors import plain_errors

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from p2pcache.lanes.odometer import Odometer
    from p2pcache.lanes.orders import FetchLimits
    from p2pcache.lanes.send_part import PartOrder, PartReport

T = TypeVar("T")
BEAT_S = 0.2  # between two looks at how much went out


def uploads_at_once(cores: int) -> int:
    """How many connections: four fill a long way, eight is what a machine's memory is asked for."""
    return min(max(cores, 4), 8)


class Count(Protocol):
    """Hears of bytes as they go out; `resumed`: of those that are there of an upload that broke
    off, before any goes out.
    """

    def __call__(self, more: int, *, resumed: bool = False) -> None:
        """So many more."""
        ...


class Sent:
    """What went out so far, repeats included; `resumed_bytes`: what had gone out before."""

    def __init__(self, watch: Callable[[int], None]) -> None:
        self._watch = watch
        self.bytes = 0
        self.objects = 0
        self.resumed_bytes = 0

    def count(self, more: int) -> None:
        """So many bytes went out."""
        self.bytes += more
        self._watch(self.bytes + self.resumed_bytes)

    def of_file(self) -> Count:
        """What counts one file. What is found there of it in a later try went out in this push."""
        begun = False

        def count(more: int, *, resumed: bool = False) -> None:
            nonlocal begun
            if not resumed:
                self.count(more)
            elif not begun:
                self.resumed_bytes += more
            begun = True

        return count


class Uploads:
    """`send` runs an order in a worker. `rate_bytes_per_s`: of all together, None: no limit of this
    push; `is_limited`: whether the agent has one now. Under a limit requests go one after the
    other: what is cut off in the middle is sent again.
    """

    def __init__(
        self,
        send: Callable[[PartOrder], Awaitable[PartReport]],
        odometer: Odometer | None,
        at_once: int,
        rate_bytes_per_s: float | None = None,
        is_limited: Callable[[], bool] = lambda: False,
    ) -> None:
        self._send = send
        self._odometer = odometer
        self._most = at_once
        self._turns = trio.CapacityLimiter(at_once)
        self._rate = rate_bytes_per_s
        self._is_limited = is_limited

    @property
    def keeps_a_rate(self) -> bool:
        """Whether bytes that go out by other ways would be too fast now."""
        return self._rate is not None or self._is_limited()

    @property
    def at_once(self) -> int:
        """Requests that may run side by side now."""
        return 1 if self.keeps_a_rate else self._most

    @property
    def turn(self) -> trio.CapacityLimiter:
        """Held while an order goes out: it may be waited for longer than a login lasts."""
        self._turns.total_tokens = self.at_once
        return self._turns

    async def put(self, order: PartOrder, count: Callable[[int], None]) -> PartReport:
        """What the server answered, whatever that was. `count` hears of bytes as they go out.

        Raises Unavailable, Untrusted, LocalFault where there was no answer. If cancelled, the
        connection is cut.
        """
        async with self.turn:
            return await self.put_now(order, count)

    async def put_now(self, order: PartOrder, count: Callable[[int], None]) -> PartReport:
        """The same, for who holds a turn."""
        report = await self._counted(order, count)
        if report.fault is not None:
            raise error_of(report.fault)
        return report

    async def each(self, jobs: list[Callable[[], Awaitable[None]]]) -> None:
        """Run all, as many at once as there are turns. The first error ends the others."""
        todo = iter(jobs)

        async def work() -> None:
            for job in todo:
                await job()

        with plain_errors():
            async with trio.open_nursery() as nursery:
                for _ in range(min(self._most, len(jobs))):
                    nursery.start_soon(work)

    async def _counted(self, order: PartOrder, count: Callable[[int], None]) -> PartReport:
        seen = 0

        def note(more: int) -> None:
            nonlocal seen
            seen += more
            count(more)

        limits = replace(order.limits, rate_bytes_per_s=self._rate)
        report = await counted(
            lambda bound: self._send(replace(order, limits=bound)), limits, self._odometer, note
        )
        if report.fault is None and not seen:
            count(order.end - order.start)
        return report


async def counted(
    run: Callable[[FetchLimits], Awaitable[T]],
    limits: FetchLimits,
    odometer: Odometer | None,
    count: Callable[[int], None],
) -> T:
    """What `run` gives; `count` hears of its bytes meanwhile. Without an odometer, or where it has
    no more slots, nothing is counted.
    """
    slot = None if odometer is None else odometer.begin()
    if odometer is None or slot is None:
        return await run(limits)
    told = 0

    def look() -> None:
        nonlocal told
        now = odometer.read(slot)
        if now > told:
            count(now - told)
            told = now

    async def watch() -> None:
        while True:
            await trio.sleep(BEAT_S)
            look()

    try:
        with plain_errors():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(watch)
                done = await run(replace(limits, counted=slot))
                nursery.cancel_scope.cancel()
    finally:
        look()
        odometer.end(slot)
    return done
