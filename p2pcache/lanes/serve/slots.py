"""Which large answer begins now, and which waits: an uplink that all share at once serves nobody in
time. Pure.

What is being sent at once is what the uplink brings within `most_s`, and never fewer than `least`
answers: readers take a source that brings no block in 1.5 s for one that hangs, and an uplink that
carries a few answers is as full as one that carries fifty. Who waits is served in turn: first whom
less is sent to, then who was served longest ago. So nobody is left out, however many ask, and also
not where there is no other holder. Now and then one more begins than fits: readers that take little
make an uplink look slow, and only another one shows that it is not.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Hashable

    from p2pcache.lanes.serve.options import ServeOptions

MAX_REMEMBERED = 1024  # readers that were served; as many as statistics know
MAX_WAITING = 64  # as many as are sent at once; more are refused without a wait


class Slots:
    """Not thread-safe: `Crowd` calls it with its lock held."""

    def __init__(self, options: ServeOptions) -> None:
        self._options = options
        self._waiting: dict[Hashable, bytes] = {}
        self._served: OrderedDict[bytes, int] = OrderedDict()
        self._turn = 0
        self._extra_at = -math.inf

    def wait(self, one: Hashable, reader: bytes) -> bool:
        """A request comes; False when too many wait."""
        if len(self._waiting) >= MAX_WAITING:
            return False
        self._waiting[one] = reader
        return True

    def leave(self, one: Hashable) -> None:
        """It waits no more."""
        self._waiting.pop(one, None)

    def begins(
        self,
        one: Hashable,
        length: int,
        owed: Collection[tuple[bytes, int]],
        uplink_bytes_per_s: float | None,
        now: float,
    ) -> bool:
        """Whether this one, which waits, begins now; counts as served then.

        `owed`: of the large answers under way, the reader and how many bytes are left.
        """
        reader = self._waiting[one]
        sent = [each for each, _ in owed]
        fits = self._fits(length, owed, uplink_bytes_per_s)
        if not fits and not (
            reader not in sent
            and len(sent) < self._options.unmeasured_slots
            and now - self._extra_at >= self._options.most_queue_s
        ):
            return False
        first = min(
            self._waiting,
            key=lambda each: (
                sent.count(self._waiting[each]),
                self._served.get(self._waiting[each], 0),
            ),
        )
        if self._waiting[first] != reader:
            return False
        if not fits:
            self._extra_at = now
        self._turn += 1
        self._served[reader] = self._turn
        self._served.move_to_end(reader)
        if len(self._served) > MAX_REMEMBERED:
            self._served.popitem(last=False)
        self.leave(one)
        return True

    def _fits(self, length: int, owed: Collection[tuple[bytes, int]], uplink: float | None) -> bool:
        options = self._options
        if len(owed) < options.least_slots:
            return True
        if uplink is None:
            return len(owed) < options.unmeasured_slots
        left = sum(count for _, count in owed)
        return left + length <= options.most_queue_s * uplink
