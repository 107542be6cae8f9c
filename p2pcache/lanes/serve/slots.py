"""Which large answer begins now, and which waits: an uplink that all share at once serves nobody in
time. Pure.

What is being sent at once is what the uplink brings within `most_s`, and never fewer than `least`
answers: readers take a source that brings no block in 1.5 s for one that hangs, and an uplink that
carries a few answers is as full as one that carries fifty. Who waits is served in turn: first whom
less is sent to, then who was served, or came for the first time, longest ago. So nobody is left
out, however many ask, and also not where there is no other holder. Now and then one more begins
than fits: readers that take little make an uplink look slow, and only another one shows that it is
not.

An answer can be a whole blob, and its reader can take as little of it as it likes: what counts of
it is a piece at most, and its part of what all take. Where all take little it is the uplink that is
slow, until somebody shows that it is not.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from p2pcache.lanes.serve.load import TURN_BYTES

if TYPE_CHECKING:
    from collections.abc import Collection

    from p2pcache.lanes.serve.options import ServeOptions

MAX_REMEMBERED = 1024  # readers that asked; as many as statistics know
MAX_WAITING = 64  # as many as are sent at once
SHARED = 2.0  # times its part: what goes out now is less than the best of the last seconds
RARE = 8  # times as long between two more than fit, when there are many already

One = TypeVar("One")  # a request; hashable


@dataclass(frozen=True, slots=True)
class Sending:
    """A large answer under way; `pace_bytes_per_s` None: not known yet."""

    reader: bytes
    left_bytes: int
    sent_bytes: int = 0
    pace_bytes_per_s: float | None = None


@dataclass(frozen=True, slots=True)
class Uplink:
    """What it brought at its best, and what at its best in the last seconds; None: not known."""

    bytes_per_s: float | None = None
    lately_bytes_per_s: float = 0.0


@dataclass(frozen=True, slots=True)
class _Waiting:
    reader: bytes
    length: int


class Slots(Generic[One]):
    """Not thread-safe: `Turns` calls it with its lock held."""

    def __init__(self, options: ServeOptions) -> None:
        self._options = options
        self._waiting: dict[One, _Waiting] = {}  # in the order of arrival
        self._served: OrderedDict[bytes, int] = OrderedDict()
        self._turn = 0
        self._extra_at = -math.inf

    def wait(self, one: One, reader: bytes, length: int) -> One | None:
        """A request comes. Returns who is refused for it: nobody, another one that waited, or it.

        No reader fills the room: the newest of the one with the most makes room for others.
        """
        refused: One | None = None
        if len(self._waiting) >= MAX_WAITING:
            places = Counter(each.reader for each in self._waiting.values())
            newest_first = reversed(self._waiting)
            refused = max(newest_first, key=lambda each: places[self._waiting[each].reader])
            if places[self._waiting[refused].reader] <= places[reader] + 1:
                return one
            del self._waiting[refused]
        self._waiting[one] = _Waiting(reader, length)
        if reader not in self._served:  # names are free: a new one is behind those who wait
            self._turn += 1
            self._served[reader] = self._turn
        self._served.move_to_end(reader)
        while len(self._served) > MAX_REMEMBERED:
            self._served.popitem(last=False)
        return refused

    def leave(self, one: One) -> None:
        """It waits no more."""
        self._waiting.pop(one, None)

    def next(self, under_way: Collection[Sending], uplink: Uplink, now: float) -> One | None:
        """Who begins now, if anybody: it waits no more, and counts as served."""
        if not self._waiting:
            return None
        sent = Counter(each.reader for each in under_way)
        one, first = min(
            self._waiting.items(),
            key=lambda item: (
                sent[item[1].reader],
                self._served.get(item[1].reader, self._turn),
            ),
        )
        if not self._fits(first.length, under_way, uplink):
            if sent[first.reader] or not self._may_be_extra(under_way, now):
                return None
            self._extra_at = now
        self._turn += 1
        self._served[first.reader] = self._turn
        self.leave(one)
        return one

    def _fits(self, length: int, under_way: Collection[Sending], uplink: Uplink) -> bool:
        options = self._options
        if len(under_way) < options.least_slots:
            return True
        if uplink.bytes_per_s is None:
            return len(under_way) < options.unmeasured_slots
        parts = [_part(each, uplink.lately_bytes_per_s) for each in under_way]
        if sum(part * len(parts) >= 1.0 for part in parts) < options.least_slots:
            return True
        most = options.most_queue_s * uplink.bytes_per_s
        left = sum(
            min(each.left_bytes, TURN_BYTES, part * most)
            for each, part in zip(under_way, parts, strict=True)
        )
        return left + min(length, TURN_BYTES) <= most

    def _may_be_extra(self, under_way: Collection[Sending], now: float) -> bool:
        in_turn = [each for each in under_way if each.sent_bytes <= TURN_BYTES]  # not for ever
        is_rare = len(in_turn) >= self._options.unmeasured_slots
        gap_s = self._options.most_queue_s * (RARE if is_rare else 1)
        return now - self._extra_at >= gap_s


def _part(one: Sending, lately_bytes_per_s: float) -> float:
    """How much of the uplink is this one's, generously."""
    if one.pace_bytes_per_s is None or not lately_bytes_per_s:
        return 1.0
    return min(1.0, SHARED * one.pace_bytes_per_s / lately_bytes_per_s)
