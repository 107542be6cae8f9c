"""Threads that wait for a place on the uplink: who is woken, and when."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from p2pcache.lanes.serve.load import Meter
from p2pcache.lanes.serve.options import ServeOptions
from p2pcache.lanes.serve.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Iterator

    from p2pcache.lanes.serve.connection import Connection

MIB = 1 << 20
SOON_S = 2.0  # a busy machine; what waits to be looked for would wait for ever here


class Asked(Meter):
    """How often somebody wanted to know what there is room for."""

    looks = 0

    @property
    def uplink_bytes_per_s(self) -> float | None:
        self.looks += 1
        return 8.0 * MIB

    @uplink_bytes_per_s.setter
    def uplink_bytes_per_s(self, _rate: float | None) -> None:
        pass


@dataclass(eq=False)
class Request:
    """One connection and its thread. Nothing is sent."""

    turns: Turns
    reader: bytes
    length: int
    answer_bytes: int = 0
    is_slow: bool = False
    began: threading.Event = field(default_factory=threading.Event)
    refused: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def one(self) -> Connection:
        return cast("Connection", self)

    def _run(self) -> None:
        good = self.turns.wait(self.one, self.reader, self.length)
        (self.began if good else self.refused).set()


@dataclass
class House:
    wait_s: float

    def __post_init__(self) -> None:
        self.meter = Asked()
        options = ServeOptions(b"secret", slot_wait_s=self.wait_s)
        self.turns = Turns(options, self.meter, threading.Lock())

    def fill(self, length: int) -> Iterator[Request]:
        """Three that are sent."""
        for n in range(3):
            each = Request(self.turns, b"sent %d" % n, length)
            assert each.began.wait(SOON_S)
            yield each

    def ask(self, reader: bytes, length: int) -> Request:
        """One that waits, unless it begins."""
        before = self.meter.looks
        one = Request(self.turns, reader, length)
        give_up = time.monotonic() + SOON_S
        while self.meter.looks == before:
            assert time.monotonic() < give_up
            time.sleep(0.001)
        return one


def let_extra_pass(house: House) -> None:
    """The one more a second that begins although it does not fit."""
    assert house.ask(b"extra", MIB).began.wait(SOON_S)


def test_the_next_in_turn_is_woken_by_who_ends_and_nobody_else_looks():
    house = House(wait_s=30.0)
    sent = list(house.fill(16 * MIB))
    let_extra_pass(house)
    waiting = [house.ask(b"%d" % n, 2 * MIB) for n in range(60)]
    assert not any(each.began.is_set() for each in waiting)
    house.meter.looks = 0
    for each in sent:
        house.turns.end(each.one)
    assert all(each.began.wait(SOON_S) for each in waiting[:2]), "beside the extra one"
    assert sum(each.began.is_set() for each in waiting) <= 4
    assert house.meter.looks <= 9, "63 times as often when all look"


def test_who_waits_behind_one_that_gives_up_begins_at_once():
    house = House(wait_s=1.0)
    list(house.fill(2 * MIB))
    large = house.ask(b"sent 0", 8 * MIB)
    time.sleep(0.5)
    small = house.ask(b"sent 1", 2 * MIB)
    assert large.refused.wait(SOON_S)
    assert small.began.wait(0.4), "nobody ended, and no clock ticks here"


def test_who_has_to_make_room_is_told_at_once():
    house = House(wait_s=30.0)
    list(house.fill(16 * MIB))
    let_extra_pass(house)
    greedy = [house.ask(b"greedy", 16 * MIB) for _ in range(64)]
    honest = house.ask(b"honest", 16 * MIB)
    assert greedy[-1].refused.wait(SOON_S)
    assert not any(each.refused.is_set() for each in greedy[:-1])
    assert not honest.refused.is_set()
