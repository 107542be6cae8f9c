"""Which large answer begins now, and which waits."""

from __future__ import annotations

import itertools
from collections import Counter

from p2pcache.lanes.serve.options import ServeOptions
from p2pcache.lanes.serve.slots import MAX_WAITING, Slots

MIB = 1 << 20
OPTIONS = ServeOptions(b"secret")


class House:
    """Slots, what is being sent, and a clock."""

    def __init__(self, uplink: float | None) -> None:
        self.slots = Slots(OPTIONS)
        self.uplink = uplink
        self.sent: dict[int, tuple[bytes, int]] = {}
        self.waits: dict[int, tuple[bytes, int]] = {}
        self.now = 0.0
        self.numbers = itertools.count()

    def ask(self, reader: bytes, length: int = MIB) -> int:
        number = next(self.numbers)
        assert self.slots.wait(number, reader)
        self.waits[number] = reader, length
        return number

    def begin(self) -> list[bytes]:
        """Let all begin that may; whose they are."""
        began = []
        for number, (reader, length) in list(self.waits.items()):
            if self.slots.begins(number, length, self.sent.values(), self.uplink, self.now):
                self.sent[number] = self.waits.pop(number)
                began.append(reader)
        return began


def test_what_the_uplink_sends_in_a_second_begins_and_no_more():
    house = House(8 * MIB)
    for _ in range(40):
        house.ask(b"a")
    assert len(house.begin()) == 8
    house.sent.clear()
    assert len(house.begin()) == 8


def test_a_slow_uplink_still_sends_three_at_once_and_an_unknown_one_sixteen():
    slow, unknown = House(0.1 * MIB), House(None)
    for house in (slow, unknown):
        for _ in range(40):
            house.ask(b"a", 16 * MIB)
    assert len(slow.begin()) == 3
    assert len(unknown.begin()) == 16


def test_a_fast_uplink_makes_nobody_wait():
    house = House(1000 * MIB)
    for _ in range(60):
        house.ask(b"a", 16 * MIB)
    assert len(house.begin()) == 60


def test_every_reader_is_served_in_turn_however_much_the_others_ask():
    house = House(0.1 * MIB)
    readers = [b"greedy", *(bytes([n]) for n in range(20))]
    for reader in readers:
        for _ in range(3 if reader == b"greedy" else 1):
            house.ask(reader)
    served: Counter[bytes] = Counter()
    for _ in range(100):
        for reader in house.begin():
            served[reader] += 1
            house.ask(reader)  # all ask again at once
        house.sent.pop(next(iter(house.sent)), None)
    assert set(served) == set(readers)
    assert max(served.values()) <= 2 * min(served.values()), served


def test_readers_that_take_little_do_not_keep_others_out_for_long():
    house = House(0.1 * MIB)  # so it seems: three sit on their answers
    for slow in (b"1", b"2", b"3"):
        house.ask(slow, 16 * MIB)
    assert len(house.begin()) == 3
    house.ask(b"honest", 16 * MIB)
    house.now = 1.0
    assert house.begin() == [b"honest"]
    house.ask(b"another")
    house.now = 1.5
    assert house.begin() == [], "one a second: it may be slow indeed"
    house.now = 2.0
    assert house.begin() == [b"another"]


def test_no_more_than_so_many_wait():
    slots = Slots(OPTIONS)
    assert all(slots.wait(number, b"a") for number in range(MAX_WAITING))
    assert not slots.wait(MAX_WAITING, b"b")
    slots.leave(0)
    assert slots.wait(MAX_WAITING, b"b")
