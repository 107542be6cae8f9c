"""Which servers are to be told what: pure. Queues per server, the withdrawn before the new.

A name is aimed at the servers closest to it. `told` is what a server may know of us; what it may
know and we no longer provide is taken back. One batch per server at a time: the order in which a
server hears of a name is the order of our changes.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from p2pcache.content.peerid import PeerId


@dataclass(frozen=True, slots=True)
class Batch:
    """For one stream: records to take back, then records to leave."""

    back: tuple[bytes, ...]
    names: tuple[bytes, ...]

    @property
    def count(self) -> int:
        """Messages of this batch."""
        return len(self.back) + len(self.names)


class Plan:
    """What is provided, what servers were told, and what is still to be told."""

    def __init__(self, names: dict[bytes, None]) -> None:
        self.names = names  # in order; the caller's, and only changed here
        self._told: defaultdict[PeerId, set[bytes]] = defaultdict(set)
        self._old: defaultdict[PeerId, set[bytes]] = defaultdict(set)  # of those, to be renewed
        self._new: defaultdict[PeerId, dict[bytes, None]] = defaultdict(dict)
        self._again: defaultdict[PeerId, dict[bytes, None]] = defaultdict(dict)
        self._back: defaultdict[PeerId, dict[bytes, None]] = defaultdict(dict)

    def provide(self, names: Iterable[bytes]) -> list[bytes]:
        """The names that were not provided before: aim them."""
        fresh = [name for name in dict.fromkeys(names) if name not in self.names]
        self.names.update(dict.fromkeys(fresh))
        return fresh

    def withdraw(self, names: Iterable[bytes]) -> None:
        """No longer provide; whoever was told will hear of it first of all."""
        gone = [name for name in dict.fromkeys(names) if name in self.names]
        for name in gone:
            del self.names[name]
        for queues in (self._new, self._again):
            for queue in queues.values():
                for name in gone:
                    queue.pop(name, None)
        for peer, told in self._told.items():
            for name in gone:
                if name in told:
                    self._back[peer][name] = None

    def aim(self, name: bytes, peers: Iterable[PeerId], *, again: bool = False) -> None:
        """Tell these servers, unless they know. `again`: of a refresh, behind what is new."""
        for peer in peers:
            self._back[peer].pop(name, None)
            known = name in self._told[peer] and name not in self._old[peer]
            if not known and name not in self._new[peer]:
                (self._again if again else self._new)[peer][name] = None

    def renew(self) -> None:
        """Records grow old: whoever is aimed at from now on is told again (aim every name)."""
        for peer, told in self._told.items():
            self._old[peer] = set(told)

    def take(self, peer: PeerId, max_count: int) -> Batch | None:
        """The next batch for a server; it counts as told from now on."""
        back = _take(self._back[peer], max_count)
        names = _take(self._new[peer], max_count - len(back))
        names += _take(self._again[peer], max_count - len(back) - len(names))
        if not back and not names:
            for queues in (self._back, self._new, self._again):
                queues.pop(peer, None)
            return None
        self._told[peer].update(names)
        self._told[peer].difference_update(back)
        self._old[peer].difference_update(names, back)
        return Batch(tuple(back), tuple(names))

    def failed(self, peer: PeerId, batch: Batch) -> None:
        """A batch may have been lost: the server knows or does not know, and is told again."""
        for may_know in (self._told[peer], self._old[peer]):
            may_know.update(batch.names, batch.back)
        for name in batch.names:
            if name in self.names:
                self._again[peer][name] = None
        for name in batch.back:
            if name not in self.names:
                self._back[peer][name] = None

    def forget(self, peer: PeerId) -> None:
        """A server left or starts anew: it knows nothing."""
        for known in (self._told, self._old, self._new, self._again, self._back):
            known.pop(peer, None)

    def waiting(self) -> list[PeerId]:
        """The servers with something to be told."""
        found = {
            p for queues in (self._back, self._new, self._again) for p, q in queues.items() if q
        }
        return list(found)

    def told_count(self) -> int:
        """Records of ours that servers hold, as far as we know."""
        return sum(map(len, self._told.values()))


def _take(queue: dict[bytes, None], count: int) -> list[bytes]:
    taken = list(itertools.islice(queue, max(count, 0)))
    for name in taken:
        del queue[name]
    return taken
