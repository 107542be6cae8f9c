"""The progress line: pure formatting, and a display that never goes backwards.

On a terminal one line is redrawn; elsewhere one line is printed every 10 s.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, TextIO, cast

from p2pcache import units
from p2pcache.cli.output import Printer, printable, say

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from p2pcache.agent.localapi.answers import Progress

REDRAW_S = 0.1  # faster than this nobody reads, slower looks stuck
LINE_S = 10.0  # in a log
PEER_ID_START = "12D3KooW"  # of every Ed25519 peer id
MIN_NAME_CHARS = 12  # a name shorter than this tells nothing; then the line is cut at its end


def progress_line(progress: Progress, width: int) -> str:
    """`model-2.safetensors  3.1/4.9 GiB  812 MiB/s  peers 91%  hf 9%  ETA 3s` in `width` columns.

    The name is shortened in its middle, since both ends of a shard's name matter.
    """
    figures: list[str] = []
    done, total = progress.get("done_bytes"), progress.get("total_bytes")
    if done is not None and total:
        figures.append(units.format_progress(done, total))
    elif done:
        figures.append(units.format_bytes(done))
    rate = progress.get("bytes_per_s")
    if rate:
        figures.append(units.format_rate(rate))
    figures += _shares(progress.get("sources") or {})
    eta_s = progress.get("eta_s")
    if eta_s is not None:
        figures.append(f"ETA {units.format_duration(eta_s)}")
    tail = "".join(f"  {figure}" for figure in figures)
    name = printable(progress.get("file") or progress.get("phase") or "working")
    if waiting_for := progress.get("waiting_for"):
        name = f"waiting for {printable(waiting_for)}"
    room = max(MIN_NAME_CHARS, width - len(tail))
    return (_shortened(name, room) + tail)[:width]


def forward(shown: Progress, new: Progress) -> Progress:
    """`new`, but no count lower than the one that was shown, and never more done than there is."""
    merged = {**shown, **new}
    for key in ("done_bytes", "total_bytes", "files_done"):
        if key in shown:
            merged[key] = max(_count(shown, key), _count(new, key))
    done, total = merged.get("done_bytes"), merged.get("total_bytes")
    if isinstance(done, int) and isinstance(total, int) and total:
        merged["done_bytes"] = min(done, total)
    return cast("Progress", merged)


def _count(progress: Progress, key: str) -> int:
    value = progress.get(key)
    return value if isinstance(value, int) else 0


class ProgressDisplay:
    """Shows a call's progress while it is open; pass `update` as `on_progress`."""

    def __init__(
        self,
        printer: Printer,
        *,
        now: Callable[[], float] = time.monotonic,
        width: Callable[[], int] | None = None,
    ) -> None:
        self._stream = printer.stderr
        self._enabled = printer.shows_progress
        self._tty = printer.redraws
        self._now = now
        self._width = width or (lambda: _terminal_width(self._stream))
        self._shown: Progress = {}
        # In a log the first line comes after a while: what is quick needs no progress.
        self._next_at = now() if self._tty else now() + LINE_S
        self._drawn = False

    def __enter__(self) -> ProgressDisplay:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: object, trace: TracebackType | None
    ) -> None:
        """Leave a clean line behind."""
        if self._drawn:
            say(self._stream, "\r\x1b[K")

    def update(self, progress: Progress) -> None:
        """Take the newest state; draw it if it is time."""
        self._shown = forward(self._shown, progress)
        if not self._enabled or self._now() < self._next_at:
            return
        if self._tty:
            # One column is left free: a full line wraps on some terminals.
            line = progress_line(self._shown, self._width() - 1)
            say(self._stream, f"\r{line}\x1b[K")
            self._drawn = True
            self._next_at = self._now() + REDRAW_S
        else:
            say(self._stream, progress_line(self._shown, 200) + "\n")
            self._next_at = self._now() + LINE_S


def _shares(sources: dict[str, int]) -> list[str]:
    """Where the bytes came from, the largest first."""
    total = sum(sources.values())
    if total <= 0:
        return []
    by_kind: dict[str, int] = {}
    for name, count in sources.items():  # who of the agents it was, the receipt tells
        kind = "peers" if name.startswith(PEER_ID_START) else name
        by_kind[kind] = by_kind.get(kind, 0) + count
    ranked = sorted(by_kind.items(), key=lambda item: (-item[1], item[0]))
    return [f"{printable(name)} {round(100 * count / total)}%" for name, count in ranked if count]


def _shortened(name: str, room: int) -> str:
    if len(name) <= room:
        return name
    head = (room - 1) // 2
    return f"{name[:head]}…{name[len(name) - (room - 1 - head) :]}"


def _terminal_width(stream: TextIO) -> int:
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80  # 0: it does not know
    except OSError:
        return 80
