"""Who is not listened to for a while, and what reading each peer's messages may cost: pure.

A message is parsed in Python: 4 MiB of the smallest entries take half a second of a core. What a
peer says is paid from an allowance that grows with time; who has used it up is read no faster than
it grows. Blocks that were wanted are free.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from p2pcache.content.peerid import PeerId

MAX_MUTED = 1024
FIELDS_PER_S = 50_000.0  # 4 us each: a fifth of a core; Kubo says some 20 for a block it fetches
MAX_SAVED_FIELDS = 500_000.0  # four of the longest messages, a want-list of 80,000
FIELDS_OF_A_BLOCK = 6  # with its presence


class Mutes:
    """Times are in seconds, of any clock."""

    def __init__(self, mute_s: float) -> None:
        self._mute_s = mute_s
        self._until: dict[PeerId, float] = {}

    def mute(self, peer: PeerId, now: float) -> None:
        """From now on; the one that was muted first is forgiven when there are too many."""
        self._until.pop(peer, None)
        while len(self._until) >= MAX_MUTED:
            del self._until[next(iter(self._until))]
        self._until[peer] = now + self._mute_s

    def is_muted(self, peer: PeerId, now: float) -> bool:
        """Whether it is not listened to."""
        return now < self._until.get(peer, 0.0)

    def take_ended(self, now: float) -> list[PeerId]:
        """Whose time is over."""
        ended = [peer for peer, until in self._until.items() if until <= now]
        for peer in ended:
            del self._until[peer]
        return ended

    def count(self) -> int:
        """Who is muted."""
        return len(self._until)


@dataclass(slots=True)
class _Allowance:
    fields: float
    at: float


class Allowances:
    """Of those whose messages are being read."""

    def __init__(self) -> None:
        self._peers: dict[PeerId, _Allowance] = {}

    def spend(self, peer: PeerId, fields: int, now: float) -> float:
        """How long to wait before more of it is read; 0: not at all."""
        known = self._peers.setdefault(peer, _Allowance(MAX_SAVED_FIELDS, now))
        saved = known.fields + (now - known.at) * FIELDS_PER_S
        known.fields, known.at = min(saved, MAX_SAVED_FIELDS) - fields, now
        return -known.fields / FIELDS_PER_S if known.fields < -1 else 0.0  # clocks round

    def forget_idle(self, now: float) -> None:
        """Those who have saved all that they can."""
        enough_s = MAX_SAVED_FIELDS / FIELDS_PER_S
        self._peers = {
            peer: one
            for peer, one in self._peers.items()
            if now - one.at < enough_s - one.fields / FIELDS_PER_S
        }
