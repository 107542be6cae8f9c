"""Which large answer begins now, and which waits."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass, replace

from p2pcache.lanes.serve.load import LATELY_HALF_LIFE_S
from p2pcache.lanes.serve.options import ServeOptions
from p2pcache.lanes.serve.slots import MAX_REMEMBERED, MAX_WAITING, Sending, Slots, Uplink

MIB = 1 << 20
GIB = 1 << 30
OPTIONS = ServeOptions(b"secret")


class House:
    """Slots, what is being sent, and a clock."""

    def __init__(self, uplink: float | None) -> None:
        self.slots: Slots[int] = Slots(OPTIONS)
        self.uplink = Uplink(uplink)
        self.sent: dict[int, Sending] = {}
        self.waits: dict[int, Sending] = {}
        self.now = 0.0
        self.numbers = itertools.count()

    def ask(self, reader: bytes, length: int = MIB) -> int:
        number = next(self.numbers)
        assert self.slots.wait(number, reader, length) is None
        self.waits[number] = Sending(reader, length)
        return number

    def begin(self) -> list[bytes]:
        """Let all begin that may; whose they are."""
        began = []
        while (one := self.slots.next(self.sent.values(), self.uplink, self.now)) is not None:
            self.sent[one] = self.waits.pop(one)
            began.append(self.sent[one].reader)
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


def test_an_uplink_that_all_share_is_full_also_when_it_brings_less_than_its_best():
    house = House(100 * MIB)
    for _ in range(40):
        house.ask(b"a", 16 * MIB)
    assert len(house.begin()) == 6
    for number, each in house.sent.items():
        house.sent[number] = replace(each, pace_bytes_per_s=40 * MIB / 6)
    for lately in (0, 40 * MIB, 70 * MIB):
        house.uplink = Uplink(100 * MIB, lately)
        assert house.begin() == []


def test_a_slow_uplink_has_three_that_use_it_beside_those_that_do_not():
    house = House(10 * MIB)
    for _ in range(7):
        house.ask(b"a", 16 * MIB)
    assert len(house.begin()) == 3
    house.uplink = Uplink(10 * MIB, 9 * MIB)
    for number, each in house.sent.items():
        house.sent[number] = replace(each, pace_bytes_per_s=0.1 * MIB)
    assert len(house.begin()) == 3


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


def test_new_names_come_in_turn_and_not_before_all_others():
    house = House(0.1 * MIB)
    house.ask(b"honest")
    house.begin()
    house.sent.clear()
    served = 0
    for n in range(300):
        while len(house.waits) < 9:
            house.ask(b"new %d" % next(house.numbers))
        if not any(each.reader == b"honest" for each in house.waits.values()):
            house.ask(b"honest")
        served += house.begin().count(b"honest")
        house.sent.pop(min(house.sent))
        assert n < 50 or served
    assert served >= 25, "one of ten that wait"


def test_who_comes_back_keeps_its_turn_however_many_names_come_meanwhile():
    house = House(0.1 * MIB)
    for n in range(3):
        house.ask(b"%d" % n)
    house.begin()
    for n in range(2 * MAX_REMEMBERED):
        one = house.ask(b"new %d" % n)
        honest = house.ask(b"honest")
        for each in (one, honest):
            house.slots.leave(each)
            del house.waits[each]
    house.ask(b"newest")
    house.ask(b"honest")
    house.sent.clear()
    assert house.begin() == [b"honest", b"newest"]


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


def test_of_an_answer_counts_what_its_reader_takes():
    house = House(None)
    for n in range(16):
        house.ask(b"slow %d" % n, 5 * GIB)
    assert len(house.begin()) == 16
    for number, each in house.sent.items():
        house.sent[number] = replace(each, pace_bytes_per_s=0.1 * MIB)
    house.uplink = Uplink(100 * MIB, 90 * MIB)
    for _ in range(10):
        house.ask(b"honest", 16 * MIB)
    assert len(house.begin()) == 6, "as many as if they were alone"


def test_where_the_uplink_is_slow_indeed_few_more_begin_in_the_end():
    house = House(0.1 * MIB)
    for n in range(60):
        house.ask(b"%d" % n, 16 * MIB)
    began = []
    for second in range(80):
        house.now = float(second)
        began.append(len(house.begin()))
    assert sum(began[:13]) == 16
    assert sum(began[13:]) <= 9


@dataclass
class Reader:
    """Takes its answers at some bytes/s in all; None: what the uplink gives."""

    name: bytes
    length: int
    at_once: int
    bytes_per_s: float | None = None
    got: float = 0.0


def share(uplink: float, *readers: Reader, seconds: float = 20.0) -> None:
    """They always ask again; what the slow ones leave is shared by the others' answers."""
    house, beat = House(uplink), 0.01
    for _ in range(int(seconds / beat)):
        house.now += beat
        for reader in readers:
            mine = [each for each in (*house.waits.values(), *house.sent.values())
                    if each.reader == reader.name]  # fmt: skip
            for _ in range(reader.at_once - len(mine)):
                house.ask(reader.name, reader.length)
        house.begin()
        before = sum(each.got for each in readers)
        left = uplink - sum(each.bytes_per_s or 0.0 for each in readers)
        fast = [each.name for each in readers if each.bytes_per_s is None]
        eager = sum(each.reader in fast for each in house.sent.values()) or 1
        for number, each in list(house.sent.items()):
            reader = next(one for one in readers if one.name == each.reader)
            pace = left / eager
            if reader.bytes_per_s is not None:
                pace = reader.bytes_per_s / reader.at_once
            count = min(each.left_bytes, int(pace * beat))
            reader.got += count
            house.sent[number] = replace(
                each, left_bytes=each.left_bytes - count, sent_bytes=each.sent_bytes + count,
                pace_bytes_per_s=pace if each.sent_bytes > pace / 4 else None,
            )  # fmt: skip
            if count == each.left_bytes:
                del house.sent[number]
        rate = (sum(each.got for each in readers) - before) / beat
        lately = max(rate, house.uplink.lately_bytes_per_s * 0.5 ** (beat / LATELY_HALF_LIFE_S))
        house.uplink = Uplink(uplink, lately)


def test_one_that_asks_for_whole_blobs_and_takes_little_leaves_the_uplink_to_the_others():
    slow = Reader(b"slow", 5 * GIB, 3, 200e3)
    honest = Reader(b"honest", 16 * MIB, 8)
    share(1e9, slow, honest)
    assert honest.got > 0.9 * 20 * 1e9


def test_nor_do_sixteen_such():
    slow = [Reader(b"slow %d" % n, 5 * GIB, 1, 100e3) for n in range(16)]
    honest = Reader(b"honest", 16 * MIB, 8)
    share(117e6, *slow, honest, seconds=60.0)
    assert honest.got > 0.65 * 60 * 117e6, "it begins late: all seem slow"


def test_whole_blobs_that_are_taken_fast_leave_the_others_a_share():
    greedy = Reader(b"greedy", 500 * GIB, 3)
    honest = Reader(b"honest", 16 * MIB, 8)
    share(1e9, greedy, honest)
    assert honest.got > greedy.got
    many = [Reader(b"greedy %d" % n, 500 * GIB, 1) for n in range(16)]
    honest = Reader(b"honest", 16 * MIB, 8)
    share(117e6, *many, honest, seconds=60.0)
    assert honest.got > 0.5 * 60 * 117e6 / 17


def test_a_lone_reader_takes_the_whole_uplink():
    honest = Reader(b"honest", 16 * MIB, 8)
    share(117e6, honest)
    assert honest.got > 0.99 * 20 * 117e6


def test_who_fills_the_room_makes_room_for_who_has_no_place():
    slots: Slots[int] = Slots(OPTIONS)
    for number in range(MAX_WAITING):
        assert slots.wait(number, b"ab"[number % 2 :][:1], MIB) is None
    assert slots.wait(100, b"c", MIB) == MAX_WAITING - 1, "the newest of those with most"
    assert slots.wait(101, b"c", MIB) == MAX_WAITING - 2
    assert slots.wait(102, b"a", MIB) == 102, "it has as many as anybody"
    for number in range(103, 200):
        slots.wait(number, b"c", MIB)
    places = Counter(slots.next([], Uplink(), 0.0) is not None for _ in range(2 * MAX_WAITING))
    assert places[True] == MAX_WAITING


def test_a_room_of_readers_with_one_place_each_is_full():
    slots: Slots[int] = Slots(OPTIONS)
    for number in range(MAX_WAITING):
        assert slots.wait(number, b"%d" % number, MIB) is None
    assert slots.wait(MAX_WAITING, b"b", MIB) == MAX_WAITING
    slots.leave(0)
    assert slots.wait(MAX_WAITING, b"b", MIB) is None
