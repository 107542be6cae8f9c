"""Peers that break the rules of bitswap, or try what they may cost."""

from __future__ import annotations

import hashlib
import threading
from contextlib import suppress

import pytest
import trio
import trio.lowlevel
from trio.testing import MockClock

from p2pcache.content import cid as cids
from p2pcache.content import varint
from p2pcache.content.blocks import MAX_BLOCK_BYTES
from p2pcache.errors import NotFound, Unavailable, Untrusted
from p2pcache.net.bitswap import wire
from p2pcache.net.bitswap.machine import MAX_UNASKED
from p2pcache.net.bitswap.mutes import FIELDS_PER_S, MAX_SAVED_FIELDS
from p2pcache.net.bitswap.options import BitswapOptions
from p2pcache.net.bitswap.wire import MAX_FIELDS, Block, Entry, Message
from tests.support.bitswap_sim import (
    PREFIX,
    a_stranger,
    muted,
    until,
    world,
)
from tests.support.members import peer


@pytest.fixture
def autojump_clock():
    return MockClock(autojump_threshold=0)


async def test_blocks_that_were_not_asked_for_are_dropped_and_end_in_silence(autojump_clock):
    async with a_stranger(mute_s=60.0) as (node, stranger):
        junk = [Block(PREFIX, b"junk %d" % number) for number in range(MAX_UNASKED + 1)]
        await stranger.says(node, Message(blocks=tuple(junk[:-1])))
        await trio.sleep(0.1)
        assert node.bitswap.statistics()["muted"] == 0
        await stranger.says(node, Message(blocks=(junk[-1],)))
        await until(lambda: node.bitswap.statistics()["muted"] == 1)
        node.blocks.put(b"here")
        here = cids.raw_cid(hashlib.sha256(b"here").digest())
        with suppress(Unavailable):
            await stranger.says(node, Message((Entry(here),)))
        await trio.sleep(1)
        assert not stranger.heard, "it is not listened to"
        await trio.sleep(60)
        await stranger.says(node, Message((Entry(here),)))
        await until(stranger.blocks)


async def test_who_is_muted_and_comes_back_is_asked_for_nothing_until_that_ends(autojump_clock):
    async with a_stranger(mute_s=60.0) as (node, stranger):
        await muted(node, stranger)
        node.host.cut(stranger.host.peer_id)
        await trio.sleep(0.1)
        await stranger.host.connect(peer(0), node.host.addresses(), timeout_s=5)
        await trio.sleep(0.1)
        with pytest.raises(NotFound):
            await node.get(cids.raw_cid(bytes(32)))
        await trio.sleep(1)
        assert not stranger.heard
        await trio.sleep(60)
        assert node.bitswap.statistics()["muted"] == 0
        with pytest.raises(Unavailable):  # it is silent
            await node.get(cids.raw_cid(bytes(32)), 3)
        assert stranger.wanted() == [cids.raw_cid(bytes(32))]


async def test_the_other_streams_of_who_is_muted_end(autojump_clock):
    async with a_stranger() as (node, stranger):
        here = node.blocks.put(b"here")
        stream = await stranger.says(node)
        await trio.sleep(0.1)
        await muted(node, stranger)
        await stream.send_all(wire.frame(Message((Entry(here),))))
        await trio.sleep(1)
        assert not stranger.heard
        assert stream._eof_at is not None


async def test_a_long_message_is_parsed_in_a_thread(monkeypatch):
    threads: list[int] = []
    real = wire.parse

    def parse(data: bytes) -> Message:
        threads.append(threading.get_ident())
        return real(data)

    monkeypatch.setattr(wire, "parse", parse)
    least = BitswapOptions().read_here_bytes
    async with a_stranger(read_here_bytes=least) as (node, stranger):
        for size in (least, least + 2):
            count = len(threads)
            await stranger.says(node, varint.encode(size) + b"\x28\x00" * (size // 2))
            await until(lambda count=count: len(threads) > count)
        assert threads[0] == threading.get_ident()
        assert threads[1] != threading.get_ident()


@pytest.mark.parametrize(
    "data",
    [
        varint.encode(wire.MAX_MESSAGE_BYTES + 1),
        varint.encode(1 << 30),
        b"\xff" * 12,
        b"\x01\x0b",
        b"\x04\x0a\x02\x0a\x00",
    ],
    ids=["4 MiB", "1 GiB", "no varint", "no protobuf", "an entry of nothing"],
)
async def test_who_breaks_the_rules_is_not_listened_to(autojump_clock, data):
    async with a_stranger() as (node, stranger):
        await stranger.says(node, data)
        await until(lambda: node.bitswap.statistics()["muted"] == 1)


async def test_a_million_wants_are_refused(autojump_clock):
    async with a_stranger() as (node, stranger):
        entries = tuple(Entry(cids.raw_cid(n.to_bytes(32, "big"))) for n in range(wire.MAX_ITEMS))
        await stranger.says(node, Message(entries))
        await trio.sleep(1)
        assert node.bitswap.statistics()["wants_of_peers"] == 4096
        assert node.bitswap.statistics()["muted"] == 0
        more = (*entries, Entry(cids.raw_cid(bytes(32))))
        await stranger.says(node, Message(more))
        await until(lambda: node.bitswap.statistics()["muted"] == 1)
        assert node.bitswap.statistics()["wants_of_peers"] == 0


async def test_a_ninth_stream_of_one_peer_is_closed(autojump_clock):
    async with a_stranger() as (node, stranger):
        streams = [await stranger.says(node) for _ in range(9)]
        await trio.sleep(0.1)
        assert sum(stream._eof_at is not None for stream in streams) == 1


async def test_a_message_that_drips_is_given_up(autojump_clock):
    async with a_stranger(message_s=5.0) as (node, stranger):
        stream = await stranger.says(node, varint.encode(1 << 20) + b"x" * 1000)
        await until(lambda: stream._eof_at is not None, 6)


async def test_a_block_of_2_mib_passes_and_of_3_mib_does_not(autojump_clock):
    async with world(2) as (reader, holder):
        most = holder.blocks.put(bytes(MAX_BLOCK_BYTES))
        more = holder.blocks.put(bytes(3 << 20))
        assert len(await reader.get(most)) == MAX_BLOCK_BYTES
        with pytest.raises(NotFound):  # it does not serve what nobody takes
            await reader.get(more)


async def test_a_wanted_block_of_3_mib_is_refused_by_its_reader(autojump_clock):
    async with a_stranger() as (node, stranger):
        data = bytes(3 << 20)
        cid = cids.raw_cid(hashlib.sha256(data).digest())

        async def answer() -> None:
            await until(stranger.wanted)
            await stranger.says(node, Message(blocks=(Block(PREFIX, data),)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer)
            with pytest.raises(Untrusted, match="3145728 bytes"):
                await node.get(cid)


async def test_other_bytes_are_not_the_block(autojump_clock):
    async with a_stranger() as (node, stranger):
        cid = cids.raw_cid(hashlib.sha256(b"right").digest())

        async def answer() -> None:
            await until(stranger.wanted)
            await stranger.says(node, Message(blocks=(Block(PREFIX, b"wrong"),)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer)
            with pytest.raises(Unavailable):
                await node.get(cid, 3)
        assert node.bitswap.statistics()["blocks_not_asked_for_total"] == 1


async def test_who_says_much_that_costs_is_read_no_faster_than_its_allowance_grows(autojump_clock):
    """Half a second of parsing for each of these, as fast as a network brings them."""
    dear = bytes([0x20, 0]) * (MAX_FIELDS - 1)  # fields that mean nothing
    message = varint.encode(len(dear)) + dear
    count = 9
    async with a_stranger() as (node, stranger):
        began = trio.current_time()

        async def say() -> None:
            stream = await stranger.says(node, *[message] * (count // 3))
            cid = cids.raw_cid(bytes(32))
            await stream.send_all(wire.frame(Message((Entry(cid, dont_have=True),))))

        for _ in range(3):  # its streams share what it has
            await say()
        await until(lambda: len(stranger.heard) == 3, within_s=100)
        expected_s = (count * MAX_FIELDS - MAX_SAVED_FIELDS) / FIELDS_PER_S
        assert trio.current_time() - began == pytest.approx(expected_s, rel=0.1)
        assert not node.bitswap.statistics()["muted"], "it broke no rule"
