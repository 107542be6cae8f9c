"""Members in virtual time: how they find each other, come and go."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from p2pcache.net.conversation import NetworkOptions
from p2pcache.net.member import MemberDown, MemberUp
from p2pcache.net.mesh import MeshOptions
from p2pcache.net.shelf import PeerGone, PeerHolds, PeerSettled
from tests.support.members import manifest_of, open_node, peer
from tests.support.world import MANIFEST, NAMES, full, until, world


@pytest.fixture
def autojump_clock():
    return MockClock(autojump_threshold=0)


async def test_sixteen_find_each_other_from_one_address(autojump_clock):
    async with world(16, deadline_s=60) as (net, nodes):
        await until(lambda: full(nodes), within_s=3)
        await trio.sleep(10)
        assert full(nodes)
        # Exactly one link, so one stream, for each pair: 120 pairs, two ends each.
        assert net.streams_open() == 16 * 15
        opened = sum(m.opened_by_us for node in nodes for m in node.network.members())
        assert opened == 120


@pytest.mark.parametrize("pending", [False, True], ids=["idle", "with a write pending"])
async def test_a_frozen_peer_is_dropped_in_under_11_s(autojump_clock, pending):
    async with world(4, deadline_s=120) as (_, nodes):
        await until(lambda: full(nodes), within_s=3)
        await trio.sleep(7)
        frozen, others = nodes[0], nodes[1:]
        frozen.host.freeze()
        started = trio.current_time()
        if pending:
            for _ in range(8):  # more than the window takes
                others[0].network.possess(manifest_of(b"%d" % number) for number in range(1024))
                others[0].network.withdraw(others[0].network.possessed())
                others[0].network.possess(
                    manifest_of(b"%d" % number) for number in range(1024, 9000)
                )
                others[0].network.withdraw(others[0].network.possessed())
                await trio.sleep(0.1)
            link = others[0].network.members_driver.links[frozen.peer]
            assert link._writing_since is not None, "a write hangs"
        await until(lambda: not any(frozen.peer in n.knows() for n in others), within_s=11)
        assert 2 < trio.current_time() - started < 11
        assert full(others), "nobody else was dropped"
        frozen.host.thaw()
        await until(lambda: full(nodes), within_s=90)


async def test_an_idle_network_has_one_beat_of_pings_and_no_link_is_pinged_twice(autojump_clock):
    async with world(8, deadline_s=120) as (_, nodes):
        await until(lambda: full(nodes), within_s=3)
        for number, node in enumerate(nodes):  # every link's silence begins at another moment
            node.network.possess([manifest_of(b"%d" % number)])
            await trio.sleep(0.55)
        links = [link for n in nodes for link in n.network.members_driver.links.values()]
        await trio.sleep(10)
        began, beats, asked = sum(link.talk._pings for link in links), 0, 0
        for _ in range(450):  # 45 s: ten times 4.5 s
            await trio.sleep(0.1)
            now = sum(link.talk._pings for link in links) - began
            beats, asked = beats + (now > asked), now
        assert beats <= 12, "an agent is woken for all its links together"
        assert 28 * 9 <= asked <= 28 * 12, "one of the two ends of each link asks"
        assert full(nodes)


@pytest.mark.parametrize("cancelled", [False, True])
async def test_stopping_does_not_wait_for_a_frozen_peer(autojump_clock, cancelled):
    async with world(1, deadline_s=60) as (net, (frozen,)):
        with trio.CancelScope() as scope:
            async with open_node(net, 2) as node:
                node.network.found(frozen.peer, frozen.host.addresses())
                await until(lambda: full([node, frozen]), within_s=3)
                frozen.host.freeze()
                link = node.network.members_driver.links[frozen.peer]
                for number in range(20):
                    node.network.possess(manifest_of(b"%d %d" % (number, n)) for n in range(1024))
                    await trio.sleep(0.01)
                assert link._writing_since is not None, "a write hangs"
                started = trio.current_time()
                if cancelled:
                    scope.cancel()
                    await trio.sleep(1)
        assert trio.current_time() - started < 4
        frozen.host.thaw()


async def test_who_stops_dials_nobody_any_more(autojump_clock):
    async with world(1, deadline_s=60) as (_, (a,)):
        await a.network.members_driver.close()
        a.network.found(peer(50), ["/nobody"])
        await trio.sleep(10)
        assert a.host.dials == []


async def test_a_killed_peer_is_noticed_in_under_1_s(autojump_clock):
    async with world(4, deadline_s=60) as (_, nodes):
        await until(lambda: full(nodes), within_s=3)
        async with nodes[1].network.swarm(MANIFEST, NAMES) as swarm:
            nodes[0].host.kill()
            await until(lambda: full(nodes[1:]), within_s=1)
            seen = [swarm.events.receive_nowait() for _ in range(3)]
            assert [e.peer for e in seen if isinstance(e, PeerGone)] == [nodes[0].peer]


async def test_a_restarted_peer_replaces_its_old_self_and_its_old_news(autojump_clock):
    async with world(2, deadline_s=60) as (net, (a, b)):
        await until(lambda: full([a, b]), within_s=3)
        b.shelf.held[NAMES[0]] = (1, None)
        async with a.network.swarm(MANIFEST, NAMES) as swarm, a.network.watch() as changes:
            assert isinstance(await changes.receive(), MemberUp)
            assert isinstance(await swarm.events.receive(), PeerHolds)
            assert isinstance(await swarm.events.receive(), PeerSettled)
            net.unplug(a.peer, b.peer)  # power fails: nobody says goodbye
            first = b.network.members_driver.generation
            old = a.network.members_driver.links[b.peer]
            b.host.dead = True
            async with open_node(net, 2, address=b.host.address) as again:
                net.plug(a.peer, b.peer)
                again.network.found(a.peer, a.host.addresses())
                await until(
                    lambda: (
                        again.network.members_driver.generation
                        in {m.generation for m in a.network.members()}
                    ),
                    within_s=2,
                )
                assert old.ended is not None
                assert first not in {m.generation for m in a.network.members()}
                assert await swarm.events.receive() == PeerGone(b.peer, "the peer restarted")
                assert await swarm.events.receive() == PeerSettled(b.peer)
                change = await changes.receive()
                assert isinstance(change, MemberUp)
                assert change.member.generation != first
                assert len(a.network.members()) == 1
                b.host.kill()


async def test_a_pulled_cable_heals(autojump_clock):
    async with world(3, deadline_s=120) as (net, nodes):
        await until(lambda: full(nodes), within_s=3)
        net.unplug(nodes[0].peer, nodes[1].peer)
        await until(lambda: nodes[1].peer not in nodes[0].knows(), within_s=11)
        await trio.sleep(10)
        assert nodes[2].knows() == {nodes[0].peer, nodes[1].peer}
        net.plug(nodes[0].peer, nodes[1].peer)
        await until(lambda: full(nodes), within_s=70)


async def test_in_a_large_network_eight_neighbours_carry_what_is_said(autojump_clock):
    mesh = MeshOptions(full_mesh=12, back_to_full=8, neighbours=4, guests=12)
    options = NetworkOptions(mesh=mesh)
    async with world(26, deadline_s=300, options=options) as (_, nodes):
        await trio.sleep(40)
        assert all(node.network.statistics().sparse for node in nodes)
        counts = [len(node.network.members()) for node in nodes]
        assert max(counts) <= 4 + 12
        assert min(counts) >= 4
        nodes[7].network.possess([MANIFEST])
        others = [node.network._interests for node in nodes if node is not nodes[7]]
        await until(lambda: all(o.who(MANIFEST) for o in others), within_s=1)
        # Who wants it gets a link to who has it, wherever it is in the mesh.
        far = next(node for node in nodes if nodes[7].peer not in {*node.knows(), node.peer})
        async with far.network.swarm(MANIFEST, NAMES):
            await until(lambda: nodes[7].peer in far.knows(), within_s=3)


async def test_changes_of_members_are_told(autojump_clock):
    async with world(2, deadline_s=60) as (_, (a, b)), a.network.watch() as changes:
        assert (await changes.receive()).member.peer == b.peer
        b.host.kill()
        assert isinstance(await changes.receive(), MemberDown)
