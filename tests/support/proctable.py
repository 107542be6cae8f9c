"""The process table: who descends from an agent, who still lives, how much memory they share."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")


@dataclass(frozen=True)
class Process:
    """A pid and when it started: together they name one process for ever."""

    pid: int
    started: str

    def lives(self) -> bool:
        found = _stat(self.pid)
        return found is not None and found[2] == self.started and found[0] not in "ZX"

    def pss_bytes(self) -> int:
        """Its memory, what it shares counted in parts; 0 when it is gone."""
        with contextlib.suppress(OSError):
            for line in (_PROC / str(self.pid) / "smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    return int(line.split()[1]) << 10
        return 0


def descendants(pid: int) -> list[Process]:
    """Children of `pid`, their children, and so on; not `pid` itself."""
    table: dict[int, list[Process]] = {}
    for entry in _PROC.iterdir():
        if entry.name.isdecimal() and (found := _stat(int(entry.name))) is not None:
            _, parent, started = found
            table.setdefault(parent, []).append(Process(int(entry.name), started))
    family = list(table.get(pid, ()))
    for process in family:  # grows while it is walked
        family += table.get(process.pid, ())
    return family


def tree_pss_bytes(pid: int) -> int:
    """Memory of a process and all its descendants."""
    return sum(one.pss_bytes() for one in [Process(pid, ""), *descendants(pid)])


def wait_gone(processes: list[Process], patience_s: float) -> list[Process]:
    """Those that still live after `patience_s`; returns at once when none does."""
    give_up = time.monotonic() + patience_s
    while (left := [one for one in processes if one.lives()]) and time.monotonic() < give_up:
        time.sleep(0.02)
    return left


def _stat(pid: int) -> tuple[str, int, str] | None:
    """(state, parent, start time), None when there is no such process."""
    try:
        fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return fields[0], int(fields[1]), fields[19]
