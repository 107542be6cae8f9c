"""What of the store goes out by bitswap, and what Kubo's table is told of it."""

from __future__ import annotations

import hashlib

import pytest
import trio

from p2pcache.agent.bitswap import _Announced
from p2pcache.agent.ipfs import Ipfs
from p2pcache.config.ipfs import IpfsSettings
from p2pcache.content import cid as cids
from p2pcache.errors import NotFound
from p2pcache.net.bitswap.driver import open_bitswap
from p2pcache.net.memory import open_memory_net
from p2pcache.store.store import Store
from tests.support.bitswap_store import MemoryBlocks
from tests.support.gated import OPEN, SECRET, World
from tests.support.members import peer


@pytest.fixture
def world(tmp_path):
    store = Store.open(tmp_path)
    yield World(store)
    store.close()


class Table:
    """What a `Dht` was told."""

    def __init__(self) -> None:
        self.provided: set[bytes] = set()

    def provide(self, names) -> None:
        self.provided |= set(names)

    def withdraw(self, names) -> None:
        self.provided -= set(names)


class Waiting:
    """A `Bitswap` that hears that blocks may be here."""

    def __init__(self) -> None:
        self.heard: list[bytes | None] = []

    def arrived(self, multihash) -> None:
        self.heard.append(multihash)


async def test_what_came_with_a_credential_is_served_to_nobody(world):
    with trio.fail_after(60):
        async with open_memory_net() as net, trio.open_nursery() as nursery:
            ours, theirs = net.host(peer(0)), net.host(peer(1))
            ipfs = Ipfs(world.store, IpfsSettings(), nursery, lambda: world.now)
            async with (
                open_bitswap(ours, ipfs.open_blocks),
                open_bitswap(theirs, MemoryBlocks()) as reader,
                reader.session() as session,
            ):
                await trio.lowlevel.checkpoint()
                await theirs.connect(peer(0), ours.addresses(), timeout_s=5)
                shown = cids.raw_cid(hashlib.sha256(OPEN).digest())
                assert await session.get(shown, timeout_s=20, patient=True) == OPEN  # once they met
                hidden = cids.raw_cid(hashlib.sha256(SECRET).digest())
                with pytest.raises(NotFound):
                    await session.get(hidden, timeout_s=20)
            nursery.cancel_scope.cancel()


async def test_complete_manifests_are_announced_until_they_are_removed(world):
    table, bitswap = Table(), Waiting()
    announced = _Announced(world.store, table, bitswap)
    digest = hashlib.sha256(OPEN).digest()
    name = b"\x12\x20" + digest
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(announced.run)
            while not table.provided:  # noqa: ASYNC110 - a fake without events
                await trio.sleep(0.01)
            assert cids.multihash(world.public) in table.provided
            assert cids.multihash(world.gated) not in table.provided, "it is restricted"
            assert bitswap.heard == [None], "who waits for a block of it is served"
            told = set(table.provided)
            announced.removed([name], [world.public])
            assert not table.provided
            announced.possess([world.public])
            while table.provided != told:  # noqa: ASYNC110
                await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
