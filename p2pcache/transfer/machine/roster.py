"""The sources as a plan sees them, sorted once for many plans: a plan runs at every block that
arrives, and with many peers the sorting would cost more than all the rest.
"""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING

from p2pcache.transfer.machine.flights import is_slow, median_block_s

if TYPE_CHECKING:
    from collections.abc import Mapping

    from p2pcache.transfer.machine.blobs import BlobState
    from p2pcache.transfer.machine.sources import SourceState
    from p2pcache.transfer.policy import TransferOptions

FRESH_S = 0.1  # how long measured rates may be taken for the present ones


class Roster:
    """Who serves well, who is in trouble, and what the former hold together."""

    def __init__(self, sources: Mapping[str, SourceState], options: TransferOptions) -> None:
        self._sources = sources
        self._options = options
        self._until = -1.0
        self._reach: dict[int, int] = {}
        self._near: dict[int, int] = {}  # what those of our zone hold
        self._healthy: set[str] = set()
        self.median_s: float | None = None
        self.origins: list[SourceState] = []
        self.healthy: list[SourceState] = []
        self.slow: list[SourceState] = []
        self.groups: list[list[SourceState]] = []  # the healthy, those to be asked first first
        self.has_far = False  # one of the healthy is in another zone
        self.has_risky = False  # one of the healthy failed before

    def changed(self) -> None:
        """A source came, went, failed, or lost what it held: sort again."""
        self._until = -1.0

    def at(self, now: float) -> Roster:
        """Itself, true for this moment."""
        if now >= self._until:
            self._sort(now)
        return self

    def told(self, source: SourceState, blob: BlobState) -> None:
        """A source has more of a blob."""
        index = blob.spec.index
        if source.name not in self._healthy:
            return
        if index in self._reach:
            self._reach[index] |= source.held(blob)
        if index in self._near and not source.is_far:
            self._near[index] |= source.held(blob)

    def reach(self, blob: BlobState) -> int:
        """Blocks that a healthy peer holds, at least."""
        index = blob.spec.index
        known = self._reach.get(index)
        if known is None:
            known = 0
            for peer in self.healthy:
                known |= peer.held(blob)
            self._reach[index] = known
        return known

    def near(self, blob: BlobState) -> int:
        """The same of those in our zone."""
        if not self.has_far:
            return self.reach(blob)
        index = blob.spec.index
        known = self._near.get(index)
        if known is None:
            known = 0
            for peer in self.healthy:
                known |= 0 if peer.is_far else peer.held(blob)
            self._near[index] = known
        return known

    def _sort(self, now: float) -> None:
        is_changed = self._until < 0
        up = [s for s in self._sources.values() if s.gone is None]
        self.median_s = median_block_s([s for s in up if not s.is_far])
        self.origins = [s for s in up if not s.is_peer]
        self.healthy, self.slow = [], []
        groups: dict[tuple[int, int, bool], list[SourceState]] = {}
        self._until = now + FRESH_S
        for peer in up:
            if not peer.is_peer:
                continue
            if not peer.is_far and is_slow(peer, self.median_s, self._options):
                self.slow.append(peer)
            elif now >= peer.not_before:
                self.healthy.append(peer)
                groups.setdefault(rank_of(peer), []).append(peer)
            else:
                self._until = min(self._until, peer.not_before)
        self.groups = [groups[key] for key in sorted(groups)]
        self.has_far = any(s.is_far for s in self.healthy)
        self.has_risky = any(map(attrgetter("failures"), self.healthy))
        before, self._healthy = self._healthy, {s.name for s in self.healthy}
        if is_changed or before != self._healthy:
            self._reach.clear()
            self._near.clear()


def rank_of(source: SourceState) -> tuple[int, int, bool]:
    """Kinds in their order, the nearest first, who never failed before who did."""
    return source.kind, source.distance, source.failures > 0
