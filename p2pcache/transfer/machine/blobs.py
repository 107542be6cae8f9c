"""One blob in work: which of its blocks are here, on their way, or to be compared again."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from p2pcache.lanes.orders import BLOCK_BYTES
from p2pcache.transfer.machine import bits

if TYPE_CHECKING:
    from p2pcache.transfer import events as ev


class Phase(enum.Enum):
    """Where one blob stands."""

    WAITING = "waiting"  # nobody asked for its partial yet
    OPENING = "opening"
    FETCHING = "fetching"
    DIGESTING = "digesting"
    COMPLETE = "complete"


class BlobState:
    """Sets of blocks (`bits`). `done`: verified and here; `claimed`: on their way.

    `recheck`: here, but the whole digest was wrong: to be fetched once more and compared.
    `by`: who sent which blocks. `delayed`: lost by a source that stalled: not risked again.
    `unclear`: done, but which of two requests brought them is not known yet.
    """

    def __init__(self, spec: ev.BlobSpec) -> None:
        self.spec = spec
        self.phase = Phase.WAITING
        self.count = max(1, -(-spec.size_bytes // BLOCK_BYTES))  # an empty file is asked for too
        self.full = bits.span(0, self.count)
        self.done = 0
        self.claimed = 0
        self.recheck = 0
        self.delayed = 0
        self.unclear = 0
        self.doubted = 0  # no map is believed for them any more
        self.audited = False  # all of it is being compared, after a wrong whole digest
        self.digested = False  # a whole digest came out wrong before: hash again from the start
        self.by: dict[str, int] = {}
        self.alone: set[str] = set()  # who was asked for all of it, and nobody else, to find a liar

    @property
    def missing(self) -> int:
        """Blocks that nobody is bringing."""
        return self.full & ~self.done & ~self.claimed

    @property
    def is_done(self) -> bool:
        """Whether every block is here."""
        return self.done == self.full

    def bytes_of(self, mask: int) -> int:
        """Bytes of some blocks; the last block may be short."""
        size = mask.bit_count() * BLOCK_BYTES
        if self.count and mask >> (self.count - 1) & 1:
            size -= self.count * BLOCK_BYTES - self.spec.size_bytes
        return size

    def byte_span(self, start: int, end: int) -> tuple[int, int]:
        """Blocks to bytes."""
        return start * BLOCK_BYTES, min(end * BLOCK_BYTES, self.spec.size_bytes)

    def upto(self, start: int, done: int) -> int:
        """The whole blocks of bytes `[start, done)`."""
        last = self.count if done >= self.spec.size_bytes else done // BLOCK_BYTES
        return bits.span(start // BLOCK_BYTES, last)

    def compare_again(self, blocks: int) -> None:
        """Take blocks back until they were fetched once more; preferably not by who sent them."""
        self.done &= ~blocks
        self.recheck |= blocks

    def forget(self) -> None:
        """It is complete: nothing of this is needed any more."""
        self.phase = Phase.COMPLETE
        self.full = self.done = self.claimed = self.recheck = self.delayed = self.unclear = 0
        self.by.clear()
        self.alone.clear()
