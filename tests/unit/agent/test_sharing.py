"""What peers see of what is here and of what grows; the byte server is one that writes down."""

from __future__ import annotations

import threading
from contextlib import suppress

import pytest

from p2pcache.agent.access import Access, AccessOptions, NeedsProof
from p2pcache.agent.sharing import Growing, Sharing
from p2pcache.content.digests import whole_digests
from p2pcache.content.manifest import FileEntry, Manifest
from p2pcache.content.ranges import RangeSet
from p2pcache.content.signed import sign_attestation, sign_grant
from p2pcache.errors import NotFound
from p2pcache.net.shelf import Holding
from p2pcache.store.index import Index
from p2pcache.store.rights import OTHERS
from p2pcache.store.store import Store
from tests.support.gated import ADMIN, ME, PEER, REF, STRANGER, World
from tests.support.stored import MIB, block_hashes, content, name_of, root_of, rooted
from tests.support.stored import name as give_name

WEIGHTS = b"gated weights" * 1000
NAME = b"\x12\x20" + whole_digests(WEIGHTS).sha256
BLOCKS = RangeSet.of((0, 1))


class Server:
    """What a byte server was told."""

    def __init__(self) -> None:
        self.scopes: dict[bytes, set[bytes]] = {}

    async def scope(self, scope, entries) -> None:
        self.scopes.setdefault(scope, set()).update(entries)

    async def drop(self, names) -> None:
        for known in self.scopes.values():
            known.difference_update(names)

    def issue(self, reader, scope, binding, lifetime_s) -> str:
        return "token"


class Shop:
    """A world that is shared."""

    def __init__(self, store: Store) -> None:
        self.world = World(store)
        self.server = Server()
        self.sharing = Sharing(
            store, self.world.access, ME, self.server, self.admit, lambda: self.world.now
        )

    async def admit(self, peer):
        return b"binding"

    def names(self, ref: str, digests: list[bytes], *, gated: bool, source: str = "hf") -> bytes:
        """A manifest of these digests that a ref means."""
        files = [FileEntry(str(at), len(WEIGHTS), digest) for at, digest in enumerate(digests)]
        manifest = Manifest.from_entries(files)
        self.world.store.put_manifest(manifest)
        self.world.resolve(ref, manifest.cid(), gated=gated, source=source)
        return manifest.cid()

    async def grow(self, manifest: bytes | None) -> None:
        await self.sharing.begin(Growing(NAME, len(WEIGHTS), "data", "live", manifest))
        self.sharing.grew(NAME, BLOCKS)

    async def is_refused(self, peer, scope: bytes) -> bool:
        try:
            await self.sharing.ticket(peer.peer_id, scope, None)
        except NotFound:
            return True
        return NAME not in self.server.scopes[scope]


@pytest.fixture
def shop(tmp_path):
    with Store.open(tmp_path / "store") as store:
        yield Shop(store)


async def test_a_gated_blob_that_grows_under_its_bare_name_is_gated(shop):
    gated = shop.names("hf://org/new@main", [NAME], gated=True)
    await shop.grow(None)
    shop.sharing.attest([sign_attestation(ME, NAME, len(WEIGHTS), 0, bytes(32))])
    assert await shop.sharing.holding(STRANGER.peer_id, None, [NAME]) == []
    assert await shop.sharing.block_map(STRANGER.peer_id, NAME, 0, 1) is None
    assert await shop.is_refused(STRANGER, NAME)
    shop.world.let_in(PEER, gated)
    told = [Holding(NAME, len(WEIGHTS), BLOCKS)]
    assert await shop.sharing.holding(PEER.peer_id, None, [NAME]) == told
    assert not await shop.is_refused(PEER, NAME)
    assert await shop.sharing.block_map(PEER.peer_id, NAME, 0, 1) is not None


async def test_a_ticket_from_before_a_blob_was_known_to_be_gated_does_not_open_it(shop):
    await shop.grow(None)
    assert not await shop.is_refused(STRANGER, NAME)
    await shop.sharing.lose([NAME])
    gated = shop.names("hf://org/new@main", [NAME], gated=True)
    shop.world.let_in(PEER, gated)
    await shop.sharing.begin(Growing(NAME, len(WEIGHTS), "data", "live", gated))
    assert NAME not in shop.server.scopes[NAME]
    await shop.sharing.ticket(PEER.peer_id, gated, None)
    assert NAME in shop.server.scopes[gated]


async def test_a_ticket_for_what_another_agent_listed_opens_nothing_that_is_gated(shop):
    gated = shop.names("hf://org/new@main", [NAME], gated=True)
    both = [NAME, shop.world.open.digest]
    listed = shop.names("hf://x@v2", both, gated=False, source=OTHERS)
    shop.world.let_in(PEER, gated)
    await shop.grow(gated)
    for peer in (STRANGER, PEER):  # whose tickets for it are good for the same blobs
        held = await shop.sharing.holding(peer.peer_id, listed, both)
        assert [one.name for one in held] == [shop.world.open.digest]
        assert await shop.is_refused(peer, listed)
    await shop.grow(gated)
    assert shop.server.scopes[listed] == {shop.world.open.digest}
    assert not await shop.is_refused(PEER, gated)


async def test_a_blob_that_begins_while_a_ticket_is_made_is_in_it(shop, monkeypatch):
    listed = shop.names("hf://org/open@main", [NAME, shop.world.open.digest], gated=False)
    admit = shop.admit

    async def admit_late(peer):
        await shop.grow(listed)
        return await admit(peer)

    monkeypatch.setattr(shop.sharing, "_admit", admit_late)
    assert not await shop.is_refused(STRANGER, listed)


async def test_what_peers_ask_reads_the_index_in_threads_alone(shop, monkeypatch):
    gated = shop.names("hf://org/new@main", [NAME], gated=True)
    shop.world.let_in(PEER, gated)
    await shop.grow(gated)
    shop.sharing.attest([sign_attestation(ME, NAME, len(WEIGHTS), 0, bytes(32))])
    grant = sign_grant(ADMIN, "hf://org/gated", PEER.peer_id, 9e9)
    shop.world.store.others.put_grant(grant)
    here = threading.get_ident()
    read = Index.read
    in_the_loop = []

    def noting(self, query, *parameters):
        if threading.get_ident() == here:
            in_the_loop.append(query)
        return read(self, query, *parameters)

    monkeypatch.setattr(Index, "read", noting)
    sharing, secret = shop.sharing, shop.world.secret.digest
    for peer in (PEER.peer_id, STRANGER.peer_id):
        for scope in (None, gated, shop.world.public, shop.world.gated):
            with suppress(NeedsProof):
                await sharing.holding(peer, scope, [NAME, secret])
        for scope in (NAME, secret, gated, shop.world.public, shop.world.gated):
            with suppress(NeedsProof, NotFound):
                await sharing.ticket(peer, scope, bytes(32))
        for name in (NAME, secret):
            await sharing.block_map(peer, name, 0, 1)
        await sharing.manifest(peer, gated, 0, 100)
        await sharing.resolutions(peer, REF)
        await shop.grow(gated)
    assert in_the_loop == []


@pytest.fixture
def open_shop(tmp_path):
    """One with nothing gated in it."""
    with Store.open(tmp_path / "open") as store:
        shop = object.__new__(Shop)
        shop.server = Server()
        access = Access(store, ME.peer_id, AccessOptions(None), now=lambda: 0.0, choose=lambda n: 0)
        shop.sharing = Sharing(store, access, ME, shop.server, shop.admit, lambda: 0.0)
        yield shop, store


async def test_a_blob_that_is_known_by_its_root_alone_is_shared_with_its_map(open_shop):
    shop, store = open_shop
    data = content(2 * MIB + 1)
    root = root_of(data)
    rooted(store, data)
    told = [Holding(root, len(data), None)]
    assert await shop.sharing.holding(STRANGER.peer_id, None, [root]) == told
    told_map = await shop.sharing.block_map(STRANGER.peer_id, root, 1, 2)
    assert told_map.hashes == b"".join(block_hashes(data))[32:]
    await shop.sharing.ticket(STRANGER.peer_id, root, None)
    assert shop.server.scopes[root] == {root}


async def test_what_may_be_gated_is_not_shared_before_its_sha256_tells(shop):
    data = content(2 * MIB + 1)
    root = root_of(data)
    gated = shop.names("hf://org/new@main", [name_of(data)], gated=True)
    shop.world.let_in(PEER, gated)
    blob = rooted(shop.world.store, data)
    for peer in (STRANGER, PEER):
        assert await shop.sharing.holding(peer.peer_id, None, [root]) == []
        assert await shop.sharing.block_map(peer.peer_id, root, 0, 1) is None
        with pytest.raises(NotFound):
            await shop.sharing.ticket(peer.peer_id, root, None)
    give_name(shop.world.store, blob)
    assert await shop.sharing.holding(STRANGER.peer_id, None, [root]) == []
    assert await shop.sharing.holding(PEER.peer_id, None, [root]) == [
        Holding(root, len(data), None)
    ]


async def test_what_an_address_with_a_secret_means_is_told_to_nobody(shop):
    plain, signed = "https://h/m.bin", "https://h/m.bin?x-amz-signature=~"
    for ref in (plain, signed, "https://h/m.bin?token=~0123456789ab"):
        shop.names(ref, [NAME], gated=False, source="http")
    assert [w.canonical for w in await shop.sharing.resolutions(STRANGER.peer_id, plain)] == [plain]
    for ref in (signed, "https://h/m.bin?token=~0123456789ab"):
        assert await shop.sharing.resolutions(STRANGER.peer_id, ref) == []
