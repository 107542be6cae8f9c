"""Whom to ask next on the way to the servers closest to a key: Kademlia's lookup, pure.

`ALPHA` questions at a time; a question that takes long gives its place to another but still
counts when it is answered. A lookup ends when the `width` closest of those that did not fail have
answered, or when it has asked too many. Distances are XOR of sha2-256 (libp2p specs, kad-dht).
"""

from __future__ import annotations

import enum
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from p2pcache.content.peerid import PeerId

ALPHA = 3  # the Kademlia paper
MAX_ASKED = 32  # 20 would do at 10,000 agents; a liar's list of strangers ends here
MAX_CANDIDATES = 256


def key_of(data: bytes) -> int:
    """Where a name or a peer lies."""
    return int.from_bytes(hashlib.sha256(data).digest(), "big")


class _State(enum.Enum):
    NEW = enum.auto()
    ASKED = enum.auto()
    SLOW = enum.auto()
    ANSWERED = enum.auto()
    FAILED = enum.auto()


@dataclass(slots=True)
class _Candidate:
    peer: PeerId
    addresses: tuple[str, ...]
    distance: int
    state: _State = _State.NEW


class Lookup:
    """One walk towards `target`. `me` is never asked."""

    def __init__(self, target: bytes, me: PeerId, *, width: int) -> None:
        self._key = key_of(target)
        self._me = me
        self._width = width
        self._found: dict[PeerId, _Candidate] = {}
        self.asked_count = 0

    def add(self, somebodies: Iterable[tuple[PeerId, tuple[str, ...]]]) -> None:
        """Candidates, from the own table or out of an answer."""
        for peer, addresses in somebodies:
            if peer == self._me or peer in self._found:
                continue
            if len(self._found) >= MAX_CANDIDATES:
                return
            self._found[peer] = _Candidate(peer, addresses, self._key ^ key_of(peer))

    def next(self) -> list[tuple[PeerId, tuple[str, ...]]]:
        """Whom to ask now; each is told of again by `answered`, `failed` and perhaps `slow`."""
        running = sum(c.state is _State.ASKED for c in self._found.values())
        chosen = []
        for candidate in self._closest():
            if running >= ALPHA or self.asked_count >= MAX_ASKED:
                break
            if candidate.state is _State.NEW:
                candidate.state = _State.ASKED
                self.asked_count += 1
                running += 1
                chosen.append((candidate.peer, candidate.addresses))
        return chosen

    def slow(self, peer: PeerId) -> None:
        """A question takes long: another may go ahead."""
        if self._found[peer].state is _State.ASKED:
            self._found[peer].state = _State.SLOW

    def answered(self, peer: PeerId, closer: Iterable[tuple[PeerId, tuple[str, ...]]]) -> None:
        """An answer came."""
        self._found[peer].state = _State.ANSWERED
        self.add(closer)

    def failed(self, peer: PeerId) -> None:
        """No answer will come."""
        self._found[peer].state = _State.FAILED

    @property
    def done(self) -> bool:
        """Whether nobody is left to ask or to wait for."""
        waiting = (_State.ASKED, _State.SLOW)
        if any(c.state in waiting for c in self._found.values()):
            return False
        return self.asked_count >= MAX_ASKED or not any(
            c.state is _State.NEW for c in self._closest()
        )

    def _closest(self) -> list[_Candidate]:
        alive = [c for c in self._found.values() if c.state is not _State.FAILED]
        return sorted(alive, key=lambda c: c.distance)[: self._width]
