from __future__ import annotations

import dataclasses
import resource

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pcache.content.manifest import FileEntry, Manifest
from p2pcache.errors import LocalFault
from p2pcache.store.layout import StoreOptions
from p2pcache.store.lease import Busy, LeaseBook, LeaseLost, this_process
from p2pcache.store.partial import from_bits, to_bits
from p2pcache.store.store import Store
from tests.support.stored import MIB, block_hashes, content, fill, name_of, root_of, verified

OPTIONS = StoreOptions(reserve_bytes=0)
SIZES = [
    0,  # no block at all
    1,  # one short block
    MIB - 1,
    MIB,  # exactly one block: named by its sha2-256 alone
    MIB + 1,  # the smallest with a map
    9 * MIB + 7,  # more than one byte of bitmap
]


def after_reboot(partial) -> None:
    """What another boot finds: the same files, written under another boot id."""
    meta = partial.dir / "meta.json"
    meta.write_text(meta.read_text().replace(this_process().boot, "an-earlier-boot"))


@given(st.binary(max_size=70).map(lambda data: bytes(b & 1 for b in data)))
def test_the_bitmap_says_what_the_live_bytes_say(live):
    assert from_bits(to_bits(live), len(live)) == live


def test_a_bitmap_that_is_too_short_has_no_further_blocks():
    assert from_bits(b"\xff", 20) == b"\x01" * 8 + b"\x00" * 12


@pytest.mark.parametrize("size", SIZES)
def test_a_filled_partial_becomes_a_blob_under_all_its_names(store, size):
    data = content(size)
    partial = store.partial(name_of(data), size)
    fill(partial, data)
    assert partial.have_bytes() == size
    info = store.publish(partial, verified(data), root_cid=root_of(data))
    assert info.path.read_bytes() == data
    assert info.path.stat().st_mode & 0o777 == 0o444
    assert not partial.dir.exists()
    assert store.find(root_of(data)) == store.find(name_of(data)) == info
    hashes = b"".join(block_hashes(data)) if size > MIB else None
    assert store.block_map(info.sha256) == hashes


def test_only_one_holder_at_a_time_even_in_one_process(store):
    first = store.partial(name_of(b"x"), 5)
    with pytest.raises(Busy):
        store.partial(name_of(b"x"), 5)
    first.close()
    store.partial(name_of(b"x"), 5).close()


def test_both_spellings_of_a_sha256_are_one_partial(store):
    name = name_of(b"x")
    store.partial(name, 5)
    with pytest.raises(Busy):
        store.partial(b"\x01\x55" + name, 5)


def test_after_a_power_cut_only_what_was_flushed_counts(store):
    data = content(10 * MIB)
    partial = store.partial(name_of(data), len(data))
    fill(partial, data, range(6))
    partial.flush()
    fill(partial, data, [8])
    partial.abandon()
    after_reboot(partial)
    again = store.partial(name_of(data), len(data))
    assert again.live() == b"\x01" * 6 + b"\x00" * 4


def test_after_a_crash_of_the_process_alone_nothing_is_lost(store):
    data = content(10 * MIB)
    partial = store.partial(name_of(data), len(data))
    fill(partial, data, [0, 8])
    partial.abandon()
    assert store.partial(name_of(data), len(data)).have_count() == 2


def test_flush_is_due_by_bytes_at_risk(store):
    data = content(5 * MIB)
    partial = store.partial(name_of(data), len(data))
    fill(partial, data, range(3))
    assert not partial.flush_if_due(4 * MIB)
    assert partial.flush_if_due(3 * MIB)
    assert partial.unflushed_bytes() == 0


@pytest.mark.parametrize("size", [0, 1, 2 * MIB, 3 * MIB + 5])
def test_a_length_that_is_learnt_late_is_kept(store, size):
    data = content(size)
    partial = store.partial(name_of(data), 1 << 40, total_known=False)
    fill(partial, data)
    partial.resize(size)
    partial.close()
    again = store.partial(name_of(data), 1 << 40, total_known=False)
    assert (again.size, again.total_known) == (size, True)
    assert again.live() == b"\x01" * len(block_hashes(data))
    assert store.publish(again, verified(data)).path.read_bytes() == data


@pytest.mark.parametrize("claimed", [MIB, 2 * MIB - 1, 3 * MIB])
def test_another_length_under_the_same_name_begins_anew(store, claimed):
    """A length is what a source claimed: who claimed it first must not have the last word."""
    data = content(2 * MIB)
    lie = store.partial(name_of(data), claimed)
    fill(lie, content(claimed, seed=1))
    lie.close()
    partial = store.partial(name_of(data), len(data))
    assert (partial.size, partial.have_count()) == (len(data), 0)
    partial.abandon()
    after_reboot(partial)
    again = store.partial(name_of(data), len(data))
    assert again.have_count() == 0, "nor after a crash"
    fill(again, data)
    assert store.publish(again, verified(data)).path.read_bytes() == data


def test_a_partial_with_the_wrong_length_on_disk_is_not_published(store):
    data = content(2 * MIB)
    partial = store.partial(name_of(data), len(data))
    fill(partial, data)
    with partial.data_path.open("ab") as file:
        file.write(b"more")
    with pytest.raises(LocalFault):
        store.publish(partial, verified(data))
    assert store.find(name_of(data)) is None


def test_a_holder_that_lost_its_lease_cannot_publish(store, tmp_path):
    data = content(MIB + 1)
    partial = store.partial(name_of(data), len(data))
    fill(partial, data)
    partial.abandon()  # as if: the next two lines are another host's view
    other = dataclasses.replace(this_process(), host="other/1", boot="b")
    LeaseBook(stale_after_s=60, monotonic=lambda: 0.0, who=other).take(partial.dir)
    with pytest.raises(LeaseLost):
        store.publish(partial, verified(data))
    assert store.find(name_of(data)) is None


def test_a_20_gib_partial_is_opened_filled_a_little_and_reopened_with_flat_memory(store):
    size = 20 << 30
    store.partial(name_of(b"warm"), MIB).discard()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    partial = store.partial(name_of(b"large"), size, total_known=False)  # asks the disk for no room
    partial.mark([0, 20_479])
    partial.flush()
    partial.close()
    again = store.partial(name_of(b"large"), size, total_known=False)
    assert (again.have_count(), again.blocks) == (2, 20_480)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 8 * 1024  # KiB
    assert again.data_path.stat().st_blocks * 512 < MIB
    again.discard()


def test_discarding_leaves_nothing(store):
    partial = store.partial(name_of(b"x"), 3 * MIB)
    partial.discard()
    assert not list(store.layout.partials.iterdir())
    assert not list(store.layout.trash.iterdir())


def test_closing_the_store_flushes_open_partials(tmp_path):
    data = content(2 * MIB)
    with Store.open(tmp_path / "s", OPTIONS) as store:
        partial = store.partial(name_of(data), len(data))
        fill(partial, data, [1])
    after_reboot(partial)
    with Store.open(tmp_path / "s", OPTIONS) as store:
        assert store.partial(name_of(data), len(data)).live() == b"\x00\x01"


def test_removing_a_manifest_frees_what_an_interrupted_pull_left_of_it(store):
    data = content(3 * MIB)
    partial = store.partial(name_of(data), len(data))
    fill(partial, data, [0, 2])
    manifest = Manifest.from_entries([FileEntry("f", len(data), name_of(data))])
    cid = store.put_manifest(manifest)
    assert store.rm(cid) == 0, "somebody is working on it"
    assert partial.dir.exists()
    partial.close()
    store.put_manifest(manifest)
    assert store.rm(cid) == 2 * MIB
    assert not partial.dir.exists()


def test_blocks_that_came_without_a_hash_get_it_and_others_keep_theirs(store):
    data = content(3 * MIB + 7)
    given_hash, hashes = b"\x07" * 32, block_hashes(data)
    partial = store.partial(name_of(data), len(data))
    partial.data_path.write_bytes(data)
    with partial.map_path.open("r+b") as map_:
        map_.write(given_hash)  # as its worker said
    partial.mark([0, 1, 3])
    assert partial.has_gaps()
    assert partial.hash_missing(1), "one at a time: a pull can be stopped between"
    assert partial.has_gaps()
    assert not partial.hash_missing(2)
    assert not partial.has_gaps()
    assert partial.block_hashes() == given_hash + hashes[1] + bytes(32) + hashes[3]


def test_a_blob_without_a_root_has_no_map_until_both_are_given(store):
    data = content(2 * MIB)
    hashes = b"".join(block_hashes(data))
    partial = store.partial(name_of(data), len(data))
    fill(partial, data)
    info = store.publish(partial, verified(data))
    assert (info.root_cid, store.block_map(info.sha256)) == (None, None)
    assert store.rootless() == [info]
    store.give_root(info.sha256, root_of(data), hashes)
    assert store.rootless() == []
    assert store.block_map(info.sha256) == hashes
    assert store.find(root_of(data)) == dataclasses.replace(info, root_cid=root_of(data))
