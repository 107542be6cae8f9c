"""Who waits for a place on the uplink, thread by thread: each is woken when it is its turn.

Whoever ends, comes or leaves lets the next ones begin, and so does a look at the clock a few times
a second: what is sent makes room by and by. Nobody is woken to find that it is another's turn.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from p2pcache.lanes.serve.slots import Sending, Slots, Uplink

if TYPE_CHECKING:
    from p2pcache.lanes.serve.connection import Connection
    from p2pcache.lanes.serve.load import Meter
    from p2pcache.lanes.serve.options import ServeOptions


class Turns:
    """Any thread may call `wait` and `end`, without the lock that it shares with `Crowd`."""

    def __init__(self, options: ServeOptions, meter: Meter, lock: threading.Lock) -> None:
        self._wait_s = options.slot_wait_s
        self._meter = meter
        self._lock = lock
        self._slots: Slots[Connection] = Slots(options)
        self._waiting: dict[Connection, tuple[threading.Event, bytes, int]] = {}
        self._large: dict[Connection, tuple[bytes, int]] = {}  # under way: reader and length

    def wait(self, one: Connection, reader: bytes, length: int) -> bool:
        """Whether an answer of `length` bytes may begin; waits for that. Then `end` it."""
        called = threading.Event()
        with self._lock:
            refused = self._slots.wait(one, reader, length)
            if refused is one:
                return False
            if refused is not None:
                self._waiting.pop(refused)[0].set()
            self._waiting[one] = called, reader, length
            self.look()
        called.wait(self._wait_s)
        with self._lock:
            if one in self._large:
                return True
            self._waiting.pop(one, None)
            self._slots.leave(one)
            self.look()  # who comes next may need less room
            return False

    def end(self, one: Connection) -> None:
        """An answer that began is over."""
        with self._lock:
            self._large.pop(one, None)
            self.look()

    def look(self) -> None:
        """Let all begin that may. With the lock held."""
        while self._waiting:
            under_way = [
                Sending(
                    reader, max(0, length - each.answer_bytes), each.answer_bytes,
                    self._meter.pace_bytes_per_s(each),
                )
                for each, (reader, length) in self._large.items()
                if not each.is_slow
            ]  # fmt: skip
            uplink = Uplink(self._meter.uplink_bytes_per_s, self._meter.lately_bytes_per_s)
            one = self._slots.next(under_way, uplink, time.monotonic())
            if one is None:
                return
            called, reader, length = self._waiting.pop(one)
            self._large[one] = reader, length
            called.set()
