"""Who said it downloads or possesses which manifest. Pure; a peer cannot make it grow for ever."""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2pcache.net.sync.wire import Said

if TYPE_CHECKING:
    from collections.abc import Iterable

    from p2pcache.content.peerid import PeerId

MAX_MANIFESTS = 16384  # of one peer, 2 MB
MAX_PEERS = 4096
MAX_TOTAL = 1 << 20  # of all, 100 MB; 64 members with 16384 each


class Interests:
    """The newest word of each peer; the oldest words go when there are too many."""

    def __init__(self) -> None:
        self._of_peer: dict[PeerId, dict[bytes, Said]] = {}
        self._of_manifest: dict[bytes, set[PeerId]] = {}
        self._total = 0

    def hear(self, peer: PeerId, said: Said, manifests: Iterable[bytes]) -> None:
        """An announcement."""
        mine = self._of_peer.pop(peer, {})
        self._of_peer[peer] = mine  # the newest speaker is the last to be forgotten
        for manifest in manifests:
            self._remove(peer, mine, manifest)
            if said is not Said.WITHDRAWN:
                mine[manifest] = said
                self._of_manifest.setdefault(manifest, set()).add(peer)
                self._total += 1
        while len(mine) > MAX_MANIFESTS:
            self._remove(peer, mine, next(iter(mine)))
        while len(self._of_peer) > MAX_PEERS or self._total > MAX_TOTAL:
            self.forget(next(iter(self._of_peer)))

    def forget(self, peer: PeerId) -> None:
        """A peer is gone."""
        mine = self._of_peer.pop(peer, {})
        for manifest in list(mine):
            self._remove(peer, mine, manifest)

    def who(self, manifest: bytes) -> dict[PeerId, Said]:
        """Who downloads or possesses it."""
        peers = self._of_manifest.get(manifest, ())
        return {peer: self._of_peer[peer][manifest] for peer in peers}

    def possessed_count(self, peer: PeerId) -> int:
        """How many manifests a peer said it possesses."""
        said = self._of_peer.get(peer, {})
        return sum(word is Said.POSSESS for word in said.values())

    def _remove(self, peer: PeerId, mine: dict[bytes, Said], manifest: bytes) -> None:
        if mine.pop(manifest, None) is None:
            return
        self._total -= 1
        peers = self._of_manifest[manifest]
        peers.discard(peer)
        if not peers:
            del self._of_manifest[manifest]
