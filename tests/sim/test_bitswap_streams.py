"""Streams of bitswap that close, break and come back; old and absent protocols."""

from __future__ import annotations

import hashlib
from types import SimpleNamespace

import pytest
import trio
import trio.lowlevel
from trio.testing import MockClock

from p2pcache.content import cid as cids
from p2pcache.errors import NotFound, Unavailable
from p2pcache.net.bitswap.wire import Block, Entry, Message
from p2pcache.net.memory import open_memory_net
from tests.support.bitswap_sim import (
    NEW,
    OLD,
    PREFIX,
    Stranger,
    a_node,
    a_stranger,
    meet,
    until,
    world,
)
from tests.support.members import peer


@pytest.fixture
def autojump_clock():
    return MockClock(autojump_threshold=0)


async def test_a_peer_of_protocol_1_1_hears_no_presences_and_is_asked_for_blocks(autojump_clock):
    async with a_stranger(protocols=(OLD,)) as (node, stranger):
        here = node.blocks.put(b"here")
        not_here = cids.raw_cid(bytes(32))
        await stranger.says(
            node, Message((Entry(here), Entry(not_here, dont_have=True))), protocol=OLD
        )
        await until(stranger.blocks)
        assert not any(message.dont_haves for message in stranger.heard)
        data = b"theirs"
        cid = cids.raw_cid(hashlib.sha256(data).digest())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(node.get, cid)
            await until(lambda: cid in stranger.wanted())
            await stranger.says(node, Message(blocks=(Block(PREFIX, data),)), protocol=OLD)


async def test_who_left_is_remembered_for_nothing(autojump_clock):
    async with a_stranger() as (node, stranger):
        await stranger.says(node, Message((Entry(cids.raw_cid(bytes(32))),)))
        await until(lambda: node.bitswap.statistics()["wants_of_peers"] == 1)
        node.host.cut(stranger.host.peer_id)
        await until(lambda: node.bitswap.statistics()["wants_of_peers"] == 0, 1)


async def test_a_peer_without_bitswap_is_asked_for_nothing(autojump_clock):
    async with a_stranger(protocols=()) as (node, _):
        with pytest.raises(NotFound):
            await node.get(cids.raw_cid(bytes(32)))


@pytest.mark.parametrize("close_s", [0.5, 1e6], ids=["slow", "hangs"])
async def test_a_stream_is_closed_also_when_bitswap_ends_and_for_a_while_only(
    autojump_clock, close_s
):
    async with open_memory_net() as net:
        closed = []

        async def aclose() -> None:
            await trio.sleep(close_s)
            closed.append(1)

        async def open_stream(*args, **kwargs):
            stream = await real(*args, **kwargs)
            return SimpleNamespace(peer=stream.peer, send_all=stream.send_all, aclose=aclose)

        async with a_node(net, 0) as node:
            stranger = Stranger(net, 1)
            await stranger.host.connect(peer(0), node.host.addresses(), timeout_s=5)
            await trio.sleep(0.01)
            real, node.host.open_stream = node.host.open_stream, open_stream
            with pytest.raises(Unavailable):
                await node.get(cids.raw_cid(bytes(32)), 1)
            started = trio.current_time()
        assert trio.current_time() - started < 3
        assert bool(closed) == (close_s < 1)


async def test_what_was_lost_with_a_stream_is_said_again(autojump_clock):
    async with a_stranger(protocols=()) as (node, stranger):
        streams = []

        async def hang_up_once(stream) -> None:
            streams.append(stream)
            if len(streams) > 1:
                await stranger._read(stream)

        stranger.host.set_handler(NEW, hang_up_once)
        both = [cids.raw_cid(bytes([number]) * 32) for number in range(2)]
        async with trio.open_nursery() as nursery:
            for cid in both:
                nursery.start_soon(lambda cid=cid: node.get(cid, patient=True))
                await trio.sleep(0.5)
            await until(lambda: set(both) <= set(stranger.wanted()), 1)
            nursery.cancel_scope.cancel()


async def test_a_peer_that_comes_back_is_asked_again(autojump_clock):
    async with world(2) as (reader, holder):
        cid = holder.blocks.put(b"x" * 5000)
        got: list[bytes] = []

        async def read() -> None:
            got.append(await reader.get(cid, patient=True))

        reader.host.cut(holder.host.peer_id)
        await trio.sleep(0.1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await trio.sleep(1)
            await meet(reader, holder)
            await until(lambda: got, 1)


async def test_a_disk_that_cannot_be_read_serves_nothing_and_harms_nobody(autojump_clock):
    async with world(2) as (reader, holder):
        cid = holder.blocks.put(b"x" * 5000)
        real = holder.blocks.length

        async def length(cid):
            size = await real(cid)
            holder.blocks._held.clear()  # it goes between the look and the read
            return size

        holder.blocks.length = length
        with pytest.raises(NotFound):
            await reader.get(cid)
