"""Bulk bytes of pushes to object stores: so many PUTs at once, counted while they run.

One for each destination; adapters hand it orders (`lanes.put`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import trio

from p2pcache.destinations.faults import error_of
from p2pcache.errors import plain_errors

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from p2pcache.lanes.odometer import Odometer
    from p2pcache.lanes.put import PutOrder, PutReport

BEAT_S = 0.2  # between two looks at how much went out


def uploads_at_once(cores: int) -> int:
    """How many connections: four fill a long way, eight is what a machine's memory is asked for."""
    return min(max(cores, 4), 8)


class Uploads:
    """`put` runs an order in a worker. `rate_bytes_per_s`: of all together, which go one after the
    other then; None: no limit.
    """

    def __init__(
        self,
        put: Callable[[PutOrder], Awaitable[PutReport]],
        odometer: Odometer | None,
        at_once: int,
        rate_bytes_per_s: float | None = None,
    ) -> None:
        self._put = put
        self._odometer = odometer
        self.at_once = at_once if rate_bytes_per_s is None else 1
        self._turns = trio.CapacityLimiter(self.at_once)
        self._rate = rate_bytes_per_s

    @property
    def turn(self) -> trio.CapacityLimiter:
        """Held while an order goes out: it may be waited for longer than a login lasts."""
        return self._turns

    async def put(self, order: PutOrder, count: Callable[[int], None]) -> PutReport:
        """What the store answered, whatever that was. `count` hears of bytes as they go out.

        Raises Unavailable, Untrusted, LocalFault where there was no answer. If cancelled, the
        connection is cut.
        """
        async with self.turn:
            return await self.put_now(order, count)

    async def put_now(self, order: PutOrder, count: Callable[[int], None]) -> PutReport:
        """The same, for who holds a turn."""
        report = await self._counted(replace(order, rate_bytes_per_s=self._rate), count)
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
                for _ in range(min(self.at_once, len(jobs))):
                    nursery.start_soon(work)

    async def _counted(self, order: PutOrder, count: Callable[[int], None]) -> PutReport:
        slot = None if self._odometer is None else self._odometer.begin()
        if self._odometer is None or slot is None:
            report = await self._put(order)
            if report.fault is None:
                count(order.end - order.start)
            return report
        odometer, told = self._odometer, 0

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
                    report = await self._put(replace(order, counted=slot))
                    nursery.cancel_scope.cancel()
        finally:
            look()
            odometer.end(slot)
        return report
