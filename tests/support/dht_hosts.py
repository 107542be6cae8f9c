"""Nodes of the DHT: `net.host` and `net.dht` on loopback, introduced as the sync layer does it."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from p2pcache.net.dht import Dht, DhtOptions, open_dht
from p2pcache.net.host import Libp2pHost, open_host
from p2pcache.net.identity import Identity
from p2pcache.net.network_key import NetworkKey

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from p2pcache.content.peerid import PeerId

KEY = NetworkKey(b"discovery".ljust(32, b"."))


@dataclass
class Node:
    host: Libp2pHost
    dht: Dht | None = None

    @property
    def peer(self) -> PeerId:
        return self.host.peer_id

    def addresses(self) -> tuple[str, ...]:
        return self.host.addresses()


@asynccontextmanager
async def running_node(
    options: DhtOptions | None = None, *, with_dht: bool = True
) -> AsyncIterator[Node]:
    async with open_host(Identity.generate(), KEY, ["/ip4/127.0.0.1/tcp/0"]) as host:
        if not with_dht:
            yield Node(host)
            return
        async with open_dht(host, options) as dht:
            yield Node(host, dht)


@asynccontextmanager
async def network(count: int, options: DhtOptions | None = None) -> AsyncIterator[list[Node]]:
    """Nodes that are all connected to the first and find the rest by the DHT's own lookups."""
    async with AsyncExitStack() as stack:
        nodes = [await stack.enter_async_context(running_node(options)) for _ in range(count)]
        for node in nodes[1:]:
            await introduce(node, nodes[0])
        for node in nodes:
            await until(lambda node=node: node.dht.statistics()["servers"] == count - 1)
        yield nodes


async def introduce(node: Node, other: Node) -> None:
    """What the sync layer does: connect, and exchange the addresses to dial."""
    await node.host.connect(other.peer, other.addresses(), timeout_s=5)
    node.dht.saw(other.peer, other.addresses())
    if other.dht is not None:
        other.dht.saw(node.peer, node.addresses())


async def until(true: Callable[[], bool], *, timeout_s: float = 20) -> None:
    with trio.fail_after(timeout_s):
        while not true():  # noqa: ASYNC110 - what is waited for has no event
            await trio.sleep(0.01)


async def providers(node: Node, name: bytes) -> list[PeerId]:
    return [peer async for peer, _ in node.dht.find(name)]
