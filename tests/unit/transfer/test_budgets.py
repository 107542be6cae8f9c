"""Origins' budgets: the counters that members share, and how rates are divided."""

from __future__ import annotations

import calendar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pcache.transfer.budgets import (
    LAPSE_S,
    MAX_MEMBERS,
    OURS,
    TURN_S,
    Askers,
    Figure,
    Ledger,
    Spent,
    begins_at,
    month_of,
    month_text,
    next_turn_s,
    origin_name,
    rank,
    slots,
    turn_of,
)

ORIGINS = [b"a" * 16, b"b" * 16]
MEMBERS = [OURS, b"m1", b"m2"]
FIGURES = st.builds(
    Figure,
    st.sampled_from(ORIGINS),
    st.integers(24311, 24312),
    st.sampled_from(MEMBERS),
    st.builds(Spent, st.integers(0, 9), st.integers(0, 9)),
)


def state(ledger):
    return {
        (origin, month): ledger.by_member(origin, month)
        for origin in ORIGINS
        for month in (24311, 24312)
    }


@given(st.lists(FIGURES), st.randoms(use_true_random=False))
def test_the_order_of_words_and_their_repetition_change_nothing(figures, chance):
    again = [*figures, *figures]
    chance.shuffle(again)
    assert state(Ledger(figures)) == state(Ledger(again))


@given(st.lists(FIGURES), FIGURES)
def test_no_word_makes_a_figure_fall_and_it_changes_its_speakers_alone(figures, more):
    ledger = Ledger(figures)
    before = state(ledger)
    news = ledger.hear(more)
    after = state(ledger)
    assert news == (
        before[more.origin, more.month].get(more.member, Spent())
        != after[more.origin, more.month][more.member]
    )
    for key, members in before.items():
        for member, spent in members.items():
            now = after[key][member]
            assert now.bytes_total >= spent.bytes_total
            assert now.requests_total >= spent.requests_total
            if member != more.member or key != (more.origin, more.month):
                assert now == spent


def test_the_sum_counts_one_members_word_for_at_most_the_budget_and_some_for_nothing():
    ledger = Ledger(
        [Figure(ORIGINS[0], 1, b"m1", Spent(1 << 60)), Figure(ORIGINS[0], 1, b"m2", Spent(5))]
    )
    ledger.add(ORIGINS[0], 1, 3, 1)
    assert ledger.total_bytes(ORIGINS[0], 1, most=100) == 108
    assert ledger.total_bytes(ORIGINS[0], 1, most=100, unheard={b"m1"}) == 8
    assert ledger.total_bytes(ORIGINS[0], 2) == ledger.total_bytes(ORIGINS[1], 1) == 0


def test_members_of_one_origin_are_bounded_and_we_are_never_left_out():
    ledger, askers = Ledger(), Askers()
    for number in range(MAX_MEMBERS + 9):
        ledger.hear(Figure(ORIGINS[0], 1, b"%d" % number, Spent(1)))
        askers.heard(b"%d" % number, asks=True, running=1, now=0.0)
    ledger.add(ORIGINS[0], 1, 7, 1)
    assert len(ledger.by_member(ORIGINS[0], 1)) == MAX_MEMBERS + 1
    assert ledger.total_bytes(ORIGINS[0], 1) == MAX_MEMBERS + 7
    assert len(askers.members(0.0)) == sum(askers.running(0.0).values()) == MAX_MEMBERS


def test_who_says_nothing_more_does_not_ask_any_more():
    askers = Askers()
    askers.heard(b"m1", asks=True, running=2, now=0.0)
    askers.heard(b"m2", asks=True, running=1, now=1.0)
    assert (askers.members(1.0), askers.running(1.0)) == ({b"m1", b"m2"}, {b"m1": 2, b"m2": 1})
    assert askers.members(LAPSE_S + 0.5) == {b"m2"}
    askers.heard(b"m2", asks=False, running=0, now=LAPSE_S)
    assert askers.members(LAPSE_S) == set()
    askers.heard(b"m1", asks=True, running=2, now=9.0)
    askers.left(b"m1")
    assert askers.running(9.0) == {}


def test_a_known_member_is_heard_again_without_a_look_at_all_others():
    askers = Askers()
    for number in range(MAX_MEMBERS):
        askers.heard(b"%d" % number, asks=True, running=1, now=0.0)
    before = askers._said
    askers.heard(b"1", asks=True, running=2, now=1.0)
    assert askers._said is before
    askers.heard(b"new", asks=True, running=1, now=LAPSE_S + 0.5)
    assert askers.members(LAPSE_S + 0.5) == {b"1", b"new"}, "room is made where it is needed"


@given(st.sets(st.binary(min_size=1, max_size=4), min_size=1, max_size=20), st.integers(0, 20))
def test_members_are_ranked_without_gaps(members, most):
    ranks = sorted(rank(members, me, ORIGINS[0], 3, most) for me in members)
    assert ranks == [min(number, most) for number in range(len(members))]


def test_what_we_know_of_ourselves_counts_whatever_is_heard_of_others():
    ledger = Ledger(me=b"m1")
    ledger.add(ORIGINS[0], 1, 3, 1)
    ledger.hear(Figure(ORIGINS[0], 1, b"m2", Spent(5)))
    assert ledger.total_bytes(ORIGINS[0], 1, unheard={b"m1", b"m2"}) == 3


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("https://Hub.example/x?y#z", "hub.example:443"),
        ("http://hub.example:8080/x", "hub.example:8080"),
        ("https://user:secret@hub.example", "hub.example:443"),
        ("Hub.example", "hub.example"),
        ("hub.example:443", "hub.example:443"),
        ("http://[FD00::7]:8080/x", "[fd00::7]:8080"),
        ("http://[fd00:0::7]/x", "[fd00::7]:80"),
        ("[fd00::7]:8080", "[fd00::7]:8080"),
        ("[fd00::7]", "[fd00::7]"),
        ("fd00::7", "[fd00::7]"),
    ],
)
def test_settings_and_urls_are_spelt_alike(text, name):
    assert origin_name(text) == name


@given(
    st.integers(1, 40),
    st.sets(st.binary(min_size=1, max_size=4), min_size=1, max_size=20),
    st.integers(0, 1 << 40),
)
def test_all_shares_together_are_the_budget_at_every_moment(concurrent, members, turn):
    shares = [slots(concurrent, members, me, ORIGINS[0], turn) for me in members]
    assert sum(shares) == concurrent
    assert max(shares) - min(shares) <= 1


def test_everybody_has_a_turn_and_is_told_when():
    members = {b"%d" % number for number in range(7)}
    for me in members:
        wait_s = next_turn_s(2, members, me, ORIGINS[0], 1000.0)
        assert 0 < wait_s <= 20 * TURN_S
        assert slots(2, members, me, ORIGINS[0], turn_of(1000.0 + wait_s + 0.001)) == 1


@pytest.mark.parametrize(
    ("at", "text"),
    [
        ((2026, 11, 30, 23, 59, 59), "2026-11"),
        ((2026, 12, 1, 0, 0, 0), "2026-12"),
        ((2027, 1, 1, 0, 0, 0), "2027-01"),
    ],
)
def test_months_begin_at_midnight_utc(at, text):
    now = calendar.timegm(at)
    assert month_text(month_of(now)) == text
    assert month_of(begins_at(month_of(now))) == month_of(now)
    assert begins_at(month_of(now)) <= now < begins_at(month_of(now) + 1)
