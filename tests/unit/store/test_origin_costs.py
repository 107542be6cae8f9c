"""What origins cost is added up by month, and each blob counts once."""

from __future__ import annotations

from p2pcache.store.origin_costs import Arrived, OriginCost
from p2pcache.store.store import Store
from p2pcache.transfer.costs import Costs, Price

KEY, MONTH = b"o" * 16, 24310


def test_counts_add_up_and_a_blob_counts_once_a_month_over_restarts(tmp_path):
    costs = Costs()
    costs.failed(KEY, MONTH, "hub.example")
    costs.sent(KEY, MONTH, "hub.example", 10, 2)
    for _ in range(2):
        costs.arrived(KEY, MONTH, b"a" * 32, 7)
    costs.arrived(KEY, MONTH + 1, b"a" * 32, 7)
    taken = costs.take()
    assert costs.take() == ([], [])
    costs.failed(KEY, MONTH, "hub.example")
    costs.not_kept(*taken)
    with Store.open(tmp_path) as store:
        store.origin_costs.add(*costs.take(), since=0)
        store.origin_costs.add([], [Arrived(KEY, MONTH, b"b" * 32, 5)], since=0)
    with Store.open(tmp_path) as store:
        assert store.origin_costs.of_month(MONTH) == {KEY: OriginCost("hub.example", 2, 10, 2, 12)}
        assert store.origin_costs.of_month(MONTH + 1) == {KEY: OriginCost("", content_bytes=7)}
        store.origin_costs.add([], [], since=MONTH + 1)
        assert store.origin_costs.of_month(MONTH) == {}


def test_a_price_is_of_a_billion_bytes_and_of_a_thousand_requests():
    assert Price(0.09, 0.4).of(2_000_000_000, 500) == 0.09 * 2 + 0.2
