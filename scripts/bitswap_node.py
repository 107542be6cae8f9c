"""One end of `scripts/bench bitswap`: a host with bitswap over blocks in memory, told what to do.

Reads commands as JSON lines and answers each with one; `--key HEX` is the network's, without it the
network is open (Kubo's own speed is measured so).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from random import Random
from typing import TYPE_CHECKING, Any

import trio

from p2pcache.content import cid as cids
from p2pcache.content.peerid import format_peer_id, parse_peer_id
from p2pcache.net.bitswap.driver import Bitswap, open_bitswap
from p2pcache.net.host import Libp2pHost, open_host
from p2pcache.net.identity import Identity
from p2pcache.net.network_key import NetworkKey
from tests.support.bitswap_dag import fetch_all
from tests.support.bitswap_store import MemoryBlocks

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

READ_S = 30.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--key")
    args = parser.parse_args()
    trio.run(serve, None if args.key is None else NetworkKey(bytes.fromhex(args.key)))


async def serve(key: NetworkKey | None) -> None:
    blocks = MemoryBlocks()
    async with (
        open_host(Identity.generate(), key, ["/ip4/127.0.0.1/tcp/0"]) as host,
        open_bitswap(host, blocks) as bitswap,
    ):
        blocks.tell = bitswap.arrived
        node = Node(host, bitswap, blocks)
        me = {"peer": format_peer_id(host.peer_id), "addresses": host.addresses()}
        print(json.dumps(me), flush=True)
        while line := await trio.to_thread.run_sync(sys.stdin.readline):
            command = json.loads(line)
            act: Callable[..., Awaitable[Any]] = getattr(node, command.pop("do"))
            print(json.dumps(await act(**command)), flush=True)


class Node:
    """What can be told."""

    def __init__(self, host: Libp2pHost, bitswap: Bitswap, blocks: MemoryBlocks) -> None:
        self._host = host
        self._bitswap = bitswap
        self._blocks = blocks

    async def add(self, seed: int, size: int) -> str:
        """A file of random bytes; its root."""
        return cids.format_cid(self._blocks.add_file(Random(seed).randbytes(size)).cid)

    async def connect(self, peer: str, addresses: list[str]) -> None:
        await self._host.connect(parse_peer_id(peer), addresses, timeout_s=READ_S)

    async def fetch(self, root: str) -> int:
        """All below a root; its bytes."""
        return sum(map(len, (await fetch_all(self._bitswap, cids.parse_cid(root))).values()))

    async def again(self) -> int:
        """Blocks that came twice."""
        return self._bitswap.statistics()["blocks_received_again_total"]

    async def late(self, pause_s: float) -> dict[str, Any]:
        """A block that will be here later; its CID, and when by this machine's clock."""
        data = os.urandom(3000)
        cid = cids.raw_cid(hashlib.sha256(data).digest())
        at = time.monotonic() + pause_s

        async def put() -> None:
            await trio.sleep(pause_s)
            self._blocks.put(data)

        trio.lowlevel.spawn_system_task(put)
        return {"cid": cids.format_cid(cid), "at": at}

    async def get(self, cid: str) -> float:
        """One block, waited for; when it was here."""
        async with self._bitswap.session() as session:
            await session.get(cids.parse_cid(cid), timeout_s=READ_S, patient=True)
        return time.monotonic()


if __name__ == "__main__":
    main()
