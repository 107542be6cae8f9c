"""The clock of a thread: seconds in which it ran or had nothing to run.

A deadline on a busy machine measures its other programs as well. What Linux made this thread wait
for a core although it could have run is subtracted; what the program itself waits for is not.
"""

from __future__ import annotations

from pathlib import Path
from time import perf_counter


def own_time() -> float:
    """Seconds, from any moment on. Only differences within one thread mean something."""
    try:
        delayed_ns = int(Path("/proc/thread-self/schedstat").read_text().split()[1])
    except (OSError, IndexError):
        delayed_ns = 0  # a kernel that does not count: everything is ours
    return perf_counter() - delayed_ns / 1e9
