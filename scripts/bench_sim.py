"""scripts/bench sim: the pull machine of many nodes in virtual time (p2pcache/transfer/simulate).

What is measured is how far from the bound the rules end, not how fast this machine is: the figures
of a seed are the same everywhere. Everybody starts together, nobody has the file, and the origin's
link is as wide as one node's, which is the hardest case: both directions of every link are busy
while the origin still feeds. The time that the computing takes is a row of its own.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from p2pcache.transfer.simulate import MIB, Case, Simulation
from scripts.bench_support import GB, Options, Row, at_least, at_most, info, progress

if TYPE_CHECKING:
    from p2pcache.transfer.simulate import Outcome

SEED = 1
LARGE_NODES, LARGE = 100, 14 * GB  # about ten minutes by what smaller ones cost; its row says
FAST = 1.25e9  # bytes/s: 10 Gbit/s, for the large file


@dataclass(frozen=True, slots=True)
class Run:
    """One case, once."""

    case: Case
    outcome: Outcome
    cpu_s: float

    @property
    def name(self) -> str:
        size = self.case.size
        text = f"{size / GB:g} GB" if size % GB == 0 else f"{size // MIB} MiB"
        return f"N={self.case.nodes}, {text}"


def measure(options: Options) -> list[Row]:
    """Every case once; see the module."""
    size = 256 * MIB
    counts = (10, 16) if options.quick else (10, 64, 256)
    growth = [_run(Case(nodes=nodes, size=size)) for nodes in counts]
    rows = [row for run in growth for row in _of_plain(run)]
    rows += _of_growth(growth)
    calm = growth[1]
    nodes = calm.case.nodes
    slow = _run(Case(nodes=nodes, size=size, slow_share=0.1))
    cost = slow.outcome.last / calm.outcome.last
    rows.append(at_most(f"{slow.name}: what 10 % stragglers cost the others, ratio", cost, 1.05))
    rows += _of_liars(_run(Case(nodes=max(nodes, 20), size=size, liars=0.05)))
    halves = _run(Case(nodes=nodes, size=size, split=True))
    extra = halves.outcome.copies - calm.outcome.copies
    rows.append(at_most(f"{halves.name}: copies more when split in halves", extra, 1.0 + 0.02))
    churned = _run(Case(nodes=nodes, size=size, churn=0.1))
    rows.append(at_most(f"{churned.name}: copies with 10 % churn", churned.outcome.copies, 1.05))
    if not options.quick:
        rows += _of_large(_run(Case(nodes=LARGE_NODES, size=LARGE, link=FAST, origin=FAST,
                                    beat_s=0.1)))  # fmt: skip
    return rows


def _run(case: Case) -> Run:
    began = time.process_time()
    outcome = Simulation(case, SEED).run()
    run = Run(case, outcome, time.process_time() - began)
    progress(f"{run.name}: last {outcome.last:.3f}, {run.cpu_s:.0f} s of CPU")
    return run


def _of_plain(run: Run) -> list[Row]:
    seen = run.outcome
    return [
        at_most(f"{run.name}: last node over the bound", seen.last, 1.20),
        info(f"{run.name}: median node over the bound", seen.median),
        at_most(f"{run.name}: copies that left the origin", seen.copies, 1.02),
        at_most(f"{run.name}: busiest upload over the mean", seen.skew, 1.5),
        at_most(f"{run.name}: duplicate bytes, share", seen.duplicates, 0.02),
        info(f"{run.name}: CPU for a piece that arrives, ms", run.cpu_s / seen.pieces * 1e3),
    ]


def _of_growth(runs: list[Run]) -> list[Row]:
    """The distance to the bound, per doubling of the nodes, may not grow with the nodes."""
    rows = []
    first = runs[0]
    each = (first.outcome.last - 1.0) / math.log2(first.case.nodes)
    for run in runs[1:]:
        per_doubling = (run.outcome.last - 1.0) / math.log2(run.case.nodes)
        name = f"{run.name}: distance to the bound by log N, over that of N={first.case.nodes}"
        rows.append(at_most(name, per_doubling / each, 1.0))
    return rows


def _of_liars(run: Run) -> list[Row]:
    seen = run.outcome
    found = seen.banned / (seen.banned + seen.unbanned)
    return [
        at_most(f"{run.name}, 5 % liars: last node over the bound", seen.last, 1.5),
        at_most(f"{run.name}, 5 % liars: wrong bytes kept", seen.kept_wrong_bytes, 0),
        at_least(f"{run.name}, 5 % liars: share of them banned", found, 1.0),
    ]


def _of_large(run: Run) -> list[Row]:
    name = f"{run.name} at 10 Gbit/s"
    seen = run.outcome
    return [
        at_most(f"{name}: last node over the bound", seen.last, 1.20),
        at_most(f"{name}: copies that left the origin", seen.copies, 1.02),
        at_most(f"{name}: busiest upload over the mean", seen.skew, 1.5),
        at_most(f"{name}: CPU of this figure, s", run.cpu_s, 600),
    ]
