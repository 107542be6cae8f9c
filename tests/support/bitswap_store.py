"""Blocks in memory behind the part of `content.blocks.Blocks` that bitswap serves from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2pcache.content import cid as cids
from p2pcache.content.unixfs import FileImporter
from p2pcache.content.verify import hashlib
from p2pcache.errors import NotFound

if TYPE_CHECKING:
    from collections.abc import Callable

BLOCK_BYTES = 1 << 20


class MemoryBlocks:
    """`put` tells the watcher, as the real ones do."""

    def __init__(self) -> None:
        self._held: dict[bytes, bytes] = {}
        self.tell: Callable[[bytes | None], None] = lambda _: None

    async def length(self, cid: bytes) -> int | None:
        data = self._held.get(cids.multihash(cid))
        return None if data is None else len(data)

    async def get(self, cid: bytes, *, local: bool = False) -> bytes:
        try:
            return self._held[cids.multihash(cid)]
        except KeyError:
            raise NotFound("not here") from None

    def put(self, data: bytes, codec: int = cids.RAW) -> bytes:
        """Keep a block; its CID."""
        cid = cids.make_cid(codec, b"\x12\x20" + hashlib.sha256(data).digest())
        self._held[cids.multihash(cid)] = data
        self.tell(cids.multihash(cid))
        return cid

    def remove(self, cid: bytes) -> None:
        del self._held[cids.multihash(cid)]

    def add_file(self, data: bytes) -> bytes:
        """All blocks of a file; its root."""

        def keep(cid: bytes, block: bytes) -> None:
            self._held[cids.multihash(cid)] = block

        importer = FileImporter(keep)
        for start in range(0, max(1, len(data)), BLOCK_BYTES):
            leaf = data[start : start + BLOCK_BYTES]
            importer.add_leaf(self.put(leaf)[4:], len(leaf))
        return importer.finish().cid
