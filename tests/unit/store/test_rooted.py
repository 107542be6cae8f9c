"""Blobs that are shown under their UnixFS root before their sha2-256 is known."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from p2pcache.content import cid as cids
from p2pcache.content import verify
from p2pcache.content.digests import whole_digests
from p2pcache.errors import LocalFault, Untrusted
from p2pcache.store import durable
from p2pcache.store.layout import StoreOptions
from p2pcache.store.store import Store
from tests.support.stored import (
    MIB,
    block_hashes,
    content,
    file_count,
    fill,
    name,
    name_of,
    root_of,
    rooted,
    store_whole,
    verified,
)

OPTIONS = StoreOptions(reserve_bytes=0)
DATA = content(3 * MIB + 5, 1)
ROOT = root_of(DATA)


def damage(path) -> None:
    """A bit of the second block, with the time of the file as it was."""
    before = path.stat()
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(MIB + 9)
        byte = file.read(1)[0]
        file.seek(MIB + 9)
        file.write(bytes([byte ^ 1]))
    path.chmod(0o444)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_only_blocks_that_make_the_root_prove_it():
    hashes = b"".join(block_hashes(DATA))
    assert verify.verify_root(ROOT, len(DATA), hashes).block_digests == hashes
    for wrong in (hashes[32:], hashes[:32] * 4, hashes + hashes[:32]):
        with pytest.raises(Untrusted):
            verify.verify_root(ROOT, len(DATA), wrong)
    with pytest.raises(Untrusted):
        verify.verify_root(ROOT, len(DATA) + 1, hashes)
    with pytest.raises(TypeError):
        verify.VerifiedRoot(None, ROOT, len(DATA), hashes)


def test_a_blob_is_here_by_its_root_and_by_no_other_name(store):
    blob = rooted(store, DATA)
    assert store.find_any(ROOT) == blob
    assert blob.path.read_bytes() == DATA
    assert blob.path.stat().st_mode & 0o777 == 0o444
    assert store.rooted.block_map(ROOT) == b"".join(block_hashes(DATA))
    for other in (name_of(DATA), b"\x12\x20" + ROOT[4:], cids.raw_cid(ROOT[4:])):
        assert store.find_any(other) is None, "the root is no sha2-256 of the blob"
    assert store.find(ROOT) is None
    assert store.every_blob() == []
    assert not list(store.layout.partials.iterdir())
    usage = store.usage()
    assert (usage.blobs, usage.used_bytes, usage.partials) == (1, len(DATA), 0)


def test_once_it_is_named_all_names_resolve_and_the_path_that_was_shown_stays(store):
    blob = rooted(store, DATA)
    info = name(store, blob)
    for known in (ROOT, name_of(DATA), cids.raw_cid(name_of(DATA)[2:])):
        assert store.find(known) == store.find_any(known) == info
    assert info.root_cid == ROOT
    assert info.path.stat().st_nlink == 1
    assert store.block_map(info.sha256) == b"".join(block_hashes(DATA))
    assert blob.path.read_bytes() == DATA
    assert store.rooted.every() == []
    usage = store.usage()
    assert (usage.blobs, usage.used_bytes) == (1, len(DATA))
    store.gc(target_bytes=0)
    assert store.find_any(ROOT) is None
    assert not list(store.layout.roots.iterdir())


def test_what_was_here_by_its_sha256_is_kept_once(store):
    blob = rooted(store, DATA)
    here = store_whole(store, DATA)
    inode = here.path.stat().st_ino
    assert name(store, blob).path.stat().st_ino == inode
    assert blob.path.read_bytes() == DATA
    assert store.usage().used_bytes == len(DATA)


@pytest.mark.parametrize("steps", ["intent", "publish", "draft", "place", "row", "link"])
def test_what_a_crash_left_between_two_steps_is_finished(tmp_path, steps):
    with Store.open(tmp_path, OPTIONS) as store:
        if steps == "intent":
            partial = store.partial(ROOT, len(DATA))
            fill(partial, DATA)
            partial.data_path.chmod(0o444)
            (partial.dir / "proven.json").write_bytes(b'{"version": 1, "size": 0, "mtime_ns": 0}')
            partial.abandon()
        else:
            blob = rooted(store, DATA)
        if steps in ("place", "row", "link"):
            store._blobs.place_link(blob.path, name_of(DATA)[2:], len(DATA))
        if steps in ("draft", "place"):
            os.link(blob.path, blob.path.with_name("named"))
        if steps in ("row", "link"):
            map_path = blob.path.with_name("map")
            store._blobs.index_named(map_path, name_of(DATA)[2:], len(DATA), ROOT, None)
        if steps == "link":
            blob.path.with_name("link").symlink_to("anywhere")
    with Store.open(tmp_path, OPTIONS) as store:
        if steps == "intent":
            partial = store.partial(ROOT, len(DATA))
            assert partial.have_count() == 4
            with partial.data_path.open("r+b"):
                assert partial.data_path.stat().st_mode & 0o200, "a worker may have to write"
            proven = verify.verify_root(ROOT, len(DATA), partial.block_hashes())
            store.rooted.publish(partial, proven)
        (blob,) = store.rooted.every()
        info = name(store, blob)
        assert info == store.find(ROOT) == store.find(name_of(DATA))
        assert info.path.read_bytes() == blob.path.read_bytes() == DATA
        assert store.rooted.every() == []
        store.gc(target_bytes=0)
        assert not list(store.layout.roots.iterdir())
        assert file_count(store.layout.blobs) == 0


def test_gc_evicts_it_unless_a_pull_holds_it_and_says_so(store):
    gone = []
    store.watch_removed(gone.extend)
    blob = rooted(store, DATA)
    with store.running([blob.key]):
        assert store.gc(target_bytes=0).evicted == 0
        assert store.find_any(ROOT) == blob
    report = store.gc(target_bytes=0)
    assert (report.evicted, report.freed_bytes) == (1, len(DATA))
    assert store.find_any(ROOT) is None
    assert gone == [ROOT]
    assert not list(store.layout.roots.iterdir())
    assert name_gone(store, blob) is None, "the hash came too late"
    assert file_count(store.layout.blobs) == 0


def name_gone(store, blob):
    whole = verify.verify_whole(None, len(DATA), whole_digests(DATA))
    return store.rooted.name(blob, whole, b"".join(block_hashes(DATA)))


def test_gc_does_not_count_on_what_a_link_elsewhere_keeps(store, tmp_path):
    blob = rooted(store, DATA)
    os.link(blob.path, tmp_path / "mine")
    assert store.gc(target_bytes=0, dry_run=True).freed_bytes == 0
    assert store.gc(target_bytes=0).freed_bytes == 0
    assert (tmp_path / "mine").read_bytes() == DATA


def test_a_file_that_was_written_to_is_not_found_and_its_good_blocks_are_kept(store):
    blob = rooted(store, DATA)
    damage(blob.path)
    os.utime(blob.path)
    assert store.find_any(ROOT) is None
    partial = store.partial(ROOT, len(DATA))
    assert partial.live() == b"\1\0\1\1"
    assert not list(store.layout.roots.iterdir())
    fill(partial, DATA, [1])
    info = store.publish(partial, verified(DATA), root_cid=ROOT)
    assert info.path.read_bytes() == DATA


def test_a_rotten_bit_never_gets_a_name(store):
    blob = rooted(store, DATA)
    damage(blob.path)
    assert store.find_any(ROOT) == blob, "nothing shows it without a hash"
    assert name(store, blob) is None
    assert store.every_blob() == []
    assert store.take_out_rooted(ROOT, len(DATA)) == 1
    assert store.find_any(ROOT) is None
    assert store.partial(ROOT, len(DATA)).live() == b"\1\0\1\1"


def rotten_map(blob) -> None:
    path = blob.path.with_name("map")
    hashes = bytearray(path.read_bytes())
    hashes[40] ^= 1
    path.chmod(0o644)
    path.write_bytes(hashes)


def test_a_map_that_does_not_make_the_root_proves_nothing(store):
    blob = rooted(store, DATA)
    rotten_map(blob)
    damage(blob.path)
    other = content(3 * MIB + 5, 2)
    whole = verify.verify_whole(None, len(DATA), whole_digests(other))
    assert store.rooted.name(blob, whole, b"".join(block_hashes(other))) is None
    assert name(store, blob) is None
    assert store.take_out_rooted(ROOT, len(DATA)) == 4, "no block is known to be good"
    assert store.every_blob() == []


def test_a_rotten_map_costs_no_good_blob(store):
    """What was read proves itself, if its blocks make the root."""
    blob = rooted(store, DATA)
    rotten_map(blob)
    assert name(store, blob) == store.find(name_of(DATA))
    assert store.block_map(name_of(DATA)[2:]) == b"".join(block_hashes(DATA))


def test_a_rotten_map_costs_no_good_block_of_what_somebody_touched(store):
    blob = rooted(store, DATA)
    rotten_map(blob)
    os.utime(blob.path)
    assert store.partial(ROOT, len(DATA)).have_count() == 4


def test_a_size_that_a_liar_told_takes_nothing_out(store):
    blob = rooted(store, DATA)
    os.utime(blob.path)
    partial = store.partial(ROOT, 9 * MIB)
    assert partial.have_count() == 0
    partial.discard()
    assert blob.path.read_bytes() == DATA
    assert store.partial(ROOT, len(DATA)).have_count() == 4


def test_a_disk_that_cannot_be_read_now_takes_no_blob_for_one_that_was_taken_out(store):
    blob = rooted(store, DATA)
    facts = blob.path.with_name("proven.json")
    kept = facts.read_bytes()
    facts.unlink()
    facts.mkdir()  # every read of it is an error
    with pytest.raises(LocalFault):
        store.gc()
    facts.rmdir()
    facts.write_bytes(kept)
    assert store.find_any(ROOT) == blob


def test_a_blob_that_a_later_version_proved_is_left_alone(store):
    blob = rooted(store, DATA)
    facts = blob.path.with_name("proven.json")
    facts.write_bytes(b'{"version": 2, "length": 7}')
    store.gc()
    assert blob.path.read_bytes() == DATA
    assert store.find_any(ROOT) is None
    facts.write_bytes(b'{"version": 1, "si')
    store.gc()
    assert not blob.path.exists()


def test_a_pull_that_holds_a_root_holds_what_it_is_called_next(store):
    blob = rooted(store, DATA)
    with store.running([blob.key]):
        name(store, blob)
        assert store.gc(target_bytes=0).evicted == 0
        assert store.find(ROOT) is not None
    assert store.gc(target_bytes=0).evicted == 1


def test_of_many_names_only_those_are_looked_for_that_are_here(store, monkeypatch):
    rooted(store, DATA)
    named = content(2 * MIB, 2)
    name(store, rooted(store, named))
    unknown = [ROOT[:4] + bytes([n]) * 32 for n in range(100)]
    looked = []
    find = store.rooted.find
    monkeypatch.setattr(store.rooted, "find", lambda root: looked.append(root) or find(root))
    found = store.find_any_of([*unknown, ROOT, root_of(named)])
    assert set(found) == {ROOT, root_of(named)}
    assert looked == [ROOT]


def test_a_touch_is_no_damage_once_it_was_hashed(store):
    blob = rooted(store, DATA)
    os.utime(blob.path)
    assert store.find_any(ROOT) is None
    assert name(store, blob) is None, "it is not what was looked at before the hash"
    (touched,) = store.rooted.every()
    assert name(store, touched) == store.find(ROOT)


def test_a_hash_that_began_before_the_file_was_written_to_names_nothing(store):
    blob = rooted(store, DATA)
    whole = verify.verify_whole(None, len(DATA), whole_digests(DATA))
    os.utime(blob.path)
    assert store.rooted.name(blob, whole, b"".join(block_hashes(DATA))) is None
    assert store.find(name_of(DATA)) is None


def test_a_lost_index_loses_no_name(tmp_path):
    with Store.open(tmp_path, OPTIONS) as store:
        rooted(store, DATA)
        other = content(2 * MIB, 2)
        name(store, rooted(store, other))
    for part in ("", "-wal", "-shm"):
        (tmp_path / f"index.sqlite{part}").unlink(missing_ok=True)
    with Store.open(tmp_path, OPTIONS) as store:
        assert store.find_any(ROOT).path.read_bytes() == DATA
        assert store.find(root_of(other)) == store.find(name_of(other))


def test_what_is_left_of_a_blob_that_went_another_way_is_swept(store):
    blob = rooted(store, DATA)
    info = name(store, blob)
    info.path.unlink()
    half = store.layout.rooted(root_of(content(2 * MIB, 2)))
    half.mkdir()
    (half / "data").write_bytes(b"taken out, and then a crash")
    store.gc()
    assert not list(store.layout.roots.iterdir())


WRITER = """
import sys
from pathlib import Path
from p2pcache.store.layout import StoreOptions
from p2pcache.store.store import Store
from tests.support.stored import *
with Store.open(Path(sys.argv[1]), StoreOptions(reserve_bytes=0)) as store:
    print("ready", flush=True)
    while True:
        for seed in range(3):
            data = content(2 * MIB + seed, seed)
            blob = store.find_any(root_of(data)) or rooted(store, data)
            if not hasattr(blob, "sha256"):
                name(store, blob)
            store._blobs.remove([store.find(root_of(data)).sha256])
"""


@pytest.mark.slow
def test_a_kill_at_any_moment_leaves_no_bad_blob_and_no_orphan(tmp_path):
    durable.make_dir(tmp_path / "home")
    moments = random.Random(5)
    blobs = {root_of(data): data for data in (content(2 * MIB + seed, seed) for seed in range(3))}
    for _ in range(12):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path / "home")], stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert writer.stdout.readline() == "ready\n", writer.stderr.read()
        time.sleep(moments.uniform(0, 0.3))
        writer.send_signal(signal.SIGKILL)
        _, errors = writer.communicate()
        assert not errors
        with Store.open(tmp_path / "home", OPTIONS) as store:
            for root, data in blobs.items():
                found = store.find_any(root)
                assert found is None or found.path.read_bytes() == data
            for path in store.layout.blobs.rglob("*"):
                if path.is_file():
                    assert whole_digests(path.read_bytes()).sha256.hex() == path.name
    with Store.open(tmp_path / "home", OPTIONS) as store:
        for blob in store.rooted.every():
            assert name(store, blob) is not None
        assert store.rooted.every() == []
        store.gc(target_bytes=0)
        assert file_count(store.layout.roots) == file_count(store.layout.blobs) == 0
        assert not list(store.layout.roots.iterdir())
