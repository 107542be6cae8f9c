"""`get` of CIDs whose blocks come one by one: many at once."""

from __future__ import annotations

import hashlib

import trio
import trio.to_thread

from p2pcache.content import cid as cids
from p2pcache.content.cid import format_cid
from p2pcache.content.unixfs import file_root
from tests.support.inside import Inside, agent_inside
from tests.support.stored import MIB, content


class Slow:
    """A fetcher that has the blocks, after a while."""

    def __init__(self) -> None:
        self.blocks: dict[bytes, bytes] = {}

    def add(self, data: bytes) -> str:
        """A file's root, as text."""
        hashes = []
        for at in range(0, len(data), MIB):
            hashes.append(hashlib.sha256(data[at : at + MIB]).digest())
            self.blocks[cids.raw_cid(hashes[-1])] = data[at : at + MIB]
        return format_cid(file_root(hashes, len(data), self.blocks.__setitem__).cid)

    async def fetch(self, cid: bytes) -> bytes | None:
        await trio.sleep(0.05)
        return self.blocks.get(cid)

    def lied(self, cid: bytes) -> None:
        raise AssertionError(cid)


async def test_more_gets_at_once_than_threads_all_end(tmp_path):
    slow, sizes = Slow(), []
    files = [slow.add(content(MIB + 1 + number, number)) for number in range(8)]
    trio.to_thread.current_default_thread_limiter().total_tokens = 4

    async def one(inside: Inside, root: str) -> None:
        sizes.append((await inside("get", ref=f"ipfs://{root}"))["total_bytes"])

    with trio.fail_after(30):
        async with agent_inside(tmp_path / "home") as inside:
            inside.parts.ipfs.fetchers.append(slow)
            async with trio.open_nursery() as nursery:
                for root in files:
                    nursery.start_soon(one, Inside(inside.parts), root)
    assert sorted(sizes) == [MIB + 1 + number for number in range(8)]
