"""What was fetched of origins is kept over restarts, and no figure falls."""

from __future__ import annotations

from p2pcache.store.spent import SpentRow
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
