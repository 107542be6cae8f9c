"""What running requests have received so far, where their agent can read it at any moment: also
when a worker was killed, whose report never comes.

A small file that both map; each request has a slot of its own, written by its worker alone.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
import threading
from typing import TYPE_CHECKING

from p2pcache.lanes.orders import Slot

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_COUNT = struct.Struct("=Q")
SLOTS = 4096  # 16 for each pull that may run; what is beyond is not counted


class Odometer:
    """The agent's side. Made by `open_odometer`."""

    def __init__(self, path: Path, view: mmap.mmap) -> None:
        self._path = path
        self._view = view
        self._free = list(range(SLOTS))

    def begin(self) -> Slot | None:
        """A slot at 0; None when all are taken."""
        if not self._free:
            return None
        number = self._free.pop()
        _COUNT.pack_into(self._view, _COUNT.size * number, 0)
        return Slot(str(self._path), number)

    def read(self, slot: Slot) -> int:
        """Body bytes that its request received."""
        count: int = _COUNT.unpack_from(self._view, _COUNT.size * slot.number)[0]
        return count

    def end(self, slot: Slot) -> None:
        """Its request is over."""
        self._free.append(slot.number)


@contextlib.contextmanager
def open_odometer(path: Path) -> Iterator[Odometer]:
    """A new file at `path`, gone at the end. Raises OSError: all its bytes have a place on the disk
    from the beginning, for whoever writes into a hole of a mapped file on a full disk is killed.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        try:
            os.posix_fallocate(fd, 0, _COUNT.size * SLOTS)
            view = mmap.mmap(fd, 0)
        finally:
            os.close(fd)
        with view:
            yield Odometer(path, view)
    finally:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def counting(slot: Slot | None) -> Iterator[Callable[[int], None]]:
    """The worker's side: what to call with each count of bytes that arrived, from any thread of one
    call. Without a slot, or where the file is gone, nothing is counted: the report tells the rest.
    """
    try:
        fd = -1 if slot is None else os.open(slot.path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        fd = -1
    if slot is None or fd < 0:
        yield lambda _: None
        return
    try:
        view = mmap.mmap(fd, 0)
    finally:
        os.close(fd)
    lock, at = threading.Lock(), _COUNT.size * slot.number
    total: int = _COUNT.unpack_from(view, at)[0]  # of a worker that died and was replaced

    def add(count: int) -> None:
        nonlocal total
        with lock:
            total += count
            _COUNT.pack_into(view, at, total)

    with view:
        yield add
