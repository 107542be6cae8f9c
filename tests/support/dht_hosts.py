"""Raw libp2p hosts for tests of the DHT, without `net/host`: the recipe of the measurements."""

from __future__ import annotations

import logging
import socket
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
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
from tests.support.libp2p_mended import apply

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from p2pcache.content.peerid import PeerId

logging.getLogger("libp2p").propagate = True  # else it writes to stderr itself
apply()


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
                except Exception:  # noqa: BLE001 - libp2p's own tree of errors
                    continue
        raise Unavailable("nobody answers")

    def addresses(self) -> tuple[str, ...]:
        return (self.address,)

    def open_dht(self, options: DhtOptions | None) -> AbstractAsyncContextManager[Dht]:
        return open_dht(self.host, self.connect, self.addresses, options)


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
                async with node.open_dht(options) as dht:
                    node.dht = dht
                    yield node
            else:
                yield node
        finally:
            with trio.move_on_after(5, shield=True):
                await host.close()


@asynccontextmanager
async def network(count: int, options: DhtOptions | None = None) -> AsyncIterator[list[Node]]:
    """Nodes that are all connected to the first and find the rest by the DHT's own lookups."""
    async with AsyncExitStack() as stack:
        nodes = [
            await stack.enter_async_context(running_node(with_dht=False)) for _ in range(count)
        ]
        try:
            async with AsyncExitStack() as tables:
                for node in nodes:
                    node.dht = await tables.enter_async_context(node.open_dht(options))
                for node in nodes[1:]:
                    await introduce(node, nodes[0])
                for node in nodes:
                    await until(lambda node=node: node.dht.statistics()["servers"] == count - 1)
                yield nodes
        finally:
            with trio.CancelScope(shield=True):
                async with trio.open_nursery() as nursery:  # each takes a second
                    for node in nodes:
                        nursery.start_soon(node.host.close)


async def introduce(node: Node, other: Node) -> None:
    """What the sync layer does: connect, and exchange the addresses to dial."""
    await node.connect(other.peer, other.addresses(), timeout_s=5)
    node.dht.saw(other.peer, other.addresses())
    if other.dht is not None:
        other.dht.saw(node.peer, node.addresses())


async def until(true: Callable[[], bool], *, timeout_s: float = 20) -> None:
    with trio.fail_after(timeout_s):
        while not true():  # noqa: ASYNC110 - what is waited for has no event
            await trio.sleep(0.01)


async def providers(node: Node, name: bytes) -> list[PeerId]:
    return [peer async for peer, _ in node.dht.find(name)]
