"""What a process tree costs: wall clock, CPU seconds, memory. Linux's /proc, nothing else."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

SAMPLE_S = 0.02  # a peak of one 16 MiB piece lasts longer than this at 1 GB/s only when it is kept
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat after the command name, or None when it has ended."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text.rpartition(")")[2].split()


def tree(root: int) -> list[int]:
    """`root` and all that descend from it now."""
    parents = {
        int(entry.name): int(fields[1])
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and (fields := _stat(int(entry.name))) is not None
    }
    found, fresh = [root], {root}
    while fresh:
        fresh = {pid for pid, parent in parents.items() if parent in fresh}
        found.extend(fresh)
    return found


def cpu_s(root: int) -> float:
    """CPU seconds of the tree so far, with those of children that ended and were waited for."""
    ticks = 0
    for pid in tree(root):
        fields = _stat(pid)
        if fields is not None:
            ticks += sum(int(field) for field in fields[11:15])  # utime stime cutime cstime
    return ticks / _TICKS_PER_S


def memory_bytes(root: int, field: str = "Pss") -> int:
    """`Pss` (shared pages counted once) or `Rss` of the tree now."""
    return sum(memory_bytes_alone(pid, field) for pid in tree(root))


def memory_bytes_alone(pid: int, field: str) -> int:
    """The same of one process; 0 when it has ended."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    return 0


class Peak:
    """The highest `memory_bytes` seen while the block of `watch` ran."""

    def __init__(self) -> None:
        self.bytes = 0
        self.samples = 0


@contextlib.contextmanager
def watch(root: int) -> Iterator[Peak]:
    """Sample the tree's PSS every 20 ms until the block ends."""
    peak, ended = Peak(), threading.Event()

    def sample() -> None:
        while not ended.wait(SAMPLE_S):
            peak.bytes = max(peak.bytes, memory_bytes(root))
            peak.samples += 1

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield peak
    finally:
        ended.set()
        thread.join()


@dataclass(frozen=True, slots=True)
class Finished:
    """One run of a command: `seconds` of wall clock from fork to exit, `cpu_s` with children."""

    seconds: float
    cpu_s: float
    stdout: str


def run(command: Sequence[str], env: Mapping[str, str], *, timeout_s: float = 600.0) -> Finished:
    """Run to the end; raises RuntimeError with both outputs when it fails."""
    before = os.times()
    began = time.perf_counter()
    done = subprocess.run(
        command, env=dict(env), stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=timeout_s, check=False,
    )  # fmt: skip
    seconds = time.perf_counter() - began
    after = os.times()
    if done.returncode != 0:
        raise RuntimeError(
            f"{' '.join(command)[:500]} ended with {done.returncode}\n"
            f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        )
    cpu = (after.children_user - before.children_user) + (
        after.children_system - before.children_system
    )
    return Finished(seconds, cpu, done.stdout)
