"""Members over real hosts on loopback: they find each other, tell, ask, freeze and die."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import pytest
import trio

from p2pcache.content.peerid import parse_peer_id
from p2pcache.content.ranges import RangeSet
from p2pcache.content.signed import sign_attestation, sign_resolution
from p2pcache.errors import NotFound
from p2pcache.net.host import open_host
from p2pcache.net.identity import Identity
from p2pcache.net.network import open_network
from p2pcache.net.network_key import NetworkKey
from p2pcache.net.shelf import BlockMap, PeerHolds, PeerLost, PeerSettled
from p2pcache.net.sync.wire import PROTOCOL, Said
from tests.support.members import LANE, DictShelf, Node, manifest_of
from tests.support.net_node import LOOPBACK

KEY = NetworkKey(bytes(range(32)))
NAME = b"\x12\x20" + hashlib.sha256(b"blob").digest()
ATTESTED = b"\x12\x20" + hashlib.sha256(b"another").digest()
DATA = b"a manifest" * 100_000
MANIFEST = manifest_of(DATA)
REF = "hf://org/model@main"


@pytest.fixture(autouse=True)
async def _bounded():
    with trio.fail_after(60):
        yield


@dataclass
class RealNode(Node):
    identity: Identity = None


@asynccontextmanager
async def members(count):
    """Members in this process; all but the first know the address of the first alone."""
    async with AsyncExitStack() as stack:
        nodes = []
        for _ in range(count):
            identity = Identity.generate()
            host = await stack.enter_async_context(open_host(identity, KEY, LOOPBACK))
            shelf = DictShelf()
            network = await stack.enter_async_context(
                open_network(host, shelf, lane=LANE, agent="test 1")
            )
            nodes.append(RealNode(host, shelf, network, identity=identity))
        for node in nodes[1:]:
            node.network.found(nodes[0].peer, nodes[0].host.addresses())
        yield nodes


async def until(true, *, within_s):
    started = trio.current_time()
    with trio.fail_after(within_s):
        while not true():  # noqa: ASYNC110  # it looks from outside
            await trio.sleep(0.005)
    return trio.current_time() - started


def full(nodes):
    everyone = {node.peer for node in nodes}
    return all(node.knows() == everyone - {node.peer} for node in nodes)


async def test_three_find_each_other_and_tell_ask_and_answer():
    async with members(3) as (a, b, c):
        took_s = await until(lambda: full([a, b, c]), within_s=5)
        print(f"three members, full mesh after {took_s * 1000:.0f} ms")
        await trio.sleep(1)
        opened = sum(m.opened_by_us for node in (a, b, c) for m in node.network.members())
        assert opened == 3, "one link for each pair"

        hashes = b"".join(hashlib.sha256(bytes([n])).digest() for n in range(5))
        a.shelf.held[NAME] = (5 << 20, RangeSet.of((0, 2)))
        a.shelf.maps[NAME] = BlockMap(5 << 20, 0, hashes)
        signed = sign_attestation(a.identity, ATTESTED, 5 << 20, 1 << 20, hashes[:64])
        a.shelf.maps[ATTESTED] = BlockMap(5 << 20, 0, None, (signed,))
        a.shelf.manifests[MANIFEST] = DATA
        known = sign_resolution(
            a.identity,
            canonical=REF,
            manifest=MANIFEST,
            immutable="hf://org/model@abc",
            source="hf",
            endpoint="https://huggingface.co",
            mutable=True,
            restricted=False,
            resolved_at=1.7e9,
        )
        a.shelf.names[REF] = [known]

        async with c.network.swarm(MANIFEST, [NAME, ATTESTED]) as swarm:
            heard = {await swarm.events.receive() for _ in range(3)}
            assert heard == {
                PeerHolds(a.peer, NAME, 5 << 20, RangeSet.of((0, 2))),
                PeerSettled(a.peer),
                PeerSettled(b.peer),
            }
            await until(
                lambda: a.network._interests.who(MANIFEST) == {c.peer: Said.INTENT}, within_s=1
            )
            started = trio.current_time()
            a.network.grew(NAME, RangeSet.of((2, 4)))
            assert (await swarm.events.receive()).blocks == RangeSet.of((0, 4))
            print(f"a have after {(trio.current_time() - started) * 1000:.1f} ms")
            a.network.lost([NAME])
            assert await swarm.events.receive() == PeerLost(a.peer, NAME)

            got = await swarm.block_map(a.peer, NAME, 1, 3, timeout_s=5)
            assert got == BlockMap(5 << 20, 1, hashes[32:128])
            got = await swarm.block_map(a.peer, ATTESTED, 0, 5, timeout_s=5)
            assert got.attestations == (signed,)
            assert await swarm.block_map(b.peer, NAME, 0, 5, timeout_s=5) is None

            started = trio.current_time()
            lane = await swarm.lane(a.peer, timeout_s=5)
            print(f"a ticket after {(trio.current_time() - started) * 1000:.1f} ms")
            assert (lane.port, lane.fingerprint, lane.token) == (4433, bytes(32), b"ticket 1")
            assert "127.0.0.1" in lane.hosts
            assert await swarm.lane(a.peer, timeout_s=5) == lane, "kept"

        assert await c.network.resolutions(REF, timeout_s=5) == [known]
        assert await c.network.manifest(MANIFEST, timeout_s=5, max_bytes=1 << 24) == DATA
        with pytest.raises(NotFound):
            await c.network.manifest(manifest_of(b"?"), timeout_s=5, max_bytes=1 << 24)
        await until(lambda: not a.network._interests.who(MANIFEST), within_s=1)


async def test_cancelled_callers_break_no_link():
    async with members(2) as (a, b):
        await until(lambda: full([a, b]), within_s=5)
        since = [m.since for m in a.network.members()]
        for number in range(200):
            async with a.network.swarm(MANIFEST, [NAME]) as swarm:
                with trio.move_on_after(number / 50_000):
                    await swarm.lane(b.peer, timeout_s=5)
        async with a.network.swarm(MANIFEST, [NAME]) as swarm:
            assert (await swarm.lane(b.peer, timeout_s=5)).port == 4433
        assert [m.since for m in a.network.members()] == since


async def test_junk_on_the_wire_ends_one_link_and_no_host():
    async with members(2) as (a, b), open_host(Identity.generate(), KEY, LOOPBACK) as liar:
        await until(lambda: full([a, b]), within_s=5)
        for junk in (
            b"\xff" * 64,
            b"\0\0\0\x02\xc1\xc1",
            b"\0\0\0\x09\x94\x04\x01\xc0\xdd\xff\0\0\0",
        ):
            async with open_host(Identity.generate(), KEY, LOOPBACK) as stranger:
                await stranger.connect(a.peer, a.host.addresses(), timeout_s=5)
                stream = await stranger.open_stream(a.peer, PROTOCOL, timeout_s=5)
                await stream.send_all(junk)
                await until(lambda s=stranger: not s.connected(), within_s=2)
        assert full([a, b])
        assert liar.peer_id not in a.knows()


@asynccontextmanager
async def member_process():
    command = [sys.executable, "-m", "tests.support.member_node", KEY.secret.hex()]
    process = await trio.lowlevel.open_process(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        line = b""
        while not line.endswith(b"\n"):
            more = await process.stdout.receive_some(4096)
            assert more, "the node ended"
            line += more
        said = json.loads(line)
        yield process, parse_peer_id(said["peer"]), said["addresses"]
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
            await process.stdin.aclose()
            await process.stdout.aclose()


async def test_a_killed_process_is_noticed_in_under_1_s():
    async with members(2) as (a, b), member_process() as (process, peer, addresses):
        a.network.found(peer, addresses)
        await until(lambda: peer in b.knows() and full([a, b]) is False, within_s=5)
        process.kill()
        took_s = await until(lambda: peer not in a.knows() | b.knows(), within_s=1)
        print(f"killed: noticed after {took_s:.3f} s")
        assert full([a, b])


@pytest.mark.parametrize("pending", [False, True], ids=["idle", "with a write pending"])
async def test_a_frozen_process_is_dropped_in_under_11_s(pending):
    async with members(2) as (a, b), member_process() as (process, peer, addresses):
        a.network.found(peer, addresses)
        await until(lambda: peer in b.knows(), within_s=5)
        process.send_signal(signal.SIGSTOP)
        started = trio.current_time()
        hung = []  # since when a write waits
        async with trio.open_nursery() as nursery:
            if pending:

                async def push():
                    for _ in range(100):
                        many = [manifest_of(b"%d" % n) for n in range(5000)]
                        a.network.possess(many)
                        await trio.sleep(0.02)
                        link = a.network.members_driver.links.get(peer)
                        hung.append(link and link._writing_since)
                        a.network.withdraw(many)
                        await trio.sleep(0.02)

                nursery.start_soon(push)
            await until(lambda: peer not in a.knows() | b.knows(), within_s=11)
            nursery.cancel_scope.cancel()
        assert any(hung) == pending, "a write hangs"
        print(f"frozen: dropped after {trio.current_time() - started:.1f} s, pending {pending}")
        assert b.peer in a.knows()
        process.send_signal(signal.SIGCONT)
        await until(lambda: peer in a.knows() & b.knows(), within_s=20)
