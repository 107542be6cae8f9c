"""The two names of a blob stay known when it goes."""

from __future__ import annotations

import contextlib
import sqlite3

import pytest

from p2pcache.content.cid import raw_cid
from p2pcache.store import index as index_module
from p2pcache.store.pairs import Pair
from p2pcache.store.store import Store
from tests.support.stored import MIB, content, name_of, root_of, store_whole
from tests.unit.store.conftest import OPTIONS


def pair_of(data: bytes) -> Pair:
    return Pair(name_of(data)[2:], root_of(data), len(data))


def test_both_names_of_a_blob_are_known_while_it_is_here_and_when_it_left(store):
    data = content(MIB + 5)
    pair = pair_of(data)
    assert (store.pairs.of_root(pair.root), store.pairs.of_sha256s([pair.sha256])) == (None, {})
    store_whole(store, data)
    for _ in range(2):
        assert store.pairs.of_root(pair.root) == pair
        assert store.pairs.of_sha256s([bytes(32), pair.sha256]) == {pair.sha256: pair}
        store.gc(target_bytes=0)
        assert store.find(name_of(data)) is None


def test_a_blob_of_one_block_needs_no_pair(store):
    data = content(MIB)
    store_whole(store, data)
    store.gc(target_bytes=0)
    assert store.pairs.of_root(raw_cid(name_of(data)[2:])) is None
    assert store.pairs.of_sha256s([name_of(data)[2:]]) == {}


def test_of_many_that_left_the_last_ones_are_known(store, monkeypatch):
    monkeypatch.setattr(index_module, "MAX_PAIRS", 2)
    blobs = [content(MIB + 1, seed) for seed in range(4)]
    for data in [*blobs, blobs[2]]:  # the third comes and goes again: it is the newest
        store_whole(store, data)
        store.gc(target_bytes=0)
    known = [store.pairs.of_root(root_of(data)) is not None for data in blobs]
    assert known == [False, False, True, True]


def test_pairs_survive_a_damaged_index(tmp_path):
    data = content(MIB + 5)
    with Store.open(tmp_path / "home", OPTIONS) as store:
        store_whole(store, data)
        store.gc(target_bytes=0)
        path = store.layout.index
    with contextlib.closing(sqlite3.connect(path)) as connection:
        (page,) = connection.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = 'receipts'"
        ).fetchone()
        (page_bytes,) = connection.execute("PRAGMA page_size").fetchone()
    with path.open("r+b") as file:
        file.seek((page - 1) * page_bytes)
        file.write(b"\xff" * page_bytes)
    with Store.open(tmp_path / "home", OPTIONS) as store:
        assert store.index_lost is not None
        assert store.pairs.of_root(root_of(data)) == pair_of(data)


def test_which_pin_keeps_a_block_is_looked_up_not_searched(store):
    """Asked before every removal, beside pins of millions of blocks."""
    rows = store._index.read(
        "EXPLAIN QUERY PLAN SELECT 1 FROM pinned_blocks WHERE multihash = ? LIMIT 1", (b"",)
    )
    assert "SEARCH" in rows[0][3]
    store.dag_pins.add(b"\1root", True, [b"block"], [])
    assert store.dag_pins.is_pinned(b"block")
    assert not store.dag_pins.is_pinned(b"other")


@pytest.mark.parametrize("known", [0, 3])
def test_a_question_of_many_is_answered_in_parts(store, known):
    blobs = [content(MIB + 1, seed) for seed in range(known)]
    for data in blobs:
        store_whole(store, data)
    asked = [name_of(data)[2:] for data in blobs] + [bytes([n]) * 32 for n in range(250)]
    assert len(store.pairs.of_sha256s(asked + [b"\xff" * 31 + bytes([n]) for n in range(250)])) == (
        known
    )
