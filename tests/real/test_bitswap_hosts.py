"""Bitswap between real hosts: a slow reader, and a connection that ends."""

from __future__ import annotations

from contextlib import asynccontextmanager
from random import Random
from types import SimpleNamespace

import pytest
import trio

from p2pcache.agent.bitswap import AgentBitswap
from p2pcache.agent.ipfs import Ipfs
from p2pcache.config.ipfs import IpfsSettings
from p2pcache.content import cid as cids
from p2pcache.net.bitswap import wire
from p2pcache.net.bitswap.driver import open_bitswap
from p2pcache.net.bitswap.options import BitswapOptions
from p2pcache.net.bitswap.wire import Entry, Message
from p2pcache.net.host import open_host
from p2pcache.net.identity import Identity
from p2pcache.store.store import Store
from tests.support.bitswap_dag import fetch_all
from tests.support.bitswap_store import MemoryBlocks
from tests.support.host_pairs import meet, two, until
from tests.support.net_node import LOOPBACK

MIB = 1 << 20


@pytest.fixture(autouse=True)
async def _bounded():
    with trio.fail_after(120):
        yield


@asynccontextmanager
async def serving(host, size: int, **options):
    """Bitswap at a host with a file of this size; also its root."""
    blocks = MemoryBlocks()
    async with open_bitswap(host, blocks, BitswapOptions(**options)) as bitswap:
        yield bitswap, blocks.add_file(Random(1).randbytes(size)).cid, blocks


async def test_a_file_passes_between_two_hosts_and_each_block_once():
    async with (
        two() as (a, b),
        serving(a, 20 * MIB) as (holder, root, blocks),
        serving(b, 0) as (
            reader,
            *_,
        ),
    ):
        await meet(b, a)
        got = await fetch_all(reader, root)
        assert sorted(map(len, got.values())) == sorted(map(len, blocks._held.values()))
        assert reader.statistics()["blocks_received_again_total"] == 0
        assert holder.statistics()["blocks_sent_total"] == 21


async def test_who_asks_and_does_not_read_is_let_go_and_holds_up_nobody():
    async with (
        two() as (a, slow),
        two() as (fast, _),
        serving(a, 40 * MIB, send_s=1.0) as (holder, root, blocks),
        serving(fast, 0) as (reader, *_rest),
    ):

        async def never_reads(stream) -> None:
            await trio.sleep_forever()

        for protocol in wire.PROTOCOLS:
            slow.set_handler(protocol, never_reads)
        await meet(slow, a)
        asks = await slow.open_stream(a.peer_id, wire.PROTOCOLS[0], timeout_s=5)
        leaves = [
            b"\x01\x55" + multihash for multihash, data in blocks._held.items() if len(data) == MIB
        ]
        await asks.send_all(wire.frame(Message(tuple(map(Entry, leaves)))))
        await until(lambda: holder.statistics()["wants_of_peers"] > 30, within_s=5)
        await meet(fast, a)
        assert len(await fetch_all(reader, root)) == 41
        await until(lambda: holder.statistics()["wants_of_peers"] == 0, within_s=10)


async def test_a_fetch_goes_on_when_its_peer_is_back():
    async with (
        two() as (a, b),
        serving(a, 8 * MIB) as (_, root, _blocks),
        serving(b, 0) as (reader, *_rest),
    ):
        await meet(b, a)
        got = {}
        async with trio.open_nursery() as nursery, reader.session() as session:
            for _ in range(2):
                got[root] = await session.get(root, timeout_s=20)
                b.cut(a.peer_id)
                await until(lambda: not b.connected(), within_s=5)
                nursery.start_soon(meet, b, a)
                await until(b.connected, within_s=5)
            assert len(await fetch_all(reader, root)) == 9


class Slot:
    """An `agent.network_slot.NetworkSlot` with one network that closes when it is told."""

    def __init__(self, host) -> None:
        self.opened = [SimpleNamespace(host=host, watchers=[])]
        self.closed = trio.Event()

    async def wait_any(self):
        if not self.opened:
            await trio.sleep_forever()
        return self.opened.pop()

    async def wait_closed(self, opened) -> None:
        await self.closed.wait()
        assert len(opened.watchers) == 1


async def test_an_agent_speaks_it_as_long_as_its_network_is_open(tmp_path):
    with Store.open(tmp_path) as store:
        async with trio.open_nursery() as nursery:
            ipfs = Ipfs(store, IpfsSettings(), nursery, lambda: 0.0)
            async with open_host(Identity.generate(), None, LOOPBACK) as host:
                slot = Slot(host)
                spoken = AgentBitswap(slot, store, ipfs.open_blocks)
                assert await spoken.fetch(cids.raw_cid(bytes(32))) is None
                nursery.start_soon(spoken.run)
                await until(spoken.status, within_s=20)
                assert await spoken.fetch(cids.raw_cid(bytes(32))) is None
                assert set(wire.PROTOCOLS) <= set(map(str, host.libp2p.get_mux().handlers))
            slot.closed.set()  # the slot knows it when all is closed
            await until(lambda: spoken.status() is None, within_s=20)
            nursery.cancel_scope.cancel()
