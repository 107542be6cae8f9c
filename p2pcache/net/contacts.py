"""Whom we know of, and in whose word: what was proven stands first, claims are few. Pure.

A contact is *proven* once a handshake with it succeeded: nobody completes one without the network's
key. Before, it is *told*: a member, mDNS, the DHT or a file says that it exists, and each of them
may say so of a limited number. First-hand addresses (where a dial of ours succeeded, and those
that the peer tells of itself) and claims of others are kept apart: claims are dialled, in places of
their own, and told to nobody.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from p2pcache.content.peerid import PeerId
from p2pcache.net.sync.wire import MAX_ADDRESSES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Set

    from p2pcache.net.sync.limits import Bucket

Teller = PeerId | str  # a member, or a way of finding others (`How`)
GONE = "gone"  # ... and all members together whose link ended

SURE = ""  # dials to addresses that are proven, of peers that answered lately
LOST = "lost"  # the same of peers that did not
Turn = Teller  # otherwise: whose word the dial is made upon

LOST_FAILURES = 3  # a peer that did not answer so often is probably gone


@dataclass(slots=True)
class Known:
    """One contact. Times on the caller's clock."""

    heard_at: float
    dial_at: float
    proven: bool = False
    told: dict[Teller, tuple[str, ...]] = field(default_factory=dict)  # claims, newest first
    untried: bool = False  # some of the claims
    dialled: str | None = None  # where a dial of ours succeeded last
    own: tuple[str, ...] = ()  # in its own word
    failures: int = 0
    attempts: int = 0  # since it was linked
    connected: bool = False
    linked: bool = False
    linked_at: float = 0.0
    was_linked: bool = False  # now or before
    tales: Bucket | None = None  # what it may tell of others

    @property
    def first_hand(self) -> tuple[str, ...]:
        """Addresses that may be told to others."""
        dialled = () if self.dialled is None else (self.dialled,)
        return tuple(dict.fromkeys((*dialled, *self.own)))[:MAX_ADDRESSES]

    @property
    def may_dial(self) -> bool:
        """Whether there is anything to try."""
        return self.connected or bool(self.dialled or self.own or self.told)

    def next_dial(self) -> tuple[Turn, tuple[str, ...]]:
        """In whose place the next dial is made, and where to.

        First-hand addresses come first, and each second time; the claims of each teller in turn.
        """
        first_hand = self.first_hand
        if self.told and not self.connected and (not first_hand or self.attempts % 2):
            tellers = list(self.told)
            turn = self.attempts // 2 if first_hand else self.attempts
            by = tellers[turn % len(tellers)]
            return by, self.told[by]
        lost = self.failures >= LOST_FAILURES and not self.connected
        return (LOST if lost else SURE), first_hand


class Contacts:
    """All contacts of one agent, each found at once; who makes room for another, too."""

    def __init__(
        self,
        *,
        max_proven: int,
        max_told: int,
        fresh_s: float,
        on_forget: Callable[[PeerId], None],
    ) -> None:
        self.known: dict[PeerId, Known] = {}
        self._on_forget = on_forget
        self._max_proven = max_proven
        self._max_told = max_told
        self._fresh_s = fresh_s
        self._proven: OrderedDict[PeerId, None] = OrderedDict()  # oldest first
        self._told: dict[Teller, OrderedDict[PeerId, None]] = {}  # each: oldest first
        self._alive: OrderedDict[PeerId, float] = OrderedDict()  # were linked; since when, ordered

    def tell(self, peer: PeerId, addresses: Iterable[str], now: float, by: Teller) -> Known | None:
        """Somebody says that a contact is at these. None: that is of no use.

        Whoever says too much displaces what it said before, and nothing else.
        """
        claims = tuple(addresses)[:MAX_ADDRESSES]
        known = self.known.get(peer)
        if known is None:
            if not claims:
                return None
            known = self.known[peer] = Known(now, now)
        elif isinstance(by, bytes):
            self.alive(peer, now)
        if set(claims) - set(known.first_hand):
            known.untried |= claims not in known.told.values()
            self._keep(peer, known, by, claims)
        return known

    def prove(self, peer: PeerId, now: float) -> Known:
        """A handshake succeeded."""
        known = self.known.get(peer)
        if known is None:
            known = self.known[peer] = Known(now, now)
        known.proven = True
        self._proven[peer] = None
        self._proven.move_to_end(peer)
        if len(self._proven) > self._max_proven:
            self._forget_oldest()
        return known

    def settle(self, peer: PeerId) -> None:
        """What it says itself is known now: claims of the same are of no more use."""
        known = self.known[peer]
        first_hand = set(known.first_hand)
        for by in [by for by, claims in known.told.items() if first_hand.issuperset(claims)]:
            del known.told[by]
            self._untell(peer, by)
        known.untried = False

    def alive(self, peer: PeerId, now: float) -> None:
        """A peer that was linked is still a member, says a member, or its link that ended now."""
        known = self.known[peer]
        if known.was_linked and not known.linked:
            self._alive[peer] = now
            self._alive.move_to_end(peer)

    def lost(self, peer: PeerId) -> None:
        """It counts as a member no longer, or by its link."""
        self._alive.pop(peer, None)

    def alive_count(self, now: float) -> int:
        """How many members there are without a link (`alive_peers`)."""
        return len(self.alive_peers(now))

    def alive_peers(self, now: float) -> Set[PeerId]:
        """Members without a link: they were linked once and are heard of."""
        while (until := self.alive_until()) is not None and until <= now:
            self._alive.popitem(last=False)
        return self._alive.keys()

    def alive_until(self) -> float | None:
        """When that number falls by itself."""
        first = next(iter(self._alive.values()), None)
        return None if first is None else first + self._fresh_s

    def forget(self, peer: PeerId) -> None:
        """A contact is of no use any more."""
        for by in self.known.pop(peer).told:
            self._untell(peer, by)
        self._proven.pop(peer, None)
        self._alive.pop(peer, None)
        self._on_forget(peer)

    def teller_gone(self, teller: PeerId) -> None:
        """Its link ended: its tales share a place with those of all others that left."""
        for peer in self._told.pop(teller, ()):
            known = self.known[peer]
            self._keep(peer, known, GONE, known.told.pop(teller))

    def _keep(self, peer: PeerId, known: Known, by: Teller, claims: tuple[str, ...]) -> None:
        both = dict.fromkeys((*claims, *known.told.get(by, ())))
        known.told[by] = tuple(both)[:MAX_ADDRESSES]
        told = self._told.setdefault(by, OrderedDict())
        told[peer] = None
        told.move_to_end(peer)
        if len(told) > self._max_told:
            oldest = next(iter(told))
            other = self.known[oldest]
            if other.proven or len(other.told) > 1:
                del other.told[by]
                self._untell(oldest, by)
            else:
                self.forget(oldest)

    def _untell(self, peer: PeerId, by: Teller) -> None:
        told = self._told[by]
        del told[peer]
        if not told:
            del self._told[by]

    def _forget_oldest(self) -> None:
        """The proven one that was not linked for longest. Who is linked stays, and is few."""
        for _ in range(len(self._proven) - 1):
            oldest = next(iter(self._proven))
            if not self.known[oldest].linked:
                self.forget(oldest)
                return
            self._proven.move_to_end(oldest)
