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

from p2pcache.lanes.faults import THROTTLING, host_of
from p2pcache.lanes.inline import is_inline
from p2pcache.lanes.orders import FaultKind
from p2pcache.transfer.budgets import (
    KEEP_MONTHS,
    NO_LIMITS,
    OURS,
    Figure,
    Ledger,
    Limits,
    month_of,
    origin_key,
    origin_name,
)
from p2pcache.transfer.costs import Costs
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
# Faults that are ours, or of a request that was not made: they cost nothing.
NOT_ASKED = (FaultKind.LOCAL, FaultKind.DISK_FULL, FaultKind.SPENT, FaultKind.TURN)


@dataclass(slots=True, eq=False)
class Request:
    """One that is let in, and what it keeps to. Set `wire_bytes` to what its report tells: where
    nothing was counted on the way, that counts. `counted`: how much is in the ledger already.
    """

    limits: FetchLimits
    wire_bytes: int = 0
    slot: Slot | None = None
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    counted: int = 0
    stopped: BudgetSpent | None = None


@dataclass(slots=True, eq=False)
class _Door:
    """Where the requests of one origin wait and run."""

    use: OriginUse
    requests: set[Request] = field(default_factory=set)
    admission: trio.StrictFIFOLock = field(default_factory=trio.StrictFIFOLock)
    ended: trio.Event = field(default_factory=trio.Event)  # replaced as each request ends


class Spending:
    """The origins of one agent. `now`: unix seconds; `me`: our peer id, which `ledger` keeps: it
    may come later. For the trio thread.
    """

    def __init__(
        self,
        budgets: Mapping[str, Limits],
        now: Callable[[], float],
        figures: Iterable[Figure] = (),
        odometer: Odometer | None = None,
        me: bytes = OURS,
    ) -> None:
        self.ledger = Ledger(list(figures), me)
        self.has_members: Callable[[], bool] = lambda: False
        self.news = trio.Event()  # something is to be told; whoever tells replaces it
        self.work = trio.Event()  # something is to be looked at and kept; the same
        self._now = now
        self._odometer = odometer
        self.costs = Costs()
        self._doors = {host: _door(host, limits) for host, limits in budgets.items()}
        self._told = {door.use.key: door.use for door in self._doors.values()}  # with a budget
        self._places: dict[bytes, OriginUse] = {}  # by what members call a place that says "wait"
        self._dirty: set[tuple[bytes, int, bytes]] = set()
        self._asked = False  # some origin, at the last look
        self._month = month_of(now())

    # -- requests --------------------------------------------------------------------------------

    def streams(self, url: str, most: int) -> int:
        """How many requests one pull should have at this origin at once."""
        known = self._known(_name_of(url))
        return most if known is None else known.use.most_streams(most)

    def together(self, location: Location, most: int) -> int:
        """How many small files may be asked for in one go: what is let in within a quarter of a
        second.
        """
        known = self._known(_name_of(location.url))
        rate = None if known is None else known.use.limits.requests_per_s
        return most if rate is None else max(1, min(most, int(rate / 4)))

    @asynccontextmanager
    async def request(
        self, location: Location, limits: FetchLimits, count: int = 1
    ) -> AsyncIterator[Request]:
        """So many requests of one order, once they may be made: what is inside keeps to the limits
        of what this yields. If cancelled while it waits, nothing was used up.

        Raises BudgetSpent when the month's bytes are used up, also in the middle: what is inside is
        cancelled then. Raises OthersTurn where members take turns.
        """
        if is_inline(location.url) or urlsplit(location.url).scheme == "file":
            yield Request(limits)
            return
        door = self._door(location.url)
        use = door.use
        place = origin_key(host_of(location.url))
        if len(self._places) < MAX_ORIGINS:
            self._places[place] = use
        one = Request(limits)
        use.waiting += 1
        self.work.set()
        try:
            async with door.admission:
                most = await self._wait_room(door, count)
                door.requests.add(one)
                use.running += 1
                self._tell(use)
        finally:
            use.waiting -= 1
        try:
            one.slot = None if self._odometer is None else self._odometer.begin()
            self._count(use, one, requests=count)
            with one.scope:
                now = trio.current_time()
                one.limits = use.allowed(limits, one.slot, most, self.ledger.me, now)
                yield one
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
            self._tell(use)

    def answered(self, location: Location, fault: Fault | None) -> None:
        """How an origin answered: who is told to wait is shown in `status`, and what failed."""
        if fault is not None and fault.kind not in NOT_ASKED:
            use = self._door(location.url).use
            self.costs.failed(use.key, month_of(self._now()), use.host)
            self.work.set()
        if fault is not None and fault.http_status in THROTTLING and fault.retry_after_s:
            self._door(location.url).use.park(OURS, fault.retry_after_s, self._now())

    def heard_throttled(self, member: PeerId, place: bytes, retry_after_s: float) -> None:
        """A member was told to wait by an origin, which counts where we ask it too."""
        use = self._places.get(place)
        if use is not None:
            use.park(member, retry_after_s, self._now())

    def arrived(self, endpoint: str, blobs: Iterable[tuple[bytes, int]]) -> None:
        """Blobs (raw sha2-256, size) of an origin are here now, whoever brought them."""
        scheme = urlsplit(endpoint).scheme
        if scheme in ("", "file"):
            return
        key, month = self._door(endpoint).use.key, month_of(self._now())
        for sha256, size in blobs:
            self.costs.arrived(key, month, sha256, size)
        self.work.set()

    def sent(self, url: str, bytes_count: int, requests: int) -> None:
        """So much went to a place."""
        use = self._door(url).use
        self.costs.sent(use.key, month_of(self._now()), use.host, bytes_count, requests)
        self.work.set()

    async def _wait_room(self, door: _Door, count: int) -> float:
        """Until one more may run; how many may at once."""
        use, began, me = door.use, trio.current_time(), self.ledger.me
        if use.limits.is_divided and not use.running and began >= use.asked_until:
            use.asked_until = began + SETTLE_S
            self._tell(use)
            if self.has_members():
                await trio.sleep(SETTLE_S)
                use.begin(me, trio.current_time())
        while True:
            now, wall = trio.current_time(), self._now()
            used_up = use.used_up(self.ledger, wall)
            if used_up is not None:
                raise used_up
            most = use.most_here(me, now, wall)
            if use.running < most and use.is_free(now) and now >= use.next_at:
                use.spaced(count, me, now)
                return most
            ended, look_at = door.ended, now + LOOK_S
            with trio.move_on_at(min(look_at, use.next_at) if use.next_at > now else look_at):
                await ended.wait()

    def _tell(self, use: OriginUse) -> None:
        """What runs changed: at once, where others divide it with us; else the next look tells."""
        if use.limits.is_divided:
            self.news.set()

    # -- what is counted -------------------------------------------------------------------------

    def look(self) -> None:
        """Count what arrived, stop what the budget has no more bytes for, and have told again what
        is asked, and its end. Once a second after `work` was set; it sets it for the next time.
        """
        month = month_of(self._now())
        if month != self._month:
            self._month = month
            self.ledger.forget_before(month - KEEP_MONTHS)
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

    def _count(self, use: OriginUse, one: Request, requests: int = 0) -> None:
        here = max(one.counted, one.wire_bytes)
        if self._odometer is not None and one.slot is not None:
            here = max(here, self._odometer.read(one.slot))
        if here == one.counted and not requests:
            return
        month = month_of(self._now())
        self.ledger.add(use.key, month, here - one.counted, requests)
        one.counted = here
        self._dirty.add((use.key, month, self.ledger.me))

    def _known(self, name: str) -> _Door | None:
        """By `host:port`, else by the host alone."""
        return self._doors.get(name) or self._doors.get(name.rpartition(":")[0])

    def _door(self, url: str) -> _Door:
        """One without a budget is counted only."""
        name, host = _name_of(url), host_of(url)
        found = self._known(name)
        if found is None:
            if len(self._doors) >= MAX_ORIGINS:
                name = host = OTHER_HOSTS
            found = self._doors.setdefault(name, _door(host, NO_LIMITS))
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
                yield Figure(use.key, month, self.ledger.me, spent), asks, use.running

    # -- what is kept and shown ------------------------------------------------------------------

    @property
    def is_dirty(self) -> bool:
        """Whether there is something to be kept."""
        return bool(self._dirty)

    def take_dirty(self, *, others: bool = True) -> list[tuple[str, Figure]]:
        """Figures that changed since they were taken, with their hosts: to be kept. `others`: also
        those of other members.
        """
        hosts = {door.use.key: door.use.host for door in self._doors.values()}
        ours = (OURS, self.ledger.me)
        keys = [key for key in self._dirty if others or key[2] in ours]
        self._dirty.difference_update(keys)
        taken = []
        for origin, month, member in keys:
            spent = self.ledger.figure(origin, month, member)
            if spent is not None:  # else it is of a month that is long over
                taken.append((hosts.get(origin, ""), Figure(origin, month, member, spent)))
        return taken

    def not_kept(self, taken: Iterable[tuple[str, Figure]]) -> None:
        """They could not be written: once more."""
        self._dirty |= {(f.origin, f.month, f.member) for _, f in taken}
        self.work.set()

    def origins(self) -> list[OriginUse]:
        """Every origin with a budget, and those that this agent asked since it started."""
        return [door.use for door in self._doors.values()]


def _name_of(url: str) -> str:
    """Of what is asked; what is no URL has no budget."""
    try:
        return origin_name(url)
    except ValueError:
        return host_of(url)


def _door(host: str, limits: Limits) -> _Door:
    return _Door(OriginUse(host, limits, origin_key(host)))


def uncounted() -> Spending:
    """For pulls outside an agent: no budget, and nobody keeps what is counted."""
    return Spending({}, time.time)
