"""Members in virtual time that lie, flood, stall or hold no key to our trust."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import trio
from trio.testing import MockClock

from p2pcache.errors import Unavailable, Untrusted
from p2pcache.net.shelf import PeerHolds
from p2pcache.net.sync.wire import (
    Announce,
    Bye,
    Contact,
    Drop,
    Hello,
    Holds,
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
from tests.support.members import Script, hello, manifest_of, open_node, peer
from tests.support.world import ends_quietly, full, until, world

MANIFEST = manifest_of(b"manifest")
NAMES = [bytes([0x12, 0x20, number]) * 10 for number in range(3)]


@pytest.fixture
def autojump_clock():
    return MockClock(autojump_threshold=0)


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
        assert mesh.contact(peer(50)).addresses == told[2:]
        assert mesh._known[peer(51)].told == {peer(50): told[2:]}
        one.kill()


def _held(name):
    from p2pcache.net.shelf import Holding

    return Holding(name, 1, None)


async def test_invented_members_neither_change_the_mesh_nor_are_told_to_others(autojump_clock):
    async with world(3, deadline_s=60) as (net, nodes):
        await until(lambda: full(nodes), within_s=3)
        a, b, c = nodes
        for number in range(64):
            a.network.found(peer(1000 + number), [f"/fake/{number}"], "mdns")
        for number in range(8):
            a.network.found(b.peer, [f"/fake/{number}/{n}" for n in range(8)], "mdns")
        liar = net.host(peer(50))
        script = await Script.dial(liar, a.peer, a.host.addresses())
        await script.say(hello())
        told = (await script.hear_a(Peers)).contacts
        expected = {b.peer: b.host.addresses(), c.peer: c.host.addresses()}
        assert {one.peer: one.addresses for one in told} == expected
        await script.say(Peers(tuple(Contact(peer(2000 + n), ("/fake",)) for n in range(64))))
        await trio.sleep(1)
        assert not a.network.statistics().sparse
        assert {b.peer, c.peer} < a.knows()
        liar.kill()


async def test_tales_of_others_beyond_a_rate_are_not_heard(autojump_clock):
    async with world(2, deadline_s=60) as (net, (a, b)):
        await until(lambda: full([a, b]), within_s=3)
        liar = net.host(peer(50))
        script = await Script.dial(liar, a.peer, a.host.addresses())
        await script.say(hello())
        await script.hear_a(Hello)
        mesh = a.network.members_driver.mesh
        for turn in range(100):
            invented = (Contact(peer(1000 + 64 * turn + n), ("/fake",)) for n in range(64))
            await script.say(Peers(tuple(invented)))
        await trio.sleep(1)
        told = [known for known in mesh._known.values() if not known.proven]
        assert len(told) == 256, "the last of 8 messages"
        assert peer(1000 + 64 * 8 - 1) in mesh._known
        assert a.distrusted == []
        assert {b.peer, liar.peer_id} == a.knows()
        liar.kill()


async def never(*_):
    await trio.sleep_forever()


async def test_black_holes_do_not_keep_members_apart(autojump_clock):
    """Two tell of 200 that never answer; a member comes back, and another one comes."""
    async with world(3, deadline_s=120) as (net, nodes):
        await until(lambda: full(nodes), within_s=3)
        a, b, c = nodes
        holes = [net.host(peer(1000 + n)) for n in range(200)]
        for number, hole in enumerate(holes):
            hole.freeze()
            by = "mdns" if number % 2 else c.peer
            a.network.members_driver.found(hole.peer_id, hole.addresses(), by)
        await trio.sleep(30)
        net.unplug(a.peer, b.peer)
        await until(lambda: b.peer not in a.knows(), within_s=11)
        b.network.members_driver._dials._reach = never
        net.plug(a.peer, b.peer)
        await until(lambda: b.peer in a.knows(), within_s=15)
        async with open_node(net, 99) as late:
            late.network.members_driver._dials._reach = never
            a.network.found(late.peer, late.host.addresses(), "dns")
            await until(lambda: late.peer in a.knows(), within_s=11)
        for hole in holes:
            hole.kill()
        await trio.sleep(12)


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
