"""The one Printer: data on stdout, everything else on stderr, in the mode that was asked for."""

from __future__ import annotations

import contextlib
import enum
import errno
import json
import os
import sys
from typing import TYPE_CHECKING, Any, TextIO

from p2pcache.agent.localapi.client import terminal_options
from p2pcache.errors import DiskFull, LocalFault

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from p2pcache.errors import P2PCacheError

EXIT_CODES: dict[int, str] = {
    0: "done",
    1: "failed",
    2: "wrong usage",
    10: "the agent is not running",
    11: "nobody has it, or nobody can deliver it now",
    12: "bytes did not verify",
    13: "disk or quota full",
    14: "not allowed: log in or accept a licence",
    130: "interrupted; what was verified is kept",
}

CELL_CHARS = 16  # what the longest cell of a narrow terminal's table keeps at least

_RED, _BOLD, _PLAIN = "\x1b[31m", "\x1b[1m", "\x1b[0m"


class Mode(enum.Enum):
    """What the user wants to read."""

    HUMAN = "human"
    QUIET = "quiet"
    JSON = "json"


class Printer:
    """Everything that the command line says."""

    def __init__(
        self, mode: Mode, *, stdout: TextIO | None = None, stderr: TextIO | None = None
    ) -> None:
        self.mode = mode
        self._stdout = stdout or sys.stdout
        self.stderr = stderr or sys.stderr
        self._options = terminal_options()

    def show(self, kind: str, value: Mapping[str, Any], lines: Iterable[str]) -> None:
        """Data: `value` as JSON with its `type`, or the `lines` for people."""
        if self.mode is Mode.JSON:
            self._write(json.dumps({"type": kind, **value}, default=_as_json))
        else:
            for line in lines:
                self._write(line)

    def show_table(
        self, kind: str, values: Sequence[Mapping[str, Any]], rows: Sequence[Sequence[str]]
    ) -> None:
        """Data as JSON lines, or as aligned columns whose first row is the heading."""
        if self.mode is Mode.JSON:
            for value in values:
                self.show(kind, value, ())
        else:
            for number, line in enumerate(aligned(fitted(rows, self._columns()))):
                if number or self.mode is not Mode.QUIET:  # the heading is no data
                    self._write(line)

    def note(self, text: str) -> None:
        """A remark for people, on stderr."""
        if self.mode is Mode.HUMAN:
            say(self.stderr, printable(text) + "\n")

    def error(self, exc: P2PCacheError) -> None:
        """What happened, then what to do."""
        if self.mode is Mode.JSON:
            fields = {"type": "error", **exc.to_wire(), "exit_code": exc.exit_code}
            say(self.stderr, json.dumps(fields, default=_as_json) + "\n")
            return
        color = self._options.color and self.stderr.isatty()
        for line in error_lines(exc.message, exc.hint, color=color):
            say(self.stderr, line + "\n")

    @property
    def shows_progress(self) -> bool:
        """Whether a progress display is wanted."""
        return self.mode is Mode.HUMAN and self._options.progress

    @property
    def redraws(self) -> bool:
        """Whether stderr is a terminal on which a line can be drawn again."""
        return self._options.redraws and self.stderr.isatty()

    def _columns(self) -> int | None:
        """Of the terminal that data go to; None: a file or a pipe, which get them whole."""
        try:
            return os.get_terminal_size(self._stdout.fileno()).columns or None
        except (OSError, ValueError):
            return None

    def _write(self, line: str) -> None:
        print(line, file=self._stdout)


def say(stream: TextIO, text: str) -> None:
    """Write for people. What nobody can be told (a full disk under the log) fails no command."""
    try:
        stream.write(text)
        stream.flush()
    except OSError:
        discard(stream)


def error_lines(message: str, hint: str | None, *, color: bool = False) -> list[str]:
    """`error: ...`, its context indented, `hint: ...`. Part of the text may be an origin's."""
    first, *context = message.splitlines() or ["failed"]
    red, bold, plain = (_RED, _BOLD, _PLAIN) if color else ("", "", "")
    lines = [f"{red}error:{plain} {printable(first)}"]
    lines += [f"  {printable(line.strip())}" for line in context if line.strip()]
    if hint:
        lines.append(f"{bold}hint:{plain} {printable(hint)}")
    return lines


def printable(text: str) -> str:
    """`text` on one line, with control characters escaped: names and messages come from outside."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns as wide as their widest cell, two spaces apart."""
    clean = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*clean, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in clean
    ]


def fitted(rows: Sequence[Sequence[str]], columns: int | None) -> Sequence[Sequence[str]]:
    """Rows whose longest cells (refs, ids) keep their ends alone, as far as `columns` needs it."""
    if columns is None or not rows:
        return rows
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    while (over := sum(widths) + 2 * (len(widths) - 1) - columns) > 0:
        widest = max(range(len(widths)), key=widths.__getitem__)
        if widths[widest] <= CELL_CHARS:
            break
        widths[widest] = max(CELL_CHARS, widths[widest] - over)
    return [
        [
            cell if len(cell) <= width else "…" + cell[len(cell) - width + 1 :]
            for cell, width in zip(row, widths, strict=True)
        ]
        for row in rows
    ]


def discard(stream: TextIO) -> None:
    """What is still buffered cannot be written, and exit must not complain about it again."""
    with contextlib.suppress(OSError, ValueError):  # a stream of tests has no number
        sink = os.open(os.devnull, os.O_WRONLY)
        os.dup2(sink, stream.fileno())
        os.close(sink)


def not_written(exc: OSError) -> P2PCacheError:
    """What it means that data could not be printed."""
    text = f"the output cannot be written: {exc.strerror or exc}"
    return DiskFull(text) if exc.errno in (errno.ENOSPC, errno.EDQUOT) else LocalFault(text)


def _as_json(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)
