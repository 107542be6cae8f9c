"""A whole DAG over a bitswap session, many blocks at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from p2pcache.content import cid as cids
from p2pcache.content.dag.links import links

if TYPE_CHECKING:
    from p2pcache.net.bitswap.driver import Bitswap

AT_ONCE = 256


async def fetch_all(bitswap: Bitswap, root: bytes, *, timeout_s: float = 60) -> dict[bytes, bytes]:
    """Every block below a root, by CID."""
    got: dict[bytes, bytes] = {}
    places = trio.CapacityLimiter(AT_ONCE)
    async with bitswap.session() as session, trio.open_nursery() as nursery:

        async def one(cid: bytes) -> None:
            async with places:
                got[cid] = block = await session.get(cid, timeout_s=timeout_s)
            if cids.codec(cid) != cids.RAW:
                for child in links(cid, block):
                    if child not in got:
                        nursery.start_soon(one, child)

        nursery.start_soon(one, root)
    return got
