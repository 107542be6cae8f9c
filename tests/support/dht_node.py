"""A DHT node in a process of its own: `python -m tests.support.dht_node <address of another>`.

Prints `<peer> <address>`; then each line of stdin is `provide|withdraw <hex>` and is answered `ok`.
"""

from __future__ import annotations

import sys

import trio

from p2pcache.content.peerid import format_peer_id
from p2pcache.net.remote_address import split_peer
from tests.support.dht_hosts import running_node


async def _main(other: str) -> None:
    async with running_node() as node:
        peer, address = split_peer(other)
        await node.host.connect(peer, [address], timeout_s=5)
        node.dht.saw(peer, [address])
        await trio.sleep(0.2)
        print(format_peer_id(node.peer), node.addresses()[0], flush=True)
        while line := await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True):
            verb, name = line.split()
            getattr(node.dht, verb)([bytes.fromhex(name)])
            await node.dht.wait_announced()
            print("ok", flush=True)


if __name__ == "__main__":
    trio.run(_main, sys.argv[1])
