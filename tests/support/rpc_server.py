"""The RPC facade in a thread of its own, over a real store, without an agent around it."""

from __future__ import annotations

import contextlib
import threading
from functools import partial
from typing import TYPE_CHECKING

import trio

from p2pcache.content.peerid import format_peer_id
from p2pcache.gateway.http import HttpOptions, serve
from p2pcache.gateway.kubo_rpc import answers
from p2pcache.gateway.kubo_rpc.api import Api
from p2pcache.gateway.kubo_rpc.call import Context, Identity, Peer, Space
from p2pcache.net.identity import Identity as Keys
from p2pcache.store.layout import StoreOptions
from p2pcache.store.store import Store
from p2pcache.transfer.blocks import LocalBlocks, open_blocks
from p2pcache.transfer.dag_pins import FILES, DagPinner
from tests.support.kubo_rpc import Server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from tests.support.pulse import Pulse


class AloneNode:
    """An agent without a network."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def identity(self) -> Identity:
        peer = format_peer_id(Keys.generate().peer_id)
        return Identity(peer, b"key", (), ("/ipfs/id/1.0.0",))

    def peers(self) -> list[Peer]:
        return []

    async def connect(self, address: str) -> None:
        raise AssertionError(address)

    async def providers(self, cid: bytes) -> AsyncIterator[Peer]:
        for peer in ():
            yield peer

    async def provide(self, cid: bytes) -> None:
        raise AssertionError(cid)

    async def space(self) -> Space:
        usage = self._store.usage()
        return Space(usage.used_bytes, None, usage.loose_blocks, "/nowhere")

    async def collect(self) -> list[bytes]:
        return []

    def traffic_bytes(self) -> tuple[int, int]:
        return 0, 0


class HeldRoot:
    """The root of the files API in memory."""

    def __init__(self) -> None:
        self.cid: bytes | None = None

    def load(self) -> bytes | None:
        return self.cid

    def save(self, cid: bytes) -> None:
        self.cid = cid


async def nobody(cid: bytes) -> bool:
    """No peer has it."""
    return False


@contextlib.contextmanager
def rpc_server(folder: Path, pulse: Pulse | None = None) -> Iterator[Server]:
    """Ready; its store is in `folder`. `pulse`: of its loop."""
    ready = threading.Event()
    found: list[Server] = []
    ends: list[trio.CancelScope] = []
    tokens: list[trio.lowlevel.TrioToken] = []

    async def main() -> None:
        with Store.open(folder / "store", StoreOptions(reserve_bytes=0)) as store:
            async with open_blocks(LocalBlocks(store)) as blocks, trio.open_nursery() as nursery:
                pins, tree_pins = DagPinner(blocks), DagPinner(blocks, FILES)
                node = AloneNode(store)
                context = Context(blocks, pins, tree_pins, node, HeldRoot(), nobody)
                api = Api(context)
                server = await nursery.start(
                    partial(serve, api, HttpOptions(), on_error=answers.failed)
                )
                api.listens(server)
                if pulse is not None:
                    nursery.start_soon(pulse.beat)
                found.append(Server("127.0.0.1", server.port, folder))
                ends.append(nursery.cancel_scope)
                tokens.append(trio.lowlevel.current_trio_token())
                ready.set()

    thread = threading.Thread(target=trio.run, args=(main,), daemon=True)
    thread.start()
    assert ready.wait(60)
    try:
        yield found[0]
    finally:
        tokens[0].run_sync_soon(ends[0].cancel)
        thread.join(60)
