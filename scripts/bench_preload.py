"""scripts/bench preload: eight agents in network namespaces bring a model ahead of its use.

Every host's link carries B each way (`tc tbf`), the origin's too. One agent is killed on the way
and started again, and somebody gets something else at another, from an origin of its own; how long
that takes is compared with the same get before the preload. The copies are counted in the origin's
own log. Two cores are shared by all agents here, so there is a row set at half the rate, where the
processor limits less. Needs root.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from scripts.bench_support import MIB, Options, Row, at_least, at_most, info, progress
from tests.support.namespaces import can_make_namespaces
from tests.support.preload_run import MAX_COPIES, MBIT, MIN_SHARE, Case, Outcome, run

NODES = 8
SIZE = 256 * MIB


def measure(options: Options) -> list[Row]:
    """Every case once; see the module."""
    if not can_make_namespaces():
        raise SystemExit("error: scripts/bench preload makes network namespaces: run it as root")
    rows: list[Row] = []
    for mbit in (50,) if options.quick else (50, 100):
        case = Case(NODES, SIZE, mbit * MBIT, foreground=mbit * MBIT * 5)
        name = f"N={case.nodes}, {case.size // MIB} MiB, links of {mbit} Mbit/s"
        progress(name)
        rows += _rows(case, name, _run(case))
    return rows


def _run(case: Case) -> Outcome:
    folder = Path(tempfile.mkdtemp(prefix="p2ppreload-", dir="/dev/shm"))
    try:
        return run(case, folder, lambda text: progress(f"  {text}"))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _rows(case: Case, name: str, seen: Outcome) -> list[Row]:
    complete = sum(state == "complete" for state in seen.states)
    return [
        at_least(f"{name}: agents that say complete", complete, case.nodes),
        at_least(f"{name}: agents with the right bytes", seen.whole, case.nodes),
        at_most(f"{name}: copies that left the origin", seen.origin_bytes / case.size, MAX_COPIES),
        at_least(
            f"{name}: a get beside it, of its lone speed", seen.lone_s / seen.during_s, MIN_SHARE
        ),
        info(f"{name}: the get alone, s", seen.lone_s),
        info(f"{name}: all have it, s", seen.over_at),
        info(f"{name}: the origin's link alone needs, s", case.size / case.link),
        info(f"{name}: killed at, s", seen.killed_at),
        info(f"{name}: back at, s", seen.back_at),
        info(f"{name}: duplicate bytes, share", seen.duplicate_bytes / (case.size * case.nodes)),
    ]
