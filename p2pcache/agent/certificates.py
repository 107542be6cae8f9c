"""Whose certificates the byte server lets in: one for each peer, while its tickets last. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from p2pcache.content.peerid import PeerId


class Certificates:
    """Fingerprints by peer. Two peers may show the same one: hellos can be copied."""

    def __init__(self, holds_s: float) -> None:
        self._holds_s = holds_s
        self._of: dict[PeerId, tuple[bytes, float]] = {}

    def admit(self, peer: PeerId, fingerprint: bytes, now: float) -> list[bytes]:
        """The peer gets a ticket; gives the fingerprints to let in no more: an older one of this
        peer, and those of all whose last ticket is older than `holds_s`.
        """
        over = [known for known, (_, until) in self._of.items() if until <= now]
        old = [self._of.pop(known)[0] for known in (*over, peer) if known in self._of]
        self._of[peer] = fingerprint, now + self._holds_s
        return self._unused(old)

    def forget(self, peer: PeerId) -> list[bytes]:
        """The peer is not talked to any more; gives what is to be let in no more."""
        known = self._of.pop(peer, None)
        return [] if known is None else self._unused([known[0]])

    def _unused(self, fingerprints: list[bytes]) -> list[bytes]:
        used = {fingerprint for fingerprint, _ in self._of.values()}
        return [one for one in dict.fromkeys(fingerprints) if one not in used]
