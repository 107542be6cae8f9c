"""Requests to origins are let in as budgets allow, in virtual time."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
import trio

from p2pcache.lanes.odometer import counting, open_odometer
from p2pcache.lanes.orders import (
    BatchReport,
    Fault,
    FaultKind,
    FetchLimits,
    Location,
    SmallOrder,
    SmallReport,
)
from p2pcache.transfer.batches import _of_origin
from p2pcache.transfer.budgets import (
    LAPSE_S,
    TURN_S,
    BudgetSpent,
    Figure,
    Limits,
    OthersTurn,
    Spent,
    month_of,
    origin_key,
    slots,
    turn_of,
)
from p2pcache.transfer.faults import fault_of
from p2pcache.transfer.origin_use import MAX_PARKED, OTHERS_EVERY_S, OTHERS_S
from p2pcache.transfer.spending import MAX_ORIGINS, SETTLE_S, Spending

HUB = Location("https://hub.example/a/resolve/main/x")
KEY = origin_key("hub.example")
NOW = 1_790_000_000.0
MONTH = month_of(NOW)
ME, OTHER = b"me", b"other"


@dataclass
class Wall:
    at: float = NOW

    def __call__(self) -> float:
        return self.at


def spending(limits: Limits, **more) -> Spending:
    made = Spending({"hub.example": limits}, Wall(), **more)
    made.ledger.me = ME
    return made


def says(made: Spending, member: bytes = OTHER, *, running: int = 0, asks=True, spent=0) -> None:
    figure = Figure(KEY, MONTH, b"", Spent(spent, 1))
    made.hear(member, figure, asks=asks, running=running)


async def hold(made: Spending, seconds: float, log: list[float], place: Location = HUB) -> None:
    async with made.request(place, FetchLimits()):
        log.append(trio.current_time())
        await trio.sleep(seconds)


async def test_no_more_run_at_once_than_the_budget_says_and_in_the_order_of_their_coming(
    autojump_clock,
):
    made, log = spending(Limits(concurrent=2)), []
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(hold, made, 1.0, log)
    assert [round(at - began) for at in log] == [0, 0, 1, 1, 2]


async def test_other_members_that_ask_now_have_their_share_until_they_lapse(autojump_clock):
    made, log = spending(Limits(concurrent=4)), []
    says(made)
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(hold, made, 10.0, log)
    late = [at - began for at in log]
    assert late[:2] == [0.0, 0.0]
    assert LAPSE_S - 0.1 <= late[2] <= LAPSE_S + 0.2


async def test_requests_that_others_are_late_to_end_are_waited_for_a_bounded_time(autojump_clock):
    made, log = spending(Limits(concurrent=4)), []

    async def keeps_saying() -> None:
        while True:
            says(made, running=4)
            await trio.sleep(1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(keeps_saying)
        await trio.sleep(0.01)
        began = trio.current_time()
        with trio.fail_after(60):
            await hold(made, 0.0, log)
        nursery.cancel_scope.cancel()
    assert OTHERS_S <= log[0] - began <= OTHERS_S + 0.2


async def test_a_member_that_says_too_much_for_ever_costs_a_quarter_of_what_may_run(
    autojump_clock,
):
    made, log = spending(Limits(concurrent=4)), []

    async def keeps_saying() -> None:
        while True:
            says(made, running=4096)
            await trio.sleep(1)

    async def some() -> None:
        for _ in range(150):
            await hold(made, 0.5, log)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(keeps_saying)
        began = trio.current_time()
        async with trio.open_nursery() as ours:
            for _ in range(2):  # our share
                ours.start_soon(some)
        nursery.cancel_scope.cancel()
    took_s = trio.current_time() - began
    assert 75 + OTHERS_S < took_s <= 75 / (1 - OTHERS_S / OTHERS_EVERY_S) + OTHERS_S


async def test_who_begins_hears_first_who_asks_already(autojump_clock):
    made, log = spending(Limits(concurrent=2)), []
    made.has_members = lambda: True
    began = trio.current_time()
    await hold(made, 0.0, log)
    await hold(made, 0.0, log)
    assert [at - began for at in log] == [SETTLE_S, SETTLE_S], "once"
    assert made.news.is_set(), "and says so"


async def test_where_there_are_more_members_than_requests_they_take_turns(autojump_clock):
    made = spending(Limits(concurrent=1))
    wall = made._now
    while slots(1, {ME, OTHER}, ME, KEY, turn_of(wall.at)):
        wall.at += TURN_S
    says(made)
    with pytest.raises(OthersTurn, match="2 agents take turns") as caught:
        await hold(made, 0.0, [])
    fault = fault_of(caught.value)
    assert fault.kind is FaultKind.TURN
    assert fault.retry_after_s is not None
    wall.at += fault.retry_after_s + 0.001
    says(made)
    log: list[float] = []
    await hold(made, 0.0, log)
    assert log


async def test_requests_are_spaced_and_a_batch_counts_as_many_as_it_has(autojump_clock):
    made, log = spending(Limits(requests_per_s=4)), []
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(hold, made, 0.0, log)
    assert [at - began for at in log] == [0.0, 0.25, 0.5]
    async with made.request(HUB, FetchLimits(), count=8):
        pass
    await hold(made, 0.0, log)
    assert log[-1] - began == pytest.approx(0.75 + 8 / 4)
    assert made.together(HUB, 100) == 1
    assert made.ledger.ours(KEY, MONTH).requests_total == 3 + 8 + 1


@pytest.mark.slow
async def test_members_that_begin_together_are_spaced_from_the_first_request_on(autojump_clock):
    names, log = [b"%d" % number for number in range(32)], []
    all_of_them = [spending(Limits(requests_per_s=1.0)) for _ in names]
    for made, name in zip(all_of_them, names, strict=True):
        made.ledger.me, made.has_members = name, lambda: True

    async def gossip() -> None:
        while True:
            for speaker in all_of_them:
                for figure, asks, running in speaker.said():
                    for other in all_of_them:
                        if other is not speaker:
                            other.hear(figure.member, figure, asks=asks, running=running)
            await trio.sleep(0.1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(gossip)
        async with trio.open_nursery() as ours:
            for made in all_of_them:
                ours.start_soon(hold, made, 0.0, log)
        nursery.cancel_scope.cancel()
    assert max(sum(at <= other < at + 0.999 for other in log) for at in log) == 1


async def test_who_waited_for_its_second_looks_again_whether_it_may_ask(autojump_clock):
    made = spending(Limits(requests_per_s=0.5, month_bytes=100))
    await hold(made, 0.0, [])

    async def uses_it_up() -> None:
        await trio.sleep(1)
        says(made, spent=100, asks=False)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(uses_it_up)
        with pytest.raises(BudgetSpent):
            await hold(made, 0.0, [])
    assert made.ledger.ours(KEY, MONTH).requests_total == 1


async def test_rates_are_divided_among_requests_and_members(autojump_clock):
    made = spending(Limits(bytes_per_s=128 << 20))
    assert made.streams(HUB.url, 16) == 4
    async with made.request(HUB, FetchLimits()) as one:
        assert one.limits.rate_bytes_per_s == 32 << 20
    says(made)
    async with made.request(HUB, FetchLimits(rate_bytes_per_s=1e6)) as one:
        assert one.limits.rate_bytes_per_s == 1e6, "its own limit is the lower one"
    made = spending(Limits(bytes_per_s=600.0))
    async with made.request(HUB, FetchLimits()) as one:
        assert one.limits.rate_bytes_per_s == 600.0
        assert one.limits.floor_bytes_per_s == 150.0, "or our own limit would end it as too slow"


async def test_a_batch_runs_one_file_at_a_time_where_requests_at_once_are_counted(autojump_clock):
    async with spending(Limits(concurrent=3)).request(HUB, FetchLimits()) as one:
        assert one.limits.at_once == 1


@pytest.mark.parametrize(
    ("url", "counts"),
    [
        ("https://hub.example/x", True),
        ("https://hub.example:8443/x", True),
        ("https://cdn.example/x", False),
        ("https://[fd00::7]:8080/x", True),
        ("https://[fd00::7]:1/x", False),
        ("https://[fd00::8]:1/x", True),
        ("https://port.example/x", True),
        ("http://port.example/x", False),
        ("file:///hub.example", False),
    ],
)
async def test_a_budget_is_of_the_host_that_is_asked_at_any_port(autojump_clock, url, counts):
    hosts = ("hub.example", "[fd00::7]:8080", "[fd00::8]", "port.example:443")
    made = Spending(dict.fromkeys(hosts, Limits(month_bytes=10)), Wall())
    for host in hosts:
        figure = Figure(origin_key(host), MONTH, b"", Spent(10, 1))
        made.hear(OTHER, figure, asks=True, running=0)
    if counts:
        with pytest.raises(BudgetSpent):
            await hold(made, 0.0, [], Location(url))
    else:
        await hold(made, 0.0, [], Location(url))


async def test_a_month_that_others_used_up_is_used_up_here_until_it_is_over(autojump_clock):
    made = spending(Limits(month_bytes=1 << 20))
    says(made, spent=(1 << 20) - 1)
    await hold(made, 0.0, [])
    says(made, spent=1 << 20, asks=False)
    says(made, spent=0)
    with pytest.raises(BudgetSpent, match=r"its 1\.0 MiB of 2026-09; .* on 2026-10-01") as caught:
        await hold(made, 0.0, [])
    assert fault_of(caught.value).kind is FaultKind.SPENT
    made._now.at += 31 * 86400
    await hold(made, 0.0, [])


async def test_words_on_other_months_and_on_origins_without_a_budget_are_not_kept(autojump_clock):
    made = spending(Limits(month_bytes=10, unheard=frozenset({b"liar"})))
    for origin, month in ((KEY, MONTH + 2), (KEY, MONTH - 2), (b"?" * 16, MONTH)):
        figure = Figure(origin, month, b"", Spent(99, 9))
        made.hear(OTHER, figure, asks=True, running=1)
    assert made.take_dirty() == []
    says(made, b"liar", spent=99)
    await hold(made, 0.0, [])
    figure = Figure(KEY, MONTH, ME, Spent(10, 1))
    made.hear(OTHER, figure, asks=False, running=0)
    assert made.ledger.ours(KEY, MONTH).bytes_total == 0, "it speaks for itself alone"


async def test_what_arrives_counts_at_once_and_the_budgets_end_ends_what_runs(
    autojump_clock, tmp_path
):
    with open_odometer(tmp_path / "odometer") as odometer:
        made = spending(Limits(month_bytes=100), odometer=odometer)

        async def download() -> None:
            async with made.request(HUB, FetchLimits()) as one:
                with counting(one.limits.counted) as count:
                    for more, total in ((60, 60), (39, 99), (1, 100)):
                        await trio.sleep(1)
                        count(more)
                        made.look()
                        assert made.ledger.ours(KEY, MONTH) == Spent(total, 1)
                    await trio.sleep_forever()

        with pytest.raises(BudgetSpent), trio.fail_after(60):
            await download()
        assert made.ledger.ours(KEY, MONTH).bytes_total == 100
        ((host, figure),) = made.take_dirty()
        assert (host, figure) == ("hub.example", Figure(KEY, MONTH, ME, Spent(100, 1)))


async def test_a_clock_that_jumps_for_a_moment_loses_nothing(autojump_clock):
    made = spending(Limits(month_bytes=100))
    says(made, spent=100, asks=False)
    made.look()
    made._now.at += 70 * 86400
    made.look()
    made._now.at -= 70 * 86400
    made.look()
    with pytest.raises(BudgetSpent):
        await hold(made, 0.0, [])
    assert [figure.spent.bytes_total for _, figure in made.take_dirty()] == [100]


async def test_figures_of_months_that_are_long_over_are_not_kept(autojump_clock):
    made = spending(Limits(month_bytes=100))
    says(made, spent=5)
    made._now.at += 500 * 86400
    made.look()
    await hold(made, 0.0, [])
    assert [figure.month - MONTH for _, figure in made.take_dirty()] == [17]
    assert not made.is_dirty


async def test_without_a_place_to_count_in_a_report_counts(autojump_clock, tmp_path):
    made = spending(Limits(month_bytes=100))
    async with made.request(HUB, FetchLimits()) as one:
        one.wire_bytes = 60
    with open_odometer(tmp_path / "odometer") as odometer:
        counted = spending(Limits(), odometer=odometer)
        for reported in (70, 90):
            async with counted.request(HUB, FetchLimits()) as one:
                with counting(one.limits.counted) as count:
                    count(80)
                one.wire_bytes = reported
    assert made.ledger.ours(KEY, MONTH) == Spent(60, 1)
    assert counted.ledger.ours(KEY, MONTH).bytes_total == 80 + 90, "the larger of the two"


async def test_what_was_fetched_under_another_name_counts_and_is_not_told(autojump_clock):
    kept = [Figure(KEY, MONTH, who, Spent(30, 1)) for who in (b"", b"before", ME)]
    made = spending(Limits(month_bytes=100), figures=kept, me=ME)
    (origin,) = made.origins()
    assert origin.total_bytes(made.ledger, MONTH) == 90
    await hold(made, 0.0, [])
    ((said, _, _),) = made.said()
    assert said == Figure(KEY, MONTH, ME, Spent(30, 2))
    assert [figure for _, figure in made.take_dirty()] == [said], "and is kept under its own name"


async def test_what_a_stopped_request_had_received_counts(autojump_clock, tmp_path):
    with open_odometer(tmp_path / "odometer") as odometer:
        made = spending(Limits(), odometer=odometer)
        with trio.move_on_after(1):
            async with made.request(HUB, FetchLimits()) as one:
                with counting(one.limits.counted) as count:
                    count(77)
                await trio.sleep_forever()
        assert made.ledger.ours(KEY, MONTH).bytes_total == 77
        async with made.request(HUB, FetchLimits()):
            pass
        assert made.ledger.ours(KEY, MONTH).bytes_total == 77, "a slot begins at nothing"


async def test_waiting_in_vain_uses_nothing_up(autojump_clock):
    made, log = spending(Limits(concurrent=1, requests_per_s=1)), []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(hold, made, 5.0, log)
        await trio.sleep(0.1)
        with trio.move_on_after(1):
            await hold(made, 1.0, log)
    began = trio.current_time()
    await hold(made, 0.0, log)
    assert len(log) == 2
    assert log[1] == began
    assert made.ledger.ours(KEY, MONTH).requests_total == 2


async def test_who_was_told_to_wait_is_remembered_for_the_status(autojump_clock):
    made = spending(Limits())
    await hold(made, 0.0, [])
    made.answered(HUB, Fault(FaultKind.UNAVAILABLE, "x", retry_after_s=30.0, http_status=429))
    made.answered(HUB, Fault(FaultKind.UNAVAILABLE, "x", retry_after_s=99.0, http_status=500))
    made.heard_throttled(OTHER, KEY, 7.0)
    made.heard_throttled(OTHER, b"?" * 16, 7.0)
    (origin,) = made.origins()
    assert origin.parked == {b"": NOW + 30.0, OTHER: NOW + 7.0}


@pytest.mark.parametrize(
    ("limits", "is_told"), [(Limits(month_bytes=100), False), (Limits(concurrent=2), True)]
)
async def test_where_nothing_is_divided_the_next_look_is_soon_enough_to_tell(
    autojump_clock, limits, is_told
):
    made = spending(limits)
    await hold(made, 0.0, [])
    assert made.news.is_set() == is_told
    made.look()
    assert made.news.is_set()


async def test_hosts_that_are_asked_are_remembered_up_to_a_bound(autojump_clock):
    made = spending(Limits())
    for number in range(MAX_ORIGINS + 9):
        await hold(made, 0.0, [], Location(f"https://{number}.example/"))
    assert len(made._places) == MAX_ORIGINS


@asynccontextmanager
async def running(made: Spending):
    async with made.request(HUB, FetchLimits()):
        yield


async def test_what_is_said_is_the_own_figure_and_what_runs(autojump_clock):
    made = spending(Limits(concurrent=2))
    assert list(made.said()) == []
    says(made, spent=50)
    async with running(made):
        assert list(made.said()) == [(Figure(KEY, MONTH, ME, Spent(0, 1)), True, 1)]
    await trio.sleep(5)
    assert list(made.said()) == [(Figure(KEY, MONTH, ME, Spent(0, 1)), False, 0)]


async def test_what_is_asked_is_told_again_until_its_end_was_told(autojump_clock):
    made, told = spending(Limits(concurrent=2)), []
    assert not made.work.is_set(), "an idle agent looks at nothing"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(hold, made, 3.0, [])
        await trio.sleep(0.5)
        while made.work.is_set():
            made.work = made.news = trio.Event()
            await trio.sleep(1)
            made.look()
            ((_, asks, _),) = made.said()
            told.append(asks if made.news.is_set() else None)
    assert told == [True, True, True, False, None]


async def test_small_files_are_asked_for_in_parts_and_what_is_not_allowed_is_a_fault_of_each(
    autojump_clock,
):
    made, parts = spending(Limits(requests_per_s=12, month_bytes=100)), []
    began = trio.current_time()

    class Workers:
        async def fetch_small(self, orders, limits):
            parts.append((len(orders), trio.current_time() - began))
            if len(parts) == 3:
                says(made, spent=100)
            reports = tuple(SmallReport(1, bytes(32), bytes(20), 1, 0.0) for _ in orders)
            return BatchReport(reports, 0.5)

    orders = tuple(SmallOrder(HUB, f"/{n}", 1) for n in range(20))
    report = await _of_origin(orders, Workers(), FetchLimits(), made)
    assert parts == [(3, 0.0), (3, 0.25), (3, 0.5)]
    faults = [one.fault and one.fault.kind for one in report.reports]
    assert faults == [None] * 9 + [FaultKind.SPENT] * 11
    assert report.cpu_s == 1.5


async def test_members_that_are_told_to_wait_are_bounded(autojump_clock):
    made = spending(Limits())
    await hold(made, 0.0, [])
    for number in range(MAX_PARKED + 9):
        made.heard_throttled(b"%d" % number, KEY, 7.0)
    (origin,) = made.origins()
    assert len(origin.parked) == MAX_PARKED
    made._now.at += 8
    made.heard_throttled(b"later", KEY, 7.0)
    assert list(origin.parked) == [b"later"]
