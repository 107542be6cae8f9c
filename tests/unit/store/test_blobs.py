from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import time

import pytest

from p2pcache.content import digests, verify
from p2pcache.content.digests import raw
from p2pcache.errors import LocalFault, NotFound, UsageError
from p2pcache.store.layout import StoreOptions
from p2pcache.store.store import Store
from tests.support.stored import (
    MIB,
    block_hashes,
    content,
    file_count,
    fill,
    name_of,
    read_only,
    root_of,
    small_items,
    store_whole,
    verified,
)

OPTIONS = StoreOptions(reserve_bytes=0)
PUBLISHER = """
import sys
from pathlib import Path
from p2pcache.store.layout import StoreOptions
from p2pcache.store.store import Store
from p2pcache.store.lease import Busy
from tests.support.stored import *
many = [content(3000 + i, seed=i) for i in range(60)]
large = [content(2 * MIB + i, seed=i) for i in range(4)]
with Store.open(Path(sys.argv[1]), StoreOptions(reserve_bytes=0)) as store:
    print("ready", flush=True)
    sys.stdin.readline()
    for turn in range(4):
        store.publish_small(small_items(store, many))
        for data in large:
            try:
                store_whole(store, data)
            except Busy:
                pass
"""


def git_name(data: bytes) -> bytes:
    return digests.git_sha1_digest(digests.whole_digests(data).git_sha1)


def test_small_blobs_are_found_by_sha256_raw_cid_and_git_sha1(store):
    many = [content(size, seed=size) for size in (0, 1, 2_000, MIB)]
    infos = store.publish_small(small_items(store, many))
    for data, info in zip(many, infos, strict=True):
        for name in (name_of(data), b"\x01\x55" + name_of(data), git_name(data)):
            assert store.find(name) == info
        assert info.path.read_bytes() == data
        assert info.root_cid == root_of(data)
    assert not list(store.small_dir().glob("small-*"))


def test_publishing_the_same_blob_twice_keeps_one(store):
    (first,) = store.publish_small(small_items(store, [b"same"]))
    inode = first.path.stat().st_ino
    (second,) = store.publish_small(small_items(store, [b"same"]))
    assert second.path.stat().st_ino == inode
    assert store.usage().blobs == 1


@pytest.mark.slow
def test_5000_small_blobs_are_published_in_two_seconds_and_found_fast(tmp_path_factory):
    where = tmp_path_factory.mktemp("home")
    with Store.open(where, OPTIONS) as store:
        items = small_items(store, [b"%d" % number for number in range(5000)])
        start = time.process_time()
        infos = store.publish_small(items)
        assert time.process_time() - start < 2
        names = [digests.sha256_digest(info.sha256) for info in infos]
        start = time.process_time()
        assert len(store.find_many(names)) == 5000
        assert time.process_time() - start < 1
        start = time.process_time()
        for name in names[:1000]:
            store.find(name)
        assert time.process_time() - start < 0.5  # half the promised millisecond each


def test_find_many_mixes_names_and_leaves_out_what_is_absent(store):
    many = [b"a", b"b"]
    store.publish_small(small_items(store, many))
    names = [name_of(b"a"), git_name(b"b"), name_of(b"c"), git_name(b"c")]
    assert set(store.find_many(names)) == {name_of(b"a"), git_name(b"b")}


def test_files_of_others_that_vanish_together_are_told_of_together(store, tmp_path):
    """Each telling makes the agent look through its index: 5,000 of them stopped it for 8 s."""
    folder, told, names = tmp_path / "theirs", [], []
    folder.mkdir()
    for number in range(300):
        path = folder / str(number)
        path.write_bytes(b"%d" % number)
        names.append(store.adopt(path, verified(path.read_bytes()), path.stat()).digest)
    (kept,) = store.publish_small(small_items(store, [b"7"]))
    store.watch_removed(told.append)
    shutil.rmtree(folder)
    assert store.find_many(names) == {kept.digest: kept}, "the store's own copy is as good"
    assert len(told) == 1
    assert set(names) - {kept.digest} <= set(told[0])
    assert kept.digest not in told[0]
    assert store.usage().blobs == 1


def test_what_is_found_for_a_pull_is_held_before_its_file_is_looked_at(store):
    small = store.publish_small(small_items(store, [b"a", b"b", b"c"]))
    held = []

    def hold(sha256s):
        """The last moment at which an eviction may still take a blob."""
        held.extend(sha256s)
        small[2].path.unlink(missing_ok=True)

    names = [name_of(b"a"), git_name(b"b"), git_name(b"c"), name_of(b"d"), git_name(b"d")]
    assert set(store.find_held(names, hold)) == {name_of(b"a"), git_name(b"b")}
    assert {*held} == {*(blob.sha256 for blob in small), raw(name_of(b"d"))}


def test_a_blob_that_was_deleted_by_hand_is_forgotten(store):
    (info,) = store.publish_small(small_items(store, [b"a"]))
    info.path.unlink()
    assert store.find(name_of(b"a")) is None
    assert store.find(git_name(b"a")) is None
    assert store.usage().blobs == 0


def test_a_truncated_blob_is_not_found_and_can_be_stored_again(store):
    data = content(2 * MIB)
    info = store_whole(store, data)
    info.path.chmod(0o644)
    os.truncate(info.path, 5)
    assert store.find(name_of(data)) is None
    assert store_whole(store, data).path.read_bytes() == data


def overwrite(path, at=10):
    """As root may, through a hard link: 4 bytes, same length; gives the path."""
    with path.open("r+b", buffering=0) as file:
        os.pwrite(file.fileno(), b"evil", at)
    return path


@pytest.mark.parametrize("size", [100, MIB, MIB + 1, 3 * MIB])
def test_a_blob_that_somebody_wrote_to_is_not_found_and_can_be_stored_again(store, size):
    data = content(size)
    whole = size > MIB
    info = store_whole(store, data) if whole else store.publish_small(small_items(store, [data]))[0]
    assert store.find(name_of(data)) == info
    overwrite(info.path)
    assert store.find(name_of(data)) is None
    assert store.find_held([name_of(data)], lambda _: None) == {}
    if whole:
        partial = store.partial(name_of(data), size)
        assert partial.have_count() == partial.blocks - 1, "its good blocks are kept"
        fill(partial, data, [0])
        again = store.publish(partial, verified(data), root_cid=root_of(data))
    else:
        (again,) = store.publish_small(small_items(store, [data]))
    assert again.path.read_bytes() == data
    assert store.find(name_of(data)) == again


@pytest.mark.parametrize("size", [100, 3 * MIB])
def test_a_blob_whose_time_was_changed_alone_is_hashed_once_and_kept(store, size):
    data = content(size)
    info = store_whole(store, data)
    os.utime(info.path, (1, 1))
    assert store.find_held([name_of(data)], lambda _: None) == {name_of(data): info}
    assert store.find(name_of(data)) == info


def test_an_adopted_file_takes_the_place_of_a_blob_that_somebody_wrote_to(store, theirs):
    data = theirs.read_bytes()
    info = store_whole(store, data)
    overwrite(info.path)
    adopted = store.adopt(theirs, verified(data), theirs.stat())
    assert adopted.path == theirs
    found = store.find(name_of(data))
    assert (found.path, found.adopted) == (theirs, True)
    assert not info.path.exists(), "nothing takes it for the blob when the row is gone"


@pytest.mark.parametrize(
    "junk", [b"", b"\x12\x20short", b"x" * 34, b"\x01\x71\x12\x20" + b"x" * 32]
)
def test_what_is_no_name_of_a_blob_is_a_usage_error(store, junk):
    with pytest.raises(UsageError):
        store.find(junk)


def test_bytes_come_in_only_through_the_door(store):
    info = store.put_bytes(verify.verify(git_name(b"hello"), b"hello"))
    assert store.find(git_name(b"hello")) == info
    assert info.path.read_bytes() == b"hello"


def test_two_processes_publish_the_same_blobs_into_one_store(tmp_path):
    home = tmp_path / "home"
    Store.open(home, OPTIONS).close()
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PUBLISHER, str(home)], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for _ in range(2)
    ]  # fmt: skip
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        _, errors = process.communicate(timeout=30)
        assert process.returncode == 0, errors
    with Store.open(home, OPTIONS) as store:
        assert store.usage().blobs == 64
        for info in store.every_blob():
            assert digests.whole_digests(info.path.read_bytes()).sha256 == info.sha256
        assert file_count(store.layout.blobs) == 64
        for left in (store.layout.partials, store.layout.temporary, store.layout.trash):
            assert not list(left.iterdir())


@pytest.fixture
def lived_in(tmp_path):
    """A store with a large and two small blobs, a pin and a receipt, closed."""
    home = tmp_path / "home"
    data = content(2 * MIB + 3)
    with Store.open(home, OPTIONS) as store:
        store_whole(store, data)
        store.publish_small(small_items(store, [b"a", b"b"]))
        store.pin(b"p" * 32, "kept")
        store.save_receipt({"ref": "hf://a/b"})
    return home, data


def check_found_again(home, data) -> None:
    with Store.open(home, OPTIONS) as store:
        assert store.usage().blobs == 3
        assert store.find(root_of(data)).path.read_bytes() == data
        assert store.find(git_name(b"a")).path.read_bytes() == b"a"


def test_a_lost_index_is_rebuilt_from_the_blobs(lived_in):
    home, data = lived_in
    for path in home.glob("index.sqlite*"):
        path.unlink()
    check_found_again(home, data)


@pytest.mark.parametrize("damage", ["all", "head", "middle", "cut"])
def test_a_damaged_index_is_replaced_and_the_blobs_are_found_again(lived_in, damage):
    home, data = lived_in
    index = home / "index.sqlite"
    old = bytearray(index.read_bytes())
    middle = len(old) // 2
    match damage:
        case "all":
            old[:] = os.urandom(len(old))
        case "head":
            old[:100] = bytes(100)
        case "middle":
            old[4096:] = os.urandom(len(old) - 4096)
        case "cut":
            del old[middle:]
    index.write_bytes(old)
    check_found_again(home, data)
    assert not list((home / "rebuild-v1").glob("index*"))


def test_what_a_damaged_index_still_tells_is_carried_over(lived_in):
    home, data = lived_in
    with sqlite3.connect(home / "index.sqlite") as connection:
        (page,) = connection.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = 'blobs'"
        ).fetchone()
    connection.close()
    with (home / "index.sqlite").open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(os.urandom(4096))
    check_found_again(home, data)
    with Store.open(home, OPTIONS) as store:
        assert [pin.label for pin in store.pins()] == ["kept"]
        assert store.receipt("last") == {"ref": "hf://a/b"}


def test_a_kill_while_a_damaged_index_is_replaced_loses_no_pin(lived_in):
    home, _ = lived_in
    for part in ("", "-wal", "-shm"):  # set aside, and not carried over yet
        path = home / f"index.sqlite{part}"
        if path.exists():
            path.rename(home / "rebuild-v1" / path.name)
    for _ in range(2):
        with Store.open(home, OPTIONS) as store:
            assert [pin.label for pin in store.pins()] == ["kept"]
    assert not (home / "rebuild-v1" / "index.sqlite").exists()


def test_an_index_of_a_newer_version_is_left_alone(lived_in):
    home, _ = lived_in
    with sqlite3.connect(home / "index.sqlite") as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(LocalFault, match="newer"):
        Store.open(home, OPTIONS)


def test_a_read_only_store_can_be_read_and_refuses_writes(lived_in):
    home, data = lived_in
    with read_only(home), Store.open(home, OPTIONS) as store:
        assert store.find(root_of(data)).path.read_bytes() == data
        assert [pin.label for pin in store.pins()] == ["kept"]
        store.touch([name_of(data)[2:]], 5.0)
        for write in (
            lambda: store.partial(name_of(b"new"), 3),
            lambda: store.pin(b"q" * 32),
            lambda: store.put_bytes(verify.verify(name_of(b"new"), b"new")),
            lambda: store.gc(target_bytes=0),
        ):
            with pytest.raises(LocalFault) as caught:
                write()
            assert "read-write" in (caught.value.hint or "")
            assert caught.value.exit_code == 1


def test_a_read_only_store_with_a_damaged_index_still_finds_blobs(lived_in):
    home, data = lived_in
    (home / "index.sqlite").write_bytes(b"junk" * 2000)
    with read_only(home), Store.open(home, OPTIONS) as store:
        assert store.find(name_of(data)).path.read_bytes() == data


# -- files of others ---------------------------------------------------------------------------


@pytest.fixture
def theirs(tmp_path):
    path = tmp_path / "model.bin"
    path.write_bytes(content(MIB + 9))
    return path


def adopt(store, path):
    data = path.read_bytes()
    hashes = b"".join(block_hashes(data))
    return store.adopt(
        path, verified(data), path.stat(), root_cid=root_of(data), block_digests=hashes
    )


def test_an_adopted_file_is_read_in_place_and_takes_no_room(store, theirs):
    info = adopt(store, theirs)
    assert (info.path, info.adopted) == (theirs, True)
    assert store.find(root_of(theirs.read_bytes())) == info
    assert store.usage().used_bytes == 0


@pytest.mark.parametrize("change", ["rewritten", "touched", "replaced", "deleted", "cut"])
def test_an_adopted_file_that_changed_is_forgotten(store, theirs, change):
    data = theirs.read_bytes()
    adopt(store, theirs)
    match change:
        case "rewritten":
            theirs.write_bytes(content(len(data), seed=2))
        case "touched":
            os.utime(theirs)
        case "replaced":
            copy = theirs.with_name("copy")
            copy.write_bytes(data)
            stat = theirs.stat()
            os.utime(copy, ns=(stat.st_atime_ns, stat.st_mtime_ns))
            copy.rename(theirs)
        case "deleted":
            theirs.unlink()
        case "cut":
            os.truncate(theirs, 3)
    assert store.find(name_of(data)) is None
    assert store.find(root_of(data)) is None
    assert store.usage().adopted == 0


def test_a_file_that_changed_since_it_was_hashed_is_neither_adopted_nor_taken_in(store, theirs):
    before = theirs.stat()
    blob = verified(theirs.read_bytes())
    theirs.write_bytes(content(before.st_size, seed=2))
    with pytest.raises(LocalFault, match="changed"):
        store.adopt(theirs, blob, before)
    with pytest.raises(LocalFault, match="changed"):
        store.link_in(theirs, blob, before)
    assert store.find(blob.digest) is None
    assert file_count(store.layout.blobs) == 0


def test_a_file_that_is_taken_in_is_a_copy_of_its_own(store, theirs):
    data = theirs.read_bytes()
    info = store.link_in(theirs, verified(data), theirs.stat(), root_cid=root_of(data))
    theirs.write_bytes(b"rewritten")
    assert store.find(root_of(data)) == info
    assert info.path.read_bytes() == data


def test_a_stored_copy_is_preferred_to_an_adopted_file(store, theirs):
    data = theirs.read_bytes()
    adopt(store, theirs)
    store_whole(store, data)
    theirs.unlink()
    assert store.find(name_of(data)).path.read_bytes() == data
    assert not store.find(name_of(data)).adopted


# -- damage ------------------------------------------------------------------------------------


def damage(path, *blocks: int) -> None:
    path.chmod(0o644)
    with path.open("r+b") as file:
        for block in blocks:
            file.seek(block * MIB + 17)
            file.write(b"damaged")


def test_a_damaged_blob_gives_a_partial_that_lacks_only_its_bad_blocks(store):
    data = content(5 * MIB + 1)
    info = store_whole(store, data)
    damage(info.path, 1, 4)
    partial = store.quarantine(info.sha256)
    assert partial.live() == b"\x01\x00\x01\x01\x00\x01"
    assert partial.block_hashes() == b"".join(block_hashes(data))
    assert store.find(name_of(data)) is None
    fill(partial, data, [1, 4])
    again = store.publish(partial, verified(data), root_cid=root_of(data))
    assert again.path.read_bytes() == data
    assert not list(store.layout.quarantine.iterdir())


def test_a_blob_that_lost_its_end_keeps_the_blocks_before(store):
    data = content(3 * MIB)
    info = store_whole(store, data)
    info.path.chmod(0o644)
    os.truncate(info.path, MIB + 5)
    assert store.quarantine(info.sha256).live() == b"\x01\x00\x00"


def test_without_a_block_map_nothing_of_a_damaged_blob_is_trusted(store):
    data = content(3 * MIB)
    info = store_whole(store, data)
    store.layout.map(info.sha256).unlink()
    assert store.quarantine(info.sha256).have_count() == 0


def test_a_damaged_adopted_file_is_left_to_its_owner(store, theirs):
    data = theirs.read_bytes()
    info = adopt(store, theirs)
    stat = theirs.stat()
    damage(theirs, 0)
    os.utime(theirs, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # as a failing disk does
    partial = store.quarantine(info.sha256)
    assert partial.live() == b"\x00\x01"
    assert theirs.exists()
    assert store.find(name_of(data)) is None


def test_taking_out_a_blob_whose_file_is_gone_forgets_it(store, theirs):
    data = content(2 * MIB, seed=5)
    info = store_whole(store, data)
    info.path.unlink()
    with pytest.raises(NotFound):
        store.quarantine(info.sha256)
    adopted = adopt(store, theirs)
    theirs.unlink()
    assert store.quarantine(adopted.sha256).have_count() == 0
    assert store.every_blob() == []
