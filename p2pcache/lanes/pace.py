"""The watchdog and the rate limit of one call: both count every byte where it is received.

Three bounds end a request that does not move: the socket's timeout (nothing for `no_progress_s`),
the floor (fewer than `floor_bytes_per_s` on average over a window of `no_progress_s`: a server
that drips a byte a second would live for ever behind a timeout), and the connect timeout. The
floor also covers the response's headers, which http.client reads with many small receives.

A fourth one ends an answer that moves and never comes to its point: headers, interim answers,
chunk lines or trailers without end.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from p2pcache.lanes.throttle import allowed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from p2pcache.lanes.orders import FetchLimits

MAX_STEP_BYTES = 256 << 10  # a paced receive asks for no more: smooth, and still cheap
MIN_STEP_BYTES = 1024
STEP_S = 0.1  # a step at the limited rate takes at most this long, so that pauses stay short
MAX_CREDIT_S = 0.25  # what a slow moment may be caught up with; more would be a burst


# Behind a thin link each packet would wake us, at 15 us a receive: eight agents that brought
# 6 MB/s each spent a sixth of two cores on it. More is let arrive before we ask again.
GATHER_BYTES = 64 << 10
GATHER_S = 0.02  # what arrives meanwhile fits any receive buffer
GATHER_AFTER_S = 0.03  # a rate over less is that of a connection that begins

MAX_ENVELOPE_BYTES = 256 << 10  # without a body byte in between; real headers have 1 to 16 KiB


class Endless(ValueError):
    """Too many bytes, or for too long, of what is no body."""


class TooSlow(TimeoutError):
    """The average over one window was below the floor."""


class Pacer:
    """Spreads received bytes over time so that their rate stays at `bytes_per_s`, and at what
    `allowed` says at the moment; None is no limit. Thread-safe.
    """

    def __init__(
        self,
        bytes_per_s: float | None,
        clock: Callable[[], float] = time.monotonic,
        allowed: Callable[[], float | None] = lambda: None,
    ) -> None:
        self._bytes_per_s = bytes_per_s
        self._allowed = allowed
        self._clock = clock
        self._free_at = clock()
        self._lock = threading.Lock()

    def _rate(self) -> float | None:
        own, allowed = self._bytes_per_s, self._allowed()
        if own is None or allowed is None:
            rate = allowed if own is None else own
        else:
            rate = min(own, allowed)
        return None if rate is None else max(rate, 1.0)

    @property
    def step_bytes(self) -> int | None:
        """At most so many between two pauses; None: no limit now."""
        rate = self._rate()
        if rate is None:
            return None
        return min(max(int(rate * STEP_S), MIN_STEP_BYTES), MAX_STEP_BYTES)

    def delay_s(self, received_bytes: int) -> float:
        """How long to pause after `received_bytes` more arrived."""
        rate = self._rate()
        if rate is None:
            return 0.0
        with self._lock:
            now = self._clock()
            self._free_at = max(self._free_at, now - MAX_CREDIT_S)
            self._free_at += received_bytes / rate
            return max(self._free_at - now, 0.0)


def pacer_for(limits: FetchLimits) -> Pacer | None:
    """What holds one order to its limits; None: nothing does."""
    if limits.throttle is None:
        rate = limits.rate_bytes_per_s
        return None if rate is None else Pacer(rate)
    return Pacer(limits.rate_bytes_per_s, allowed=allowed(limits.throttle))


def paced(
    data: memoryview, pacer: Pacer | None, count: Callable[[int], None], most_bytes: int
) -> Iterator[memoryview]:
    """What is to be sent, in steps of at most `most_bytes`, at the rate of each moment. `count`
    hears of each that went out.
    """
    at = 0
    while at < len(data):
        step_bytes = (None if pacer is None else pacer.step_bytes) or most_bytes
        step = data[at : at + step_bytes]
        if pacer is not None and (pause_s := pacer.delay_s(len(step))) > 0:
            time.sleep(pause_s)
        yield step
        count(len(step))
        at += len(step)


class Guard:
    """Counts what one request receives; raises `TooSlow` below the floor, sleeps to keep a rate.

    Belongs to one thread. `first_byte_s` is seconds from construction to the first byte of any
    answer, None before.
    """

    def __init__(
        self,
        limits: FetchLimits,
        pacer: Pacer | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        count: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._count = count  # is told of every byte of a body (odometer)
        self.first_byte_s: float | None = None
        self._pacer = pacer
        self._clock = clock
        self._sleep = sleep
        self._window_s = limits.no_progress_s
        floor = limits.floor_bytes_per_s
        if limits.rate_bytes_per_s is not None:
            floor = min(floor, limits.rate_bytes_per_s / 8)  # batch threads share the rate
        self._floor_bytes = floor * limits.no_progress_s
        self._began = clock()
        self._waiting = True
        self._window_end = 0.0
        self._window_bytes = 0
        self._asked = False
        self._in_body = False
        self._envelope_bytes = 0  # received since the last byte of a body
        self._envelope_began = 0.0
        self._body_began = 0.0
        self._body_bytes = 0

    @property
    def step_bytes(self) -> int | None:
        """A receive asks for no more than this; None: there is no limit."""
        return None if self._pacer is None else self._pacer.step_bytes

    @property
    def silent(self) -> bool:
        """Whether nothing of the current answer has arrived yet."""
        return self._waiting

    def asked(self) -> None:
        """A request was sent: until its first byte only the socket's timeout counts."""
        self._waiting = True
        self._asked = True
        self._in_body = False
        self._envelope_bytes = 0

    def head_over(self) -> None:
        """The headers were read: from now on the floor is one of body bytes."""
        self._in_body = True
        self._envelope_bytes = 0
        self._body_began = self._clock()
        self._body_bytes = 0

    def body(self, count: int) -> None:
        """`count` bytes of what was received were body."""
        self._envelope_bytes = 0
        self._body_bytes += count
        self._count(count)
        self._move(self._clock(), count)

    def gather(self, left_bytes: int) -> None:
        """The last receive brought less than there was room for, and `left_bytes` are to come:
        pause while some of them arrive.
        """
        seconds = self._clock() - self._body_began
        if seconds > GATHER_AFTER_S and self._body_bytes:
            pause_s = min(GATHER_BYTES, left_bytes) * seconds / self._body_bytes
            if pause_s > GATHER_S / 20:  # a shorter one costs more than it saves
                self._sleep(min(pause_s, GATHER_S))

    def received(self, count: int) -> None:
        """Account for one receive of `count` bytes (0 at the end of the stream)."""
        now = self._clock()
        if self._waiting:
            self._waiting = False
            self._window_end = now + self._window_s
            self._window_bytes = 0
            if self.first_byte_s is None:
                self.first_byte_s = now - self._began
        if not self._in_body:
            self._move(now, count)
        if self._asked:
            self._bound_envelope(now, count)
        if self._pacer is not None and (pause_s := self._pacer.delay_s(count)) > 0:
            self._sleep(pause_s)
            self._window_end += pause_s
            self._envelope_began += pause_s

    def _move(self, now: float, count: int) -> None:
        self._window_bytes += count
        if now >= self._window_end:
            if self._window_bytes < self._floor_bytes:
                raise TooSlow("slower than the floor")
            self._window_end = now + self._window_s
            self._window_bytes = 0

    def _bound_envelope(self, now: float, count: int) -> None:
        """What comes now may be body: only what came before it is known not to be."""
        if self._envelope_bytes == 0:
            self._envelope_began = now
        elif (
            self._envelope_bytes > MAX_ENVELOPE_BYTES or now - self._envelope_began > self._window_s
        ):
            raise Endless("headers or trailers without end")
        self._envelope_bytes += count
