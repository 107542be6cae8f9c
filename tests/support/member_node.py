"""A member in a process of its own, to be frozen or killed.

`python -m tests.support.member_node KEY` prints one JSON line and lives until stdin is closed.
"""

from __future__ import annotations

import json
import sys

import trio

from p2pcache.content.peerid import format_peer_id
from p2pcache.net.host import open_host
from p2pcache.net.identity import Identity
from p2pcache.net.network import open_network
from p2pcache.net.network_key import NetworkKey
from tests.support.members import LANE, DictShelf
from tests.support.net_node import LOOPBACK


async def main(key):
    async with (
        open_host(Identity.generate(), key, LOOPBACK) as host,
        open_network(host, DictShelf(), lane=LANE, agent="node") as network,
    ):
        said = {"peer": format_peer_id(host.peer_id), "addresses": host.addresses()}
        print(json.dumps(said), flush=True)
        await trio.to_thread.run_sync(sys.stdin.read, abandon_on_cancel=True)
        assert network.members() is not None


if __name__ == "__main__":
    trio.run(main, NetworkKey(bytes.fromhex(sys.argv[1])))
