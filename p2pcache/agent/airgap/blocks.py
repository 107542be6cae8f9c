"""The blocks of a CAR on disk: found in one pass over the frames, verified whenever one is read.

Blocking. The pass reads 64 bytes of each section; memory is some 200 bytes a block.
"""

from __future__ import annotations

import os
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING

from p2pcache.agent.airgap.write import MAX_BLOCKS
from p2pcache.content import car
from p2pcache.content import cid as cids
from p2pcache.content.verify import verify_block
from p2pcache.errors import NotFound, Untrusted, UsageError
from p2pcache.store.durable import local_faults

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_LENGTH_BITS = 24  # a block has at most 2 MiB: place and length share one number
_CHECK_EVERY = 4096  # sections; some 10 ms


class Blocks:
    """An open CAR. `roots`: its roots, binary CIDv1. `size_bytes`: of the file."""

    def __init__(
        self, path: Path, descriptor: int, roots: tuple[bytes, ...], size_bytes: int
    ) -> None:
        self.roots = roots
        self._path = path
        self.size_bytes = size_bytes
        self._descriptor = descriptor
        self._places: dict[bytes, int] = {}  # by the digest: one block may go by several codecs

    def __len__(self) -> int:
        return len(self._places)

    def get(self, cid: bytes) -> bytes:
        """The bytes that a CID names. Raises Untrusted: not in the file, or not these bytes."""
        place = self._place(cid)
        length = place & (1 << _LENGTH_BITS) - 1
        data = os.pread(self._descriptor, length, place >> _LENGTH_BITS)
        try:
            verify_block(cid[4:], data)
        except Untrusted as exc:
            raise Untrusted(
                f"`{self._path}` is damaged at byte {place >> _LENGTH_BITS}: {exc.message}",
                hint="copy the file again, or export it again",
            ) from exc
        return data

    def length(self, cid: bytes) -> int:
        """The bytes that its section has; nobody has read them yet. Raises Untrusted: not there."""
        return self._place(cid) & (1 << _LENGTH_BITS) - 1

    def _place(self, cid: bytes) -> int:
        place = self._places.get(cid[4:])
        if place is None:
            raise Untrusted(
                f"the bundle lacks the block {cids.format_cid(cid)}",
                hint="it is not whole: export it again",
            )
        return place

    def scan(self, at: int, go_on: Callable[[], None]) -> None:
        """Note where every block lies, from the first section on. Raises Untrusted."""
        number = 0
        while at < self.size_bytes:
            section = car.parse_section(os.pread(self._descriptor, car.HEAD_BYTES, at))
            end = at + section.end
            if end > self.size_bytes:
                raise Untrusted(
                    f"the bundle is cut short: a block at byte {at} ends after the file does",
                    hint="copy the file again",
                )
            place = (at + section.start) << _LENGTH_BITS | (section.end - section.start)
            self._places.setdefault(section.cid[4:], place)
            if len(self._places) > MAX_BLOCKS:
                raise Untrusted(f"the bundle has more than {MAX_BLOCKS} blocks")
            at = end
            number += 1
            if number % _CHECK_EVERY == 0:
                go_on()


def _header(path: Path, descriptor: int) -> tuple[tuple[bytes, ...], int]:
    """The roots, and where the first section begins."""
    try:
        start, end = car.header_extent(os.pread(descriptor, car.HEAD_BYTES, 0))
        return tuple(car.parse_header(os.pread(descriptor, end - start, start))), end
    except Untrusted as exc:
        raise Untrusted(
            f"`{path}` is no bundle: {exc.message}",
            hint=exc.hint or "a bundle is a CAR file (version 1), as `p2pcache export` writes it",
        ) from exc


@contextmanager
def open_blocks(path: Path, go_on: Callable[[], None]) -> Iterator[Blocks]:
    """Open and scan. `go_on` may raise to stop the scan. Raises NotFound, UsageError (no file),
    Untrusted (no CARv1, or not whole), LocalFault.
    """
    with local_faults(f"reading {path}"):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # no waiting
        except FileNotFoundError as exc:
            raise NotFound(f"there is no file `{path}`") from exc
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise UsageError(f"`{path}` is no regular file", hint="a bundle is one CAR file")
            roots, end = _header(path, descriptor)
            blocks = Blocks(path, descriptor, roots, found.st_size)
            blocks.scan(end, go_on)
            yield blocks
        finally:
            os.close(descriptor)
