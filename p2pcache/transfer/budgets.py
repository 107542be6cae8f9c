"""Budgets of origins that a network shares: who spent what, and what one member may do now. Pure.

There is no coordinator. Each member counts what it fetched itself and tells the others its own
figures; the merge is a maximum for each (origin, month, member), so that words may come twice, late
and in any order. What is left of a month is the budget less the sum of all figures.

A member's figure is believed: who has the network's key could as well fetch that much, which would
take it from the others just the same; and not to believe what is true costs money. A word counts
for its speaker alone (its authenticated id), and at most as the whole budget. `status --origins`
names who spent what; `except=PEER` in the budget leaves out what that one says.

Rates are divided by the members that ask the origin now, in their own word of the last seconds.
Where more members ask than requests may run at once, they take turns: who is first is drawn by hash
for each turn of the wall clock, the same at everybody who knows of the same members.
"""

from __future__ import annotations

import hashlib
import ipaddress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from p2pcache.errors import Unavailable, UsageError
from p2pcache.units import MAX_BYTES

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

OURS = b""  # in the place of a member: this agent, while it has no identity
ORIGIN_KEY_BYTES = 16  # of a hash: enough to know the same place
MAX_MEMBERS = 1024  # that are remembered for one origin and month; more are not counted
MAX_REQUESTS = 1 << 48
KEEP_MONTHS = 12  # that are over: a clock that jumps for a moment must not lose this one
TURN_S = 10.0  # a few pieces; clocks that differ by a second cost a tenth of a turn
MAX_TURNS = 64  # that are looked ahead
LAPSE_S = 5.0  # a member that asks says so every second
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one origin, for all members together; None: no limit. `unheard`: members whose words on
    this origin count for nothing.
    """

    requests_per_s: float | None = None
    concurrent: int | None = None
    bytes_per_s: float | None = None
    month_bytes: int | None = None
    unheard: frozenset[bytes] = frozenset()

    @property
    def is_divided(self) -> bool:
        """Whether it matters here who asks elsewhere at this moment."""
        parts = (self.requests_per_s, self.concurrent, self.bytes_per_s)
        return any(part is not None for part in parts)


NO_LIMITS = Limits()


class BudgetSpent(Unavailable):
    """This month's bytes of an origin are used up: nobody asks it any more before the next."""


class OthersTurn(Unavailable):
    """Other members have all requests that a budget allows at once; `retry_after_s`: until ours."""


def origin_key(host: str) -> bytes:
    """What a host, or `host:port`, is called among members."""
    return hashlib.sha256(host.encode()).digest()[:ORIGIN_KEY_BYTES]


def origin_name(text: str) -> str:
    """One spelling of what a budget is for: `host:port` of a URL; of a setting `host:port`, or the
    `host` alone, which is any port. IPv6 addresses in brackets. Raises ValueError.
    """
    if "//" not in text:  # a setting; a bare IPv6 address has no port
        text = f"//[{text}]" if text.count(":") > 1 and "[" not in text else f"//{text}"
    parts = urlsplit(text)
    host, port = parts.hostname or "", parts.port or _PORTS.get(parts.scheme)
    if ":" in host:
        host = f"[{ipaddress.IPv6Address(host)}]"
    return host if port is None else f"{host}:{port}"


def month_of(now: float) -> int:
    """The month, in UTC, of a unix time: 12 x year + month, January being 0."""
    at = datetime.fromtimestamp(now, UTC)
    return 12 * at.year + at.month - 1


def month_text(month: int) -> str:
    """`2026-11`."""
    return f"{month // 12}-{month % 12 + 1:02d}"


def parse_month(text: str) -> int:
    """What `month_text` wrote. Raises UsageError."""
    year, dash, number = text.partition("-")
    if not (dash and len(year) == 4 and (year + number).isdecimal() and 1 <= int(number) <= 12):
        raise UsageError(f"`{text[:40]}` is no month", hint="write it like 2026-11")
    return 12 * int(year) + int(number) - 1


def begins_at(month: int) -> float:
    """The unix time at which a month begins."""
    return datetime(month // 12, month % 12 + 1, 1, tzinfo=UTC).timestamp()


@dataclass(frozen=True, slots=True)
class Spent:
    """What one member fetched of an origin in a month: bodies' bytes, and requests."""

    bytes_total: int = 0
    requests_total: int = 0

    def merged(self, other: Spent) -> Spent:
        """The later of two words of one member: neither figure ever falls."""
        return Spent(
            max(self.bytes_total, other.bytes_total),
            max(self.requests_total, other.requests_total),
        )


@dataclass(frozen=True, slots=True)
class Figure:
    """One member's figure, as it is kept and told."""

    origin: bytes
    month: int
    member: bytes
    spent: Spent


class Ledger:
    """All figures that are known. `me`: under whose name what we fetch counts."""

    def __init__(self, figures: Collection[Figure] = (), me: bytes = OURS) -> None:
        self.me = me
        self._months: dict[tuple[bytes, int], dict[bytes, Spent]] = {}
        for figure in figures:
            self.hear(figure)

    def hear(self, figure: Figure) -> bool:
        """Take a figure in; whether it was news. Grow-only: order and repetition change nothing."""
        members = self._months.setdefault((figure.origin, figure.month), {})
        if figure.member not in members and len(members) >= MAX_MEMBERS:
            return False
        before = members.get(figure.member, Spent())
        members[figure.member] = before.merged(figure.spent)
        return members[figure.member] != before

    def add(self, origin: bytes, month: int, bytes_count: int, requests: int) -> None:
        """We fetched more."""
        members = self._months.setdefault((origin, month), {})
        before = members.get(self.me, Spent())
        members[self.me] = Spent(
            min(before.bytes_total + bytes_count, MAX_BYTES),
            min(before.requests_total + requests, MAX_REQUESTS),
        )

    def ours(self, origin: bytes, month: int) -> Spent:
        """Our own figure, as it is told. Not in it: what we fetched under another name before."""
        return self._months.get((origin, month), {}).get(self.me, Spent())

    def figure(self, origin: bytes, month: int, member: bytes) -> Spent | None:
        """One member's; None: it is not known, or forgotten."""
        return self._months.get((origin, month), {}).get(member)

    def by_member(self, origin: bytes, month: int) -> dict[bytes, Spent]:
        """Every figure of an origin and month."""
        return dict(self._months.get((origin, month), {}))

    def total_bytes(
        self, origin: bytes, month: int, *, unheard: Collection[bytes] = (), most: int | None = None
    ) -> int:
        """What all fetched together; of one member not more than `most` counts, and of those whose
        word is not heard nothing; what we know of ourselves is no word.
        """
        members = self._months.get((origin, month), {})
        left_out = {*unheard} - {self.me}
        counted = (s.bytes_total for member, s in members.items() if member not in left_out)
        return sum(one if most is None else min(one, most) for one in counted)

    def of_month(self, month: int) -> Iterator[tuple[bytes, dict[bytes, Spent]]]:
        """Every origin that somebody fetched from."""
        for (origin, when), members in self._months.items():
            if when == month:
                yield origin, dict(members)

    def forget_before(self, month: int) -> None:
        """Drop older months."""
        self._months = {k: v for k, v in self._months.items() if k[1] >= month}


@dataclass(slots=True)
class Askers:
    """Who else asks one origin now: how many requests each has there, and until when that holds."""

    _said: dict[bytes, tuple[int, float]] = field(default_factory=dict)

    def heard(self, member: bytes, *, asks: bool, running: int, now: float) -> None:
        """A member's word on itself."""
        if not asks:
            self._said.pop(member, None)
            return
        if member not in self._said and len(self._said) >= MAX_MEMBERS:
            self._said = {who: said for who, said in self._said.items() if said[1] > now}
            if len(self._said) >= MAX_MEMBERS:
                return
        self._said[member] = running, now + LAPSE_S

    def left(self, member: bytes) -> None:
        """Its link ended."""
        self._said.pop(member, None)

    def members(self, now: float) -> set[bytes]:
        """Those whose word holds."""
        return {who for who, (_, until) in self._said.items() if until > now}

    def running(self, now: float) -> dict[bytes, int]:
        """Requests of each of them."""
        return {who: count for who, (count, until) in self._said.items() if until > now}


def slots(concurrent: int, members: Collection[bytes], me: bytes, origin: bytes, turn: int) -> int:
    """How many requests this member may have at once; all shares together are `concurrent`.

    `members`: all that ask, us too. Turns matter only where not everybody has a slot.
    """
    base, extra = divmod(concurrent, len(members))
    turn = turn if base == 0 else 0
    return base + (extra > 0 and rank(members, me, origin, turn, extra) < extra)


def rank(members: Collection[bytes], me: bytes, origin: bytes, turn: int, most: int) -> int:
    """How many members go before this one in a turn; `most`, where it is not less."""
    drawn = hashlib.sha256(origin + turn.to_bytes(8, "big"))

    def place(who: bytes) -> bytes:
        each = drawn.copy()
        each.update(who)
        return each.digest()

    mine, before = place(me), 0
    for who in members:
        if before >= most:
            break
        before += place(who) < mine
    return before


def turn_of(now: float) -> int:
    """The number of the turn at a unix time."""
    return max(0, int(now / TURN_S))


def next_turn_s(
    concurrent: int, members: Collection[bytes], me: bytes, origin: bytes, now: float
) -> float:
    """Seconds until this member has a slot, as far as is known now."""
    turn = turn_of(now)
    for later in range(turn + 1, turn + MAX_TURNS):
        if slots(concurrent, members, me, origin, later):
            return later * TURN_S - now
    return MAX_TURNS * TURN_S
