"""Blocks that blobs, folders and manifests imply: found by their digest, and stored nowhere."""

import hashlib
import os
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from p2pcache.content import cid as cids
from p2pcache.content import digests, unixfs
from p2pcache.content.manifest import FileEntry, Manifest
from p2pcache.content.verify import verify_loose
from p2pcache.store import implied as implied_module
from p2pcache.store.block_index import _FIND, BlockIndex, Place
from p2pcache.store.layout import StoreOptions
from p2pcache.store.store import Store
from tests.support.stored import (
    MIB,
    block_hashes,
    content,
    file_count,
    name,
    name_of,
    root_of,
    rooted,
    small_items,
    store_whole,
)


def sha(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def nodes_of(data: bytes) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    unixfs.file_root(block_hashes(data), len(data), lambda cid, block: found.update({cid: block}))
    return found


def check_all(store, data: bytes) -> None:
    for at in range(0, len(data), MIB):
        block = data[at : at + MIB]
        assert store.implied.read(sha(block)) == block
        assert store.implied.length(sha(block)) == len(block)
    for cid, node in nodes_of(data).items():
        assert store.implied.read(cid[4:]) == node
        assert store.implied.length(cid[4:]) == len(node)


@pytest.fixture
def made(store, monkeypatch) -> list[bytes]:
    """The owners whose nodes were made, as often as they were; each takes a while."""
    owners: list[bytes] = []
    make = implied_module.Implied._make

    def counting(self: implied_module.Implied, owner: bytes) -> dict[bytes, bytes]:
        owners.append(owner)
        time.sleep(0.1)
        return make(self, owner)

    monkeypatch.setattr(implied_module.Implied, "_make", counting)
    return owners


def test_for_who_may_not_see_it_nothing_is_made(store, made):
    data = content(3 * MIB + 5, 1)
    store_whole(store, data)
    (node,) = (cid[4:] for cid in nodes_of(data))
    assert store.implied.read(node, lambda _: False) is None
    assert store.implied.length(node, lambda _: False) is None
    assert made == []
    assert store.implied.length(node) is not None
    assert len(made) == 1


def test_what_many_ask_for_at_once_is_made_once(store, made):
    data = content(3 * MIB + 5, 1)
    store_whole(store, data)
    ((cid, node),) = nodes_of(data).items()
    store.implied.catch_up()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(store.implied.read, [cid[4:]] * 8))
    assert found == [node] * 8
    assert len(made) == 1


# two levels of nodes need more than 1024 leaves: 1.1 GB; `test_a_tree_of_two_levels` fakes them
@pytest.mark.parametrize("size", [MIB + 1, 2 * MIB, 3 * MIB + 5])
def test_leaves_and_nodes_of_a_blob_are_blocks(store, size):
    data = content(size, 1)
    store_whole(store, data)
    files = file_count(store.layout.root)
    check_all(store, data)
    assert file_count(store.layout.root) == files, "nothing is stored twice"
    assert store.implied.read(bytes(32)) is None
    assert store.implied.length(bytes(32)) is None


@pytest.mark.parametrize("size", [0, 1, MIB, MIB + 1, 2 * MIB])
def test_a_blob_of_at_most_two_mebibytes_is_a_block_itself(store, size):
    data = content(size, 2)
    store_whole(store, data) if size > MIB else store.publish_small(small_items(store, [data]))
    assert store.implied.read(sha(data)) == data
    assert store.implied.length(sha(data)) == size


def test_a_larger_blob_is_no_block(store):
    data = content(2 * MIB + 1, 2)
    store_whole(store, data)
    assert store.implied.read(sha(data)) is None


def test_what_comes_later_is_found_and_what_goes_is_not(store):
    first, second = content(2 * MIB + 1, 1), content(2 * MIB + 1, 2)
    blob = store_whole(store, first)
    check_all(store, first)
    store_whole(store, second)
    check_all(store, second)
    store.gc(target_bytes=0)
    for data in (first, second):
        for block in block_hashes(data):
            assert store.implied.read(block) is None
            assert store.implied.length(block) is None
        for cid in nodes_of(data):
            assert store.implied.read(cid[4:]) is None
    store.implied._rest_until = 0.0
    store.implied.catch_up()
    assert BlockIndex(store._index).owners() == set(), "rows of what is gone go"
    assert store.find(blob.digest) is None


def test_a_block_of_two_blobs_stays_while_one_of_them_does(store):
    shared = content(MIB, 1)
    one, two = shared + content(5, 2), shared + content(6, 3)
    first = store_whole(store, one)
    store_whole(store, two)
    check_all(store, one)
    check_all(store, two)
    store._blobs.remove([first.sha256])
    assert store.implied.read(sha(shared)) == shared
    assert store.implied.length(sha(shared)) == MIB


def test_a_blob_that_has_no_name_but_its_root_has_blocks_before_and_after_it_is_named(store):
    data = content(2 * MIB + 7, 1)
    blob = rooted(store, data)
    check_all(store, data)
    name(store, blob)
    check_all(store, data)


def test_a_damaged_blob_gives_no_bad_block(store):
    data = content(3 * MIB, 1)
    blob = store_whole(store, data)
    check_all(store, data)
    stat = blob.path.stat()
    blob.path.chmod(0o644)
    with blob.path.open("r+b") as file:
        file.seek(MIB + 5)
        file.write(bytes([data[MIB + 5] ^ 1]))
    os.utime(blob.path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # nothing tells but a hash
    assert store.implied.read(block_hashes(data)[0]) == data[:MIB]
    assert store.implied.read(block_hashes(data)[1]) is None


def manifest_of(files: dict[str, bytes]) -> Manifest:
    entries = [FileEntry(path, len(data), name_of(data)) for path, data in files.items()]
    return Manifest(tuple(sorted(entries, key=lambda entry: entry.path)))


def folder_nodes(files: dict[str, bytes]) -> dict[bytes, bytes]:
    roots = {
        path: unixfs.Root(root_of(data), len(data), unixfs.file_dag_size(len(data)))
        for path, data in files.items()
    }
    found: dict[bytes, bytes] = {}
    unixfs.tree(roots, keep=lambda cid, block: found.update({cid: block}))
    return found


FILES = {"a.txt": b"hello", "sub/b.bin": content(MIB + 3, 1), "sub/deep/c": b"", "a2": b"hello"}


def fill(store, files) -> Manifest:
    for data in files.values():
        if len(data) > MIB:
            store_whole(store, data)
        else:
            store.publish_small(small_items(store, [data]))
    manifest = manifest_of(files)
    store.put_manifest(manifest)
    return manifest


def test_nodes_of_folders_and_manifests_are_blocks_while_all_files_are_here(store):
    manifest = fill(store, FILES)
    nodes = folder_nodes(FILES)
    assert len(nodes) == 3
    for cid, node in nodes.items():
        assert store.implied.read(cid[4:]) == node
        assert store.implied.length(cid[4:]) == len(node)
    assert store.implied.read(manifest.cid()[4:]) == manifest.encode()
    store._blobs.remove([sha(b"")])
    store.implied._rest_until = 0.0
    store.implied.catch_up()
    assert store.implied.read(next(iter(nodes))[4:]) is None
    assert store.implied.read(manifest.cid()[4:]) == manifest.encode()


def test_what_is_hidden_from_the_asker_is_not_here_for_him(store):
    manifest = fill(store, FILES)
    large = FILES["sub/b.bin"]
    blocks = [sha(b"hello"), sha(large), *block_hashes(large), *(c[4:] for c in nodes_of(large))]
    blocks += [manifest.cid()[4:], *(cid[4:] for cid in folder_nodes(FILES))]
    for block in blocks:
        assert store.implied.read(block) is not None
        assert store.implied.read(block, lambda what: False) is None
        assert store.implied.length(block, lambda what: False) is None
    asked: list[object] = []
    store.implied.read(sha(large[:MIB]), lambda what: asked.append(what) or True)
    assert [what.sha256 for what in asked] == [sha(large)]


def test_a_tree_of_two_levels(store):
    """1025 leaves, by their hashes alone."""
    hashes = [sha(b"%d" % n) for n in range(1025)]
    index = BlockIndex(store._index)
    nodes = implied_module._file_nodes(b"".join(hashes), 1024 * MIB + 9)
    assert len(nodes) == 3, "the root, and two parents of 1024 leaves and of one"
    index.add(b"o" * 32, b"".join(hashes), nodes)
    for number in (0, 1, 1023, 1024):
        assert index.find(hashes[number]) == [Place(b"o" * 32, number)]
    for node in nodes:
        assert index.find(node) == [Place(b"o" * 32, None)]
    assert index.find(sha(b"no")) == []


def test_a_lookup_searches_both_tables_and_scans_none(store):
    """Some 8 us, however many owners and blocks there are."""
    index = BlockIndex(store._index)
    for blob in range(100):
        index.add(sha(b"%d" % blob), b"".join(sha(b"%d %d" % (blob, n)) for n in range(50)), [])
    assert index.find(sha(b"70 7")) == [Place(sha(b"70"), 7)]
    plan = store._index.read("EXPLAIN QUERY PLAN " + _FIND, (0,))
    steps = [row[3] for row in plan]
    assert [step.split()[0] for step in steps] == ["SEARCH", "SEARCH"], steps


def test_misses_do_not_look_for_new_blobs_all_the_time(tmp_path):
    """Somebody asks for blocks that nobody has while the index changes all the time."""
    now = [0.0]

    def monotonic():
        now[0] += 0.05  # each look takes that long
        return now[0]

    with Store.open(tmp_path, StoreOptions(reserve_bytes=0), monotonic=monotonic) as store:
        looks = []
        note = store.implied._note_new
        store.implied._note_new = lambda: looks.append(1) or note()
        for number in range(20):
            store.save_receipt({"ref": str(number)})
            assert store.implied.read(sha(b"no")) is None
        assert 1 <= len(looks) < 10
        count = len(looks)
        now[0] += 100
        assert store.implied.read(sha(b"no")) is None
        assert len(looks) == count + 1
        now[0] += 100
        assert store.implied.read(sha(b"no")) is None
        assert len(looks) == count + 1, "nothing changed since"


def test_blob_of_tells_who_keeps_a_block(store):
    manifest = fill(store, FILES)
    large = FILES["sub/b.bin"]
    assert store.implied.blob_of(sha(large[:MIB])).sha256 == sha(large)
    assert store.implied.blob_of(root_of(large)[4:]).sha256 == sha(large)
    assert store.implied.blob_of(sha(b"hello")).sha256 == sha(b"hello")
    assert store.implied.blob_of(next(iter(folder_nodes(FILES)))[4:]) is None
    assert store.implied.blob_of(manifest.cid()[4:]) is None


def test_a_foreign_node_with_a_block_of_a_blob_is_loose_beside_it(store):
    data = content(2 * MIB + 1, 1)
    store_whole(store, data)
    cid = cids.dagpb_cid(sha(b"node"))
    store.loose.put(verify_loose(cid, b"node"))
    assert store.implied.read(sha(b"node")) is None
    assert store.loose.read(cid) == b"node"
    assert digests.is_sha256(cids.multihash(cid))
