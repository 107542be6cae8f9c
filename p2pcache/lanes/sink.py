"""Where verified blocks of one partial blob go: data first, then the map, then the live byte.

All three are plain positioned writes. The order holds for every reader of the page cache, and a
write of one byte is atomic, so other processes may set neighbouring live bytes meanwhile. Not a
mapping: a full disk or a truncated file under a mapping is SIGBUS, which ends the process, while
a failed `pwrite` is an error with a number.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Self

from p2pcache.lanes.faults import Ended, disk_fault, ended
from p2pcache.lanes.orders import BLOCK_BYTES, FaultKind

if TYPE_CHECKING:
    from p2pcache.lanes.orders import FetchOrder


class BlockSink:
    """The files of one order, open. Takes blocks in order; raises `Ended` on any fault.

    Two ways in. `put`: a whole block, written only if it is wanted. `write_part` and `keep`: the
    block's bytes as they arrive, then its digest; the bytes of a block that never gets that far
    lie unseen in the sparse file. A block that is live is never overwritten (looked up again right
    before each write: a duplicate order may have finished it meanwhile), except by `compare`.

    Files are opened for each order (30 us beside the 8 ms of a piece) and never kept: a partial
    may be discarded or published between two orders, and a kept descriptor would write on into it.
    """

    def __init__(self, order: FetchOrder) -> None:
        self.done = order.start
        self.changed: list[int] = []
        self._order = order
        self._digests = bytearray()
        self._fds: list[int] = []

    def __enter__(self) -> Self:
        order = self._order
        try:
            for path in (order.data_path, order.map_path, order.live_path):
                self._fds.append(os.open(path, os.O_RDWR | os.O_CLOEXEC))
            first, last = order.start // BLOCK_BYTES, -(-order.end // BLOCK_BYTES)
            self._first = first
            self._map = os.pread(self._fds[1], 32 * (last - first), 32 * first)
        except OSError as exc:
            self.__exit__()
            raise Ended(disk_fault(exc, "open the partial blob")) from exc
        return self

    def __exit__(self, *_exc: object) -> None:
        while self._fds:
            os.close(self._fds.pop())

    @property
    def digests(self) -> bytes:
        """sha2-256 of every block in [start, done), joined."""
        return bytes(self._digests)

    @property
    def holds(self) -> bool:
        """Whether a block must be whole and checked before any of it may be written (`put`)."""
        return self._order.expected is not None or self._order.compare

    def put(self, block: memoryview, digest: bytes) -> None:
        """Keep one block whose sha2-256 is `digest`, unless it is there, or is not as expected."""
        index = (self.done - self._order.start) // BLOCK_BYTES
        at = slice(32 * index, 32 * index + 32)
        expected = self._order.expected
        if expected is not None and expected[at] != digest:
            raise ended(
                FaultKind.UNTRUSTED,
                f"block {self._first + index} has sha2-256 {digest.hex()}, "
                f"expected {expected[at].hex()}",
            )
        if not self._order.compare:
            self.write_part(0, block)
        elif self._map[at] != digest:
            self._mark(b"\x00")  # nobody may serve it half rewritten
            self.write_part(0, block)
            self.changed.append(self._first + index)
        self.keep(len(block), digest)

    def write_part(self, at: int, part: memoryview) -> None:
        """Write bytes of the current block, from `at` within it, unless the block is live."""
        try:
            if not self._is_live():
                _write_all(self._fds[0], part, self.done + at)
        except OSError as exc:
            raise Ended(disk_fault(exc, "write the partial blob")) from exc

    def keep(self, size: int, digest: bytes) -> None:
        """The current block is written: record its digest, make it live, go to the next one."""
        try:
            if not self._is_live():
                _write_all(self._fds[1], memoryview(digest), self.done // BLOCK_BYTES * 32)
        except OSError as exc:
            raise Ended(disk_fault(exc, "write the block map")) from exc
        self._mark(b"\x01")
        self._digests += digest
        self.done += size

    def _is_live(self) -> bool:
        return os.pread(self._fds[2], 1, self.done // BLOCK_BYTES) == b"\x01"

    def _mark(self, live: bytes) -> None:
        try:
            os.pwrite(self._fds[2], live, self.done // BLOCK_BYTES)
        except OSError as exc:
            raise Ended(disk_fault(exc, "mark a block")) from exc


def _write_all(fd: int, data: memoryview, offset: int) -> None:
    while data:  # a write may be cut short by a signal or a nearly full disk
        written = os.pwrite(fd, data, offset)
        data, offset = data[written:], offset + written
