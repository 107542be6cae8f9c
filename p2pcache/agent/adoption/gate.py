"""The small file through which a worker that hashes is held up, and tells how far it is."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from p2pcache.lanes.in_place import GATE_BYTES
from p2pcache.store.durable import local_faults

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Gate:
    """Made by `open_gate`."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self._fd = fd
        self.is_shut = False

    def shut(self, wish: bool) -> None:
        """Have the worker wait, or go on."""
        if wish != self.is_shut:
            os.pwrite(self._fd, b"\x01" if wish else b"\x00", 0)
            self.is_shut = wish

    def begin(self) -> None:
        """A new order: nothing of it is hashed."""
        os.pwrite(self._fd, bytes(8), GATE_BYTES - 8)

    def hashed_bytes(self) -> int:
        """Of the order that runs."""
        return int.from_bytes(os.pread(self._fd, 8, GATE_BYTES - 8), "little")


@contextmanager
def open_gate(path: Path) -> Iterator[Gate]:
    """A new file at `path`, open for workers until the end. Raises LocalFault, DiskFull."""
    with local_faults("making the file that hashing is held up with"):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.pwrite(fd, bytes(GATE_BYTES), 0)
        except BaseException:
            os.close(fd)
            raise
    try:
        yield Gate(path, fd)
    finally:
        os.close(fd)
        path.unlink(missing_ok=True)
