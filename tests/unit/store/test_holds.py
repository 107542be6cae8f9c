"""Removals beside running work: what is held or pinned after the plan was made stays."""

from __future__ import annotations

import threading

import pytest

from p2pcache.content import cid as cids
from p2pcache.content.dag.hashes import cid_of
from p2pcache.content.manifest import FileEntry, Manifest
from p2pcache.content.verify import verify_loose
from p2pcache.errors import DiskFull
from p2pcache.store.holds import BATCH, Holds
from p2pcache.store.layout import StoreOptions
from p2pcache.store.store import Store
from tests.support.stored import MIB, content, rooted, store_whole


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "home", StoreOptions(reserve_bytes=0)) as opened:
        yield opened


def put(store: Store, data: bytes) -> bytes:
    cid = cid_of(cids.RAW, data)
    store.loose.put(verify_loose(cid, data))
    return cids.multihash(cid)


def pin(store: Store, blocks=(), blobs=()) -> None:
    """As `DagPinner` does it: hold, look, write down, let go."""
    with store.running() as hold:
        hold([*blocks, *blobs])
        store.dag_pins.add(b"root", True, list(blocks), list(blobs))


def once(store: Store, monkeypatch, owner, name, then) -> None:
    """Do `then` after the next call of a method."""
    real, done = getattr(owner, name), []

    def wrapped(*args, **more):
        result = real(*args, **more)
        if not done:
            done.append(then())
        return result

    monkeypatch.setattr(owner, name, wrapped)


@pytest.mark.parametrize("after", ["blocks", "_decided"])
def test_what_is_pinned_while_an_eviction_runs_stays(store, monkeypatch, after):
    blocks = [put(store, b"block %d" % n) for n in range(3 * BATCH)]
    blob = store_whole(store, content(2 * MIB, 1))
    root = rooted(store, content(2 * MIB, 2)).key
    keep = blocks[0], blocks[-1]
    owner = store._collector if after == "_decided" else store.dag_pins
    if after == "blocks":  # the removal's own reading of the pins, not the plan's
        once(store, monkeypatch, store._collector, "_decided", lambda: once(
            store, monkeypatch, owner, after, lambda: pin(store, keep, [blob.sha256, root])
        ))  # fmt: skip
    else:
        once(store, monkeypatch, owner, after, lambda: pin(store, keep, [blob.sha256, root]))
    report = store.gc(target_bytes=0)
    assert {key for key, _, _ in store.loose.every()} == set(keep)
    assert all(store.loose.length(key) for key in keep)
    assert store.find(blob.digest) is not None
    assert store.find_any(root) is not None
    assert report.evicted == len(blocks) - len(keep)


def test_loose_blocks_that_are_pinned_while_all_are_collected_stay(store, monkeypatch):
    blocks = [put(store, b"block %d" % n) for n in range(3 * BATCH)]
    with store.running([blocks[1]]):
        once(store, monkeypatch, store.dag_pins, "blocks", lambda: pin(store, [blocks[0]]))
        gone = store.collect_loose()
    assert set(gone) == set(blocks[2:])
    assert {key for key, _, _ in store.loose.every()} == set(blocks[:2])
    assert store.remove_loose([blocks[0]]) == (0, [])
    assert store.remove_loose([blocks[1]])[1] == [blocks[1]]
    assert store.loose.length(blocks[1]) is None


def test_what_rm_would_take_stays_when_it_is_pinned_meanwhile(store, monkeypatch):
    data = content(2 * MIB, 1)
    blob = store_whole(store, data)
    entry = FileEntry("a.bin", len(data), blob.digest)
    manifest = store.put_manifest(Manifest.from_entries([entry]))
    once(store, monkeypatch, store._removal, "only_in", lambda: pin(store, blobs=[blob.sha256]))
    assert store.rm(manifest) == 0
    assert store.find(blob.digest) is not None


def test_room_is_looked_for_again_when_a_victim_was_held_meanwhile(tmp_path, monkeypatch):
    options = StoreOptions(reserve_bytes=0, capacity_bytes=5 * MIB)
    with Store.open(tmp_path / "home", options) as store, store.running() as hold:
        first, second = (store_whole(store, content(2 * MIB, seed)) for seed in range(2))
        evict, tries = store._collector._evict, []

        def held_before(plan):
            tries.append([victim.key for victim in plan.victims])
            hold([tries[0][0]])
            return evict(plan)

        monkeypatch.setattr(store._collector, "_evict", held_before)
        store.ensure_room(2 * MIB)
        other = {first.sha256, second.sha256} - {tries[0][0]}
        assert tries == [tries[0], [*other]]
        hold(other)
        with pytest.raises(DiskFull):
            store.ensure_room(4 * MIB)


def test_nobody_takes_hold_between_the_look_and_the_removal():
    holds, order = Holds(), []

    def hold() -> None:
        with holds.running([b"b"]):
            order.append("held")

    threads = [threading.Thread(target=hold)]

    def remove(key: bytes) -> int:
        if key == b"a":
            threads[0].start()
            threads[0].join(0.2)
        order.append(key)
        return 1

    with holds.removal(set) as each:
        assert each([b"a", b"b"], remove) == (2, [b"a", b"b"])
    threads[0].join()
    assert order == [b"a", b"b", "held"]


def test_what_was_held_since_a_removal_began_stays_in_it_and_goes_in_the_next():
    holds = Holds()
    with holds.removal(set) as each:
        with holds.running([b"a"]):
            pass
        with holds.running([b"root"]):
            holds.named(b"root", b"name")
        assert each([b"a", b"root", b"name", b"b"], lambda _: 1) == (1, [b"b"])
    assert holds.all() == set()
    with holds.removal(lambda: {b"b"}) as each:
        assert each([b"a", b"b"], lambda _: 1) == (1, [b"a"])


def test_what_was_buried_before_a_crash_is_swept(store):
    (store.layout.trash / "file").write_bytes(b"x")
    store.gc()
    assert list(store.layout.trash.iterdir()) == []
