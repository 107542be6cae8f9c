"""Bitswap between hosts in memory, in virtual time."""

from __future__ import annotations

import hashlib
from random import Random

import pytest
import trio
import trio.lowlevel
from trio.testing import MockClock

from p2pcache.content import cid as cids
from p2pcache.content.unixfs_read import parse_node
from p2pcache.errors import NotFound, Unavailable
from p2pcache.net.bitswap.wire import Block, Entry, Message
from p2pcache.net.memory import open_memory_net
from tests.support.bitswap_sim import (
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


async def test_a_file_is_fetched_from_those_that_have_it(autojump_clock):
    async with world(4) as (reader, *holders):
        data = Random(1).randbytes(10_000_000)
        roots = {node.blocks.add_file(data).cid for node in holders}
        assert len(roots) == 1
        async with reader.bitswap.session() as session:
            root = await session.get(roots.pop(), timeout_s=5)
            got: dict[int, bytes] = {}

            async def one(number: int, cid: bytes) -> None:
                got[number] = await session.get(cid, timeout_s=20)

            async with trio.open_nursery() as nursery:
                for number, link in enumerate(parse_node(root).links):
                    nursery.start_soon(one, number, link.cid)
        assert b"".join(got[number] for number in sorted(got)) == data
        sent = [node.bitswap.statistics().get("blocks_sent_total", 0) for node in holders]
        assert sum(sent) == len(got) + 3, "no block came twice but the root, which is so short"
        assert sum(count > 1 for count in sent) >= 2, "several gave some"
        await trio.sleep(1)
        for node in (reader, *holders):
            assert node.bitswap.statistics()["wants_of_peers"] == 0


async def test_a_block_that_arrives_late_is_served_at_once(autojump_clock):
    async with world(2) as (reader, holder):
        data = b"late" * 1000
        cid = cids.raw_cid(hashlib.sha256(data).digest())
        took: list[float] = []

        async def read() -> None:
            assert await reader.get(cid, patient=True) == data
            took.append(trio.current_time())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await trio.sleep(3)
            put_at = trio.current_time()
            holder.blocks.put(data)
        assert took[0] - put_at < 0.01


async def test_when_many_blocks_came_at_once_those_that_are_waited_for_are_served(autojump_clock):
    async with world(2) as (reader, holder):
        tell, holder.blocks.tell = holder.blocks.tell, lambda _: None
        data = b"late" * 1000
        async with trio.open_nursery() as nursery:
            cid = cids.raw_cid(hashlib.sha256(data).digest())
            nursery.start_soon(lambda: reader.get(cid, patient=True))
            await trio.sleep(1)
            holder.blocks.put(data)
            tell(None)
            await until(lambda: not reader.bitswap.statistics()["wants"], 0.1)


async def test_what_nobody_has_is_not_found_at_once(autojump_clock):
    async with world(3) as (reader, *_):
        started = trio.current_time()
        with pytest.raises(NotFound, match="no peer has the block"):
            await reader.get(cids.raw_cid(bytes(32)))
        assert trio.current_time() - started < 0.1


async def test_the_block_of_no_bytes_needs_nobody(autojump_clock):
    async with world(1) as (reader,):
        assert await reader.get(cids.raw_cid(hashlib.sha256().digest())) == b""


async def test_without_any_peer_nothing_is_found(autojump_clock):
    async with world(1) as (reader,):
        with pytest.raises(NotFound):
            await reader.get(cids.raw_cid(bytes(32)))


async def test_a_block_is_asked_for_and_given_by_the_version_0_of_its_name(autojump_clock):
    async with world(2) as (reader, holder):
        cid = holder.blocks.put(b"node", cids.DAG_PB)
        assert await reader.get(cids.as_v0(cid)) == b"node"


async def test_a_frozen_peer_is_passed_over(autojump_clock):
    async with world(3) as (reader, frozen, good):
        cid = good.blocks.put(b"x" * 5000)
        frozen.blocks.put(b"x" * 5000)
        frozen.host.freeze()
        started = trio.current_time()
        assert await reader.get(cid, 30)
        assert trio.current_time() - started < 1, "who says that it has it is asked"


async def test_a_peer_that_says_yes_and_never_sends_is_passed_over(autojump_clock):
    async with open_memory_net() as net, a_node(net, 0) as node, a_node(net, 2) as good:
        stranger = Stranger(net, 1)
        await stranger.host.connect(peer(0), node.host.addresses(), timeout_s=5)
        await meet(node, good)
        cid = good.blocks.put(b"x" * 5000)
        async with trio.open_nursery() as nursery:

            async def lie() -> None:
                await until(stranger.wanted)
                await stranger.says(node, Message(haves=(cid,)))

            nursery.start_soon(lie)
            good.host.frozen = True  # so that the liar is the first to say something
            got: list[bytes] = []

            async def read() -> None:
                got.append(await node.get(cid, 60))

            nursery.start_soon(read)
            await trio.sleep(1)
            good.host.thaw()
            assert await until(lambda: got, 10) < 6
        assert Entry(cid, cancel=True) in stranger.entries()


async def test_who_leaves_a_get_leaves_no_want_behind(autojump_clock):
    async with a_stranger() as (node, stranger):
        cid = cids.raw_cid(bytes(32))
        with trio.move_on_after(1):
            await node.get(cid, patient=True)
        await until(lambda: Entry(cid, cancel=True) in stranger.entries())
        assert node.bitswap.statistics()["wants"] == 0


async def test_a_silent_peer_costs_the_timeout_and_its_want_is_cancelled(autojump_clock):
    async with a_stranger() as (node, stranger):
        cid = cids.raw_cid(bytes(32))
        with pytest.raises(Unavailable, match="in 3 s"):
            await node.get(cid, 3)
        await until(lambda: Entry(cid, cancel=True) in stranger.entries())


async def test_two_that_want_the_same_block_ask_once(autojump_clock):
    async with a_stranger() as (node, stranger):
        data = b"shared" * 1000
        cid = cids.raw_cid(hashlib.sha256(data).digest())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(node.get, cid)
            nursery.start_soon(node.get, cid)
            await until(stranger.wanted)
            await stranger.says(node, Message(blocks=(Block(PREFIX, data),)))
        assert stranger.wanted() == [cid]
