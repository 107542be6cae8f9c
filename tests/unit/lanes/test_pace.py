"""The watchdog and the rate limit, on a clock of the test's own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pcache.lanes.orders import FetchLimits
from p2pcache.lanes.pace import MAX_STEP_BYTES, Endless, Guard, Pacer, TooSlow

LIMITS = FetchLimits(no_progress_s=10.0, floor_bytes_per_s=256.0)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def guard(clock: Clock, limits: FetchLimits = LIMITS) -> Guard:
    rate = limits.rate_bytes_per_s
    return Guard(limits, None if rate is None else Pacer(rate, clock), clock, clock.sleep)


def drip(watch: Guard, clock: Clock, count: int, every_s: float) -> None:
    for _ in range(count):
        clock.now += every_s
        watch.received(1)


def trickle(watch: Guard, clock: Clock, count: int, every_s: float, body: int = 0) -> None:
    """The same receive for a long time, with so much body in each."""
    for _ in range(1000):
        clock.now += every_s
        watch.received(count)
        if body:
            watch.body(body)


def test_a_byte_a_second_ends_after_one_window() -> None:
    clock = Clock()
    watch = guard(clock)
    drip(watch, clock, 10, 1.0)
    with pytest.raises(TooSlow):
        drip(watch, clock, 1, 1.0)


def test_just_above_the_floor_lives() -> None:
    clock = Clock()
    watch = guard(clock)
    for _ in range(100):
        clock.now += 1.0
        watch.received(300)


def test_a_slow_first_byte_starts_the_window_anew() -> None:
    clock = Clock()
    watch = guard(clock)
    watch.received(5000)
    watch.asked()
    clock.now += 9.5
    assert watch.silent
    watch.received(200)
    assert not watch.silent
    watch.head_over()
    clock.now += 9.0
    watch.received(10_000)
    watch.body(10_000)
    clock.now += 1.5
    watch.received(1)
    watch.body(1)


def test_headers_without_end_are_bounded_in_bytes_and_seconds() -> None:
    for count, every_s in ((1000, 0.001), (30_000, 0.001), (3000, 1.0)):
        clock = Clock()
        watch = guard(clock)
        watch.asked()
        began = clock.now
        with pytest.raises(Endless):
            trickle(watch, clock, count, every_s)
        assert clock.now - began <= LIMITS.no_progress_s + 2


def test_chunk_lines_between_bodies_are_no_envelope_without_end() -> None:
    clock = Clock()
    watch = guard(clock)
    watch.asked()
    watch.received(500)
    watch.head_over()
    for _ in range(1000):
        clock.now += 0.5
        watch.received(6)
        clock.now += 5.0
        watch.received(1 << 20)
        watch.body(1 << 20)


def test_envelopes_do_not_count_as_progress_of_a_body() -> None:
    clock = Clock()
    watch = guard(clock)
    watch.asked()
    watch.received(500)
    watch.head_over()
    with pytest.raises(TooSlow):
        trickle(watch, clock, 100_000, 1.0, body=1)


def test_time_to_the_first_byte_is_measured_once() -> None:
    clock = Clock()
    watch = guard(clock)
    clock.now += 0.5
    watch.received(10)
    watch.asked()
    clock.now += 5
    watch.received(10)
    assert watch.first_byte_s == 0.5


def test_our_own_pauses_do_not_count_against_the_server() -> None:
    clock = Clock()
    limits = FetchLimits(no_progress_s=1.0, floor_bytes_per_s=1e9, rate_bytes_per_s=1e5)
    watch = guard(clock, limits)
    for _ in range(5):
        watch.received(100_000)  # a pause of a second each, a whole window
    for _ in range(8):
        clock.now += 0.11
        watch.received(1000)  # within the window that the pauses moved on, whatever its average


@given(
    st.floats(1e3, 1e9),
    st.lists(st.tuples(st.floats(0, 0.05), st.floats(0.01, 1)), min_size=50, max_size=200),
)
def test_a_paced_stream_never_runs_ahead_of_its_rate(
    rate: float, receives: list[tuple[float, float]]
) -> None:
    clock = Clock()
    pacer = Pacer(rate, clock)
    began, total = clock.now, 0
    for waited_s, share in receives:
        clock.now += waited_s
        count = int(pacer.step_bytes * share)
        total += count
        clock.now += pacer.delay_s(count)
        allowed = rate * (clock.now - began)
        assert total <= allowed * (1 + 1e-9) + 1
    assert pacer.step_bytes <= MAX_STEP_BYTES


@pytest.mark.parametrize(
    ("rate", "most_receives", "most_more_s"),
    [(1e6, 80, 0.02), (10e6, 100, 0.02), (500e6, 300, 0.0)],
)
def test_behind_a_thin_link_more_is_let_arrive_before_it_is_received(
    rate: float, most_receives: int, most_more_s: float
) -> None:
    """A packet at a time comes in; so many receives for a mebibyte, ended no later than that."""
    clock, size, got, receives = Clock(), 1 << 20, 0, 0
    watch = guard(clock)
    watch.head_over()
    began = clock.now
    while got < size:
        clock.now = max(clock.now, began + min(size, got + 4096) / rate)
        count = min(size, int((clock.now - began) * rate)) - got or 1
        got, receives = got + count, receives + 1
        watch.received(count)
        watch.body(count)
        watch.gather(size - got)
    assert receives <= most_receives
    assert clock.now <= began + size / rate + most_more_s + 1e-6
