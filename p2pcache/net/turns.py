"""Who waits to be dialled, and in whose place: nobody's word takes the places of all. Pure."""

from __future__ import annotations

import heapq
from collections import Counter
from typing import TYPE_CHECKING

from p2pcache.net.contacts import LOST, SURE

if TYPE_CHECKING:
    from collections.abc import Callable

    from p2pcache.content.peerid import PeerId
    from p2pcache.net.contacts import Known, Turn


class Turns:
    """Contacts that wait for their time, those whose time has come, and the dials under way."""

    def __init__(
        self,
        known: dict[PeerId, Known],
        chance: Callable[[], float],
        *,
        places: int,
        unsure_places: int,
        places_each: int,
    ) -> None:
        self.dialing: dict[PeerId, Turn] = {}
        self._known = known
        self._chance = chance
        self._places = places
        self._unsure_places = unsure_places
        self._places_each = places_each
        self._later: list[tuple[float, PeerId]] = []  # a heap; entries of another time are stale
        self._ready: dict[Turn, dict[PeerId, None]] = {}  # the turn that waits longest first
        self._turn: dict[PeerId, Turn] = {}  # of those that are ready
        self._taken: Counter[Turn] = Counter()  # places

    def plan(self, peer: PeerId, at: float) -> None:
        """Dial it at that time, and not before."""
        self.drop(peer)
        self._known[peer].dial_at = at
        heapq.heappush(self._later, (at, peer))
        if len(self._later) > 4 * len(self._known) + 64:  # mostly stale ones
            self._later = [one for one in self._later if self._is_planned(*one)]
            heapq.heapify(self._later)

    def drop(self, peer: PeerId) -> None:
        """It is not to be dialled, although its time has come."""
        turn = self._turn.pop(peer, None)
        if turn is not None:
            ready = self._ready[turn]
            del ready[peer]
            if not ready:
                del self._ready[turn]

    def ripen(self, now: float, refused_until: Callable[[PeerId], float | None]) -> None:
        """Look whose time has come."""
        while self._later and self._later[0][0] <= now:
            at, peer = heapq.heappop(self._later)
            known = self._known.get(peer)
            if known is None or not self._is_planned(at, peer):
                continue
            until = refused_until(peer)
            if until is not None and until > now:
                self.plan(peer, until)
                continue
            self._put(peer, known)

    def changed(self, peer: PeerId) -> None:
        """There is another address to try, or no connection any more."""
        if peer in self._turn:
            self.drop(peer)
            self._put(peer, self._known[peer])

    def next_at(self) -> float | None:
        """When the next one's time comes. Who is ready already waits for an event, not for time."""
        while self._later and not self._is_planned(*self._later[0]):
            heapq.heappop(self._later)
        return self._later[0][0] if self._later else None

    def has_place(self, peer: PeerId) -> bool:
        """Whether it is ready and can be dialled now."""
        turn = self._turn.get(peer)
        return turn is not None and len(self.dialing) < self._places and self._is_free(turn)

    def pick_sure(self) -> PeerId | None:
        """One that surely exists."""
        return self._one_of(SURE) if len(self.dialing) < self._places else None

    def pick_unsure(self) -> PeerId | None:
        """One that may exist, of whose word the fewest are being dialled."""
        free = [turn for turn in self._ready if turn != SURE and self._is_free(turn)]
        if not free or len(self.dialing) >= self._places:
            return None
        turn = min(free, key=self._taken.__getitem__)
        self._ready[turn] = self._ready.pop(turn)  # the last among its equals next time
        return self._one_of(turn)

    def begin(self, peer: PeerId) -> tuple[str, ...]:
        """Dial a ready one: where to. It keeps its place until `end`."""
        turn = self._turn[peer]
        self.drop(peer)
        self.dialing[peer] = turn
        self._taken[turn] += 1
        known = self._known[peer]
        word, addresses = known.next_dial()
        known.attempts += 1
        known.untried = known.untried and word in (SURE, LOST)
        return addresses

    def end(self, peer: PeerId) -> Turn | None:
        """The dial is over: whose place it had."""
        turn = self.dialing.pop(peer, None)
        if turn is not None:
            self._taken[turn] -= 1
            if not self._taken[turn]:
                del self._taken[turn]
        return turn

    def unsure_count(self) -> int:
        """Dials under way that may come to nothing."""
        return len(self.dialing) - self._taken[SURE]

    def _put(self, peer: PeerId, known: Known) -> None:
        if known.may_dial:
            turn, _ = known.next_dial()
            self._ready.setdefault(turn, {})[peer] = None
            self._turn[peer] = turn

    def _is_free(self, turn: Turn) -> bool:
        if turn == SURE:
            return True
        return self.unsure_count() < self._unsure_places and self._taken[turn] < self._places_each

    def _is_planned(self, at: float, peer: PeerId) -> bool:
        known = self._known.get(peer)
        return (
            known is not None
            and known.dial_at == at
            and not known.linked
            and peer not in self.dialing
            and peer not in self._turn
        )

    def _one_of(self, turn: Turn) -> PeerId | None:
        """Any of those that failed least often."""
        ready = self._ready.get(turn)
        if not ready:
            return None
        least = min(self._known[peer].failures for peer in ready)
        some = [peer for peer in ready if self._known[peer].failures == least]
        return some[int(self._chance() * len(some))]
