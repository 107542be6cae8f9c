"""What was fetched of origins is kept over restarts, and no figure falls."""

from __future__ import annotations

import contextlib
import sqlite3

from p2pcache.store.index import Index
from p2pcache.store.records import _CARRIED, salvage
from p2pcache.store.spent import SpentRow, SpentRows
from p2pcache.store.store import Store

KEY, MONTH = b"o" * 16, 24310


def row(member: bytes, bytes_total: int, requests_total: int, month: int = MONTH) -> SpentRow:
    return SpentRow(KEY, month, member, "hub.example", bytes_total, requests_total)


def test_figures_stay_over_a_restart_each_at_its_highest(tmp_path):
    with Store.open(tmp_path) as store:
        store.spent.put([row(b"", 5, 2), row(b"m", 9, 1)], since=0)
        store.spent.put([row(b"", 4, 3), row(b"m", 10, 1)], since=0)
    with Store.open(tmp_path) as store:
        assert store.spent.all() == [row(b"m", 10, 1), row(b"", 5, 3)]


def test_months_that_are_long_over_go(tmp_path):
    with Store.open(tmp_path) as store:
        store.spent.put([row(b"", 5, 2, MONTH - 13), row(b"", 6, 2, MONTH - 12)], since=0)
        store.spent.put([row(b"", 7, 2)], since=MONTH - 12)
        assert [r.month for r in store.spent.all()] == [MONTH, MONTH - 12]


OF_FILES = {"blobs", "loose", "block_owners", "block_places"}  # made again from them


def test_a_damaged_index_gives_the_rows_of_every_table_that_files_do_not_make(tmp_path):
    """The spare one that is salvaged here is whole: what is lost is lost to `_CARRIED`."""
    with Store.open(tmp_path / "old") as store:
        store.spent.put([row(b"m", 10, 1)], since=0)
    old = tmp_path / "old" / "index.sqlite"
    with contextlib.closing(sqlite3.connect(old)) as connection:
        named = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        tables = {name for (name,) in named if not name.startswith("sqlite_")}
    assert tables - OF_FILES == set(_CARRIED)
    index = Index(tmp_path / "new.sqlite", readonly=False, busy_timeout_s=1.0)
    with contextlib.closing(index):
        salvage(old, index)
        assert SpentRows(index).all() == [row(b"m", 10, 1)]
