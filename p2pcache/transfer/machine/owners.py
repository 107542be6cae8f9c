"""Who brings which unit from the origin when nobody has it: range single-flight.

No coordinator: every member computes the same rank of the members for a unit (rendezvous hash),
and the first of them that can brings it; the others get it from there. So N agents that start
together ask the origin for N disjoint sets of units, about one copy in all. The rules are those
that won in virtual time (facts/swarm.md 2):

* until `blind_s` the rank is over all members that were known before the start, not over those
  heard to take part: what is first here is first among any subset, so blind starts never collide;
* only the lowest units that nobody has are begun (`window`), so that whoever finishes a unit
  has peers that still want it, and the units that hold everybody up come first;
* who is slow, or has no origin that it may ask, says so and owns nothing;
* an owner is suspected when the lowest unit that nobody has or brings stays the same for a lease,
  unless it is heard to bring another: age alone would suspect whoever is merely busy.

A unit is one scheduled piece of one blob, cut alike by all; a small blob is one unit. Time and
members are arguments: the same rules run in the simulator.
"""

from __future__ import annotations

import hashlib
import math
import statistics
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

SLOW_SHARE = 1 / 3  # of the median intake of those that are not done: below it one owns nothing
MAX_UNITS = 4096  # that one member may say it brings: 16 batches of 128 small files, and room
MAX_BROKEN = 3  # promises that were not kept: then a word of this member counts for nothing
SUSPECT_LEASES = 4.0  # at least: where an origin is slow, it is suspected for some of its units
TAKES_LEASES = 8.0  # that a member may take blocks of others while its own unit is waited for
FIRST_LEASES = 2.5  # while nothing came to anybody: how slow the origin is nobody knows
BRING_LEASES = 2.0  # without a block: a unit of one block shows no progress before its end
RATE_WEIGHT = 0.2  # of the newest figure in a mean


class Unit(NamedTuple):
    """One piece: the blob's index in this pull, and its number in the blob."""

    blob: int
    piece: int


@dataclass(frozen=True, slots=True)
class OwnerOptions:
    """Times in seconds, of facts/swarm.md 2."""

    blind_s: float = 0.25  # nobody's word can be waited for: see the module
    arrives_s: float = 0.2  # from "I bring it no more" to "I have it": two says, and room
    lease_s: float = 1.0
    lease_units: float = 4.0  # ... or so many usual units, if that is longer
    lease_most_s: float = 40.0  # a third of the patience: a promise must not outlast it
    suspect_s: float = 10.0
    window_least: int = 12
    # Where not all are linked a unit is known everywhere some hops later: 256 nodes keep an origin
    # busy for 84 % of the time with 12 and end at 1.25, with 18 at 1.20, 24 at 1.21, 40 at 1.25; 64
    # that are all linked end at 1.145, 1.164, 1.171 with 12, 18, 24.
    window_wide: int = 18
    all_linked: int = 64  # members, as `net.mesh.MeshOptions.full_mesh` has it
    window_ahead_s: float = 0.4  # of what arrives anywhere: 8 says of 50 ms
    settle_s: float = 1.0  # before nobody knows its own rate


@dataclass(slots=True)
class Partner:
    """Another member as far as it was heard. `brings`: units on their way to it from an origin.

    `suspected_until`: its word counts for nothing before, unless blocks of its arrive.
    """

    takes_part: bool = False
    declines: bool = False  # slow, or without an origin it may ask
    suspected_until: float = 0.0
    intake: float | None = None  # bytes/s, its own word; None: not heard, or it is done
    brings: frozenset[Unit] = frozenset()
    since: dict[Unit, float] = field(default_factory=dict)  # when first said, or a block came
    back: dict[Unit, float] = field(default_factory=dict)  # when taken back
    said: dict[Unit, float] = field(default_factory=dict)  # when first said, until a block comes
    unit_s: float | None = None  # from that to the first block, the last time
    is_far: bool = False  # of another zone (`zones`)
    moved_at: float = -math.inf  # when a block of its was last heard of
    new_at: float = -math.inf  # when one was that nobody was known to have
    broken: int = 0  # units that it said it brings, and did not


def rendezvous(key: bytes, names: frozenset[str]) -> list[str]:
    """Every name, the first owner first: the same order at every member."""
    start = hashlib.blake2b(key, digest_size=8)

    def place(name: str) -> bytes:
        each = start.copy()
        each.update(name.encode())
        return each.digest()

    return sorted(names, key=place)


class Owners:
    """The members of one pull's swarm. `me` and the members are any texts that all agree on.

    `order` is `rendezvous`, or the same with a memory that many machines in one process share.
    """

    def __init__(
        self,
        me: str,
        members: Iterable[str],
        options: OwnerOptions,
        now: float,
        order: Callable[[bytes, frozenset[str]], Sequence[str]] = rendezvous,
    ) -> None:
        self.me = me
        self._options = options
        self._started = now
        everyone = frozenset(members)
        self._everyone = everyone if me in everyone else everyone | {me}  # who left stays in it
        self._partners = {name: Partner() for name in self._everyone if name != me}
        self._order = order
        self._keys: dict[int, bytes] = {}
        self._ranks: dict[Unit, Sequence[str]] = {}
        self._far: set[str] = set()
        self._named: dict[
            tuple[Unit, bool], str
        ] = {}  # owners, as long as nobody's standing changes
        self._named_until = now
        self._bringers: dict[Unit, dict[str, Partner]] = {}
        self._bringing: dict[str, Partner] = {}  # those that say they bring anything
        self._arriving: dict[Unit, float] = {}  # said no more: until when it counts as brought
        self._stuck: tuple[Unit | None, float] = (None, now)
        self._stuck_first = now
        self._unit_s: float | None = None  # usual time from ask to end, of our own origin units
        self._exists_rate = 0.0  # units/s that appear anywhere
        self._exists = (0, now)
        self._grew_at = now
        self._oldest_s = 0.0
        self.suspects: list[tuple[str, float, bool]] = []  # see `ev.Suspect`; the reader empties it
        self.intake = 0.0  # ours, bytes/s
        self.had_company = False  # somebody took part, and may be done
        self.declines = False

    # -- what is heard ------------------------------------------------------------------------

    def add_blob(self, index: int, key: bytes) -> None:
        """A blob of this pull, by the name that all agents know it by."""
        self._keys[index] = key

    def knows(self, blob: int) -> bool:
        """Whether others can know this blob at all: without a name everybody is alone."""
        return blob in self._keys

    @property
    def alone(self) -> bool:
        """Whether nobody else takes part, as far as is known."""
        return not any(p.takes_part for p in self._partners.values())

    @property
    def has_partners(self) -> bool:
        """Whether there are other members at all."""
        return bool(self._partners)

    def is_blind(self, now: float) -> bool:
        """Whether it is too early to have heard who takes part."""
        return now < self._started + self._options.blind_s

    def placed(self, name: str, *, far: bool) -> None:
        """A member is in another zone than we, or is not."""
        (self._far.add if far else self._far.discard)(name)
        partner = self._partners.get(name)
        if partner is not None:
            partner.is_far = far
            self._named.clear()

    def is_zoned(self, now: float) -> bool:
        """Whether others of our zone take part, as far as is known, while there are other zones."""
        if not self._far:
            return False
        blind = self.is_blind(now)
        return any(not p.is_far and (blind or p.takes_part) for p in self._partners.values())

    def joined(self, name: str) -> None:
        """A member takes part."""
        if name != self.me:
            known = self._partners.get(name)
            if known is None:
                self._partners[name] = Partner(takes_part=True, is_far=name in self._far)
                if name not in self._everyone:
                    self._everyone |= {name}
                    self._ranks.clear()
                self._named.clear()
            elif not known.takes_part:
                known.takes_part = True
                self._named.clear()
            self.had_company = True

    def left(self, name: str) -> None:
        """A member is gone, and all that was known only through it."""
        partner = self._partners.pop(name, None)
        if partner is not None:
            self._named.clear()
            self._set_brings(name, partner, frozenset())

    def heard(
        self,
        name: str,
        *,
        intake: float | None,
        declines: bool,
        brings: Iterable[Unit],
        now: float,
    ) -> None:
        """A member's own word: what it brings now. `intake` None: it is done."""
        if name == self.me:
            return
        self.joined(name)
        partner = self._partners[name]
        partner.intake = intake
        if declines != partner.declines or intake is None:
            partner.declines, partner.takes_part = declines, intake is not None
            self._named.clear()
        told = frozenset(islice(brings, MAX_UNITS))
        if self._is_believed(partner, now):
            for unit in partner.brings - told:
                if self._is_in_time(partner, unit, now):
                    self._arriving[unit] = now + self._options.arrives_s
        partner.back |= dict.fromkeys(partner.brings - told, now)
        self._set_brings(name, partner, told)
        for unit in partner.brings:
            if unit not in partner.since:
                partner.since[unit] = partner.said[unit] = now
            elif unit in partner.back:  # said again, it is no newer, but for the time in between
                away_s = now - partner.back.pop(unit)
                partner.since[unit] = min(now, partner.since[unit] + away_s)

    def _set_brings(self, name: str, partner: Partner, brings: frozenset[Unit]) -> None:
        old, partner.brings = partner.brings, brings
        for unit in old - brings:
            others = self._bringers[unit]
            del others[name]
            if not others:
                del self._bringers[unit]
        for unit in brings - old:
            self._bringers.setdefault(unit, {})[name] = partner
        if brings:
            self._bringing[name] = partner
        else:
            self._bringing.pop(name, None)

    def moved(self, name: str, units: Iterable[Unit], now: float, *, new: bool = True) -> None:
        """Blocks of these units arrived at a member: its word is good. `units` may be lazy. `new`:
        nobody was known to have some of them.
        """
        partner = self._partners.get(name)
        if partner is not None:
            if partner.suspected_until:
                partner.suspected_until = 0.0
                self._named.clear()
            partner.moved_at = now
            partner.new_at = now if new else partner.new_at
            if partner.since:
                kept = False
                for unit in units:
                    if unit in partner.since:
                        partner.since[unit], kept = now, True
                        if (said := partner.said.pop(unit, None)) is not None and new:
                            partner.unit_s = now - said
                if kept and partner.broken:  # an origin that was silent makes all break their word
                    partner.broken -= 1
                    self._named.clear()

    def broke(self, name: str) -> None:
        """A member did not have what it told."""
        partner = self._partners.get(name)
        if partner is not None:
            partner.broken += 1
            self._named.clear()

    def counted(
        self, exists: int, intake: float, *, can_ask: bool, oldest_s: float, now: float
    ) -> None:
        """How many units exist anywhere, what arrives here in bytes/s, whether we may ask an origin
        at all, and how long our oldest request to one runs: from it follow the window, the lease,
        and whether we decline.
        """
        before, at = self._exists
        if exists > before:
            self._grew_at = now
        if now > at:
            rate = max(0, exists - before) / (now - at)
            self._exists_rate += RATE_WEIGHT * (rate - self._exists_rate)
            self._exists = (exists, now)
        self.intake = intake
        self._oldest_s = oldest_s
        moves = now < self._grew_at + self.lease_s  # else whoever does not decline lies or sleeps
        declines = not can_ask or (moves and self._is_slow(now))
        if declines != self.declines:
            self.declines = declines
            self._named.clear()

    def took(self, seconds: float) -> None:
        """One of our units came from the origin."""
        old = seconds if self._unit_s is None else self._unit_s
        self._unit_s = old + RATE_WEIGHT * (seconds - old)

    def _is_slow(self, now: float) -> bool:
        if now < self._started + self._options.settle_s:
            return False
        others = [
            p.intake
            for p in self._partners.values()
            if p.takes_part and p.intake is not None and self._is_believed(p, now)
        ]
        return len(others) > 2 and self.intake < SLOW_SHARE * statistics.median(others)

    # -- who brings what ----------------------------------------------------------------------

    @property
    def window(self) -> int:
        """How many of the lowest units that nobody has may be begun."""
        options = self._options
        is_wide = len(self._partners) >= options.all_linked
        ahead = int(4 + options.window_ahead_s * self._exists_rate)
        return max(options.window_wide if is_wide else options.window_least, ahead)

    def owner(self, unit: Unit, now: float, *, across: bool = False) -> str:
        """The first of the rank that can bring a unit; us, if nobody else can. `across`: into our
        zone, from another.
        """
        if now >= self._named_until:
            self._named.clear()
            self._named_until = self._changes_at(now)
        name = self._named.get((unit, across))
        if name is None:
            name = self._carrier_of(unit, now) if across else self._first_of(unit, now)
            self._named[unit, across] = name
        return name

    def _carrier_of(self, unit: Unit, now: float) -> str:
        """Of our zone. Who declines may carry where all decline: it needs no origin for that."""
        blind = self.is_blind(now)
        spare = None
        for name in self._rank(unit):
            partner = self._partners.get(name)
            declines = self.declines if partner is None else partner.declines
            if name != self.me:
                if partner is None or partner.is_far:
                    continue
                if not blind and not (partner.takes_part and self._is_believed(partner, now)):
                    continue
            if blind or not declines:
                return name
            spare = spare or name
        return spare or self.me

    def _changes_at(self, now: float) -> float:
        """When who owns what may change by time alone."""
        times = [p.suspected_until for p in self._partners.values() if p.suspected_until > now]
        if self.is_blind(now):
            times.append(self._started + self._options.blind_s)
        return min(times, default=math.inf)

    def _suspect(self, partner: Partner, now: float) -> None:
        least_s = SUSPECT_LEASES * self.lease_s
        partner.suspected_until = now + max(self._options.suspect_s, least_s)
        self._named.clear()
        self._named_until = min(self._named_until, partner.suspected_until)

    def _first_of(self, unit: Unit, now: float) -> str:
        blind = self.is_blind(now)
        for name in self._rank(unit):
            if name == self.me:
                if not self.declines or blind:
                    return name
                continue
            partner = self._partners.get(name)
            if partner is not None and (blind or self._can(partner, now)):
                return name
        return self.me

    def is_mine(self, unit: Unit, now: float, *, across: bool = False) -> bool:
        """Whether we may ask the origin for a unit that nobody has (`across`: those of another
        zone, for one that nobody in ours has).
        """
        brought = self.is_brought(unit, now, across=across)
        return not brought and self.owner(unit, now, across=across) == self.me

    def is_brought(self, unit: Unit, now: float, *, across: bool = False) -> bool:
        """Whether a member is heard to bring a unit from its origin, and moved within a lease.
        `across`: into our zone.

        Who announces and brings nothing is suspected from then on.
        """
        found = now < self._arriving.get(unit, 0.0)
        for partner in self._bringers.get(unit, {}).values():
            if not self._is_believed(partner, now) or (across and partner.is_far):
                continue
            if self._is_in_time(partner, unit, now):
                found = True
            else:
                self._breaks(partner, now)
        return found

    def _is_in_time(self, partner: Partner, unit: Unit, now: float) -> bool:
        return now < partner.since.get(unit, -math.inf) + BRING_LEASES * self.lease_s

    def _breaks(self, partner: Partner, now: float) -> None:
        late = [s for u, s in partner.since.items() if u in partner.brings]
        self._note_suspect(partner, now - min(late, default=now), promised=True)
        self._suspect(partner, now)
        partner.broken += 1

    def _keep_to_word(self, partner: Partner, now: float) -> None:
        """Also of units that nobody here waits for yet."""
        if self._is_believed(partner, now) and not all(
            self._is_in_time(partner, unit, now) for unit in partner.brings
        ):
            self._breaks(partner, now)

    def _note_suspect(self, partner: Partner, waited_s: float, *, promised: bool) -> None:
        name = next(n for n, p in self._partners.items() if p is partner)
        self.suspects.append((name, waited_s, promised))

    def yields(self, unit: Unit, now: float, *, across: bool = False) -> bool:
        """Whether somebody ranked before us brings the same unit: the lower rank stops. `across`:
        both into our zone.
        """
        bringers = self._bringers.get(unit)
        if not bringers:
            return False
        for name in self._rank(unit):
            if name == self.me:
                return False
            other = bringers.get(name)
            if other is None or (across and other.is_far):
                continue
            if self._is_believed(other, now) and self._is_in_time(other, unit, now):
                return True
        return False

    def watch(self, lowest: Unit | None, now: float, *, across: bool = False) -> None:
        """Tell the lowest unit that nobody (`across`: of our zone) has or brings; its owner loses
        it after a lease in which nothing of its was heard to arrive: to say that one is busy with
        another is not enough; and after some in which nothing arrived there that was new to us:
        who only takes brings nothing.
        """
        self._arriving = {unit: at for unit, at in self._arriving.items() if at > now}
        for other in self._bringing.values():
            self._keep_to_word(other, now)
        unit, since = self._stuck
        if lowest is None or lowest != unit:
            self._stuck, self._stuck_first = (lowest, now), now
            return
        if now < since + self.lease_s:
            return
        self._stuck = (lowest, now)
        name = self.owner(lowest, now, across=across)
        partner = self._partners.get(name)
        if partner is None:
            return
        only_takes = now >= max(self._stuck_first, partner.new_at) + TAKES_LEASES * self.lease_s
        if partner.moved_at <= since or only_takes:
            partner.broken += only_takes
            self._note_suspect(partner, now - since, promised=False)
            self._suspect(partner, now)

    @property
    def lease_s(self) -> float:
        """How long a unit may wait for its owner; an origin that is slow for us is so for all."""
        usual_s = max(self._oldest_s, self._usual_s())
        first = FIRST_LEASES * max(1, len(self._bringing))  # an origin that k ask is k times slower
        least_s = self._options.lease_s * (1.0 if usual_s else first)
        lease_s = max(least_s, self._options.lease_units * usual_s)
        return min(lease_s, self._options.lease_most_s)

    def _usual_s(self) -> float:
        """How long a unit takes: us, or where we brought none the quickest other."""
        if self._unit_s is not None:
            return self._unit_s
        others = [p.unit_s for p in self._partners.values() if p.unit_s is not None]
        return min(others, default=0.0)

    def next_at(self, now: float) -> float:
        """When something may change by time alone."""
        blind_until = self._started + self._options.blind_s
        if now < blind_until:
            return blind_until
        unit, since = self._stuck
        due = now + self.lease_s if unit is None else max(now, since + self.lease_s)
        return min([due, *(at for at in self._arriving.values() if at > now)])

    def _can(self, partner: Partner, now: float) -> bool:
        return partner.takes_part and not partner.declines and self._is_believed(partner, now)

    @staticmethod
    def _is_believed(partner: Partner, now: float) -> bool:
        return partner.suspected_until <= now and partner.broken < MAX_BROKEN

    def _rank(self, unit: Unit) -> Sequence[str]:
        """Every member that was ever known, and us."""
        known = self._ranks.get(unit)
        if known is None:
            key = self._keys[unit.blob] + unit.piece.to_bytes(8, "big")
            known = self._ranks[unit] = self._order(key, self._everyone)
        return known
