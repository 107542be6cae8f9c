"""Limits by the hour: which rates hold at a time of the day. Pure.

A window is told by what a clock on the wall shows, minutes from midnight, its end not in it. One
whose end is before its start goes over midnight. So where clocks are set forward an hour of a
window is missing, and where they are set back it comes twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import tzinfo

DAY_MINUTES = 24 * 60


@dataclass(frozen=True, slots=True)
class Rates:
    """Bytes per second to others and from others; None: no limit."""

    up: float | None = None
    down: float | None = None


@dataclass(frozen=True, slots=True)
class Window:
    """`says`: the rates that it sets; what it does not name stays as it is outside of it."""

    start: int
    end: int
    says: tuple[tuple[str, float | None], ...]

    def holds(self, minute: int) -> bool:
        """Whether a minute of the day is in it."""
        if self.start < self.end:
            return self.start <= minute < self.end
        return minute >= self.start or minute < self.end


def rates_at(usual: Rates, windows: Sequence[Window], minute: int) -> Rates:
    """What holds at a minute of the day: of windows that overlap the first that names it."""
    found: dict[str, float | None] = {}
    for window in windows:
        if window.holds(minute):
            found = {**dict(window.says), **found}
    return Rates(found.get("up", usual.up), found.get("down", usual.down))


def minute_of(now: float, zone: tzinfo | None = None) -> int:
    """What a clock on the wall shows at a unix time; `zone` None: of this machine."""
    at = datetime.fromtimestamp(now, zone)
    return 60 * at.hour + at.minute
