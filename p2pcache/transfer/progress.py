"""What a running pull tells its watchers: numbers that never go backwards."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

RATE_WINDOW_S = 5.0  # long enough to be calm on a 0.2 s beat, short enough to show a stall


class Meter:
    """A rate over the last few seconds, from monotone samples; also the best second seen."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()
        self.best_bytes_per_s = 0.0

    def add(self, now: float, done_bytes: int) -> float:
        """Note a sample; returns bytes/s over the window."""
        self._samples.append((now, done_bytes))
        while len(self._samples) > 2 and now - self._samples[0][0] > RATE_WINDOW_S:
            self._samples.popleft()
        then, before = self._samples[0]
        if now <= then:
            return 0.0
        rate = (done_bytes - before) / (now - then)
        self._note_best(now, done_bytes)
        return max(0.0, rate)

    def _note_best(self, now: float, done_bytes: int) -> None:
        """The best rate over at least one second: a burst out of a buffer is no bandwidth."""
        for then, before in reversed(self._samples):
            if now - then >= 1.0:
                rate = (done_bytes - before) / (now - then)
                self.best_bytes_per_s = max(self.best_bytes_per_s, rate)
                return


@dataclass(frozen=True, slots=True)
class Progress:
    """One moment of a pull, or of a push. Bytes count verified content, wherever it came from.
    `waiting_for`: who does the same meanwhile, whose bytes these are then.
    """

    phase: str
    file: str | None = None
    done_bytes: int = 0
    total_bytes: int = 0
    files_done: int = 0
    files_total: int = 0
    bytes_per_s: float = 0.0
    sources: Mapping[str, int] = field(default_factory=dict)
    waiting_for: str | None = None

    @property
    def eta_s(self) -> float | None:
        """Seconds to go at this rate; None when nothing moves."""
        left = self.total_bytes - self.done_bytes
        return left / self.bytes_per_s if self.bytes_per_s > 0 and left > 0 else None

    def to_wire(self) -> dict[str, object]:
        """The map of a local API progress frame."""
        return {
            "phase": self.phase,
            "file": self.file,
            "done_bytes": self.done_bytes,
            "total_bytes": self.total_bytes,
            "files_done": self.files_done,
            "files_total": self.files_total,
            "bytes_per_s": self.bytes_per_s,
            "sources": dict(self.sources),
            "eta_s": self.eta_s,
            "waiting_for": self.waiting_for,
        }
