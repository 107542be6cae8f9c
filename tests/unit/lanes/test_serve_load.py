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
    uplink.ask(25 * MIB)
    assert uplink.beat()
    assert uplink.meter.load.queue_s == pytest.approx(2.25)
    assert uplink.meter.load.bytes_per_s == pytest.approx(0.0)  # there is no window yet
    uplink.beat()
    assert uplink.meter.load == Load(pytest.approx(2.0), pytest.approx(10 * MIB))


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


def test_a_limit_is_known_before_anything_is_sent_and_never_exceeded():
    uplink = Uplink(10 * MIB, Meter(MIB))
    uplink.ask(4 * MIB)
    uplink.now += 0.001
    uplink.meter.look([Reading("a", 0, 4 * MIB)], uplink.now)
    assert uplink.meter.load.queue_s == pytest.approx(4.0)
    uplink.beat()
    assert uplink.meter.uplink_bytes_per_s == MIB
