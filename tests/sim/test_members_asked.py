"""Members in virtual time: who is linked for one pull, and who is asked when links change."""

from __future__ import annotations

from contextlib import AsyncExitStack

import pytest
import trio
from trio.testing import MockClock

from p2pcache.content.signed import sign_resolution
from p2pcache.errors import NotFound
from p2pcache.net.conversation import NetworkOptions
from p2pcache.net.identity import Identity
from p2pcache.net.mesh import MeshOptions
from p2pcache.net.shelf import PeerHolds
from p2pcache.net.sync.wire import Announce, ManifestAsk, ManifestPart, NameAsk, Names, Said
from tests.support.members import Script, hello, manifest_of, open_node, peer
from tests.support.world import MANIFEST, NAMES, ends_quietly, full, until, world


@pytest.fixture
def autojump_clock():
    return MockClock(autojump_threshold=0)


def some_word():
    return sign_resolution(
        Identity.generate(), canonical="hf://org/model@main", manifest=MANIFEST, immutable="0" * 40,
        source="hf", endpoint="https://huggingface.co", mutable=True, restricted=False,
        resolved_at=1.0,
    )  # fmt: skip


@pytest.mark.parametrize("ending", ["done", "cancelled"])
async def test_whom_a_pull_met_it_parts_with_at_its_end(autojump_clock, ending):
    mesh = MeshOptions(full_mesh=4, back_to_full=3, neighbours=2, guests=2, max_met=3)
    async with (
        world(1, deadline_s=900, options=NetworkOptions(mesh=mesh)) as (net, (puller,)),
        AsyncExitStack() as stack,
    ):
        holders = [
            await stack.enter_async_context(
                open_node(net, 100 + number, options=NetworkOptions(mesh=mesh))
            )
            for number in range(12)
        ]
        for holder in holders:
            puller.network.found(holder.peer, holder.host.addresses())
        for number, holder in enumerate(holders):
            name = b"a blob %d" % number
            holder.shelf.held[name] = (1, None)
            with trio.CancelScope() as pull:
                async with puller.network.swarm(None, [name]) as swarm:
                    swarm.meet(holder.peer, holder.host.addresses())
                    with trio.fail_after(20):
                        while not isinstance(await swarm.events.receive(), PeerHolds):
                            pass
                    if ending == "cancelled":
                        pull.cancel()
                        await trio.sleep(1)
        await trio.sleep(30)
        assert len(puller.knows()) <= 2 + 2


async def test_a_pull_remembers_nobody_whom_nobody_knows(autojump_clock):
    async with world(1, deadline_s=60) as (net, (node,)):
        host = net.host(peer(50))
        script = await Script.dial(host, node.peer, node.host.addresses())
        await script.say(hello())
        await until(lambda: node.knows() == {peer(50)}, within_s=3)
        async with node.network.swarm(MANIFEST, NAMES) as swarm:
            for number in range(200):
                said = Announce(Said.POSSESS, bytes([number]) * 16, peer(60 + number), (MANIFEST,))
                await script.say(said)
            await until(lambda: len(node.network._interests.who(MANIFEST)) == 200, within_s=3)
            assert not swarm.met
        await script.stream.aclose()


async def test_who_another_pull_needs_too_is_kept(autojump_clock):
    mesh = MeshOptions(full_mesh=1, back_to_full=1, neighbours=0, guests=8)
    async with world(3, deadline_s=60, known=False, options=NetworkOptions(mesh=mesh)) as (
        _,
        nodes,
    ):
        puller, holder, other = nodes
        puller.network.found(other.peer, other.host.addresses())
        async with puller.network.swarm(None, NAMES[:1]) as first:
            async with puller.network.swarm(None, NAMES[1:2]) as second:
                for swarm in (first, second):
                    swarm.meet(holder.peer, holder.host.addresses())
                await until(lambda: holder.peer in puller.knows(), within_s=5)
            puller.host.cut(holder.peer)
            await until(lambda: holder.peer not in puller.knows(), within_s=5)
            await until(lambda: holder.peer in puller.knows(), within_s=20)
        await until(lambda: holder.peer not in puller.knows(), within_s=5)


async def test_what_a_member_said_of_others_goes_with_it(autojump_clock):
    async with world(1, deadline_s=60) as (net, (node,)):
        host = net.host(peer(50))
        script = await Script.dial(host, node.peer, node.host.addresses())
        await script.say(hello())
        await until(lambda: node.knows() == {peer(50)}, within_s=3)
        for number, origin in enumerate((50, 60, 61)):
            await script.say(
                Announce(Said.POSSESS, bytes([number]) * 16, peer(origin), (MANIFEST,))
            )
        said = {peer(50), peer(60), peer(61)}
        await until(lambda: set(node.network._interests.who(MANIFEST)) == said, within_s=3)
        host.cut(node.peer)
        await until(lambda: not node.knows(), within_s=15)
        assert node.network._interests.who(MANIFEST) == {}


async def test_a_manifest_comes_from_who_becomes_a_member_a_moment_too_late(autojump_clock):
    data = b"a manifest"
    cid = manifest_of(data)
    async with world(2, deadline_s=60) as (net, nodes):
        await until(lambda: full(nodes), within_s=3)
        a = nodes[0]
        with pytest.raises(NotFound):
            await a.network.manifest(cid, timeout_s=60, max_bytes=1 << 20)
        async with open_node(net, 50) as late, trio.open_nursery() as nursery:
            late.shelf.manifests[cid] = data

            async def arrive() -> None:
                await trio.sleep(2)
                late.network.found(a.peer, a.host.addresses())

            nursery.start_soon(arrive)
            got = await a.network.manifest(cid, timeout_s=60, newcomers_s=4, max_bytes=1 << 20)
            assert got == data


@pytest.mark.parametrize("question", ["a manifest", "a name"])
async def test_who_is_asked_over_a_link_that_is_replaced_is_asked_again(autojump_clock, question):
    data = b"a manifest"
    cid, word = manifest_of(data), some_word()
    async with world(1, deadline_s=60) as (net, (a,)), trio.open_nursery() as nursery:

        async def answers(number: int, host) -> None:
            script = await Script.dial(host, a.peer, a.host.addresses())
            await script.say(hello(generation=bytes([number]) * 16))
            while True:
                match await script.hear():
                    case ManifestAsk() | NameAsk() if number == 1:
                        nursery.start_soon(ends_quietly, answers, 2, host)
                    case ManifestAsk(ask, _, _):
                        await script.say(ManifestPart(ask, len(data), 0, data))
                    case NameAsk(ask):
                        await script.say(Names(ask, (tuple(word.to_wire()),)))

        nursery.start_soon(ends_quietly, answers, 1, host := net.host(peer(50)))
        await until(lambda: a.knows() == {peer(50)}, within_s=3)
        if question == "a manifest":
            got = await a.network.manifest(cid, timeout_s=30, max_bytes=1 << 20)
            assert got == data
        else:
            assert await a.network.resolutions(word.canonical, timeout_s=5) == [word]
        host.kill()
        nursery.cancel_scope.cancel()


async def test_a_lost_link_is_waited_for_and_nothing_else(autojump_clock):
    data = b"a manifest"
    cid = manifest_of(data)
    async with world(2, deadline_s=90) as (_, (a, b)):
        await until(lambda: full([a, b]), within_s=3)
        b.shelf.manifests[cid] = data
        plain, times = b.shelf.manifest, []

        async def cut_once(*asked):
            times.append(trio.current_time())
            if len(times) == 1:
                a.host.cut(b.peer)
                await trio.sleep(0.1)
            return await plain(*asked)

        b.shelf.manifest = cut_once
        assert await a.network.manifest(cid, timeout_s=30, max_bytes=1 << 20) == data
        assert times[1] - times[0] < 3
        b.shelf.manifests.clear()
        began = trio.current_time()
        with pytest.raises(NotFound):
            await a.network.manifest(cid, timeout_s=30, max_bytes=1 << 20)
        assert trio.current_time() - began < 0.5
