"""Who is connected: bounds on how many, deadlines on how long, counters of how much.

A stranger can open connections and do nothing with them, or next to nothing. Each is cut at its
deadline, and before that the oldest one of the busiest address makes room for a new one: those who
belong here are through their handshake in milliseconds and need no room among the unknown.

A reader with a ticket can take its answers as slowly as it likes, under as many names as it likes,
until there is no place for anybody else. Some places are for readers that have none yet; when all
are taken, one whose reader is slow makes room for such a one.
"""

from __future__ import annotations

import math
import socket
import sys
import threading
import time
from collections import Counter, OrderedDict
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from p2pcache.lanes.serve.http import Refusal
from p2pcache.lanes.serve.load import Load, Meter, Reading
from p2pcache.lanes.serve.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from p2pcache.lanes.serve.connection import Connection
    from p2pcache.lanes.serve.options import ServeOptions

LOOK_S = 0.25  # between two looks at the deadlines
CROWDED_S = 1.0  # the agent is asked this often who else holds what is asked for
MAX_CROWDED = 8  # scopes, at once
MAX_OTHERS = 3  # holders that are named
MAX_SCOPES = 256  # whose other holders are remembered
OTHERS_HEADER = "X-P2PCache-Ask"  # peer ids, separated by commas
MAX_RETRY_S = 5
MAX_READERS = 1024  # remembered in the statistics
_BYTES_ACKED = slice(120, 128)  # of Linux' struct tcp_info, since 4.1


@dataclass(slots=True)
class _Totals:
    sent_bytes: int = 0
    answers: int = 0


class Crowd:
    """Every connection of the process. Any thread may call."""

    def __init__(
        self,
        options: ServeOptions,
        tell_load: Callable[[Load], None] = lambda _: None,
        tell_crowded: Callable[[list[bytes]], None] = lambda _: None,
    ) -> None:
        self._options = options
        self._tell_load = tell_load  # a few times a second, from `watch`; must not block
        self._tell_crowded = tell_crowded  # the same
        self._crowded: dict[bytes, None] = {}  # scopes of which somebody was refused
        self._crowded_at = 0.0
        self._others: OrderedDict[bytes, tuple[tuple[str, ...], float]] = OrderedDict()
        self._meter = Meter(options.limit_up_bytes_per_s)
        self._lock = threading.Lock()
        self._turns = Turns(options, self._meter, self._lock)
        self._somebody = threading.Event()  # there is a connection to watch
        self._all: dict[Connection, None] = {}  # in the order of arrival
        self._sending: Counter[bytes] = Counter()
        self._leaving: set[Connection] = set()  # were cut for others, and still count as sending
        self._totals: OrderedDict[bytes, _Totals] = OrderedDict()
        self._refused: Counter[str] = Counter()

    def enter(self, one: Connection) -> bool:
        """Take in a new connection; False when there is no room for it."""
        options = self._options
        with self._lock:
            unknown = [each for each in self._all if not each.is_known]
            victim = None
            if len(unknown) >= options.max_unknown:
                busiest, _ = Counter(each.address for each in unknown).most_common(1)[0]
                victim = next(each for each in unknown if each.address == busiest)
            elif len(self._all) >= options.max_connections:
                victim = _longest_idle(self._all)
                if victim is None:
                    self._refused["crowded"] += 1
                    return False
            self._all[one] = None
            self._somebody.set()
            if victim is not None:
                del self._all[victim]
                self._refused["made room"] += 1
        if victim is not None:
            victim.cut()
        return True

    def recognise(self, one: Connection) -> bool:
        """`one.identity` is known now; False when that reader has too many connections."""
        with self._lock:
            mine = [each for each in self._all if each.identity == one.identity and each is not one]
            victim = None
            if len(mine) >= self._options.max_per_reader:
                victim = _longest_idle(mine)
                if victim is None:
                    self._refused["crowded"] += 1
                    return False
                self._all.pop(victim, None)
            one.is_known = True
        if victim is not None:
            victim.cut()
        return True

    def leave(self, one: Connection) -> None:
        """It is closed."""
        with self._lock:
            self._all.pop(one, None)

    def refused(self, why: str) -> None:
        """Count one refusal."""
        with self._lock:
            self._refused[why] += 1

    @contextmanager
    def sending(self, one: Connection, reader: bytes, length: int) -> Iterator[None]:
        """One answer of `length` bytes to a reader. Raises `Refusal` (503) when there are too many
        at once.
        """
        with self._lock:
            victim = None
            if not self._has_room(reader):
                victim = None if self._sending[reader] else self._slow_one()
                if victim is None:
                    self._refused["busy"] += 1
                    raise Refusal(
                        HTTPStatus.SERVICE_UNAVAILABLE, "too many answers at once",
                        (("Retry-After", "1"),),
                    )  # fmt: skip
                self._leaving.add(victim)
                self._refused["made room"] += 1
            self._sending[reader] += 1
            self._meter.began(time.monotonic())
        if victim is not None:
            victim.cut()
        one.answering(reader, length)
        try:
            yield
        finally:
            with self._lock:
                self._leaving.discard(one)
                self._sending[reader] -= 1
                if not self._sending[reader]:
                    del self._sending[reader]
                self._account(one, reader)
            one.answering(None)

    @contextmanager
    def slot(self, one: Connection, reader: bytes, scope: bytes, length: int) -> Iterator[None]:
        """A place on the uplink for one large answer of `length` bytes.

        Waits for it, up to `slot_wait_s`. Raises `Refusal` (503) that names other holders.
        """
        if not self._turns.wait(one, reader, length):
            with self._lock:
                self._refused["no slot"] += 1
                if len(self._crowded) < MAX_CROWDED:
                    self._crowded[scope] = None
                raise self._elsewhere(scope)
        try:
            yield
        finally:
            self._turns.end(one)

    def _elsewhere(self, scope: bytes) -> Refusal:
        pause_s = min(max(1, math.ceil(self._meter.load.queue_s)), MAX_RETRY_S)
        headers = [("Retry-After", str(pause_s))]
        names, until = self._others.get(scope, ((), 0.0))
        if names and time.monotonic() < until:
            headers.append((OTHERS_HEADER, ",".join(names)))
        return Refusal(HTTPStatus.SERVICE_UNAVAILABLE, "busy: ask somebody else", tuple(headers))

    def limit_up(self, bytes_per_s: float | None) -> None:
        """All readers together get this much from now on."""
        with self._lock:
            self._meter.limited(bytes_per_s)

    def others(self, scope: bytes, names: Iterable[str]) -> None:
        """Who else may have what tickets for `scope` read: peer ids as text."""
        with self._lock:
            until = time.monotonic() + self._options.others_s
            self._others[scope] = tuple(names)[:MAX_OTHERS], until
            self._others.move_to_end(scope)
            if len(self._others) > MAX_SCOPES:
                self._others.popitem(last=False)

    def _ask_others(self, now: float) -> None:
        """Ask the agent who else could be asked."""
        with self._lock:
            if not self._crowded or now - self._crowded_at < CROWDED_S:
                return
            scopes, self._crowded_at = list(self._crowded), now
            self._crowded.clear()
        self._tell_crowded(scopes)

    def _has_room(self, reader: bytes) -> bool:
        options, mine = self._options, self._sending[reader]
        places = options.max_sending - (options.kept_sending if mine else 0)
        busy = self._sending.total() - len(self._leaving)
        return mine < options.max_sending_per_reader and busy < places

    def _slow_one(self) -> Connection | None:
        """Whose reader is slow, of those with the most answers."""
        slow = [
            (self._sending[each.reader], at, each)
            for at, each in enumerate(self._all)
            if each.is_slow and each.reader is not None and each not in self._leaving
        ]
        return max(slow)[2] if slow else None

    def _account(self, one: Connection, reader: bytes) -> None:
        totals = self._totals.setdefault(reader, _Totals())
        self._totals.move_to_end(reader)
        totals.sent_bytes += one.answer_bytes
        totals.answers += 1
        if len(self._totals) > MAX_READERS:
            self._totals.popitem(last=False)

    def cut(self, *, identities: Iterable[bytes] = (), readers: Iterable[bytes] = ()) -> None:
        """End the connections of readers, by what they were recognised by or by their tickets."""
        gone, tickets = set(identities), set(readers)
        with self._lock:
            victims = [
                each for each in self._all if each.identity in gone or each.readers & tickets
            ]
        for victim in victims:
            victim.cut()

    def watch(self) -> None:
        """Cut what is past its deadline, for ever. Runs in a thread of its own."""
        seen: dict[Connection, tuple[int, float]] = {}  # acknowledged bytes, and since when
        paces: dict[Connection, tuple[int, float]] = {}  # the same at the start of `slow_s`
        while True:
            self._somebody.wait()  # an idle agent does not look four times a second
            time.sleep(LOOK_S)
            now = time.monotonic()
            with self._lock:
                everybody = list(self._all)
                if not everybody and self._meter.is_quiet:
                    self._somebody.clear()
            seen = {one: seen[one] for one in everybody if one in seen}
            paces = {one: paces[one] for one in everybody if one in paces}
            for one in everybody:
                if now >= one.deadline or self._is_stalled(one, seen, now):
                    self.refused("too slow")
                    one.cut()
                self._judge_pace(one, paces, now)
            self._measure(everybody, now)
            self._ask_others(now)

    def _measure(self, everybody: list[Connection], now: float) -> None:
        """What the uplink does. Slow readers are owed nothing: they take no room on it."""
        readings = [
            Reading(one, (got := acknowledged(one)), 0 if one.is_slow else one.due_bytes - got)
            for one in everybody
        ]
        with self._lock:
            self._meter.look(readings, now)
            self._turns.look()
            news = self._meter.load if self._meter.is_news(now) else None
        if news is not None:
            self._tell_load(news)

    def _is_stalled(
        self, one: Connection, seen: dict[Connection, tuple[int, float]], now: float
    ) -> bool:
        if not one.is_sending:
            seen.pop(one, None)
            return False
        got = acknowledged(one)
        before = seen.get(one)
        if before is None or before[0] != got:
            seen[one] = got, now
            return False
        return now - before[1] >= self._options.stall_s

    def _judge_pace(
        self, one: Connection, paces: dict[Connection, tuple[int, float]], now: float
    ) -> None:
        if not one.is_sending:  # it waits for us
            paces.pop(one, None)
            return
        got = acknowledged(one)
        before, since = paces.setdefault(one, (got, now))
        took_s = now - since
        if took_s >= self._options.slow_s:
            one.is_slow = got - before < self._options.least_bytes_per_s * took_s
            paces[one] = got, now

    def statistics(self) -> dict[str, Any]:
        """Counters since the start, and what is going on now."""
        with self._lock:
            readers = {
                reader: [totals.sent_bytes, totals.answers, 0]
                for reader, totals in self._totals.items()
            }
            for one in self._all:
                if one.reader is not None:
                    mine = readers.setdefault(one.reader, [0, 0, 0])
                    mine[0] += one.answer_bytes
                    mine[2] += 1
            return {
                "connections": len(self._all),
                "unknown": sum(not one.is_known for one in self._all),
                "sending": self._sending.total(),
                "readers": readers,
                "refused": dict(self._refused),
            }


def _longest_idle(some: Iterable[Connection]) -> Connection | None:
    """The connection that has been between two requests for the longest time."""
    idle = [each for each in some if each.idle_since < math.inf]
    return min(idle, key=lambda each: each.idle_since, default=None)


def acknowledged(one: Connection) -> int:
    """How many bytes the reader's machine has taken, also in the middle of one long send."""
    if sys.platform != "linux":
        return one.sent_bytes
    try:
        return int.from_bytes(one.tcp_info()[_BYTES_ACKED], sys.byteorder)
    except OSError:
        return one.sent_bytes


def tcp_info(sock: socket.socket) -> bytes:
    """What the kernel knows about a connection (tcp(7), TCP_INFO)."""
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_ACKED.stop)
