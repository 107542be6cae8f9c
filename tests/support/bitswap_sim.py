"""Hosts in memory that speak bitswap, and strangers that say what a test wants."""

from __future__ import annotations

from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio
import trio.lowlevel

from p2pcache.errors import Unavailable
from p2pcache.net.bitswap import wire
from p2pcache.net.bitswap.driver import Bitswap, open_bitswap
from p2pcache.net.bitswap.options import BitswapOptions
from p2pcache.net.memory import MemoryHost, open_memory_net
from tests.support.bitswap_store import MemoryBlocks
from tests.support.members import peer

if TYPE_CHECKING:
    from p2pcache.net.bitswap.wire import Entry, Message

NEW, OLD = wire.PROTOCOLS
PREFIX = b"\x01\x55\x12\x20"


@dataclass
class Node:
    host: MemoryHost
    blocks: MemoryBlocks
    bitswap: Bitswap

    async def get(self, cid: bytes, timeout_s: float = 20, *, patient: bool = False) -> bytes:
        async with self.bitswap.session() as session:
            return await session.get(cid, timeout_s=timeout_s, patient=patient)


@asynccontextmanager
async def a_node(net, number: int, find=None, **options):
    host, blocks = net.host(peer(number)), MemoryBlocks()
    options.setdefault("read_here_bytes", 1 << 30)  # virtual time does not wait for threads
    async with open_bitswap(host, blocks, BitswapOptions(**options), find) as bitswap:
        blocks.tell = bitswap.arrived
        await trio.lowlevel.checkpoint()  # its handlers are there
        yield Node(host, blocks, bitswap)


@asynccontextmanager
async def world(count: int, deadline_s: float = 120, **options):
    """Nodes that are all connected to the first."""
    with trio.fail_after(deadline_s):
        async with open_memory_net() as net, trio.open_nursery() as nursery:
            nodes = []

            async def run(number, task_status):
                async with a_node(net, number, **options) as node:
                    task_status.started(node)
                    await trio.sleep_forever()

            for number in range(count):
                nodes.append(await nursery.start(run, number))
            for node in nodes[1:]:
                await meet(nodes[0], node)
            yield nodes
            nursery.cancel_scope.cancel()
            assert not net.handler_errors


async def meet(a: Node, b: Node) -> None:
    await a.host.connect(b.host.peer_id, b.host.addresses(), timeout_s=5)
    await trio.sleep(0.01)


class Stranger:
    """A host that says what a test wants, and hears what is said to it."""

    def __init__(self, net, number: int, protocols=wire.PROTOCOLS) -> None:
        self.host = net.host(peer(number))
        self.heard: list[Message] = []
        for protocol in protocols:
            self.host.set_handler(protocol, self._read)

    async def _read(self, stream) -> None:
        with suppress(Unavailable):
            await self._read_all(stream)

    async def _read_all(self, stream) -> None:
        while True:
            size = place = 0
            while True:
                byte = (await stream.receive_exactly(1))[0]
                size |= (byte & 127) << 7 * place
                place += 1
                if byte < 128:
                    break
            self.heard.append(wire.parse(await stream.receive_exactly(size)))

    async def says(self, node: Node, *messages: Message | bytes, protocol: str = NEW):
        stream = await self.host.open_stream(node.host.peer_id, protocol, timeout_s=5)
        for message in messages:
            await stream.send_all(message if isinstance(message, bytes) else wire.frame(message))
        return stream

    def entries(self) -> list[Entry]:
        return [entry for message in self.heard for entry in message.entries]

    def wanted(self) -> list[bytes]:
        return [entry.cid for entry in self.entries() if not entry.cancel]

    def blocks(self) -> list[bytes]:
        return [block.data for message in self.heard for block in message.blocks]


@asynccontextmanager
async def a_stranger(protocols=wire.PROTOCOLS, **options):
    """A node, and a stranger that is connected to it."""
    with trio.fail_after(120):
        async with open_memory_net() as net, a_node(net, 0, **options) as node:
            stranger = Stranger(net, 1, protocols)
            await stranger.host.connect(peer(0), node.host.addresses(), timeout_s=5)
            await trio.sleep(0.01)
            yield node, stranger


async def until(true, within_s: float = 5) -> float:
    started = trio.current_time()
    with trio.fail_after(within_s):
        while not true():  # noqa: ASYNC110 - virtual time
            await trio.sleep(0.001)
    return trio.current_time() - started


async def muted(node: Node, stranger: Stranger) -> None:
    with suppress(Unavailable):
        await stranger.says(node, b"\x01\x0b")
    await until(lambda: node.bitswap.statistics()["muted"] == 1)
