"""Whom to have a link with: contacts, backoff, which of two links stays, what is passed on. Pure.

Up to `full_mesh` members every pair has a link. Beyond, an agent opens links to a few members
taken at random, accepts those that others open, and passes announcements on, each once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from p2pcache.net.sync.machine import Cause
from p2pcache.net.sync.wire import MAX_ADDRESSES, MAX_PEERS, Contact

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from p2pcache.content.peerid import PeerId

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class MeshOptions:
    """Times in seconds."""

    full_mesh: int = 64  # members; gossip.md: a link costs 0.08 MB and 0.2 ms/s
    back_to_full: int = 56  # so that one member coming and going changes nothing
    neighbours: int = 8  # gossip.md: 8 reach all of 32
    guests: int = 24  # links that others opened; 8 on average
    max_met: int = 32  # links beyond those, to members that hold what we want
    max_links: int = 160  # of any kind
    max_contacts: int = 4096
    max_seen: int = 20_000  # announcements remembered, 2 MB
    dials_at_once: int = 16
    connect_s: float = 10.0
    open_s: float = 5.0
    backoff_s: float = 0.5  # doubled for each failure, with jitter down to its half
    max_backoff_s: float = 60.0
    yield_s: float = 0.5  # told of each other by a third, the one with the lower id dials first
    fresh_s: float = 120.0  # not mentioned for so long: no longer counted as a member
    forget_s: float = 600.0  # ... and unreachable: forgotten
    distrust_s: float = 300.0  # a peer that broke the rules is not talked to; a ban is for longer
    settled_s: float = 5.0  # a second link to a peer with one as old as this: the first is dead
    proven_s: float = 30.0  # a link that lasted as long makes earlier failures forgotten
    tell_s: float = 0.1  # news of members are collected
    retell_s: float = 60.0  # and repeated


@dataclass(slots=True)
class _Known:
    addresses: tuple[str, ...]
    heard_at: float
    dial_at: float
    failures: int = 0
    dialing: bool = False
    connected: bool = False
    met: bool = False
    linked_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Standing:
    """What decides which of two links to one peer stays."""

    opened_by_us: bool
    generation: bytes
    up_at: float


class Mesh:
    """Contacts and links of one agent. `chance` gives numbers in [0, 1)."""

    def __init__(self, me: PeerId, options: MeshOptions, chance: Callable[[], float]) -> None:
        self.sparse = False
        self._me = me
        self._options = options
        self._chance = chance
        self._known: dict[PeerId, _Known] = {}
        self._links: dict[PeerId, bool] = {}  # whether we opened it
        self._distrusted: dict[PeerId, float] = {}
        self._seen: dict[bytes, None] = {}

    def found(
        self, peer: PeerId, addresses: Iterable[str], now: float, *, by_third: bool = False
    ) -> None:
        """A member may be at these addresses; newest first."""
        if peer == self._me:
            return
        known = self._known.get(peer)
        if known is None:
            self._make_room()
            wait_s = self._options.yield_s if by_third and self._me > peer else 0.0
            known = self._known[peer] = _Known((), now, now + wait_s)
        fresh = tuple(addresses)
        unheard = now - known.heard_at > self._options.fresh_s
        if set(fresh) - set(known.addresses) or unheard:  # news: the old failures mean nothing
            known.failures = 0
            known.dial_at = min(known.dial_at, now + self._options.yield_s)
        known.addresses = tuple(dict.fromkeys((*fresh, *known.addresses)))[:MAX_ADDRESSES]
        known.heard_at = now

    def meet(self, peer: PeerId, now: float) -> None:
        """A link to this contact is of use for its own sake (it holds what we want)."""
        known = self._known.get(peer)
        if known is not None:
            if not known.met:  # whatever happened before: one try at once
                known.dial_at = min(known.dial_at, now)
            known.met = True

    def part(self, peer: PeerId) -> None:
        """No longer."""
        known = self._known.get(peer)
        if known is not None:
            known.met = False

    def connected(self, peer: PeerId, now: float, *, inbound: bool) -> None:
        """A connection stands (made for whatever reason): a link costs no dial."""
        if peer == self._me:
            return
        self.found(peer, (), now)
        known = self._known[peer]
        known.connected = True
        # Whoever connected is about to open the link itself.
        known.dial_at = max(known.dial_at, now + 4 * self._options.yield_s) if inbound else now

    def disconnected(self, peer: PeerId) -> None:
        """No connection stands."""
        known = self._known.get(peer)
        if known is not None:
            known.connected = False

    def refuses(self, peer: PeerId, now: float) -> str | None:
        """Why there shall be no link with a peer."""
        if peer == self._me:
            return "that is us"
        if self._distrusted.get(peer, now) > now:
            return "it broke the rules a short while ago"
        if peer not in self._links and len(self._links) >= self._options.max_links:
            return "too many links"
        return None

    def due(self, now: float) -> list[tuple[PeerId, tuple[str, ...]]]:
        """Whom to dial now. Each counts as being dialled until `linked` or `failed`."""
        self._choose_mode(now)
        ready = [(peer, known) for peer, known in self._candidates(now) if known.dial_at <= now]
        room = self._options.dials_at_once - sum(one.dialing for one in self._known.values())
        if self.sparse:
            busy = sum(
                known.met and (known.dialing or peer in self._links)
                for peer, known in self._known.items()
            )
            met = [one for one in ready if one[1].met][: max(0, self._options.max_met - busy)]
            others = [one for one in ready if not one[1].met]
            ready = [*met, *self._some(others, self._lacking())]
        out = []
        for peer, known in ready[: max(0, room)]:
            known.dialing = True
            out.append((peer, known.addresses))
        return out

    def next_at(self, now: float) -> float | None:
        """When `due` may have something; None: not before something happens."""
        lacking = not self.sparse or self._lacking() > 0
        times = [known.dial_at for _, known in self._candidates(now) if lacking or known.met]
        return min(times, default=None)

    def failed(self, peer: PeerId, now: float, *, for_long: bool = False) -> None:
        """A dial came to nothing. `for_long`: it will not get better soon (another key)."""
        known = self._known.get(peer)
        if known is None:
            return
        known.dialing = False
        known.failures += 1
        old = now - known.heard_at > self._options.forget_s
        if known.failures > 3 and old and peer not in self._links:
            del self._known[peer]
            return
        known.dial_at = now + self._backoff(10 if for_long else known.failures)

    def linked(self, peer: PeerId, addresses: Sequence[str], now: float, *, ours: bool) -> None:
        """A link stands; the peer says where it listens."""
        self.found(peer, addresses, now)
        self._links[peer] = ours
        known = self._known[peer]
        known.linked_at = now
        known.dialing = False

    def unlinked(self, peer: PeerId, cause: Cause, now: float) -> None:
        """The link ended."""
        self._links.pop(peer, None)
        if cause is Cause.UNTRUSTED:
            self._distrusted[peer] = now + self._options.distrust_s
            while len(self._distrusted) > self._options.max_contacts:
                del self._distrusted[next(iter(self._distrusted))]
        known = self._known.get(peer)
        if known is None:
            return
        known.dialing = False
        known.heard_at = now
        lasted = now - known.linked_at > self._options.proven_s
        known.failures = 1 if lasted else known.failures + 1
        known.dial_at = now + self._backoff(10 if cause is Cause.VERSION else known.failures)

    def dial_ended(self, peer: PeerId) -> None:
        """A dial led to a link that was not needed."""
        known = self._known.get(peer)
        if known is not None:
            known.dialing = False

    def surplus(self, busy: frozenset[PeerId]) -> list[PeerId]:
        """In a large network: links that we need not keep.

        Those of our own opening beyond our neighbours; and when everybody came to us first, so
        many of theirs that they find each other instead.
        """
        if not self.sparse:
            return []
        out = []
        for opened_by_us, most in ((True, self._options.neighbours), (False, self._options.guests)):
            links = [
                peer
                for peer, ours in self._links.items()
                if ours == opened_by_us and not self._known[peer].met
            ]
            idle = [peer for peer in links if peer not in busy]
            kept = len(links) - len(idle)
            out += self._some(idle, len(idle) - max(0, most - kept))
        return out

    def replaces(self, peer: PeerId, old: Standing, new: Standing) -> bool:
        """Whether a new link takes the place of one that stands. Both ends decide alike."""
        if old.generation != new.generation or old.opened_by_us == new.opened_by_us:
            return True  # it restarted, or it opened another because the first is dead to it
        if new.up_at - old.up_at > self._options.settled_s:
            return True
        return new.opened_by_us == (self._me < peer)

    def is_news(self, announcement: bytes) -> bool:
        """Whether an announcement is seen for the first time."""
        if announcement in self._seen:
            return False
        self._seen[announcement] = None
        while len(self._seen) > self._options.max_seen:
            del self._seen[next(iter(self._seen))]
        return True

    def hearsay(self) -> set[PeerId]:
        """In a large network: peers that others told of, and that may be gone."""
        return self._known.keys() - self._links.keys() if self.sparse else set()

    def contacts(self, but: PeerId | None = None) -> list[Contact]:
        """Linked members, as many as one message takes; what is known at first hand only."""
        some = self._some([peer for peer in self._links if peer != but], MAX_PEERS)
        return [self.contact(peer) for peer in some]

    def contact(self, peer: PeerId) -> Contact:
        """Where a known peer listens."""
        known = self._known.get(peer)
        return Contact(peer, () if known is None else known.addresses)

    def _candidates(self, now: float) -> list[tuple[PeerId, _Known]]:
        return [
            (peer, known)
            for peer, known in self._known.items()
            if peer not in self._links
            and not known.dialing
            and (known.addresses or known.connected)
            and self.refuses(peer, now) is None
        ]

    def _choose_mode(self, now: float) -> None:
        fresh = sum(
            1
            for peer, known in self._known.items()
            if peer in self._links
            or (known.failures < 3 and now - known.heard_at <= self._options.fresh_s)
        )
        members = 1 + fresh
        if self.sparse:
            self.sparse = members > self._options.back_to_full
        else:
            self.sparse = members > self._options.full_mesh

    def _lacking(self) -> int:
        dialing = sum(one.dialing and not one.met for one in self._known.values())
        ours = sum(opened and not self._known[peer].met for peer, opened in self._links.items())
        return self._options.neighbours - ours - dialing

    def _backoff(self, failures: int) -> float:
        most = min(self._options.max_backoff_s, self._options.backoff_s * (1 << min(failures, 10)))
        return most * (0.5 + self._chance() / 2)

    def _some(self, items: Sequence[T], count: int) -> list[T]:
        """At most `count` of them, taken at random."""
        pool = list(items)
        for place in range(min(max(0, count), len(pool))):
            other = place + int(self._chance() * (len(pool) - place))
            pool[place], pool[other] = pool[other], pool[place]
        return pool[: max(0, count)]

    def _make_room(self) -> None:
        if len(self._known) < self._options.max_contacts:
            return
        idle = [peer for peer in self._known if peer not in self._links]
        if idle:
            del self._known[min(idle, key=lambda peer: self._known[peer].heard_at)]
