"""What the settings say about rates by the hour: `22:00-06:00 up=none down=none; ...`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from p2pcache.transfer.timetable import DAY_MINUTES, Rates, Window, rates_at
from p2pcache.units import exact_bytes, parse_rate

if TYPE_CHECKING:
    from collections.abc import Sequence

EXAMPLE = "22:00-06:00 up=none down=none"
MAX_WINDOWS = 24
LEAST_BYTES_PER_S = 16 << 10  # divided among 16 requests, each still shows that it lives
_SPAN = re.compile(r"([01]?\d|2[0-4]):([0-5]\d)-([01]?\d|2[0-4]):([0-5]\d)")


@dataclass(frozen=True, slots=True)
class LimitSettings:
    """`usual`: what holds outside of `night`."""

    usual: Rates
    night: tuple[Window, ...] = ()

    @property
    def limits_down(self) -> bool:
        """Whether downloads are limited at some time."""
        return self.usual.down is not None or self._at_night("down")

    @property
    def limits_up(self) -> bool:
        """Whether what others get is limited at some time."""
        return self.usual.up is not None or self._at_night("up")

    def _at_night(self, way: str) -> bool:
        return any(dict(window.says).get(way) is not None for window in self.night)

    def at(self, minute: int) -> Rates:
        """What holds at a minute of the day."""
        return rates_at(self.usual, self.night, minute)


def total_rate(text: str) -> int:
    """A rate that is enough for every request to show that it lives."""
    rate = parse_rate(text)
    if rate < LEAST_BYTES_PER_S:
        raise ValueError(
            f"`{text}` is less than 16 KiB a second, at which connections are taken for dead; "
            "`none` is no limit"
        )
    return rate


def night(text: str) -> tuple[Window, ...]:
    """Windows of the day with their rates, between them `;` or a new line; `none`: there is none.
    Raises ValueError.
    """
    found = [
        _window(part.split())
        for part in re.split(r"[;\n]", text)
        if part.strip() and part.strip() != "none"
    ]
    if len(found) > MAX_WINDOWS:
        raise ValueError(f"more than {MAX_WINDOWS} windows")
    return tuple(found)


def _window(words: Sequence[str]) -> Window:
    span = _SPAN.fullmatch(words[0])
    if span is None:
        raise ValueError(f"`{words[0]}` is no span of hours; write it like `{EXAMPLE}`")
    start = 60 * int(span[1]) + int(span[2])
    end = 60 * int(span[3]) + int(span[4])
    if start >= DAY_MINUTES or end > DAY_MINUTES or start == end:
        raise ValueError(f"`{words[0]}` is no span of hours; all day is 00:00-24:00")
    says: dict[str, float | None] = {}
    for word in words[1:]:
        name, equals, value = word.partition("=")
        if not equals or name not in ("up", "down") or name in says:
            raise ValueError(f"`{word}` of {words[0]} is none of up=RATE and down=RATE, once each")
        says[name] = None if value == "none" else float(total_rate(value))
    if not says:
        raise ValueError(f"`{words[0]}` sets no rate; write it like `{EXAMPLE}`")
    return Window(start, end, tuple(says.items()))


def format_night(windows: Sequence[Window]) -> str:
    """What `night` reads."""
    return "; ".join(_shown(window) for window in windows) or "none"


def _shown(window: Window) -> str:
    rates = [
        f"{name}={'none' if rate is None else exact_bytes(rate).replace(' ', '')}"
        for name, rate in window.says
    ]
    return " ".join([f"{_clock(window.start)}-{_clock(window.end)}", *rates])


def _clock(minute: int) -> str:
    return f"{minute // 60:02d}:{minute % 60:02d}"
