"""What the open network is told of what is here, with stubs for all that is outside."""

from __future__ import annotations

from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest
import trio
import trio.testing

from p2pcache.agent.network import CERTIFICATE_S, AgentNetwork
from p2pcache.agent.network_slot import NetworkSlot
from p2pcache.agent.peering import peers_of
from p2pcache.config.network import NetworkSettings
from p2pcache.content.digests import WholeHasher
from p2pcache.content.manifest import FileEntry, Manifest
from p2pcache.content.verify import verify_whole
from p2pcache.lanes.certificate import fingerprint
from p2pcache.store.store import Store
from tests.support.gated import ADMIN, ME, World


class Told:
    """Stands for the network and for the DHT; writes down what they are told."""

    def __init__(self) -> None:
        self.pulls: list[tuple[bytes, bool]] = []
        self.provided: list[bytes] = []
        self.asked: list[bytes] = []
        self.gone: list[bytes] = []
        self.withdrawn: list[bytes] = []
        self.dropped: list[bytes] = []

    @asynccontextmanager
    async def swarm(self, manifest, names, *, quiet):
        self.pulls.append((manifest, quiet))
        send, events = trio.open_memory_channel(1)
        async with send:
            yield SimpleNamespace(events=events)

    def members(self):
        return []

    def provide(self, names) -> None:
        self.provided += names

    def possess(self, manifests) -> None:
        pass

    def possessed(self):
        return []

    def lost(self, names) -> None:
        self.gone += names

    def withdraw(self, names) -> None:
        self.withdrawn += names

    async def drop(self, names) -> None:
        self.dropped += names

    @asynccontextmanager
    async def find(self, name):
        self.asked.append(name)
        send, found = trio.open_memory_channel(1)
        await send.aclose()
        yield found


@pytest.fixture
def world(tmp_path):
    with Store.open(tmp_path / "store") as store:
        yield World(store)


def opened_network(world: World) -> tuple[AgentNetwork, Told]:
    told = Told()
    opened = AgentNetwork(
        identity=ME, key=None, admin=ADMIN.peer_id, host=None, server=told, store=world.store,
        now=lambda: world.now, book=None, tls=None,
    )  # fmt: skip
    opened.network = opened.dht = told
    return opened, told


async def test_a_pull_of_what_is_gated_is_told_and_looked_up_nowhere(world):
    opened, told = opened_network(world)
    for manifest in (world.gated, world.public):
        async with peers_of(opened, manifest, world.names(), None):
            await trio.sleep(0.05)
    assert told.pulls == [(world.gated, True), (world.public, False)]
    assert told.provided == [world.public]
    assert told.asked == [world.public]


async def test_an_evicted_blob_is_taken_back_under_every_name_that_it_was_told_by(world, tmp_path):
    opened, told = opened_network(world)
    data = b"a small file of a repository"
    hasher = WholeHasher(len(data), git=True)
    hasher.update(data)
    sha1 = b"\x11\x14" + hasher.digests().git_sha1
    path = tmp_path / "small"
    path.write_bytes(data)
    verified = verify_whole(sha1, len(data), hasher.digests())
    root = b"\x01\x70\x12\x20" + bytes(32)
    blob = world.store.adopt(path, verified, path.stat(), root_cid=root)
    manifest = Manifest.from_entries([FileEntry("f", len(data), sha1)])
    world.store.put_manifest(manifest)
    world.resolve("hf://org/small@main", manifest.cid(), gated=False)
    slot = NetworkSlot(tmp_path, NetworkSettings(), world.store, lambda: 0.0)
    slot.current = opened
    async with trio.open_nursery() as nursery:
        await nursery.start(opened.chores.run)
        opened.possess([manifest.cid()])
        nursery.start_soon(slot._tell_removed)
        await trio.testing.wait_all_tasks_blocked()
        world.store.rm(manifest.cid())
        await trio.sleep(0.2)
        nursery.cancel_scope.cancel()
    names = {blob.digest, sha1, root}
    assert root in told.provided
    for heard in (told.gone, told.withdrawn, told.dropped):
        assert names <= set(heard)


@pytest.mark.parametrize("by", ["the index", "the byte server"])
async def test_a_blob_whose_file_is_gone_is_taken_back(world, tmp_path, by):
    opened, told = opened_network(world)
    data = b"somebody else's file"
    hasher = WholeHasher(len(data))
    hasher.update(data)
    path = tmp_path / "adopted"
    path.write_bytes(data)
    digest = b"\x12\x20" + hasher.digests().sha256
    blob = world.store.adopt(path, verify_whole(digest, len(data), hasher.digests()), path.stat())
    slot = NetworkSlot(tmp_path, NetworkSettings(), world.store, lambda: 0.0)
    slot.current = opened
    told.stale_in, told.stale = trio.open_memory_channel(1)
    async with trio.open_nursery() as nursery:
        await nursery.start(opened.chores.run)
        nursery.start_soon(opened.take_back_stale)
        if by == "the index":
            nursery.start_soon(slot._tell_removed)
            await trio.testing.wait_all_tasks_blocked()
        await told.stale_in.send(digest)
        await trio.sleep(0.1)
        assert not told.gone, "it is here"
        path.unlink()
        if by == "the index":
            assert world.store.find(digest) is None
        else:
            await told.stale_in.send(digest)
        await trio.sleep(0.1)
        nursery.cancel_scope.cancel()
    for heard in (told.gone, told.withdrawn, told.dropped):
        assert blob.digest in heard


async def test_what_is_arriving_is_not_taken_back_for_a_file_that_moved(world):
    opened, told = opened_network(world)
    opened.sharing._growing[b"name"] = object()
    told.stale_in, told.stale = trio.open_memory_channel(1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(opened.take_back_stale)
        await told.stale_in.send(b"name")
        await trio.sleep(0.1)
        nursery.cancel_scope.cancel()
    assert not told.gone


async def test_the_byte_server_lets_in_one_certificate_of_a_peer_for_as_long_as_its_tickets(world):
    trusted = set()

    class Server:
        async def trust(self, certificates) -> None:
            trusted.update(map(fingerprint, certificates))

        async def distrust(self, fingerprints) -> None:
            trusted.difference_update(fingerprints)

        async def ban(self, readers) -> None:
            pass

    opened, _ = opened_network(world)
    opened.server, opened.client_tls, opened.book = Server(), object(), SimpleNamespace()
    opened.book.forget = opened.dht.forget = opened.network.ban = lambda peer: None
    shown = {}
    opened.network.member = lambda peer: SimpleNamespace(
        lane=SimpleNamespace(certificate=shown[peer])
    )

    async def admit(peer, certificate) -> None:
        shown[peer] = certificate
        assert await opened._admit(peer) is not None
        await trio.testing.wait_all_tasks_blocked()

    def are_trusted(*certificates) -> bool:
        return trusted == {fingerprint(one) for one in certificates}

    a, b, c = b"peer a", b"peer b", b"peer c"
    async with trio.open_nursery() as nursery:
        await nursery.start(opened.chores.run)
        for number in range(5):
            await admit(a, b"life %d" % number)
        assert are_trusted(b"life 4"), "a peer that restarts leaves nothing"
        await admit(b, b"life 4")
        await admit(b, b"of b")
        assert are_trusted(b"life 4", b"of b"), "who shows another's cannot have it shut out"
        world.now += CERTIFICATE_S - 1
        await admit(b, b"of b")
        assert are_trusted(b"life 4", b"of b")
        world.now += 1
        await admit(c, b"of c")
        assert are_trusted(b"of b", b"of c"), "a has had no ticket for two hours"
        await opened.ban(b, "lied")
        assert are_trusted(b"of c")
        nursery.cancel_scope.cancel()
