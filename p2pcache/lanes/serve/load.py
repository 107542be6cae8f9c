"""How busy the uplink is: bytes that are owed, at the rate that was measured. Pure.

What a reader's machine has acknowledged is what was sent: a call that copies a piece into the
kernel's buffer returns long before the piece is out. The rate of the uplink is the best that was
seen lately, not the present one: a lone slow reader does not make the next one wait.
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
LEAST_NEWS_S = 0.05  # members hear it as late (net/sync have_every_s): less is no news
RATE_NEWS_S = 1.0  # a rate that is another one, and nothing else, is told this often
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
        self.load = Load()
        self._limit = limit_bytes_per_s
        self._acknowledged: dict[Hashable, int] = {}
        self._sent_bytes = 0
        self._window: deque[tuple[float, int]] = deque()
        self._busy_since: float | None = None
        self._looked_at = 0.0
        self._unit_s = 0.0
        self._told = Load()
        self._told_at = 0.0

    @property
    def is_quiet(self) -> bool:
        """Nothing is sent, and the others know."""
        return self.load == Load() == self._told

    def began(self, now: float) -> None:
        """An answer begins. What was idle before does not count."""
        if self._busy_since is None:
            self._busy_since = now

    def look(self, readings: Iterable[Reading], now: float) -> None:
        """Measure. Sets `load` and `uplink_bytes_per_s`."""
        everybody = list(readings)
        acknowledged = {each.key: each.acknowledged_bytes for each in everybody}
        sent = sum(
            max(0, count - self._acknowledged.get(key, 0)) for key, count in acknowledged.items()
        )
        self._acknowledged = acknowledged
        self._sent_bytes += sent
        owed = [each.owed_bytes for each in everybody if each.owed_bytes > 0]
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
        if not moved and not (other and now - self._told_at >= RATE_NEWS_S):
            return False
        self._told, self._told_at = self.load, now
        return True

    def _learn(self, sent_bytes: int, busy_s: float) -> None:
        if busy_s < LEAST_BUSY_S or not sent_bytes:
            return
        rate = sent_bytes / busy_s
        best = self.uplink_bytes_per_s or 0.0
        best = max(rate, best * 0.5 ** (busy_s / HALF_LIFE_S))
        self.uplink_bytes_per_s = best if self._limit is None else min(best, self._limit)

    def _rate(self, now: float) -> float:
        self._window.append((now, self._sent_bytes))
        while len(self._window) > 2 and now - self._window[1][0] >= WINDOW_S:
            self._window.popleft()
        since, before = self._window[0]
        return (self._sent_bytes - before) / (now - since) if now > since else 0.0
