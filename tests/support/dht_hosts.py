"""Raw libp2p hosts for tests of the DHT, without `net/host`: the recipe of the measurements."""

from __future__ import annotations

import logging
import socket
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio
from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.network.config import ConnectionConfig
from libp2p.peer.id import ID
from multiaddr import Multiaddr

from p2pcache.errors import Unavailable
from p2pcache.net.dht import Dht, DhtOptions, open_dht

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from p2pcache.content.peerid import PeerId

logging.getLogger("libp2p").propagate = True


@dataclass
class Node:
    host: object
    peer: PeerId
    address: str
    dht: Dht | None = None
    dialed: list[PeerId] = field(default_factory=list)

    async def connect(self, peer: PeerId, addresses: Sequence[str], *, timeout_s: float) -> None:
        known = ID(peer)
        if known in self.host.get_connected_peers():
            return
        self.dialed.append(peer)
        with trio.move_on_after(timeout_s):
            for address in addresses:
                try:
                    await self.host.get_network().dial_addr(Multiaddr(address), known)
                    return
                except Exception:
                    continue
        raise Unavailable("nobody answers")

    def addresses(self) -> tuple[str, ...]:
        return (self.address,)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@asynccontextmanager
async def running_node(
    options: DhtOptions | None = None, *, ip: str = "127.0.0.1", with_dht: bool = True
) -> AsyncIterator[Node]:
    host = new_host(
        key_pair=create_new_key_pair(),
        connection_config=ConnectionConfig(min_connections=0, low_watermark=0, high_watermark=200),
    )
    port = _free_port()
    async with host.run([Multiaddr(f"/ip4/{ip}/tcp/{port}")]):
        try:
            await host.get_network().auto_connector.stop()
            node = Node(host, host.get_id().to_bytes(), f"/ip4/{ip}/tcp/{port}")
            if with_dht:
                async with open_dht(host, node.connect, node.addresses, options) as dht:
                    node.dht = dht
                    yield node
            else:
                yield node
        finally:
            with trio.move_on_after(5, shield=True):
                await host.close()
