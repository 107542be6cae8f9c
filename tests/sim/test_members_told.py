"""Members in virtual time: what they say and ask of what they hold and want."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from p2pcache.content.ranges import RangeSet
from p2pcache.content.signed import sign_grant
from p2pcache.errors import NotFound, Unavailable
from p2pcache.net.identity import Identity
from p2pcache.net.shelf import PeerHolds, PeerLost, PeerProof, PeerSettled
from p2pcache.net.sync.wire import (
    Bye,
    Have,
    Hello,
    Holds,
    HoldsEnd,
    Peers,
    Said,
    Want,
)
from tests.support.members import DictShelf, Script, hello, manifest_of, open_node, peer
from tests.support.world import full, until, world

MANIFEST = manifest_of(b"manifest")
NAMES = [bytes([0x12, 0x20, number]) * 10 for number in range(3)]


@pytest.fixture
def autojump_clock():
    return MockClock(autojump_threshold=0)


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
