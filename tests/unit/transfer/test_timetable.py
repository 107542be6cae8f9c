"""Rates by the hour: over midnight, where windows overlap, and where clocks are set."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pcache.config.limits import LEAST_BYTES_PER_S, LimitSettings, format_night, night
from p2pcache.transfer.timetable import DAY_MINUTES, Rates, Window, minute_of, rates_at

RATE = st.none() | st.integers(LEAST_BYTES_PER_S, 1 << 40).map(float)
SAYS = st.dictionaries(st.sampled_from(["up", "down"]), RATE, min_size=1)
SPAN = st.tuples(st.integers(0, DAY_MINUTES - 1), st.integers(0, DAY_MINUTES)).filter(
    lambda span: span[0] != span[1]
)
WINDOWS = st.builds(lambda span, says: Window(*span, tuple(says.items())), SPAN, SAYS)


def minutes(window: Window) -> set[int]:
    """One by one, as a clock goes."""
    found, at = set(), window.start
    while at != window.end % DAY_MINUTES or not found:
        found.add(at)
        at = (at + 1) % DAY_MINUTES
    return found


@given(RATE, RATE, st.lists(WINDOWS, max_size=3), st.integers(0, DAY_MINUTES - 1))
def test_the_first_window_that_names_a_rate_sets_it_and_else_it_is_the_usual_one(
    up, down, windows, minute
):
    rates = rates_at(Rates(up, down), windows, minute)
    for name, usual in (("up", up), ("down", down)):
        said = [
            dict(w.says)[name] for w in windows if minute in minutes(w) and name in dict(w.says)
        ]
        assert getattr(rates, name) == (said[0] if said else usual)


@given(st.lists(WINDOWS, max_size=5))
def test_what_is_shown_can_be_set(windows):
    assert night(format_night(windows)) == tuple(windows)


def minutes_of_day(zone: str, day: datetime) -> Counter[int]:
    """How many real minutes of a day the clock on the wall shows each of its minutes."""
    start = day.replace(tzinfo=ZoneInfo(zone)).timestamp()
    end = (day + timedelta(days=1)).replace(tzinfo=ZoneInfo(zone)).timestamp()
    return Counter(minute_of(at, ZoneInfo(zone)) for at in range(int(start), int(end), 60))


def test_where_clocks_are_set_the_clock_on_the_wall_counts():
    (window,) = night("01:00-04:00 up=none")
    for day, hours in ((datetime(2026, 3, 29), 2), (datetime(2026, 10, 25), 4)):
        shown = minutes_of_day("Europe/Berlin", day)
        held = sum(count for minute, count in shown.items() if window.holds(minute))
        assert held == 60 * hours
    usual = minutes_of_day("Europe/Berlin", datetime(2026, 6, 1))
    assert sum(count for minute, count in usual.items() if window.holds(minute)) == 180


def test_a_time_is_that_of_the_zone():
    noon = datetime(2026, 1, 1, 12, tzinfo=UTC).timestamp()
    assert minute_of(noon, ZoneInfo("Asia/Kolkata")) == 17 * 60 + 30


def test_over_midnight_and_what_a_window_does_not_name():
    windows = night("22:00-06:00 up=none; 00:00-24:00 down=1MiB")
    usual = Rates(5e6, 9e6)
    assert rates_at(usual, windows, 23 * 60) == Rates(None, 1 << 20)
    assert rates_at(usual, windows, 5 * 60 + 59) == Rates(None, 1 << 20)
    assert rates_at(usual, windows, 6 * 60) == Rates(5e6, 1 << 20)


@pytest.mark.parametrize(
    "text",
    [
        "22-06 up=none", "22:00-22:00 up=none", "24:00-06:00 up=none", "25:00-06:00 up=none",
        "22:00-06:00", "22:00-06:00 up", "22:00-06:00 up=0", "22:00-06:00 up=1KiB",
        "22:00-06:00 up=none up=none", "22:00-06:00 left=none", "22:00-24:30 up=none",
        ";".join(["01:00-02:00 up=none"] * 25),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(text):
    with pytest.raises(ValueError, match=r"`|windows|is not a rate"):
        night(text)


def test_whether_downloads_are_ever_limited():
    assert not LimitSettings(Rates(1e6, None), night("22:00-06:00 up=none")).limits_down
    assert LimitSettings(Rates(None, 1e6)).limits_down
    assert LimitSettings(Rates(), night("22:00-06:00 down=1MiB")).limits_down


def test_whether_what_others_get_is_ever_limited():
    assert not LimitSettings(Rates(None, 1e6), night("22:00-06:00 up=none")).limits_up
    assert LimitSettings(Rates(1e6)).limits_up
    assert LimitSettings(Rates(), night("22:00-06:00 up=1MiB")).limits_up
