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
from p2pcache.content.dag.hashes import verify_cid
from p2pcache.errors import NotFound, Untrusted, UsageError
from p2pcache.store.durable import local_faults

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_LENGTH_BITS = 24  # a block has at most 2 MiB: place and length share one number
_CHECK_EVERY = 4096  # sections; some 10 ms


class Blocks:
    """An open CAR. `roots`: its roots, as written, each once. `size_bytes`: of the file."""

    def __init__(
        self, path: Path, descriptor: int, roots: tuple[bytes, ...], size_bytes: int
    ) -> None:
        self.roots = roots
        self._path = path
        self.size_bytes = size_bytes
        self._descriptor = descriptor
        self._places: dict[bytes, int] = {}  # by multihash: one block may go by several codecs

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, cid: bytes) -> bool:
        return cids.multihash(cid) in self._places

    def get(self, cid: bytes) -> bytes:
        """The bytes that a CID names. Raises Untrusted: not in the file, or not these bytes."""
        place = self._place(cid)
        return self._read(cid, place >> _LENGTH_BITS, place & (1 << _LENGTH_BITS) - 1)

    def length(self, cid: bytes) -> int:
        """The bytes that its section has; nobody has read them yet. Raises Untrusted: not there."""
        return self._place(cid) & (1 << _LENGTH_BITS) - 1

    def each(self) -> Iterator[tuple[bytes, int]]:
        """The multihash and length of every block, in the order of the file, unverified."""
        for multihash, place in self._places.items():
            yield multihash, place & (1 << _LENGTH_BITS) - 1

    def _read(self, cid: bytes, start: int, length: int) -> bytes:
        data = os.pread(self._descriptor, length, start)
        try:
            verify_cid(cid, data)
        except Untrusted as exc:
            raise Untrusted(
                f"`{self._path}` is damaged at byte {start}: {exc.message}",
                hint="copy the file again, or export it again",
            ) from exc
        return data

    def _place(self, cid: bytes) -> int:
        place = self._places.get(cids.multihash(cid))
        if place is None:
            raise Untrusted(
                f"the CAR lacks the block {cids.format_cid(cid)}",
                hint="it is not whole: export it again",
            )
        return place

    def scan(self, at: int, most: int, go_on: Callable[[], None]) -> None:
        """Note where every block lies, from the first section at `at` on to `most`. Raises
        Untrusted.
        """
        number = 0
        while at < most:
            section = car.parse_section(os.pread(self._descriptor, car.HEAD_BYTES, at))
            start, end = at + section.start, at + section.end
            if end > most:
                raise Untrusted(
                    f"the CAR is cut short: a block at byte {at} ends after the file does",
                    hint="copy the file again",
                )
            if cids.multihash(section.cid)[0] == cids.IDENTITY:
                self._read(section.cid, start, end - start)  # it stands in its CID, wherever used
            else:
                place = start << _LENGTH_BITS | (end - start)
                self._places.setdefault(cids.multihash(section.cid), place)
            if len(self._places) > MAX_BLOCKS:
                raise Untrusted(f"the CAR has more than {MAX_BLOCKS} blocks")
            at = end
            number += 1
            if number % _CHECK_EVERY == 0:
                go_on()


def _header(descriptor: int, size_bytes: int) -> tuple[tuple[bytes, ...], int, int]:
    """The roots, where the first section begins, and where the last one ends."""
    roots, end = _header_at(descriptor, 0)
    if roots is None:
        skipped, length = car.parse_v2(os.pread(descriptor, car.V2_HEADER_BYTES, end))
        begin = end + car.V2_HEADER_BYTES + skipped
        if begin + length > size_bytes:
            raise Untrusted("a CARv2 is cut short", hint="copy the file again")
        size_bytes = begin + length
        roots, end = _header_at(descriptor, begin)
    if roots is None:
        raise Untrusted("a CARv2 within a CARv2")
    if end > size_bytes:
        raise Untrusted("a CARv2 whose header ends behind its data")
    if not roots:
        raise Untrusted("a CAR without roots: nobody could say what is in it")
    return tuple({cids.as_v1(root): root for root in roots}.values()), end, size_bytes


def _header_at(descriptor: int, begin: int) -> tuple[tuple[bytes, ...] | None, int]:
    start, end = car.header_extent(os.pread(descriptor, car.HEAD_BYTES, begin))
    return car.parse_header(os.pread(descriptor, end - start, begin + start)), begin + end


@contextmanager
def open_blocks(path: Path, go_on: Callable[[], None]) -> Iterator[Blocks]:
    """Open and scan. `go_on` may raise to stop the scan. Raises NotFound, UsageError (no file),
    Untrusted (no CAR, or not whole), LocalFault.
    """
    with local_faults(f"reading {path}"):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # no waiting
        except FileNotFoundError as exc:
            raise NotFound(f"there is no file `{path}`") from exc
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise UsageError(
                    f"`{path}` is no regular file", hint="a CAR is one file; `-` is standard input"
                )
            try:
                roots, begin, end = _header(descriptor, found.st_size)
            except Untrusted as exc:
                raise Untrusted(
                    f"`{path}` is no CAR: {exc.message}",
                    hint=exc.hint or "a CAR is what `p2pcache export` or `ipfs dag export` writes",
                ) from exc
            blocks = Blocks(path, descriptor, roots, found.st_size)
            blocks.scan(begin, end, go_on)
            yield blocks
        finally:
            os.close(descriptor)
