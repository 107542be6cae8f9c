"""One origin as its budget allows this member to use it now. Pure; see `budgets`.

`now`: seconds of a steady clock; `wall`: unix seconds; `me`: our peer id.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from p2pcache.transfer.budgets import (
    Askers,
    BudgetSpent,
    Ledger,
    Limits,
    OthersTurn,
    month_of,
    month_text,
    next_turn_s,
    rank,
    slots,
    turn_of,
)
from p2pcache.units import format_bytes

if TYPE_CHECKING:
    from p2pcache.lanes.orders import FetchLimits, Slot

OTHERS_S = 5.0  # requests that others are late to end are waited for so long: one may lie...
OTHERS_EVERY_S = 20.0  # ... in each such time: it costs at most a quarter of what may run
TURN_LINGER_S = 4.0  # who waits for its turn looks again every second, and counts as asking
SINGLE_STREAM_BYTES_PER_S = 32 << 20  # below it one request is enough and more exact
MAX_PARKED = 256  # members whose word is shown


@dataclass(slots=True, eq=False)
class OriginUse:
    """What the budget says, who asks, and what runs here. `key`: see `budgets.origin_key`."""

    host: str
    limits: Limits
    key: bytes
    askers: Askers = field(default_factory=Askers)
    running: int = 0
    waiting: int = 0
    asked_until: float = -math.inf
    next_at: float = -math.inf  # of the next request, where they are spaced
    late_since: float = -math.inf  # others' requests are waited for
    parked: dict[bytes, float] = field(default_factory=dict)  # by member, until a unix time

    def asks(self, now: float) -> bool:
        """Whether we count as one that asks."""
        return bool(self.running or self.waiting) or now < self.asked_until

    def members(self, me: bytes, now: float) -> set[bytes]:
        """All that ask now, we too."""
        return {me, *self.askers.members(now)}

    def sharers(self, me: bytes, now: float) -> int:
        """Among how many a rate is divided."""
        count, concurrent = len(self.members(me, now)), self.limits.concurrent
        return count if concurrent is None else min(count, concurrent)

    def most_here(self, me: bytes, now: float, wall: float) -> float:
        """How many requests may run here at once. Raises OthersTurn when it is not ours."""
        limits = self.limits
        most: float = math.inf
        if limits.concurrent is not None:
            members = self.members(me, now)
            share = (limits.concurrent, members, me, self.key)
            most = slots(*share, turn_of(wall))
            if not most:
                wait_s = next_turn_s(*share, wall)
                self.asked_until = now + TURN_LINGER_S
                raise OthersTurn(
                    f"{self.host}: {len(members)} agents take turns with the network's "
                    f"{limits.concurrent} requests at once; ours comes in {wait_s:.0f} s",
                    retry_after_s=wait_s,
                )
        if limits.bytes_per_s is not None:
            most = min(most, _streams_for(limits.bytes_per_s / self.sharers(me, now)))
        return most

    def is_free(self, now: float) -> bool:
        """Whether others have ended what is no longer theirs to run, or had long enough for it."""
        concurrent = self.limits.concurrent
        if concurrent is None:
            return True
        if self.running + sum(self.askers.running(now).values()) < concurrent:
            return True
        if now >= self.late_since + OTHERS_EVERY_S:
            self.late_since = now
        return now >= self.late_since + OTHERS_S

    def begin(self, me: bytes, now: float) -> None:
        """We begin to ask, as others may at this moment: who is first is drawn."""
        if self.limits.requests_per_s is not None:
            most = self.sharers(me, now) - 1
            drawn = rank(self.members(me, now), me, self.key, 0, most)
            self.next_at = max(self.next_at, now + drawn / self.limits.requests_per_s)

    def spaced(self, count: int, me: bytes, now: float) -> None:
        """So many requests begin: when the next may."""
        if self.limits.requests_per_s is not None:
            self.next_at = now + count * self.sharers(me, now) / self.limits.requests_per_s

    def allowed(
        self, limits: FetchLimits, slot: Slot | None, most: float, me: bytes, now: float
    ) -> FetchLimits:
        """What one request that begins now keeps to, where `most` may run."""
        rate = limits.rate_bytes_per_s
        if self.limits.bytes_per_s is not None:
            share = self.limits.bytes_per_s / self.sharers(me, now) / most
            rate = share if rate is None else min(rate, share)
        floor = limits.floor_bytes_per_s
        return replace(
            limits,
            rate_bytes_per_s=rate,
            floor_bytes_per_s=floor if rate is None else min(floor, rate / 4),
            at_once=limits.at_once if self.limits.concurrent is None else 1,
            counted=slot,
        )

    def most_streams(self, most: int) -> int:
        """How many requests of one pull are of use, of `most`."""
        if self.limits.concurrent is not None:
            most = min(most, self.limits.concurrent)
        rate = self.limits.bytes_per_s
        return most if rate is None else min(most, _streams_for(rate))

    def total_bytes(self, ledger: Ledger, month: int) -> int:
        """What the network fetched, as this budget counts it."""
        return ledger.total_bytes(
            self.key, month, unheard=self.limits.unheard, most=self.limits.month_bytes
        )

    def used_up(self, ledger: Ledger, wall: float) -> BudgetSpent | None:
        """Why nobody may ask this origin before the next month; None: it may be asked."""
        most, month = self.limits.month_bytes, month_of(wall)
        if most is None or self.total_bytes(ledger, month) < most:
            return None
        return BudgetSpent(
            f"{self.host}: the network has fetched its {format_bytes(most)} of "
            f"{month_text(month)}; the budget renews on {month_text(month + 1)}-01 (UTC)"
        )

    def park(self, member: bytes, seconds: float, wall: float) -> None:
        """The origin told a member to wait."""
        self.parked = {who: until for who, until in self.parked.items() if until > wall}
        if member in self.parked or len(self.parked) < MAX_PARKED:
            self.parked[member] = wall + seconds


def _streams_for(bytes_per_s: float) -> int:
    return max(1, int(bytes_per_s // SINGLE_STREAM_BYTES_PER_S))
