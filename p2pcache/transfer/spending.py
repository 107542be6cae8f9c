"""Every request of this agent to an origin passes here: it is let in as the origin's budget allows
(`budgets`), and what it receives is counted while it arrives.

The host that counts is the one of the location that is asked, which is the one that the user named
(or the endpoint of the hub): what its redirects bring from other hosts is its own, and their hosts'
budgets do not matter. A request with its redirects is one. Listings and proofs of access are
neither limited nor counted. Local files are no origin's.
"""

from __future__ import annotations

import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import trio

from p2pcache.lanes.faults import host_of
from p2pcache.transfer.budgets import (
    NO_LIMITS,
    OURS,
    Figure,
    Ledger,
    Limits,
    month_of,
    origin_key,
)
from p2pcache.transfer.origin_use import OriginUse

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping

    from p2pcache.content.peerid import PeerId
    from p2pcache.lanes.odometer import Odometer
    from p2pcache.lanes.orders import Fault, FetchLimits, Location, Slot
    from p2pcache.transfer.budgets import BudgetSpent

SETTLE_S = 0.25  # who begins to ask says so, and hears who asks already; a word takes milliseconds
LINGER_S = 1.0  # between two requests of a pull; then the others have our share
LOOK_S = 0.1  # while room is waited for: others' words come without a sign here
MAX_ORIGINS = 1024  # that are counted by their names...
OTHER_HOSTS = "other hosts"  # ... and what is beyond
THROTTLING = frozenset({429, 503})


@dataclass(slots=True, eq=False)
class _Request:
    """One that is let in. `counted`: how much of its slot is in the ledger already."""

    slot: Slot | None
    scope: trio.CancelScope
    counted: int = 0
    stopped: BudgetSpent | None = None


@dataclass(slots=True, eq=False)
class _Door:
    """Where the requests of one origin wait and run."""

    use: OriginUse
    requests: set[_Request] = field(default_factory=set)
    admission: trio.StrictFIFOLock = field(default_factory=trio.StrictFIFOLock)
    ended: trio.Event = field(default_factory=trio.Event)  # replaced as each request ends


class Spending:
    """The origins of one agent. `now`: unix seconds. For the trio thread."""

    def __init__(
        self,
        budgets: Mapping[str, Limits],
        now: Callable[[], float],
        figures: Iterable[Figure] = (),
        odometer: Odometer | None = None,
    ) -> None:
        self.ledger = Ledger(list(figures))
        self.me: bytes = OURS  # our peer id, while there is a network
        self.has_members: Callable[[], bool] = lambda: False
        self.news = trio.Event()  # something is to be told; whoever tells replaces it
        self.work = trio.Event()  # something is to be looked at and kept; the same
        self._now = now
        self._odometer = odometer
        self._doors = {host: _door(host, limits) for host, limits in budgets.items()}
        self._told = {door.use.key: door.use for door in self._doors.values()}  # with a budget
        self._places: dict[bytes, OriginUse] = {}  # by what members call a place that says "wait"
        self._dirty: set[tuple[bytes, int, bytes]] = set()
        self._asked = False  # some origin, at the last look
        self._month = month_of(now())

    # -- requests --------------------------------------------------------------------------------

    def streams(self, url: str, most: int) -> int:
        """How many requests one pull should have at this origin at once."""
        known = self._known(host_of(url))
        return most if known is None else known.use.most_streams(most)

    def together(self, location: Location, most: int) -> int:
        """How many small files may be asked for in one go: what is let in within a quarter of a
        second.
        """
        known = self._known(host_of(location.url))
        rate = None if known is None else known.use.limits.requests_per_s
        return most if rate is None else max(1, min(most, int(rate / 4)))

    @asynccontextmanager
    async def request(
        self, location: Location, limits: FetchLimits, count: int = 1
    ) -> AsyncIterator[FetchLimits]:
        """So many requests of one order, once they may be made: what is inside keeps to the limits
        that this yields. If cancelled while it waits, nothing was used up.

        Raises BudgetSpent when the month's bytes are used up, also in the middle: what is inside is
        cancelled then. Raises OthersTurn where members take turns.
        """
        if urlsplit(location.url).scheme == "file":
            yield limits
            return
        door = self._door(host_of(location.url))
        use = self._places[origin_key(host_of(location.url))] = door.use
        one = _Request(None, trio.CancelScope())
        use.waiting += 1
        self.work.set()
        try:
            async with door.admission:
                most = await self._wait_room(door, count)
                door.requests.add(one)
                use.running += 1
                self.news.set()
        finally:
            use.waiting -= 1
        try:
            one.slot = None if self._odometer is None else self._odometer.begin()
            self._count(use, one, requests=count)
            with one.scope:
                yield use.allowed(limits, one.slot, most, self.me, trio.current_time())
            if one.scope.cancelled_caught and one.stopped is not None:
                raise one.stopped
        finally:
            door.requests.discard(one)
            use.running -= 1
            use.asked_until = trio.current_time() + LINGER_S
            self._count(use, one)
            if self._odometer is not None and one.slot is not None:
                self._odometer.end(one.slot)
            door.ended.set()
            door.ended = trio.Event()
            self.news.set()

    def answered(self, location: Location, fault: Fault | None) -> None:
        """How an origin answered: who is told to wait is shown in `status`."""
        if fault is not None and fault.http_status in THROTTLING and fault.retry_after_s:
            self._door(host_of(location.url)).use.park(OURS, fault.retry_after_s, self._now())

    def heard_throttled(self, member: PeerId, place: bytes, retry_after_s: float) -> None:
        """A member was told to wait by an origin, which counts where we ask it too."""
        use = self._places.get(place)
        if use is not None:
            use.park(member, retry_after_s, self._now())

    async def _wait_room(self, door: _Door, count: int) -> float:
        """Until one more may run; how many may at once."""
        use, began = door.use, trio.current_time()
        if use.limits.is_divided and not use.running and began >= use.asked_until:
            use.asked_until = began + SETTLE_S
            self.news.set()
            if self.has_members():
                await trio.sleep(SETTLE_S)
        while True:
            now, wall = trio.current_time(), self._now()
            used_up = use.used_up(self.ledger, wall)
            if used_up is not None:
                raise used_up
            most = use.most_here(self.me, now, wall)
            if use.running < most and use.is_free(began, now):
                break
            ended = door.ended
            with trio.move_on_after(LOOK_S):
                await ended.wait()
        await trio.sleep_until(max(trio.current_time(), use.next_at))
        use.spaced(count, self.me, trio.current_time())
        return most

    # -- what is counted -------------------------------------------------------------------------

    def look(self) -> None:
        """Count what arrived, stop what the budget has no more bytes for, and have told again what
        is asked, and its end. Once a second after `work` was set; it sets it for the next time.
        """
        month = month_of(self._now())
        if month != self._month:
            self._month = month
            self.ledger.forget_before(month - 1)
        before, self._asked = self._asked, False
        for door in self._doors.values():
            if not door.use.asks(trio.current_time()):
                continue
            self._asked = True
            for one in door.requests:
                self._count(door.use, one)
            used_up = door.use.used_up(self.ledger, self._now())
            for one in door.requests:
                if used_up is not None and one.stopped is None:
                    one.stopped = type(used_up)(used_up.message)  # raised in a task of its own
                    one.scope.cancel()
        if before or self._asked:
            self.work.set()
            self.news.set()

    def _count(self, use: OriginUse, one: _Request, requests: int = 0) -> None:
        here = one.counted
        if self._odometer is not None and one.slot is not None:
            here = max(here, self._odometer.read(one.slot))
        if here == one.counted and not requests:
            return
        month = month_of(self._now())
        self.ledger.add(use.key, month, here - one.counted, requests)
        one.counted = here
        self._dirty.add((use.key, month, OURS))
        self.news.set()

    def _known(self, host: str) -> _Door | None:
        """By `host:port`, else by the host alone."""
        return self._doors.get(host) or self._doors.get(host.rpartition(":")[0])

    def _door(self, host: str) -> _Door:
        """One without a budget is counted only."""
        found = self._known(host)
        if found is None:
            if len(self._doors) >= MAX_ORIGINS:
                host = OTHER_HOSTS
            found = self._doors.setdefault(host, _door(host, NO_LIMITS))
        return found

    # -- what members say ------------------------------------------------------------------------

    def hear(self, member: PeerId, figure: Figure, *, asks: bool, running: int) -> None:
        """A member's word on itself; of origins without a budget here it is nothing to us."""
        use, month = self._told.get(figure.origin), month_of(self._now())
        if use is None or abs(figure.month - month) > 1:
            return
        if self.ledger.hear(replace(figure, member=member)):
            self._dirty.add((figure.origin, figure.month, member))
            self.work.set()
        if member not in use.limits.unheard:
            use.askers.heard(member, asks=asks, running=running, now=trio.current_time())

    def left(self, member: PeerId) -> None:
        """Its link ended: what it spent stays spent."""
        for use in self._told.values():
            use.askers.left(member)

    def said(self) -> Iterator[tuple[Figure, bool, int]]:
        """Our own word on each origin with a budget: the figure, whether we ask it now, and how
        many requests run.
        """
        month, now = month_of(self._now()), trio.current_time()
        for use in self._told.values():
            spent, asks = self.ledger.ours(use.key, month), use.asks(now)
            if asks or spent.requests_total:
                yield Figure(use.key, month, OURS, spent), asks, use.running

    # -- what is kept and shown ------------------------------------------------------------------

    def take_dirty(self) -> list[tuple[str, Figure]]:
        """Figures that changed since the last call, with their hosts: to be kept."""
        hosts = {door.use.key: door.use.host for door in self._doors.values()}
        taken = []
        for origin, month, member in self._dirty:
            spent = self.ledger.by_member(origin, month)[member]
            taken.append((hosts.get(origin, ""), Figure(origin, month, member, spent)))
        self._dirty.clear()
        return taken

    def not_kept(self, taken: Iterable[tuple[str, Figure]]) -> None:
        """They could not be written: once more."""
        self._dirty |= {(f.origin, f.month, f.member) for _, f in taken}
        self.work.set()

    def origins(self) -> list[OriginUse]:
        """Every origin with a budget, and those that this agent asked since it started."""
        return [door.use for door in self._doors.values()]


def _door(host: str, limits: Limits) -> _Door:
    return _Door(OriginUse(host, limits, origin_key(host)))


def uncounted() -> Spending:
    """For pulls outside an agent: no budget, and nobody keeps what is counted."""
    return Spending({}, time.time)
