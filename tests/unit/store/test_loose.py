"""Loose blocks: kept by multihash, verified at the door and at every reading, counted, evicted."""

import hashlib

import pytest
from blake3 import blake3

from p2pcache.content import cid as cids
from p2pcache.content import digests
from p2pcache.content.verify import VerifiedBlock, verify_loose
from p2pcache.errors import DiskFull, Untrusted
from p2pcache.store.layout import StoreOptions
from p2pcache.store.loose import ROOM_BYTES
from p2pcache.store.store import Store
from tests.support.stored import MIB, content, name_of, root_of, store_whole

SHA512, BLAKE3 = b"\x13\x40", b"\x1e\x20"


def cbor_cid(data: bytes) -> bytes:
    return cids.dagcbor_cid(hashlib.sha256(data).digest())


def put(store, *blocks: bytes) -> list[bytes]:
    """Their multihashes."""
    found = []
    for data in blocks:
        store.loose.put(verify_loose(cbor_cid(data), data))
        found.append(cids.multihash(cbor_cid(data)))
    return found


def test_a_block_is_found_by_its_multihash_whatever_the_codec(store):
    data = content(1000)
    put(store, data)
    sha256 = hashlib.sha256(data).digest()
    v0 = digests.sha256_digest(sha256)
    for cid in (cbor_cid(data), cids.dagpb_cid(sha256), cids.raw_cid(sha256), v0):
        assert store.loose.read(cid) == data
    assert store.loose.length(v0) == 1000
    assert store.loose.read(cids.raw_cid(hashlib.sha256(b"other").digest())) is None
    assert store.loose.length(digests.sha256_digest(bytes(32))) is None


@pytest.mark.parametrize(
    "multihash", [SHA512 + hashlib.sha512(b"x").digest(), BLAKE3 + blake3(b"x").digest()]
)
def test_other_hash_functions_work_alike(store, multihash):
    cid = cids.make_cid(cids.RAW, multihash)
    store.loose.put(verify_loose(cid, b"x"))
    assert store.loose.read(cid) == b"x"
    with pytest.raises(Untrusted):
        verify_loose(cid, b"y")


def test_the_door_takes_nothing_but_what_the_cid_names():
    cid = cbor_cid(b"right")
    for wrong in (b"wrong", b"", b"right "):
        with pytest.raises(Untrusted):
            verify_loose(cid, wrong)
    large = bytes((2 << 20) + 1)
    with pytest.raises(Untrusted, match="limit"):
        verify_loose(cbor_cid(large), large)
    with pytest.raises(Untrusted):
        verify_loose(cids.make_cid(cids.RAW, b"\x11\x14" + bytes(20)), b"x")  # sha1: not believed
    with pytest.raises(TypeError):
        VerifiedBlock(None, cid[2:], b"right")


@pytest.mark.parametrize("damage", [b"", b"wrong bytes, the right length"[:20], b"x" * 21])
def test_a_damaged_file_is_no_block_and_goes(store, damage):
    (multihash,) = put(store, b"right" * 4)
    path = store.layout.loose_block(multihash)
    path.chmod(0o644)
    path.write_bytes(damage)
    assert store.loose.read(cids.make_cid(cids.RAW, multihash)) is None
    assert not path.exists()
    assert store.loose.usage() == (0, 0)
    put(store, b"right" * 4)
    assert store.loose.read(cids.make_cid(cids.RAW, multihash)) == b"right" * 4


def test_they_are_counted_once_each_and_in_the_stores_usage(store):
    store_whole(store, content(3 * MIB))
    put(store, content(100, 1), content(200, 2), content(100, 1))
    usage = store.usage()
    assert (usage.loose_blocks, usage.blobs) == (2, 1)
    assert usage.used_bytes == 3 * MIB + 300


def test_they_are_there_after_a_restart_with_their_rows(tmp_path):
    with Store.open(tmp_path / "home", StoreOptions(reserve_bytes=0)) as store:
        put(store, content(100, 1))
    with Store.open(tmp_path / "home", StoreOptions(reserve_bytes=0)) as store:
        assert store.loose.usage() == (100, 1)
        assert store.loose.read(cbor_cid(content(100, 1))) == content(100, 1)


def test_files_whose_rows_were_lost_get_them_again(tmp_path):
    with Store.open(tmp_path / "home", StoreOptions(reserve_bytes=0)) as store:
        multihashes = put(store, content(100, 1), content(200, 2))
        store.layout.loose_block(multihashes[0]).unlink()
    for path in (tmp_path / "home").glob("index.sqlite*"):
        path.unlink()
    with Store.open(tmp_path / "home", StoreOptions(reserve_bytes=0)) as store:
        assert store.loose.usage() == (200, 1)
        stray = store.layout.loose / "ab" / "not-a-block"
        stray.parent.mkdir(exist_ok=True)
        stray.write_bytes(b"?")
        assert store.loose.reconcile() == 0
        assert stray.exists(), "what is not ours is not touched"


def clocked(tmp_path, **options):
    now = [1000.0]

    def clock():
        now[0] += 1
        return now[0]

    return Store.open(tmp_path / "home", StoreOptions(reserve_bytes=0, **options), clock=clock)


def test_the_least_recently_used_go_first_and_blobs_among_them(tmp_path):
    with clocked(tmp_path) as store:
        old, middle, new = put(store, content(1000, 1), content(1000, 2), content(1000, 3))
        blob = store_whole(store, content(2 * MIB, 4))
        assert store.loose.read(cids.make_cid(cids.RAW, old)) is not None  # used last of all
        store.gc(target_bytes=2 * MIB + 1000)
        here = [store.loose.length(one) is not None for one in (old, middle, new)]
        assert here == [True, False, False]
        assert store.find(blob.digest) is not None
        store.gc(target_bytes=1000)
        assert store.find(blob.digest) is None, "older than the block that was read"
        assert store.loose.length(old) == 1000


def test_a_store_that_is_full_makes_room_for_blocks_or_says_so(tmp_path):
    with clocked(tmp_path, capacity_bytes=ROOM_BYTES + 3 * MIB) as store:
        blob = store_whole(store, content(3 * MIB, 1))
        with store.running([blob.sha256]):
            put(store, content(MIB, 2))
            for seed in range(3, 40):
                put(store, content(MIB, seed))
        assert store.usage().used_bytes <= ROOM_BYTES + 3 * MIB
        assert store.find(blob.digest) is not None
    with clocked(tmp_path, capacity_bytes=ROOM_BYTES - 1) as small, pytest.raises(DiskFull):
        put(small, content(100, 50))


def test_what_a_pin_keeps_is_not_evicted(tmp_path):
    with clocked(tmp_path) as store:
        kept, loose = put(store, content(1000, 1), content(1000, 2))
        large, other = store_whole(store, content(3 * MIB, 3)), store_whole(store, content(MIB, 4))
        root = cbor_cid(b"the root")
        store.dag_pins.add(root, True, [kept], [large.root_cid])
        report = store.gc(target_bytes=0)
        assert store.loose.length(kept) == 1000
        assert store.loose.length(loose) is None
        assert store.find(large.digest) is not None
        assert store.find(other.digest) is None
        assert report.kept_because["pinned"] == 1000 + 3 * MIB
        assert store.dag_pins.drop(root)
        assert not store.dag_pins.drop(root)
        store.gc(target_bytes=0)
        assert store.usage().used_bytes == 0


def test_a_pin_of_a_root_holds_the_blob_before_it_has_another_name(tmp_path):
    from tests.support.stored import name, rooted

    data = content(3 * MIB, 7)
    with clocked(tmp_path) as store:
        blob = rooted(store, data)
        store.dag_pins.add(root_of(data), True, [], [blob.key])
        store.gc(target_bytes=0)
        assert store.find_any(root_of(data)) == blob
        name(store, blob)
        store.gc(target_bytes=0)
        assert store.find(name_of(data)) is not None


def test_blocks_are_in_the_layout_by_their_last_byte(store):
    (multihash,) = put(store, b"x")
    path = store.layout.loose_block(multihash)
    assert path.parent.name == f"{multihash[-1]:02x}"
    assert path.stat().st_mode & 0o777 == 0o444
    assert not [one for one in store.small_dir().iterdir() if "lease" not in one.name]
