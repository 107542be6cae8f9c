"""What this agent may ask an origin for now, when others bring the rest (`owners`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2pcache.lanes.orders import BLOCK_BYTES
from p2pcache.transfer.machine import bits
from p2pcache.transfer.machine.owners import Unit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from p2pcache.transfer.machine.blobs import BlobState
    from p2pcache.transfer.machine.owners import Owners

STREAMS_EACH = 4  # requests in all for each one to an origin: one at the start, more when it pays


class Shares:
    """The owners' rules on sets of blocks, at one moment."""

    def __init__(self, owners: Owners, piece_bytes: int, streams: int, now: float) -> None:
        self._owners = owners
        self._piece = piece_bytes // BLOCK_BYTES
        self._now = now
        self.streams = max(1, streams // STREAMS_EACH)
        self.is_zoned = owners.is_zoned(now)
        self.is_shared = not owners.alone or (owners.is_blind(now) and owners.has_partners)

    def applies(self, blob: BlobState) -> bool:
        """Whether others may bring some of this blob."""
        return self.is_shared and self._owners.knows(blob.spec.index)

    def had_company(self, blob: BlobState) -> bool:
        """Whether others take part in this blob, or did: then what they hold is not asked of an
        origin only because they are busy at this moment.
        """
        known = self._owners.knows(blob.spec.index)
        return known and (self.is_shared or self._owners.had_company)

    def run(
        self, blob: BlobState, wanted: int, exists: int, *, across: bool = False
    ) -> tuple[int, int] | None:
        """The first blocks of a unit that is ours, among the lowest that nobody has (`across`: in
        our zone).

        What somebody has and did not deliver is anybody's (`delayed`): the owner cannot see it.
        """
        index, owners, now = blob.spec.index, self._owners, self._now
        for piece in self._lowest(blob, exists):
            unit = Unit(index, piece)
            if not blob.delayed and owners.owner(unit, now, across=across) != owners.me:
                continue
            mine = wanted & bits.span(piece * self._piece, (piece + 1) * self._piece)
            if mine and self._may_begin(unit, anybody=bool(mine & blob.delayed), across=across):
                start = bits.first(mine)
                return start, bits.run_end(mine, start)
        return None

    def _may_begin(self, unit: Unit, *, anybody: bool, across: bool) -> bool:
        if anybody:
            return not self._owners.is_brought(unit, self._now, across=across)
        return self._owners.is_mine(unit, self._now, across=across)

    def is_mine(self, blob: BlobState, *, across: bool = False) -> bool:
        """Whether a small blob may be asked of an origin (`across`: of another zone)."""
        if not self.applies(blob) or (across and not self.is_zoned):
            return True
        return self._owners.is_mine(Unit(blob.spec.index, 0), self._now, across=across)

    def untouched(self, blob: BlobState, exists: int, far: int = 0) -> tuple[Unit, bool] | None:
        """The lowest unit of a blob that nobody in our zone has or brings, as far as is known here,
        and whether it is to be brought across: `far` are blocks that other zones have.
        """
        for piece in self._lowest(blob, exists | blob.claimed):
            unit = Unit(blob.spec.index, piece)
            across = bool(far & bits.span(piece * self._piece, (piece + 1) * self._piece))
            if not self._owners.is_brought(unit, self._now, across=across):
                return unit, across
        return None

    def _lowest(self, blob: BlobState, exists: int) -> Iterator[int]:
        missing = blob.full & ~exists
        piece = 0
        for _ in range(self._owners.window):
            if not missing:
                return
            ahead = ((missing & -missing).bit_length() - 1) // self._piece
            piece += ahead
            yield piece
            piece += 1
            missing >>= (ahead + 1) * self._piece


def pieces_of(mask: int, piece_bytes: int) -> set[int]:
    """The units that some blocks are of."""
    size = piece_bytes // BLOCK_BYTES
    return {
        piece
        for start, end in bits.runs(mask)
        for piece in range(start // size, (end - 1) // size + 1)
    }
