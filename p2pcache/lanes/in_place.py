"""Hashes files of others where they lie, when nobody waits for it: at the lowest priority, at a
bounded rate, and not at all while the agent says so.

A file counts only if it was one and the same from before its first byte to after its last: who
writes to it meanwhile changes its times, and what was read then may be neither of two versions.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import stat
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from p2pcache.lanes.faults import CHANGED
from p2pcache.lanes.follow import at_lowest_priority
from p2pcache.lanes.orders import BLOCK_BYTES
from p2pcache.lanes.pace import Pacer

if TYPE_CHECKING:
    from collections.abc import Iterator

GATE_BYTES = 16  # the first: 1 is "wait"; the last eight: bytes that were hashed so far
WAIT_S = 0.05  # between two looks at a gate that is shut
_COUNT_AT = 8


@dataclass(frozen=True, slots=True)
class InPlace:
    """A file, and how it was when it was found."""

    path: str
    device: int
    inode: int
    size: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class HashOrder:
    """Files to hash, in order. `gate_path`: see GATE_BYTES. `git_most_bytes`: up to this size a
    file's git sha1 is computed, too.
    """

    files: tuple[InPlace, ...]
    gate_path: str
    rate_bytes_per_s: float | None
    git_most_bytes: int


@dataclass(frozen=True, slots=True)
class Hashed:
    """What a file is. `block_digests`: the sha2-256 of each block, joined."""

    sha256: bytes
    git_sha1: bytes | None
    block_digests: bytes = field(repr=False)


def hash_in_place(order: HashOrder) -> list[Hashed | str]:
    """For each file what it is, or why that is not known. Killed at any time, nothing is left."""
    return at_lowest_priority(_hash_all, order)


def _hash_all(order: HashOrder) -> list[Hashed | str]:
    rate = order.rate_bytes_per_s
    gate = _Gate(order.gate_path, None if rate is None else Pacer(rate))
    buffer = memoryview(mmap.mmap(-1, BLOCK_BYTES))  # begins at a page: see `receive`
    try:
        return [_one(file, order.git_most_bytes, gate, buffer) for file in order.files]
    finally:
        gate.close()


class _Gate:
    """Keeps the rate, stops while the agent wants it, and tells how far it is."""

    def __init__(self, path: str, pacer: Pacer | None) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self._pacer = pacer
        self._hashed = 0

    def pass_(self, count: int) -> None:
        self._hashed += count
        os.pwrite(self._fd, self._hashed.to_bytes(8, "little"), _COUNT_AT)
        while os.pread(self._fd, 1, 0) == b"\x01":
            time.sleep(WAIT_S)
        if self._pacer is not None:
            time.sleep(self._pacer.delay_s(count))

    def close(self) -> None:
        os.close(self._fd)


def _one(file: InPlace, git_most_bytes: int, gate: _Gate, buffer: memoryview) -> Hashed | str:
    # O_NONBLOCK: what became a pipe meanwhile must not hold the worker for ever
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW
    try:
        fd = os.open(file.path, flags)
        try:
            before = os.fstat(fd)
            if not _is_same(before, file):
                return CHANGED
            git = None
            if file.size <= git_most_bytes:
                git = hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)
            sha256, blocks = hashlib.sha256(), bytearray()
            for block in _blocks(fd, file.size, buffer):
                sha256.update(block)
                if git is not None:
                    git.update(block)
                blocks += hashlib.sha256(block).digest()
                gate.pass_(len(block))
            after = os.fstat(fd)
            # not mtime alone: whoever sets it back cannot set this one back
            if not _is_same(after, file) or after.st_ctime_ns != before.st_ctime_ns:
                return CHANGED
        finally:
            os.close(fd)
    except OSError as exc:
        return exc.strerror or str(exc)
    except EOFError:
        return CHANGED
    return Hashed(sha256.digest(), None if git is None else git.digest(), bytes(blocks))


def _blocks(fd: int, size: int, buffer: memoryview) -> Iterator[memoryview]:
    for start in range(0, size, BLOCK_BYTES):
        count = min(BLOCK_BYTES, size - start)
        if os.preadv(fd, [buffer[:count]], start) != count:
            raise EOFError
        yield buffer[:count]


def _is_same(found: os.stat_result, file: InPlace) -> bool:
    return stat.S_ISREG(found.st_mode) and (
        found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns,
    ) == (file.device, file.inode, file.size, file.mtime_ns)  # fmt: skip
