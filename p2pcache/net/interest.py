"""Who said it downloads or possesses which manifest. Pure; nobody can make it grow for ever.

In a network too large for a link to everyone members pass on what others say, so a teller can speak
of any number of agents that nobody met. What it said of others is bounded, and when all of it
together is too much, the one that told most loses its oldest words first: nobody's words are pushed
out by somebody who talks more.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from p2pcache.net.sync.wire import Said

if TYPE_CHECKING:
    from collections.abc import Iterable

    from p2pcache.content.peerid import PeerId

MAX_MANIFESTS = 16384  # of one peer, 6 MB
MAX_TOLD_BYTES = 16 << 20  # by one teller of others: 47,000 words; of 1,000 with 375 each, from 8
MAX_TOTAL_BYTES = 64 << 20  # of all; 11 members with 16384 each
WORD_BYTES = 320  # of memory, beside the name: in two dicts, and the name itself (measured)
SPEAKER_BYTES = 1024  # an id, a record and its dict, and its places in others
_STEP_WORDS = 256  # dropped at once when there is too much


@dataclass(slots=True)
class _Speaker:
    teller: PeerId  # who told last of it, perhaps itself
    words: dict[bytes, Said] = field(default_factory=dict)  # oldest first
    size_bytes: int = SPEAKER_BYTES


class Interests:
    """The newest word of each peer."""

    def __init__(self) -> None:
        self.total_bytes = 0
        self._speakers: dict[PeerId, _Speaker] = {}
        self._of_manifest: dict[bytes, PeerId | set[PeerId]] = {}  # most have one, and a set is 4 x
        self._told: dict[PeerId, dict[PeerId, None]] = {}  # by teller: of whom, longest ago first
        self._bytes: Counter[PeerId] = Counter()  # by teller

    def hear(
        self, peer: PeerId, said: Said, manifests: Iterable[bytes], teller: PeerId | None = None
    ) -> None:
        """An announcement of `peer`'s; `teller`: who passed it on."""
        teller = teller or peer
        speaker = self._charge(peer, teller)
        words, more_bytes = speaker.words, 0
        for manifest in manifests:
            known = words.pop(manifest, None) is not None
            if said is not Said.WITHDRAWN:
                words[manifest] = said
                if not known:
                    self._link(peer, manifest)
                    more_bytes += WORD_BYTES + len(manifest)
            elif known:
                self._unlink(peer, manifest)
                more_bytes -= WORD_BYTES + len(manifest)
        self._count(speaker, more_bytes)
        if len(speaker.words) > MAX_MANIFESTS:
            self._drop(peer, len(speaker.words) - MAX_MANIFESTS)
        if not speaker.words:
            self.forget(peer)
        while self._bytes[teller] - self._own_bytes(teller) > MAX_TOLD_BYTES:
            self._drop(next(one for one in self._told[teller] if one != teller), _STEP_WORDS)
        while self.total_bytes > MAX_TOTAL_BYTES:
            most = max(self._bytes, key=self._bytes.__getitem__)
            self._drop(next(iter(self._told[most])), _STEP_WORDS)

    def forget(self, peer: PeerId) -> None:
        """A peer is gone: what it said, and what others said of it."""
        speaker = self._speakers.get(peer)
        if speaker is None:
            return
        for manifest in speaker.words:
            self._unlink(peer, manifest)
        self._count(speaker, -speaker.size_bytes)
        del self._speakers[peer]
        self._uncharge(peer, speaker.teller)

    def forget_told(self, teller: PeerId) -> None:
        """Nothing that it told counts any more, of itself or of others."""
        for peer in list(self._told.get(teller, ())):
            self.forget(peer)

    def who(self, manifest: bytes) -> dict[PeerId, Said]:
        """Who downloads or possesses it."""
        found = self._of_manifest.get(manifest, ())
        peers = found if isinstance(found, set | tuple) else (found,)
        return {peer: self._speakers[peer].words[manifest] for peer in peers}

    def possessed_count(self, peer: PeerId) -> int:
        """How many manifests a peer said it possesses."""
        speaker = self._speakers.get(peer)
        words = () if speaker is None else speaker.words.values()
        return sum(word is Said.POSSESS for word in words)

    def _charge(self, peer: PeerId, teller: PeerId) -> _Speaker:
        """A speaker counts to whoever told of it last."""
        speaker = self._speakers.get(peer)
        if speaker is None:
            speaker = self._speakers[peer] = _Speaker(teller, size_bytes=0)
            self._count(speaker, SPEAKER_BYTES)
        else:
            self._bytes[speaker.teller] -= speaker.size_bytes
            self._uncharge(peer, speaker.teller)
            speaker.teller = teller
            self._bytes[teller] += speaker.size_bytes
        self._told.setdefault(teller, {})[peer] = None
        return speaker

    def _uncharge(self, peer: PeerId, teller: PeerId) -> None:
        told = self._told[teller]
        del told[peer]
        if not told:
            del self._told[teller], self._bytes[teller]

    def _count(self, speaker: _Speaker, more_bytes: int) -> None:
        speaker.size_bytes += more_bytes
        self._bytes[speaker.teller] += more_bytes
        self.total_bytes += more_bytes

    def _own_bytes(self, teller: PeerId) -> int:
        own = self._speakers.get(teller)
        return 0 if own is None or own.teller != teller else own.size_bytes

    def _drop(self, peer: PeerId, count: int) -> None:
        """So many of its oldest words."""
        speaker = self._speakers[peer]
        dropped = list(islice(speaker.words, count))
        for manifest in dropped:
            del speaker.words[manifest]
            self._unlink(peer, manifest)
        self._count(speaker, -sum(WORD_BYTES + len(manifest) for manifest in dropped))
        if not speaker.words:
            self.forget(peer)

    def _link(self, peer: PeerId, manifest: bytes) -> None:
        peers = self._of_manifest.get(manifest)
        if peers is None:
            self._of_manifest[manifest] = peer
        elif isinstance(peers, set):
            peers.add(peer)
        else:
            self._of_manifest[manifest] = {peers, peer}

    def _unlink(self, peer: PeerId, manifest: bytes) -> None:
        peers = self._of_manifest[manifest]
        if isinstance(peers, set):
            peers.discard(peer)
        if not isinstance(peers, set) or not peers:
            del self._of_manifest[manifest]
