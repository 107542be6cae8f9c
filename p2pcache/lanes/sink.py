"""Where verified blocks of one partial blob go: data first, then the map, then the live byte.

All three are plain positioned writes. The order holds for every reader of the page cache, and a
write of one byte is atomic, so other processes may set neighbouring live bytes meanwhile. Not a
mapping: a full disk or a truncated file under a mapping is SIGBUS, which ends the process, while
a failed `pwrite` is an error with a number.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from typing import TYPE_CHECKING, Self

from p2pcache.lanes.faults import Ended, disk_fault
from p2pcache.lanes.orders import BLOCK_BYTES, UNKNOWN_HASH, Fault, FaultKind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from p2pcache.lanes.orders import FetchOrder


class BlockSink:
    """The files of one order, open. Takes blocks in order; raises `Ended` on any fault.

    A live block is not overwritten, except by `compare`; looked up right before each write,
    because a duplicate order may have finished the block meanwhile. When the two differ, the
    report's digest says so and the whole digest decides who was right.

    Files are opened for each order (30 us beside the 8 ms of a piece) and never kept: a partial
    may be discarded or published between two orders, and a kept descriptor would write on into it.
    """

    def __init__(self, order: FetchOrder) -> None:
        self.done = order.start
        self.changed: list[int] = []
        self.hashed = order.hashed
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
        """sha2-256 of every block in [start, done), joined; none where they are not `hashed`."""
        return bytes(self._digests) if self.hashed else b""

    def put(self, block: memoryview, digest: bytes) -> None:
        """Keep one block whose sha2-256 is `digest` (UNKNOWN_HASH when not `hashed`), unless it is
        there, or is not as expected.
        """
        index = (self.done - self._order.start) // BLOCK_BYTES
        at = slice(32 * index, 32 * index + 32)
        expected = self._order.expected
        if expected is not None and expected[at] not in (digest, UNKNOWN_HASH):
            text = f"sha2-256 {digest.hex()}, expected {expected[at].hex()}"
            raise Ended(
                Fault(
                    FaultKind.UNTRUSTED,
                    f"block {self._first + index} has {text}",
                    arrived=digest,
                )
            )
        number = self._first + index
        try:
            if not self._order.compare:
                with _alone(self._fds[2], number):
                    if os.pread(self._fds[2], 1, number) != b"\x01":
                        self._write(number, block, digest)
            elif self._map[at] != digest:
                os.pwrite(self._fds[2], b"\x00", number)  # nobody may serve it half rewritten
                self._write(number, block, digest)
                self.changed.append(number)
        except OSError as exc:
            raise Ended(disk_fault(exc, "write the partial blob")) from exc
        self._digests += digest
        self.done += len(block)

    def _write(self, number: int, block: memoryview, digest: bytes) -> None:
        data, map_, live = self._fds
        _write_all(data, block, number * BLOCK_BYTES)
        _write_all(map_, memoryview(digest), number * 32)
        os.pwrite(live, b"\x01", number)


@contextlib.contextmanager
def _alone(live: int, number: int) -> Iterator[None]:
    """No other process is writing this block: a piece may be asked for twice, of one who lies too,
    and data and hash must be of one of them. Let go by the kernel when the process dies.

    Where a file system has no record locks the whole digest alone tells.
    """
    with contextlib.suppress(OSError):
        fcntl.lockf(live, fcntl.LOCK_EX, 1, number)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            fcntl.lockf(live, fcntl.LOCK_UN, 1, number)


def _write_all(fd: int, data: memoryview, offset: int) -> None:
    while data:  # a write may be cut short by a signal or a nearly full disk
        written = os.pwrite(fd, data, offset)
        data, offset = data[written:], offset + written
