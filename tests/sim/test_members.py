"""Members in virtual time: every test has a deadline on the virtual clock, and leaves nothing."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from functools import partial

import pytest
import trio
from trio.testing import MockClock

from p2pcache.content.ranges import RangeSet
from p2pcache.content.signed import sign_grant
from p2pcache.errors import NotFound, Unavailable, Untrusted
from p2pcache.net.identity import Identity
from p2pcache.net.member import MemberDown, MemberUp
from p2pcache.net.memory import open_memory_net
from p2pcache.net.mesh import MeshOptions
from p2pcache.net.network import NetworkOptions
from p2pcache.net.shelf import PeerGone, PeerHolds, PeerLost, PeerProof, PeerSettled
from p2pcache.net.sync import preloads
from p2pcache.net.sync.wire import (
    Announce,
    Bye,
    Contact,
    Drop,
    Have,
    Hello,
    Holds,
    HoldsEnd,
    Load,
    ManifestAsk,
    ManifestPart,
    Peers,
    Ping,
    Pong,
    Refused,
    Said,
    TicketAsk,
    Want,
)
from tests.support.members import DictShelf, Script, hello, manifest_of, open_node, peer

MANIFEST = manifest_of(b"manifest")
NAMES = [bytes([0x12, 0x20, number]) * 10 for number in range(3)]


@pytest.fixture
def autojump_clock():
    return MockClock(autojump_threshold=0)


@asynccontextmanager
async def world(count, *, deadline_s, known=True, options=None, latency_s=0.001):
    """`count` nodes; each but the first is told the first one's address. Leaves nothing open."""
    with trio.fail_after(deadline_s):
        async with open_memory_net(latency_s) as net:
            async with AsyncExitStack() as stack:
                nodes = [
                    await stack.enter_async_context(open_node(net, number + 1, options=options))
                    for number in range(count)
                ]
                if known:
                    for node in nodes[1:]:
                        node.network.found(nodes[0].peer, nodes[0].host.addresses())
                yield net, nodes
            await trio.sleep(5)
            assert net.streams_open() == 0, "streams were left over"
            assert net.handler_errors == []
            assert not [task for task in _tasks(net) if "link" in task], "tasks were left over"


def _tasks(net):
    return [task.name for task in net._nursery.child_tasks]


async def until(true, *, within_s):
    with trio.fail_after(within_s):
        while not true():  # noqa: ASYNC110  # it looks from outside
            await trio.sleep(0.005)


def full(nodes):
    everyone = {node.peer for node in nodes}
    return all(node.knows() == everyone - {node.peer} for node in nodes)


async def test_sixteen_find_each_other_from_one_address(autojump_clock):
    async with world(16, deadline_s=60) as (net, nodes):
        await until(lambda: full(nodes), within_s=3)
        await trio.sleep(10)
        assert full(nodes)
        # Exactly one link, so one stream, for each pair: 120 pairs, two ends each.
        assert net.streams_open() == 16 * 15
        opened = sum(m.opened_by_us for node in nodes for m in node.network.members())
        assert opened == 120


async def test_intents_and_possession_reach_everyone_within_milliseconds(autojump_clock):
    async with world(16, deadline_s=60) as (_, nodes):
        await until(lambda: full(nodes), within_s=3)
        first = nodes[0]
        async with first.network.swarm(MANIFEST, NAMES):
            others = [node.network._interests for node in nodes[1:]]
            await until(
                lambda: all(o.who(MANIFEST) == {first.peer: Said.INTENT} for o in others),
                within_s=0.05,
            )
            first.network.possess([MANIFEST])
            await until(
                lambda: all(o.who(MANIFEST) == {first.peer: Said.POSSESS} for o in others),
                within_s=0.05,
            )
        await trio.sleep(1)
        assert all(o.who(MANIFEST) for o in others), "possession outlives the download"
        first.network.withdraw([MANIFEST])
        await until(lambda: not any(o.who(MANIFEST) for o in others), within_s=0.05)


async def test_a_quiet_pull_is_announced_to_nobody_and_finds_who_holds_it(autojump_clock):
    async with world(3, deadline_s=60) as (net, nodes):
        await until(lambda: full(nodes), within_s=3)
        nodes[1].shelf.held[NAMES[0]] = (5 << 20, None)
        async with nodes[0].network.swarm(MANIFEST, NAMES, quiet=True) as swarm:
            found = PeerHolds(nodes[1].peer, NAMES[0], 5 << 20, None)
            with trio.fail_after(1):
                while await swarm.events.receive() != found:
                    pass
            async with open_node(net, 99) as late:
                late.network.found(nodes[0].peer, nodes[0].host.addresses())
                await until(lambda: full([*nodes, late]), within_s=3)
                await trio.sleep(1)
                assert not any(n.network._interests.who(MANIFEST) for n in [*nodes, late])
        heard = []
        nodes[1].network._interests.hear = lambda *news: heard.append(news)
        await trio.sleep(1)
        async with nodes[0].network.swarm(MANIFEST, NAMES, quiet=True):
            await trio.sleep(1)
        await trio.sleep(1)
        assert heard == [], "nor is it taken back"


async def test_a_newcomer_hears_what_was_said_before(autojump_clock):
    async with world(3, deadline_s=60) as (net, nodes):
        await until(lambda: full(nodes), within_s=3)
        nodes[1].network.possess([MANIFEST])
        async with open_node(net, 99) as late:
            late.network.found(nodes[0].peer, nodes[0].host.addresses())
            await until(lambda: full([*nodes, late]), within_s=3)
            async with late.network.swarm(MANIFEST, NAMES) as swarm:
                await until(
                    lambda: swarm.partners() == {nodes[1].peer: Said.POSSESS}, within_s=0.05
                )


async def test_haves_are_collected_and_arrive_as_the_state_they_lead_to(autojump_clock):
    async with world(2, deadline_s=60) as (_, (a, b)):
        await until(lambda: full([a, b]), within_s=3)
        a.shelf.held[NAMES[0]] = (300 << 20, RangeSet.of((0, 1)))
        async with b.network.swarm(MANIFEST, NAMES) as swarm:
            assert await swarm.events.receive() == PeerHolds(
                a.peer, NAMES[0], 300 << 20, RangeSet.of((0, 1))
            )
            assert await swarm.events.receive() == PeerSettled(a.peer)
            frames = _count_frames(b, a.peer)
            for block in range(1, 300):
                a.network.grew(NAMES[0], RangeSet.of((block, block + 1)))
                await trio.sleep(0.001)
            got = RangeSet()
            with trio.fail_after(1):
                while got != RangeSet.of((0, 300)):
                    got = (await swarm.events.receive()).blocks
            assert len(frames) <= 8, "300 blocks in 300 ms are 6 or 7 haves"
            a.network.grew(NAMES[0], None)
            assert (await swarm.events.receive()).blocks is None
            # A blob that nobody held at the start: looked up once, then told like the others.
            a.shelf.held[NAMES[1]] = (5 << 20, RangeSet.of((2, 3)))
            a.network.grew(NAMES[1], RangeSet.of((2, 3)))
            assert (await swarm.events.receive()) == PeerHolds(
                a.peer, NAMES[1], 5 << 20, RangeSet.of((2, 3))
            )
            started = trio.current_time()
            a.network.lost([NAMES[0]])
            assert await swarm.events.receive() == PeerLost(a.peer, NAMES[0])
            assert trio.current_time() - started < 0.05


def _count_frames(node, other):
    """Haves heard from now on."""
    talk = node.network.members_driver.links[other].talk
    frames, handle = [], talk.handle

    def counted(heard, body_bytes, now):
        if isinstance(heard, Have):
            frames.append(heard)
        return handle(heard, body_bytes, now)

    talk.handle = counted
    return frames


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
                others[0].network.withdraw(list(others[0].network._possessed))
                others[0].network.possess(
                    manifest_of(b"%d" % number) for number in range(1024, 9000)
                )
                others[0].network.withdraw(list(others[0].network._possessed))
                await trio.sleep(0.1)
            link = others[0].network.members_driver.links[frozen.peer]
            assert link._writing_since is not None, "a write hangs"
        await until(lambda: not any(frozen.peer in n.knows() for n in others), within_s=11)
        assert 2 < trio.current_time() - started < 11
        assert full(others), "nobody else was dropped"
        frozen.host.thaw()
        await until(lambda: full(nodes), within_s=90)


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


async def test_a_flooding_peer_is_cut_for_its_rate_and_kept_away(autojump_clock):
    async with world(3, deadline_s=120) as (net, nodes):
        await until(lambda: full(nodes), within_s=3)
        flooder = net.host(peer(50))
        script = await Script.dial(flooder, nodes[0].peer, nodes[0].host.addresses())
        await script.say(hello())
        await script.hear_a(Hello)
        with pytest.raises(Unavailable):  # noqa: PT012  # whichever notices
            await script.say(*(Drop(number) for number in range(1, 20_000)))
            await script.hear_the_end()
        assert nodes[0].distrusted == [(flooder.peer_id, "a peer sends more than one may")]
        assert flooder.peer_id not in nodes[0].knows()
        again = await Script.dial(flooder, nodes[0].peer, nodes[0].host.addresses())
        with pytest.raises(Unavailable):
            await again.hear()
        assert full(nodes)
        flooder.kill()


JUNK = {
    "not msgpack": b"\0\0\0\x04\xc1\xc1\xc1\xc1",
    "a huge frame": b"\xff\xff\xff\xff",
    "an empty frame": b"\0\0\0\0",
    "ten million names": b"\0\0\0\x09\x94\x04\x01\xc0\xdd\x00\x98\x96\x80",
    "a second hello": None,
    "an answer to nothing": b"\0\0\0\x03\x92\x06\x05",
    "a kind its version lacks": b"\0\0\0\x03\x91\xcc\xc8",
}


@pytest.mark.parametrize("junk", JUNK)
async def test_a_liar_is_dropped_and_the_others_finish(autojump_clock, junk):
    async with world(3, deadline_s=120) as (net, nodes):
        await until(lambda: full(nodes), within_s=3)
        liar = net.host(peer(50))
        script = await Script.dial(liar, nodes[0].peer, nodes[0].host.addresses())
        await script.say(hello())
        await script.hear_a(Hello)
        await until(lambda: liar.peer_id in nodes[0].knows(), within_s=1)
        if JUNK[junk] is None:
            await script.say(hello())
        else:
            await script.stream.send_all(JUNK[junk])
        with pytest.raises(Unavailable):
            await script.hear_the_end()
        assert [who for who, _ in nodes[0].distrusted] == [liar.peer_id]
        assert liar.peer_id not in nodes[0].knows()
        nodes[1].shelf.held[NAMES[0]] = (1, None)
        async with nodes[0].network.swarm(MANIFEST, NAMES) as swarm:
            told = {await swarm.events.receive() for _ in range(3)}
        assert PeerHolds(nodes[1].peer, NAMES[0], 1, None) in told
        assert full(nodes)
        liar.kill()


async def test_tells_about_what_was_not_wanted_are_lies(autojump_clock):
    async with world(1, deadline_s=60) as (net, (a,)):
        liar = net.host(peer(50))
        script = await Script.dial(liar, a.peer, a.host.addresses())
        await script.say(hello())
        async with a.network.swarm(MANIFEST, NAMES[:1]):
            want = await script.hear_a(Want)
            await script.say(Holds(want.id, (_held(NAMES[2]),)))
            with pytest.raises(Unavailable):
                await script.hear_the_end()
        assert len(a.distrusted) == 1
        liar.kill()


async def test_what_leads_to_services_of_our_own_is_not_dialled(autojump_clock):
    async with world(1, deadline_s=60) as (net, (a,)):
        one = net.host(peer(50))
        told = ("/ip4/127.0.0.1/tcp/6379", "/ip4/169.254.169.254/tcp/80", "/ip4/10.0.0.5/tcp/4001")
        script = await Script.dial(one, a.peer, a.host.addresses())
        await script.say(replace(hello(), addresses=told), Peers((Contact(peer(51), told),)))
        await trio.sleep(1)
        mesh = a.network.members_driver.mesh
        for who in (peer(50), peer(51)):
            assert mesh.contact(who).addresses == told[2:]
        one.kill()


def _held(name):
    from p2pcache.net.shelf import Holding

    return Holding(name, 1, None)


async def test_a_newer_minor_version_is_understood_and_another_major_is_not_blamed(autojump_clock):
    async with world(1, deadline_s=60) as (net, (a,)):
        newer = net.host(peer(50))
        script = await Script.dial(newer, a.peer, a.host.addresses())
        await script.say(hello(minor=7))
        await script.hear_a(Hello)
        await script.stream.send_all(b"\0\0\0\x07\x94\xcc\xc8\x01\xa1x\x90")  # kind 200
        # A ping with a field that minor 0 does not have.
        await script.stream.send_all(b"\0\0\0\x05\x93\x02\x05\xa1x")
        assert (await script.hear_a(Pong)).number == 5
        assert [m.version for m in a.network.members()] == [(1, 7)]
        stranger = net.host(peer(51))
        script = await Script.dial(stranger, a.peer, a.host.addresses())
        await script.say(hello(major=2))
        assert await script.hear_a(Bye) == Bye("version")
        assert a.distrusted == []
        assert len(a.network.members()) == 1
        newer.kill()
        stranger.kill()


async def test_a_stranger_that_never_says_hello_is_let_go(autojump_clock):
    async with world(1, deadline_s=60) as (net, (a,)):
        idle = net.host(peer(50))
        scripts = [await Script.dial(idle, a.peer, a.host.addresses()) for _ in range(30)]
        await trio.sleep(6)
        for script in scripts:
            with pytest.raises(Unavailable):
                await script.hear_the_end()
        assert net.streams_open() == 0


async def test_banned_peers_are_refused_and_cut(autojump_clock):
    async with world(3, deadline_s=120) as (_, nodes):
        await until(lambda: full(nodes), within_s=3)
        a, b, _ = nodes
        a.banned.add(b.peer)
        a.network.ban(b.peer)
        await trio.sleep(60)
        assert b.peer not in a.knows()
        assert a.peer not in b.knows()
        assert full([a, nodes[2]]) is False  # c knows b as well
        assert {a.peer, b.peer} == nodes[2].knows()


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


async def test_a_burst_of_news_costs_no_link(autojump_clock):
    async with world(3, deadline_s=60) as (_, nodes):
        await until(lambda: full(nodes), within_s=3)
        since = [m.since for node in nodes for m in node.network.members()]
        many = [manifest_of(b"%d" % number) for number in range(5000)]
        a, b, _ = nodes
        names = [b"%d" % number for number in range(900)]
        a.shelf.held.update(dict.fromkeys(names, (1, None)))
        async with b.network.swarm(None, names) as swarm:
            for one in many:
                a.network.possess([one])
            told = {await swarm.events.receive() for _ in range(len(names) + 2)}
            assert told >= {PeerHolds(a.peer, name, 1, None) for name in names}
            for name in names:
                a.network.lost([name])
            lost = {await swarm.events.receive() for _ in names}
            assert lost == {PeerLost(a.peer, name) for name in names}
        await trio.sleep(1)
        assert all(b.network._interests.who(one) == {a.peer: Said.POSSESS} for one in many)
        assert [m.since for node in nodes for m in node.network.members()] == since


async def test_a_second_look_at_restricted_manifests_follows_the_proof(autojump_clock):
    async with world(2, deadline_s=60) as (_, (a, b)):
        await until(lambda: full([a, b]), within_s=3)
        a.shelf.restricted.add(MANIFEST)
        a.shelf.held[NAMES[0]] = (1, None)
        async with b.network.swarm(MANIFEST, NAMES) as swarm:
            assert await swarm.events.receive() == PeerSettled(a.peer)
            await trio.sleep(1)
            assert swarm.events.receive_nowait() == PeerProof(a.peer, under_way=False)
            with pytest.raises(trio.WouldBlock):
                swarm.events.receive_nowait()
        b.shelf.proof = b"proof"
        async with b.network.swarm(MANIFEST, NAMES) as swarm:
            seen = {await swarm.events.receive() for _ in range(3)}
            held = PeerHolds(a.peer, NAMES[0], 1, None)
            assert seen == {PeerSettled(a.peer), PeerProof(a.peer, under_way=True), held}
            lane = await swarm.lane(a.peer, timeout_s=1)
            assert lane.token == b"ticket 1", "the ticket of the proof is kept"


async def refusing(net, node, text=b"challenge"):
    """Somebody refuses a want whenever it was asked for a ticket; how many tickets, and the end."""
    script = await Script.dial(net.host(peer(50)), node.peer, node.host.addresses())
    await script.say(hello())
    want = await script.hear_a(Want)
    refused = Refused(want.id, "denied", "", text)
    await script.say(refused)
    tickets = 0
    while True:
        with trio.move_on_after(6):
            ask = await script.hear_a(TicketAsk)
            tickets += 1
            await script.say(Refused(ask.id, "denied", "", text))
            if ask.proof is not None:
                await trio.sleep(0.1)
                await script.say(refused)
            continue
        return tickets, script, refused


async def test_a_few_proofs_are_made_for_one_peer_and_one_that_wants_ever_more_is_dropped(
    autojump_clock,
):
    async with world(1, deadline_s=60) as (net, (a,)):
        a.shelf.proof = b"not accepted"
        async with a.network.swarm(MANIFEST, NAMES):
            tickets, script, refused = await refusing(net, a)
            assert tickets == 2 * 4, "each is asked for without a proof, and with one"
            assert not a.distrusted
            await script.say(*[refused] * 9)
            await until(lambda: a.distrusted, within_s=3)


@pytest.mark.parametrize(
    ("trouble", "blamed"), [(Untrusted("nonsense"), True), (KeyError(), False)]
)
async def test_a_proof_that_fails_in_any_way_ends_no_network(autojump_clock, trouble, blamed):
    async def prove(peer, scope, challenge):
        raise trouble

    async with world(2, deadline_s=60) as (_, (a, b)):
        await until(lambda: full([a, b]), within_s=3)
        a.shelf.restricted.add(MANIFEST)
        b.shelf.prove = prove
        async with b.network.swarm(MANIFEST, NAMES):
            await trio.sleep(1)
            assert bool(b.distrusted) == blamed
            assert bool(b.knows()) != blamed


async def test_grants_are_told_to_one_or_to_all_but_one(autojump_clock):
    heard = []

    def hears(node):
        node.network._on_grants = lambda grants: heard.append((node, len(grants))) or []

    async with world(3, deadline_s=60) as (_, (a, b, c)):
        await until(lambda: full([a, b, c]), within_s=3)
        hears(b)
        hears(c)
        key = Identity.generate()
        grants = [sign_grant(key, f"hf://org/{n}", b.peer, 1e9) for n in range(65)]
        a.network.permit(grants, to=c.peer)
        await trio.sleep(1)
        assert heard == [(c, 64), (c, 1)]
        a.network.permit(grants[:2], but=c.peer)
        await trio.sleep(1)
        assert heard[2:] == [(b, 2)]


async def test_preloads_are_told_to_those_who_know_of_them_and_lies_end_the_link(autojump_clock):
    heard = []

    def refuse(_peer, _message):
        raise Untrusted("a signature does not fit its signer")

    async with world(3, deadline_s=60) as (_, (a, b, c)):
        await until(lambda: full([a, b, c]), within_s=3)
        b.network.on_preload = lambda peer, message: heard.append(("b", peer, message))
        c.network.on_preload = lambda peer, message: heard.append(("c", peer, message))
        word, ask = preloads.Records((b"record",)), preloads.Watch(())
        a.network.tell_preload(word)
        await trio.sleep(1)
        assert sorted(heard) == [("b", a.peer, word), ("c", a.peer, word)]
        heard.clear()
        a.network.tell_preload(ask, but=b.peer)
        a.network.tell_preload(word, to=b.peer)
        await trio.sleep(1)
        assert sorted(heard) == [("b", a.peer, word), ("c", a.peer, ask)]
        c.network.on_preload = refuse
        a.network.tell_preload(word)
        await until(lambda: c.distrusted, within_s=3)


@pytest.mark.parametrize(("minor", "is_told"), [(1, False), (2, True), (3, True)])
async def test_an_older_minor_version_is_told_of_no_preload(autojump_clock, minor, is_told):
    async with world(1, deadline_s=60) as (net, (a,)):
        script = await Script.dial(net.host(peer(50)), a.peer, a.host.addresses())
        await script.say(hello(minor))
        await until(a.knows, within_s=3)
        a.network.tell_preload(preloads.Records((b"record",)))
        told = None
        with trio.move_on_after(3):
            told = await script.hear_a(preloads.Records)
        assert (told is not None) == is_told
        await script.stream.aclose()


async def test_a_cancelled_caller_disturbs_nobody(autojump_clock):
    async with world(2, deadline_s=60) as (_, (a, b)):
        await until(lambda: full([a, b]), within_s=3)
        since = [m.since for m in b.network.members()]
        for after_s in (0.0, 0.0005, 0.001, 0.0015, 0.002, 0.003):
            for _ in range(40):
                async with b.network.swarm(MANIFEST, NAMES) as swarm:
                    with trio.move_on_after(after_s):
                        await swarm.lane(a.peer, timeout_s=5)
        async with b.network.swarm(MANIFEST, NAMES) as swarm:
            assert (await swarm.lane(a.peer, timeout_s=5)).port == 4433
        assert [m.since for m in b.network.members()] == since


async def test_answers_have_a_deadline(autojump_clock):
    class Slow(DictShelf):
        async def ticket(self, peer, scope, proof):
            await trio.sleep_forever()

    async with world(1, deadline_s=120) as (net, (a,)), open_node(net, 2, shelf=Slow()) as slow:
        a.network.found(slow.peer, slow.host.addresses())
        await until(lambda: full([a, slow]), within_s=3)
        async with a.network.swarm(MANIFEST, NAMES) as swarm:
            started = trio.current_time()
            with pytest.raises(Unavailable):
                await swarm.lane(slow.peer, timeout_s=2)
            assert trio.current_time() - started < 2.1
            for _ in range(50):  # callers that gave up block nobody
                with trio.move_on_after(0.01):
                    await swarm.lane(slow.peer, timeout_s=60)
            with pytest.raises(NotFound):
                await a.network.manifest(MANIFEST, timeout_s=5, max_bytes=100)
            started = trio.current_time()
            with pytest.raises(Unavailable):
                await swarm.lane(slow.peer, timeout_s=60)
            assert trio.current_time() - started < 35, "the shelf itself has 30 s"


async def test_manifests_come_from_whoever_tells_the_truth(autojump_clock):
    data = bytes(range(256)) * 4096  # 1 MiB: four parts
    cid = manifest_of(data)
    async with world(4, deadline_s=60) as (_, nodes):
        await until(lambda: full(nodes), within_s=3)
        a, liar, good, _ = nodes
        liar.shelf.manifests[cid] = b"x" * len(data)
        liar.network.possess([cid])
        good.shelf.manifests[cid] = data
        await trio.sleep(0.1)
        got = await a.network.manifest(cid, timeout_s=5, max_bytes=1 << 24)
        assert got == data
        assert [who for who, _ in a.distrusted] == [liar.peer]


async def drips(host, node, number, cid, total, part_bytes, every_s):
    """A member that says it has a manifest, and sends ever more of it slowly."""
    script = await Script.dial(host, node.peer, node.host.addresses())
    generation = bytes([number]) * 16
    await script.say(hello(generation=generation))
    await script.say(Announce(Said.POSSESS, generation, peer(number), (cid,)))
    while True:
        match await script.hear():
            case Ping(ping):
                await script.say(Pong(ping, Load(0.0, 0.0, 0.0)))
            case ManifestAsk(ask, _, offset):
                await trio.sleep(every_s)
                await script.say(ManifestPart(ask, total, offset, bytes(part_bytes)))


@pytest.mark.parametrize(
    ("liars", "part_bytes", "every_s", "within_s"),
    [(4, 1, 1.0, 4), (4, 1 << 18, 9.0, 4), (20, 1 << 18, 1.0, 12)],
)
async def test_slow_announcers_do_not_stop_a_manifest(
    autojump_clock, liars, part_bytes, every_s, within_s
):
    data = bytes(range(256)) * 8192  # 2 MiB: eight parts
    cid = manifest_of(data)
    async with world(2, deadline_s=90) as (net, (a, good)):
        await until(lambda: full([a, good]), within_s=3)
        good.shelf.manifests[cid] = data
        hosts = [net.host(peer(50 + n)) for n in range(liars)]
        async with trio.open_nursery() as nursery:
            for number, host in enumerate(hosts, 50):
                script = partial(ends_quietly, drips, host, a, number, cid, 1 << 26)
                nursery.start_soon(script, part_bytes, every_s)
            await until(lambda: len(a.network._interests.who(cid)) == liars, within_s=3)
            began = trio.current_time()
            got = await a.network.manifest(cid, timeout_s=60, max_bytes=1 << 26)
            assert got == data
            assert trio.current_time() - began < within_s
            assert bool(a.distrusted) == (part_bytes == 1), "slowness is no lie"
            for host in hosts:
                host.kill()


async def ends_quietly(script, *args):
    with suppress(Unavailable):
        await script(*args)


async def test_an_empty_swarm_of_messages_ends_cleanly(autojump_clock):
    """A want, its end and a goodbye, said by a script that counts what comes back."""
    async with world(1, deadline_s=60) as (net, (a,)):
        a.shelf.held[NAMES[0]] = (1, None)
        other = net.host(peer(50))
        script = await Script.dial(other, a.peer, a.host.addresses())
        await script.say(hello(), Want(1, None, tuple(NAMES)))
        heard = [await script.hear() for _ in range(4)]
        assert [type(one) for one in heard] == [Hello, Peers, Holds, HoldsEnd]
        await script.say(Bye("done"))
        await until(lambda: not a.network.members(), within_s=1)
        other.kill()


async def test_changes_of_members_are_told(autojump_clock):
    async with world(2, deadline_s=60) as (_, (a, b)), a.network.watch() as changes:
        assert (await changes.receive()).member.peer == b.peer
        b.host.kill()
        assert isinstance(await changes.receive(), MemberDown)
