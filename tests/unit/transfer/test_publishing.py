"""What is public: the DAGs that were named, to the block, while everybody may read them."""

from __future__ import annotations

import hashlib

import libipld
import pytest

from p2pcache.agent.access import open_to_all
from p2pcache.content import cid as cids
from p2pcache.content.cid import parse_cid
from p2pcache.content.dag.hashes import cid_of
from p2pcache.content.dag.links import links
from p2pcache.errors import Denied, NotFound, Untrusted
from p2pcache.store.layout import StoreOptions
from p2pcache.store.store import Store
from p2pcache.transfer import publishing
from p2pcache.transfer.blocks import LocalBlocks
from p2pcache.transfer.publishing import Publisher
from tests.support.gated import OPEN, REF, SECRET, World
from tests.support.ipfs_gateway import keep
from tests.support.ipfs_site import BIG, fill
from tests.support.stored import MIB, content, root_of, rooted, store_whole


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "home", StoreOptions(reserve_bytes=0)) as opened:
        yield opened


def publisher(store, shows=None) -> Publisher:
    shown = LocalBlocks(store) if shows is None else LocalBlocks(store, shows)
    return Publisher(LocalBlocks(store), shown)


def raw(data: bytes) -> bytes:
    return cids.raw_cid(hashlib.sha256(data).digest())


def below(store, root: bytes) -> set[bytes]:
    """Every block of a DAG."""
    local, found, todo = LocalBlocks(store), {root}, [root]
    while todo:
        cid = todo.pop()
        for child in links(cid, local.read(cid)):
            if child not in found:
                found.add(child)
                todo.append(child)
    return found


def test_nothing_is_public_until_it_is_named(store):
    site = fill(store)
    public = publisher(store)
    everything = below(store, parse_cid(site.root)) | set(site.foreign_cids)
    assert len(everything) > 20
    assert [public.length(cid) for cid in everything] == [None] * len(everything)
    assert [public.read(cid) for cid in everything] == [None] * len(everything)
    assert public.roots() == []


def test_a_folder_is_public_to_its_last_block_and_nothing_beside_it(store):
    site = fill(store)
    public, root = publisher(store), parse_cid(site.root)
    inside = below(store, root)
    assert public.publish(root) == len({cids.multihash(cid) for cid in inside})
    local = LocalBlocks(store)
    for cid in inside:
        assert public.read(cid) == local.read(cid)
        assert public.length(cid) == len(local.read(cid))
    beside = {*site.foreign_cids, parse_cid(site.cbor), parse_cid(site.json)}
    assert [public.length(cid) for cid in beside] == [None] * len(beside)
    assert public.roots() == [root]


@pytest.mark.parametrize("name", ["cbor", "foreign"])
def test_any_dag_can_be_public(store, name):
    site = fill(store)
    public, root = publisher(store), parse_cid(getattr(site, name))
    public.publish(root)
    assert all(public.read(cid) is not None for cid in below(store, root))


def test_a_file_that_has_only_its_root_is_public_by_it(store):
    data = content(3 * MIB + 1, 7)
    rooted(store, data)
    public = publisher(store)
    assert public.publish(root_of(data)) == 5
    assert public.read(raw(data[:MIB])) == data[:MIB]


def test_what_is_unpublished_is_given_no_longer_unless_another_dag_has_it(store):
    site = fill(store)
    public, root = publisher(store), parse_cid(site.root)
    big = root_of(BIG)
    public.publish(root)
    public.publish(big)
    assert public.unpublish(root)
    assert public.length(root) is None
    assert public.length(raw(BIG[:MIB])) == MIB
    assert public.unpublish(big)
    assert public.length(raw(BIG[:MIB])) is None
    assert not public.unpublish(big)


def test_what_is_public_stays_in_the_store(store):
    site = fill(store)
    public, root = publisher(store), parse_cid(site.root)
    public.publish(root)
    inside = below(store, root)
    store.gc(target_bytes=0)
    store.collect_loose()
    assert all(public.read(cid) is not None for cid in inside)
    assert LocalBlocks(store).read(parse_cid(site.json)) is None, "the rest went"


def test_a_dag_with_a_hole_is_not_published(store):
    site = fill(store)
    public, root = publisher(store), parse_cid(site.partial)
    with pytest.raises(NotFound, match="is not here"):
        public.publish(root)
    assert public.length(root) is None
    with pytest.raises(NotFound):
        public.publish(parse_cid(site.missing))


def test_a_dag_without_end_is_refused(store, monkeypatch):
    site = fill(store)
    monkeypatch.setattr(publishing, "MAX_BLOCKS", 5)
    with pytest.raises(Untrusted, match="more than 5 blocks"):
        publisher(store).publish(parse_cid(site.root))


@pytest.fixture
def world(store):
    return World(store)


@pytest.fixture
def public(world):
    return publisher(world.store, open_to_all(world.store, lambda: world.now))


def test_it_is_refused_by_itself_and_within_anything(world, public):
    block = libipld.encode_dag_cbor({"open": raw(OPEN), "secret": raw(SECRET)})
    around = cid_of(cids.DAG_CBOR, block)
    keep(world.store, around, block)
    for root in (raw(SECRET), around, world.gated):
        with pytest.raises(Denied, match="gated or private"):
            public.publish(root)
    assert public.roots() == []
    for cid in (raw(SECRET), around, raw(OPEN)):
        assert public.length(cid) is None
    public.publish(raw(OPEN))
    assert public.read(raw(OPEN)) == OPEN


def test_what_becomes_restricted_is_given_no_longer(world, public):
    data = content(3 * MIB, 8)
    store_whole(world.store, data)
    public.publish(root_of(data))
    assert public.length(raw(data[:MIB])) == MIB
    world.put(data, REF, gated=True)
    for cid in (root_of(data), raw(data[:MIB])):
        assert (public.length(cid), public.read(cid)) == (None, None)


class Looked(LocalBlocks):
    """Notes that somebody looked."""

    def __init__(self, store) -> None:
        super().__init__(store)
        self.asked: list[bytes] = []

    def length(self, cid: bytes) -> int | None:
        self.asked.append(cid)
        return super().length(cid)

    def read(self, cid: bytes) -> bytes | None:
        self.asked.append(cid)
        return super().read(cid)


def test_what_is_not_public_is_refused_without_a_look_at_what_is_here(store):
    """Else the time of an answer would tell it."""
    store_whole(store, BIG)
    shown = Looked(store)
    public = Publisher(LocalBlocks(store), shown)
    for cid in (root_of(BIG), raw(BIG[:MIB]), raw(b"nowhere")):
        assert (public.length(cid), public.read(cid)) == (None, None)
    assert shown.asked == []
