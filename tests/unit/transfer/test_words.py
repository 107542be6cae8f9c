"""What members say of an origin that told them to wait, and what is done with it."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from p2pcache.transfer.machine.words import MAX_MEMBERS, Words

CAP_S = 300.0


def test_one_member_makes_us_careful_and_two_make_us_wait():
    words = Words(CAP_S)
    words.heard("a", 30.0, 0.0)
    assert (words.parked_until, words.limited_until) == (-math.inf, 30.0)
    words.heard("b", 20.0, 1.0)
    assert (words.parked_until, words.limited_until) == (21.0, 30.0)


def test_one_that_speaks_again_and_again_parks_nothing():
    words = Words(CAP_S)
    for now in range(100):
        words.heard("a", 1e9, float(now))
    assert words.parked_until == -math.inf
    assert words.limited_until == 99 + CAP_S


def test_no_word_is_longer_than_the_cap():
    words = Words(CAP_S)
    words.heard("a", 1e9, 0.0)
    words.heard("b", 1e9, 0.0)
    assert words.parked_until == CAP_S


def test_after_a_pause_a_request_of_ours_is_tried_before_the_next():
    words = Words(CAP_S)
    for now in range(1000):
        words.heard("a", 1e9, float(now))
        words.heard("b", 1e9, float(now))
    assert words.parked_until <= CAP_S + 1, "two liars"
    words.tried(1000.0, 1001.0, well=False)
    words.heard("a", 50.0, 1002.0)
    words.heard("b", 50.0, 1002.0)
    assert words.parked_until > 1002.0, "it was refused indeed"


def test_a_word_whose_time_was_over_before_the_request_is_not_refuted():
    words = Words(CAP_S)
    words.heard("a", 5.0, 0.0)
    words.heard("b", 5.0, 0.0)
    words.tried(6.0, 7.0, well=True)
    words.heard("a", 30.0, 20.0)
    words.heard("b", 30.0, 20.0)
    assert (words.parked_until, words.limited_until) == (50.0, 50.0)


def test_a_request_that_went_well_refutes_who_spoke_before_it_began():
    words = Words(CAP_S)
    words.heard("a", 60.0, 10.0)
    words.tried(9.0, 11.0, well=True)
    assert words.limited_until == 70.0, "it was let in before"
    words.tried(10.0, 12.0, well=True)
    assert words.limited_until == -math.inf
    words.heard("a", 60.0, 13.0)
    assert words.limited_until == -math.inf, "not heard for a while"
    words.heard("a", 60.0, 13.0 + CAP_S)
    assert words.limited_until == 73.0 + CAP_S


def test_what_is_kept_is_bounded():
    words = Words(CAP_S)
    for number in range(2 * MAX_MEMBERS):
        words.heard(str(number), 10.0, 0.0)
    assert len(words._until) == MAX_MEMBERS


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 1e6), st.floats(0, 1000)), max_size=60)
)
def test_whatever_is_said_no_pause_is_longer_than_the_cap(said):
    words = Words(CAP_S)
    now = since = 0.0
    for member, retry_after_s, step in said:
        if now >= words.parked_until:
            since = now + step
            words.tried(now, now, well=False)
        now += step
        words.heard(member, retry_after_s, now)
        assert words.parked_until <= max(since, now) + CAP_S
