"""A tar of a folder that is made to cost memory, or cannot be unpacked."""

from __future__ import annotations

import hashlib
import io
import tarfile
import tracemalloc
from typing import TYPE_CHECKING, Any, cast

import pytest

from p2pcache.content import cid as cids
from p2pcache.content.dag import fsdata, node
from p2pcache.content.dag.fsdata import FsData, Kind
from p2pcache.content.dag.walk import arun, astream
from p2pcache.errors import UsageError
from p2pcache.gateway.kubo_rpc import tar
from tests.support.blobs import MIB
from tests.support.dags import Blocks

if TYPE_CHECKING:
    from p2pcache.gateway.kubo_rpc.call import Call

DIRECTORY = fsdata.encode(FsData(Kind.DIRECTORY))


class Walks:
    """As much of a call as a tar needs."""

    def __init__(self, blocks: Blocks) -> None:
        self._blocks = blocks

    async def run(self, walk: Any) -> Any:
        return await arun(walk, self._blocks.aget)

    def flow(self, flow: Any) -> Any:
        return astream(flow, self._blocks.aget)


def folder(blocks: Blocks, *entries: tuple[bytes, bytes]) -> bytes:
    """Its CID. `entries`: names and CIDs."""
    block = node.encode([node.Link(cid, name, 1) for name, cid in entries], DIRECTORY)
    cid = cids.dagpb_cid(hashlib.sha256(block).digest())
    blocks.keep(cid, block)
    return cid


def file(blocks: Blocks, data: bytes) -> bytes:
    """Its CID."""
    cid = cids.raw_cid(hashlib.sha256(data).digest())
    blocks.keep(cid, data)
    return cid


async def packed(blocks: Blocks, root: bytes) -> bytes:
    return b"".join([p async for p in tar.pieces(cast("Call", Walks(blocks)), root, "top")])


async def test_every_entry_is_in_order_below_its_folder() -> None:
    blocks = Blocks()
    leaf = file(blocks, b"content")
    inner = folder(blocks, (b"x", leaf), (b"y", leaf))
    root = folder(blocks, (b"a", leaf), (b"b", inner), (b"c", leaf))
    with tarfile.open(fileobj=io.BytesIO(await packed(blocks, root))) as made:
        names = ["top", "top/a", "top/b", "top/b/x", "top/b/y", "top/c"]
        assert made.getnames() == names


async def test_a_long_name_above_many_entries_costs_little() -> None:
    blocks = Blocks()
    leaf = file(blocks, b"content")
    inner = folder(blocks, *((b"%d" % i, leaf) for i in range(1000)))
    root = folder(blocks, (b"n" * 300_000, inner))
    tracemalloc.start()
    try:
        with pytest.raises(UsageError, match="4096 bytes"):
            await packed(blocks, root)
        assert tracemalloc.get_traced_memory()[1] < 32 * MIB
    finally:
        tracemalloc.stop()


async def test_a_path_as_long_as_may_be_above_many_entries_costs_little() -> None:
    blocks = Blocks()
    inner = folder(blocks, *((b"%d" % i, cids.raw_cid(bytes(32))) for i in range(20_000)))
    root = folder(blocks, (b"n" * 4000, inner))
    tracemalloc.start()
    try:
        with pytest.raises(Exception, match="no block"):
            await packed(blocks, root)
        assert tracemalloc.get_traced_memory()[1] < 32 * MIB
    finally:
        tracemalloc.stop()
