"""Blocks in memory behind the part of `content.blocks.Blocks` that bitswap serves from."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from p2pcache.content import cid as cids
from p2pcache.content.unixfs import FileImporter, Root, tree
from p2pcache.errors import NotFound

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

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

    def add_file(self, data: bytes) -> Root:
        """All blocks of a file; its root."""
        importer = FileImporter(self._keep)
        for start in range(0, max(1, len(data)), BLOCK_BYTES):
            leaf = data[start : start + BLOCK_BYTES]
            importer.add_leaf(self.put(leaf)[4:], len(leaf))
        return importer.finish()

    def add_folder(self, files: Mapping[str, bytes]) -> bytes:
        """All blocks of a folder; its root."""
        roots = {path: self.add_file(data) for path, data in files.items()}
        return tree(roots, keep=self._keep).cid

    def _keep(self, cid: bytes, block: bytes) -> None:
        self._held[cids.multihash(cid)] = block
