"""How busy the uplink is: bytes that are owed, at the rate that was measured. Pure.

What a reader's machine has acknowledged is what was sent: a call that copies a piece into the
kernel's buffer returns long before the piece is out. The rate of the uplink is the best that was
seen lately, not the present one: a lone slow reader does not make the next one wait.

An answer can be a whole blob, and its reader can take as little of it as it likes: what counts as
owed is a piece at most, and what the reader takes within `PATIENCE_S`.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable

WINDOW_S = 1.0  # over which what goes out is told
LEAST_BUSY_S = 0.02  # a rate over less is noise
HALF_LIFE_S = 30.0  # of the best rate, while there is something to send: links change, rarely
LATELY_HALF_LIFE_S = 2.0  # of what goes out now; it jumps between two looks
LEAST_NEWS_S = 0.05  # members hear it as late (net/sync have_every_s): less is no news
RATE_NEWS_S = 1.0  # a rate that is another one, and nothing else, is told this often
PATIENCE_S = 10.0  # readers give a request up that brings nothing for so long
PACE_S = 1.0  # over which a reader's pace is measured
LEAST_PACE_S = 0.2  # one beat of the looks; less is noise
TURN_BYTES = 16 << 20  # of an answer, that count at once: a piece at most
RATE_NEWS = 2.0  # what is another rate: for people, who look at `p2pcache peers`


@dataclass(frozen=True, slots=True)
class Reading:
    """One connection now: what its reader acknowledged since it began, and what is owed to it."""

    key: Hashable
    acknowledged_bytes: int
    owed_bytes: int


@dataclass(frozen=True, slots=True)
class Load:
    """`queue_s`: how long what is owed takes; `bytes_per_s`: what went out in the last second."""

    queue_s: float = 0.0
    bytes_per_s: float = 0.0


class Meter:
    """Looks at all connections a few times a second. `now` is any steady clock in seconds."""

    def __init__(self, limit_bytes_per_s: float | None = None) -> None:
        self.uplink_bytes_per_s = limit_bytes_per_s  # None: nothing was measured yet
        self.lately_bytes_per_s = 0.0
        self.load = Load()
        self._limit = limit_bytes_per_s
        self._acknowledged: dict[Hashable, int] = {}
        self._paces: dict[Hashable, deque[tuple[float, int]]] = {}  # when, acknowledged
        self._sent_bytes = 0
        self._window: deque[tuple[float, int]] = deque()
        self._busy_since: float | None = None
        self._looked_at = 0.0
        self._unit_s = 0.0
        self._told = Load()
        self._told_at = 0.0

    def limited(self, bytes_per_s: float | None) -> None:
        """Another limit holds from now on: what was measured under the last one says little."""
        self._limit = self.uplink_bytes_per_s = bytes_per_s
        self.lately_bytes_per_s = 0.0

    @property
    def is_quiet(self) -> bool:
        """Nothing is sent, and the others know."""
        return self.load == Load() == self._told

    def began(self, now: float) -> None:
        """An answer begins. What was idle before does not count."""
        if self._busy_since is None:
            self._busy_since = now

    def pace_bytes_per_s(self, key: Hashable) -> float | None:
        """What its reader took lately; None: it is not known, or nothing was owed to it."""
        seen = self._paces.get(key)
        if not seen or seen[-1][0] - seen[0][0] < LEAST_PACE_S:
            return None
        return (seen[-1][1] - seen[0][1]) / (seen[-1][0] - seen[0][0])

    def look(self, readings: Iterable[Reading], now: float) -> None:
        """Measure. Sets `load` and `uplink_bytes_per_s`."""
        everybody = list(readings)
        acknowledged = {each.key: each.acknowledged_bytes for each in everybody}
        sent = sum(
            max(0, count - self._acknowledged.get(key, 0)) for key, count in acknowledged.items()
        )
        self._acknowledged = acknowledged
        self._sent_bytes += sent
        self._follow(everybody, now)
        owed = [self._counted(each) for each in everybody if each.owed_bytes > 0]
        if self._busy_since is not None:
            self._learn(sent, now - max(self._looked_at, self._busy_since))
        if not owed:
            self._busy_since = None
        elif self._busy_since is None:
            self._busy_since = now
        self._looked_at = now
        uplink = self.uplink_bytes_per_s
        if owed and uplink:
            self._unit_s = sum(owed) / len(owed) / uplink / 2  # of a piece half is left
        self.load = Load(sum(owed) / uplink if uplink else 0.0, self._rate(now))

    def is_news(self, now: float) -> bool:
        """Whether the others should be told of `load`; counts as told then.

        They take a queue to get shorter by a second each second: one that does is no news.
        """
        believed_s = max(0.0, self._told.queue_s - (now - self._told_at))
        moved = abs(self.load.queue_s - believed_s) > max(self._unit_s, LEAST_NEWS_S)
        before, rate = self._told.bytes_per_s, self.load.bytes_per_s
        other = not before / RATE_NEWS <= rate <= before * RATE_NEWS
        # a reader that vanished leaves a rate that nobody was told of, and a queue that was
        is_over = self.load == Load() != self._told
        if not moved and not ((other or is_over) and now - self._told_at >= RATE_NEWS_S):
            return False
        self._told, self._told_at = self.load, now
        return True

    def _follow(self, everybody: list[Reading], now: float) -> None:
        before, self._paces = self._paces, {}
        for each in everybody:
            if each.owed_bytes > 0:
                seen = self._paces[each.key] = before.get(each.key, deque())
                seen.append((now, each.acknowledged_bytes))
                while len(seen) > 2 and now - seen[1][0] >= PACE_S:
                    seen.popleft()

    def _counted(self, one: Reading) -> float:
        pace = self.pace_bytes_per_s(one.key)
        most = float(min(one.owed_bytes, TURN_BYTES))
        return most if pace is None else min(most, pace * PATIENCE_S)

    def _learn(self, sent_bytes: int, busy_s: float) -> None:
        if busy_s < LEAST_BUSY_S:
            return
        rate = sent_bytes / busy_s
        self.lately_bytes_per_s = _best(
            rate, self.lately_bytes_per_s, busy_s, LATELY_HALF_LIFE_S, self._limit
        )
        if sent_bytes:
            self.uplink_bytes_per_s = _best(
                rate, self.uplink_bytes_per_s or 0.0, busy_s, HALF_LIFE_S, self._limit
            )

    def _rate(self, now: float) -> float:
        self._window.append((now, self._sent_bytes))
        while len(self._window) > 2 and now - self._window[1][0] >= WINDOW_S:
            self._window.popleft()
        since, before = self._window[0]
        return (self._sent_bytes - before) / (now - since) if now > since else 0.0


def _best(
    rate: float, before: float, busy_s: float, half_life_s: float, limit: float | None
) -> float:
    best: float = max(rate, before * 0.5 ** (busy_s / half_life_s))
    return best if limit is None else min(best, limit)
