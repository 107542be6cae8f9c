"""What one request may take of the agent's limit of downloads, or of pushes, where its worker can
read it at any moment: it changes as others begin and end, and with the hours of the day.

A small file with one number that both map: bytes per second, 0 for no limit.
"""

from __future__ import annotations

import contextlib
import functools
import mmap
import os
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_RATE = struct.Struct("=d")


class Throttle:
    """The agent's side. Made by `open_throttle`."""

    def __init__(self, path: Path, view: mmap.mmap) -> None:
        self.path = path
        self._view = view

    def set(self, bytes_per_s: float | None) -> None:
        """Of each request that runs, from now on; None: no limit."""
        _RATE.pack_into(self._view, 0, 0.0 if bytes_per_s is None else max(bytes_per_s, 1.0))


@contextlib.contextmanager
def open_throttle(path: Path) -> Iterator[Throttle]:
    """A new file at `path`, gone at the end. Raises OSError: its bytes have a place on the disk."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        try:
            os.pwrite(fd, bytes(_RATE.size), 0)
            view = mmap.mmap(fd, _RATE.size)
        finally:
            os.close(fd)
        with view:
            yield Throttle(path, view)
    finally:
        path.unlink(missing_ok=True)


def allowed(path: str) -> Callable[[], float | None]:
    """The worker's side: gives the rate of this moment. No file: no limit."""
    view = _view(path)

    def rate() -> float | None:
        if view is None:
            return None
        (found,) = _RATE.unpack_from(view, 0)
        return found or None

    return rate


@functools.lru_cache(maxsize=4)  # a worker has one agent, which has two
def _view(path: str) -> mmap.mmap | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return mmap.mmap(fd, _RATE.size, prot=mmap.PROT_READ)
    finally:
        os.close(fd)
