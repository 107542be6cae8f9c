"""How busy an uplink is, from what its readers acknowledged."""

from __future__ import annotations

import pytest

from p2pcache.lanes.serve.load import Load, Meter, Reading

MIB = 1 << 20
BEAT_S = 0.25


class Uplink:
    """Sends `rate` bytes/s of what is owed to one reader; the meter looks every beat."""

    def __init__(self, rate: float, meter: Meter | None = None) -> None:
        self.meter = meter or Meter()
        self.rate = rate
        self.now = 100.0
        self.done = 0.0
        self.due = 0

    def ask(self, count: int) -> None:
        self.meter.began(self.now)
        self.due += count

    def beat(self) -> bool:
        """Whether there was news."""
        self.now += BEAT_S
        self.done = min(self.done + BEAT_S * self.rate, self.due)
        self.meter.look([Reading("a", int(self.done), self.due - int(self.done))], self.now)
        return self.meter.is_news(self.now)


def test_an_idle_server_says_nothing():
    uplink = Uplink(10 * MIB)
    assert not any(uplink.beat() for _ in range(100))
    assert uplink.meter.load == Load()
    assert uplink.meter.is_quiet


def test_the_queue_is_what_is_owed_at_the_measured_rate():
    uplink = Uplink(10 * MIB)
    uplink.ask(15 * MIB)
    assert uplink.beat()
    assert uplink.meter.load.queue_s == pytest.approx(1.25)
    assert uplink.meter.load.bytes_per_s == pytest.approx(0.0)  # there is no window yet
    uplink.beat()
    assert uplink.meter.load == Load(pytest.approx(1.0), pytest.approx(10 * MIB))


def test_a_queue_that_only_gets_shorter_is_told_once_and_its_end_once():
    uplink = Uplink(10 * MIB)
    uplink.ask(25 * MIB)
    news = [uplink.beat() for _ in range(40)]
    # the queue; the rate a second later; and, when all is sent, that less and then nothing goes out
    assert sum(news) <= 4, news
    assert uplink.meter.is_quiet


def test_a_queue_that_stays_is_told_again_when_the_others_think_that_it_is_a_piece_shorter():
    uplink = Uplink(10 * MIB)
    uplink.ask(10 * MIB)
    uplink.beat()
    told = 0
    for _ in range(16):
        uplink.ask(int(BEAT_S * uplink.rate))  # as much again
        told += uplink.beat()
    assert 3 <= told <= 8, "4 s, and a queue of a second"


def test_idle_time_does_not_make_the_uplink_slow():
    uplink = Uplink(10 * MIB)
    for _ in range(4):
        uplink.beat()
    uplink.now += 0.15  # the first piece comes in the middle of a beat
    uplink.ask(25 * MIB)
    uplink.now -= 0.15
    uplink.done = -0.15 * uplink.rate
    uplink.beat()
    assert uplink.meter.uplink_bytes_per_s == pytest.approx(10 * MIB, rel=0.01)


def test_a_lone_slow_reader_does_not_make_the_uplink_slow():
    uplink = Uplink(100 * MIB)
    uplink.ask(50 * MIB)
    for _ in range(4):
        uplink.beat()
    uplink.rate = MIB
    uplink.ask(16 * MIB)
    for _ in range(8):
        uplink.beat()
    assert uplink.meter.load.queue_s < 0.2, "a new request would get nearly all of it"


def test_a_link_that_became_slow_is_known_after_a_while():
    uplink = Uplink(100 * MIB)
    uplink.ask(1000 * MIB)
    for _ in range(4):
        uplink.beat()
    uplink.rate = MIB
    for _ in range(4 * 240):
        uplink.beat()
    assert uplink.meter.uplink_bytes_per_s == pytest.approx(MIB, rel=0.05)


def test_of_a_whole_blob_a_piece_is_owed_and_of_a_slow_reader_what_it_takes_in_ten_seconds():
    meter, now, slow = Meter(100 * MIB), 100.0, 0.0
    meter.began(now)
    for beat in range(8):
        owed = [Reading(n, int(slow), 5 << 30) for n in range(3)]
        if beat == 0:
            owed.append(Reading("fast", 0, 5 << 30))
        meter.look(owed, now)
        if beat == 0:
            assert meter.load.queue_s == pytest.approx(4 * 0.16), "not minutes"
        now += BEAT_S
        slow += BEAT_S * 70_000
    assert meter.load.queue_s == pytest.approx(3 * 700_000 / (100 * MIB), rel=0.1)


def test_the_pace_of_a_reader_is_that_of_the_last_second():
    meter = Meter()
    assert meter.pace_bytes_per_s("a") is None
    done, now = 0, 100.0
    for rate in [8 * MIB] * 8 + [MIB] * 5:
        meter.look([Reading("a", done, 100 * MIB)], now)
        now += BEAT_S
        done += int(rate * BEAT_S)
    assert meter.pace_bytes_per_s("a") == pytest.approx(MIB)
    meter.look([Reading("a", done, 0)], now)
    meter.look([Reading("a", done, 4 * MIB)], now + BEAT_S)
    assert meter.pace_bytes_per_s("a") is None, "what was idle between two answers tells nothing"


def test_the_end_of_a_queue_is_told_also_when_its_reader_vanished():
    meter = Meter(10 * MIB)
    meter.began(0.0)
    meter.look([Reading("a", 0, 2 * MIB)], 0.1)
    assert meter.is_news(0.1)
    told = 0
    for beat in range(1, 40):
        meter.look([], 0.1 + beat * BEAT_S)
        told += meter.is_news(0.1 + beat * BEAT_S)
    assert told == 1
    assert meter.is_quiet


def test_a_limit_is_known_before_anything_is_sent_and_never_exceeded():
    uplink = Uplink(10 * MIB, Meter(MIB))
    uplink.ask(4 * MIB)
    uplink.now += 0.001
    uplink.meter.look([Reading("a", 0, 4 * MIB)], uplink.now)
    assert uplink.meter.load.queue_s == pytest.approx(4.0)
    uplink.beat()
    assert uplink.meter.uplink_bytes_per_s == MIB
