"""Whom to have a link with: size, backoff, which of two links stays, what is passed on. Pure.

Up to `full_mesh` members every pair has a link. Beyond, an agent opens links to a few members
taken at random, accepts those that others open, and passes announcements on, each once. Members
are those that were linked once: what anybody says of others leads to dials, never to a count.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from p2pcache.net.contacts import LOST, LOST_FAILURES, SURE, Contacts, Known
from p2pcache.net.sync.limits import Bucket
from p2pcache.net.sync.machine import Cause
from p2pcache.net.sync.wire import MAX_PEERS, Contact
from p2pcache.net.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from p2pcache.content.peerid import PeerId
    from p2pcache.net.contacts import Teller

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
    max_contacts: int = 4096  # that are proven
    max_told: int = 256  # that one member, mDNS, the DHT or a file told of: 4 full messages
    tales_per_s: float = 0.5  # messages of a member on others; it sends one in `tell_every_s`,
    tales_burst: float = 8.0  # one when linked and one in `retell_s`
    max_seen: int = 20_000  # announcements remembered, 2 MB
    dials_at_once: int = 16
    dials_unsure: int = 12  # ... of which to who was never proven there, or did not answer
    dials_each: int = 6  # ... and upon one teller's word
    connect_s: float = 10.0
    open_s: float = 5.0
    backoff_s: float = 0.5  # doubled for each failure, with jitter down to its half
    max_backoff_s: float = 60.0
    yield_s: float = 0.5  # told of each other by a third, the one with the lower id dials first
    unheard_s: float = 120.0  # mentioned again after so long: dialled soon
    fresh_s: float = 600.0  # neither linked nor mentioned for so long: not counted as a member
    forget_s: float = 600.0  # ... and unreachable: forgotten
    distrust_s: float = 300.0  # a peer that broke the rules is not talked to; a ban is for longer
    settled_s: float = 5.0  # a second link to a peer with one as old as this: the first is dead
    proven_s: float = 30.0  # a link that lasted as long makes earlier failures forgotten
    tell_s: float = 0.1  # news of members are collected,
    tell_every_s: float = 3.0  # for longer when there were some just before,
    retell_s: float = 60.0  # and repeated


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
        self._contacts = Contacts(
            max_proven=options.max_contacts,
            max_told=options.max_told,
            fresh_s=options.fresh_s,
            on_forget=self._forgot,
        )
        self._known = self._contacts.known
        self._turns = Turns(
            self._known,
            chance,
            places=options.dials_at_once,
            unsure_places=options.dials_unsure,
            places_each=options.dials_each,
        )
        self._links: dict[PeerId, bool] = {}  # whether we opened it
        self._met: dict[PeerId, None] = {}
        self._distrusted: dict[PeerId, float] = {}
        self._seen: dict[bytes, None] = {}

    def found(self, peer: PeerId, addresses: Iterable[str], now: float, by: Teller) -> None:
        """A member may be at these addresses, says somebody."""
        if peer == self._me:
            return
        is_new = peer not in self._known
        known = self._contacts.tell(peer, addresses, now, by)
        if known is None:
            return
        unheard = now - known.heard_at > self._options.unheard_s
        known.heard_at = now
        if is_new:
            wait_s = self._options.yield_s if isinstance(by, bytes) and self._me > peer else 0.0
            self._plan(peer, known, now + wait_s)
        elif known.untried or unheard:  # news
            if not known.proven:
                known.failures = 0
            self._turns.changed(peer)
            if known.dial_at > now + self._options.yield_s:
                self._plan(peer, known, now + self._options.yield_s)

    def hears(self, teller: PeerId, now: float) -> bool:
        """Whether a linked member may tell of others now. It tells them again later."""
        known = self._known.get(teller)
        if known is None:
            return False
        if known.tales is None:
            known.tales = Bucket(self._options.tales_per_s, self._options.tales_burst, now)
        return known.tales.take(1, now)

    def meet(self, peer: PeerId, now: float) -> bool:
        """A link to this contact is of use for its own sake (it holds what we want). False: who
        that is nobody told.
        """
        known = self._known.get(peer)
        if known is None:
            return False
        if peer not in self._met and known.dial_at > now:  # one try, whatever happened before
            self._plan(peer, known, now)
        self._met[peer] = None
        return True

    def part(self, peer: PeerId) -> None:
        """No longer."""
        self._met.pop(peer, None)

    def connected(
        self, peer: PeerId, now: float, *, inbound: bool, address: str | None = None
    ) -> None:
        """A connection stands (made for whatever reason): a link costs no dial.

        `address`: its other end, which is worth nothing to others when it is inbound.
        """
        if peer == self._me:
            return
        known = self._contacts.prove(peer, now)
        known.heard_at = now
        known.connected = True
        if not inbound and address is not None:
            known.dialled = address
        # Whoever connected is about to open the link itself.
        wait_s = 4 * self._options.yield_s if inbound else 0.0
        self._plan(peer, known, max(known.dial_at, now + wait_s) if inbound else now)

    def disconnected(self, peer: PeerId) -> None:
        """No connection stands."""
        known = self._known.get(peer)
        if known is not None:
            known.connected = False
            self._turns.changed(peer)

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
        self._turns.ripen(now, self._distrusted.get)
        out = []
        while len(self._links) < self._options.max_links and (peer := self._pick()) is not None:
            out.append((peer, self._turns.begin(peer)))
        return out

    def next_at(self, now: float) -> float | None:
        """When `due` may have something; None: not before something happens."""
        times = [self._turns.next_at()]
        if self.sparse:
            times.append(self._contacts.alive_until())
        return min((at for at in times if at is not None), default=None)

    def failed(self, peer: PeerId, now: float, *, for_long: bool = False) -> None:
        """A dial came to nothing. `for_long`: it will not get better soon (another key)."""
        turn = self._turns.end(peer)
        known = self._known.get(peer)
        if known is None:
            return
        if not known.proven or turn in (None, SURE, LOST):  # others' claims prove nothing
            known.failures += 1
        if known.failures >= LOST_FAILURES:
            self._contacts.lost(peer)
        old = now - known.heard_at > self._options.forget_s
        if known.failures > LOST_FAILURES and old and not known.linked:
            self._contacts.forget(peer)
            return
        wait_s = self._backoff(10 if for_long else 1 if known.untried else known.failures)
        self._plan(peer, known, now + wait_s)

    def linked(self, peer: PeerId, addresses: Sequence[str], now: float, *, ours: bool) -> None:
        """A link stands; the peer says where it listens."""
        known = self._contacts.prove(peer, now)
        self._contacts.lost(peer)
        self._turns.end(peer)
        self._turns.drop(peer)
        self._links[peer] = ours
        known.own = tuple(addresses)
        self._contacts.settle(peer)
        known.heard_at = known.linked_at = now
        known.linked = known.was_linked = True
        known.attempts = 0

    def unlinked(self, peer: PeerId, cause: Cause, now: float) -> None:
        """The link ended."""
        if self._links.pop(peer, None) is not None:
            self._contacts.teller_gone(peer)
        if cause is Cause.UNTRUSTED:
            self._distrusted[peer] = now + self._options.distrust_s
            while len(self._distrusted) > self._options.max_contacts:
                del self._distrusted[next(iter(self._distrusted))]
        self._turns.end(peer)
        known = self._known.get(peer)
        if known is None:
            return
        known.heard_at = now
        lasted = known.linked and now - known.linked_at > self._options.proven_s
        known.linked = False
        if cause is not Cause.UNTRUSTED:
            self._contacts.alive(peer, now)
        known.failures = 1 if lasted else known.failures + 1
        self._plan(
            peer, known, now + self._backoff(10 if cause is Cause.VERSION else known.failures)
        )

    def dial_ended(self, peer: PeerId) -> None:
        """A dial led to a link that was not needed."""
        known = self._known.get(peer)
        if self._turns.end(peer) is not None and known is not None:
            self._plan(peer, known, known.dial_at)

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
                if ours == opened_by_us and peer not in self._met
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

    def hearsay(self, now: float) -> set[PeerId]:
        """In a large network: those without a link that count as members, and may be gone."""
        return set(self._contacts.alive_peers(now)) if self.sparse else set()

    def contacts(self, but: PeerId | None = None) -> list[Contact]:
        """Linked members, as many as one message takes; what is known at first hand only."""
        some = self._some([peer for peer in self._links if peer != but], MAX_PEERS)
        return [self.contact(peer) for peer in some]

    def contact(self, peer: PeerId) -> Contact:
        """Where a known peer listens, at first hand: no claim is told again."""
        known = self._known.get(peer)
        return Contact(peer, () if known is None else known.first_hand)

    def _pick(self) -> PeerId | None:
        """One to dial that is ready and has a place."""
        turns = self._turns
        if not self.sparse:
            return turns.pick_sure() or turns.pick_unsure()
        busy = sum(peer in self._links or peer in turns.dialing for peer in self._met)
        if busy < self._options.max_met:
            met = next((peer for peer in self._met if turns.has_place(peer)), None)
            if met is not None:
                return met
        if self._lacking() <= 0:
            return None
        # Both kinds: those that were linked are known to be there, those that never were join
        # what would be two networks; but those may not be there, so they are not waited for.
        few = turns.unsure_count() < max(1, self._options.neighbours // 2)
        if few and self._chance() < 0.5:
            return turns.pick_unsure() or turns.pick_sure()
        return turns.pick_sure() or turns.pick_unsure()

    def _choose_mode(self, now: float) -> None:
        members = 1 + len(self._links) + self._contacts.alive_count(now)
        if self.sparse:
            self.sparse = members > self._options.back_to_full
        else:
            self.sparse = members > self._options.full_mesh

    def _lacking(self) -> int:
        dialing = sum(peer not in self._met for peer in self._turns.dialing)
        ours = sum(opened and peer not in self._met for peer, opened in self._links.items())
        return self._options.neighbours - ours - dialing

    def _plan(self, peer: PeerId, known: Known, at: float) -> None:
        if not known.linked and peer not in self._turns.dialing:
            self._turns.plan(peer, at)

    def _forgot(self, peer: PeerId) -> None:
        self._turns.drop(peer)
        self._met.pop(peer, None)

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
