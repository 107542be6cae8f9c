"""Who is said to have a block is looked up, connected and asked."""

from __future__ import annotations

from contextlib import aclosing, asynccontextmanager

import pytest
import trio
import trio.lowlevel
from trio.testing import MockClock

from p2pcache.content import cid as cids
from p2pcache.errors import NotFound, Unavailable
from p2pcache.net.memory import open_memory_net
from tests.support.bitswap_sim import (
    a_node,
    a_stranger,
    muted,
)
from tests.support.members import peer


@pytest.fixture
def autojump_clock():
    return MockClock(autojump_threshold=0)


async def test_a_provider_that_is_muted_is_neither_connected_nor_asked(autojump_clock):
    @asynccontextmanager
    async def find(cid):
        async def found():
            yield peer(1), stranger.host.addresses()

        yield found()

    async with a_stranger(mute_s=60.0, find=find) as (node, stranger):
        await muted(node, stranger)
        node.host.cut(stranger.host.peer_id)
        await trio.sleep(0.1)
        with pytest.raises(NotFound):
            await node.get(cids.raw_cid(bytes(32)))
        await trio.sleep(1)
        assert not stranger.heard
        assert peer(1) not in node.host.connected()


async def test_providers_are_looked_up_once_and_asked(autojump_clock):
    async with open_memory_net() as net, a_node(net, 1) as holder:
        looked_up = []

        @asynccontextmanager
        async def find(cid):
            looked_up.append(cid)

            async def found():
                yield holder.host.peer_id, holder.host.addresses()

            yield found()

        async with a_node(net, 0, find) as reader:
            cid = holder.blocks.put(b"x" * 5000)
            assert await reader.get(cid) == b"x" * 5000
            assert looked_up == [cid]
            for _ in range(3):
                with pytest.raises(NotFound):
                    await reader.get(cids.raw_cid(bytes(32)))
            assert looked_up == [cid, cids.raw_cid(bytes(32))]


async def test_a_slow_look_up_is_not_begun_again_while_it_lasts(autojump_clock):
    looked_up = []

    @asynccontextmanager
    async def find(cid):
        looked_up.append(cid)
        await trio.sleep(20)

        async def nobody():
            for one in ():
                yield one

        yield nobody()

    async with open_memory_net() as net, a_node(net, 0, find) as node:
        cid = cids.raw_cid(bytes(32))
        with pytest.raises(Unavailable):
            await node.get(cid, 19, patient=True)
        assert looked_up == [cid]
        await trio.sleep(2)
        with pytest.raises(Unavailable):
            await node.get(cid, 10, patient=True)
        assert looked_up == [cid, cid], "it may begin when the first has ended"


def told(*somebodies):
    """A table that names these, at once."""

    @asynccontextmanager
    async def find(_cid):
        async def found():
            for somebody in somebodies:
                yield somebody

        async with aclosing(found()) as given:
            yield given

    return find


NOWHERE = ("/ip4/10.0.0.9/tcp/1",)


async def test_a_provider_that_cannot_be_dialled_does_not_hide_those_behind_it(autojump_clock):
    async with open_memory_net() as net, a_node(net, 1) as holder:
        there = (holder.host.peer_id, holder.host.addresses())
        absent = [(peer(number), NOWHERE) for number in range(2, 8)]
        async with a_node(net, 0, told(*absent, there)) as reader:
            cid = holder.blocks.put(b"x" * 5000)
            assert await reader.get(cid) == b"x" * 5000


async def test_slow_providers_are_dialled_side_by_side_and_a_few_at_once(autojump_clock):
    async with open_memory_net() as net, a_node(net, 1) as holder:
        there = (holder.host.peer_id, holder.host.addresses())
        frozen = [(peer(number), (f"/memory/{number}",)) for number in range(2, 5)]
        async with a_node(net, 0, told(*frozen, there)) as reader:
            connect, at_once, most = reader.host.connect, 0, 0

            async def slow(peer_id, addresses, *, timeout_s):
                nonlocal at_once, most
                at_once += 1
                most = max(most, at_once)
                try:
                    if peer_id != holder.host.peer_id:
                        await trio.sleep(timeout_s)
                        raise Unavailable("frozen")
                    await connect(peer_id, addresses, timeout_s=timeout_s)
                finally:
                    at_once -= 1

            reader.host.connect = slow
            cid = holder.blocks.put(b"x" * 5000)
            began = trio.current_time()
            assert await reader.get(cid) == b"x" * 5000
            assert trio.current_time() - began < 1
            assert most == 4


async def test_of_many_that_are_named_a_bounded_number_is_dialled(autojump_clock):
    async with open_memory_net() as net:
        named = [(peer(number), NOWHERE) for number in range(1, 100)]
        async with a_node(net, 0, told(*named)) as reader:
            connect, dialled = reader.host.connect, []

            async def counted(peer_id, addresses, *, timeout_s):
                dialled.append(peer_id)
                await connect(peer_id, addresses, timeout_s=timeout_s)

            reader.host.connect = counted
            with pytest.raises(Unavailable, match="not reached"):
                await reader.get(cids.raw_cid(bytes(32)))
            assert len(dialled) <= 20


async def test_what_nobody_is_said_to_have_is_not_found_before_the_deadline(autojump_clock):
    async with open_memory_net() as net, a_node(net, 1) as other, a_node(net, 0, told()) as reader:
        await reader.host.connect(other.host.peer_id, other.host.addresses(), timeout_s=5)
        began = trio.current_time()
        with pytest.raises(NotFound):
            await reader.get(cids.raw_cid(bytes(32)), 30)
        assert trio.current_time() - began < 0.5
