"""DAGs in memory: blocks by CID, and a count of what was asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2pcache.content import cid as cids
from p2pcache.content.carstream import CarReader
from p2pcache.content.dag.hashes import verify_cid
from p2pcache.errors import NotFound

if TYPE_CHECKING:
    from collections.abc import Iterable


class Blocks(dict[bytes, bytes]):
    """By binary CIDv1. `asked`: every CID that `get` was called with, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[bytes] = []

    def keep(self, cid: bytes, block: bytes) -> None:
        """As a `Keep` of the importers."""
        self[cids.as_v1(cid)] = block

    def get_block(self, cid: bytes) -> bytes:
        """As the `get` of a driver: verified."""
        self.asked.append(cid)
        if cid not in self:
            raise NotFound(f"no block {cids.format_cid(cid)}")
        verify_cid(cid, self[cid])
        return self[cid]

    async def aget(self, cid: bytes) -> bytes:
        """The same in a task."""
        return self.get_block(cid)


def read_car(data: bytes, step: int = 1 << 16) -> tuple[tuple[bytes, ...], Blocks]:
    """The roots and blocks of a CAR, fed `step` bytes at a time."""
    reader, blocks = CarReader(), Blocks()
    for part in pieces(data, step):
        for found in reader.feed(part):
            blocks.keep(found.cid, found.block)
    reader.close()
    assert reader.roots is not None
    return reader.roots, blocks


def pieces(data: bytes, step: int) -> Iterable[bytes]:
    return (data[at : at + step] for at in range(0, len(data), step))
