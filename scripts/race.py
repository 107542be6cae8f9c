"""Several ways to bring the same bytes, in turns, from one server on this machine.

Every contestant runs in every round, in an order that moves on by one each time, and ends with all
bytes at its place; what it left is removed before the next begins. The first round is not counted:
it warms caches of all of them. Rows are medians.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from scripts import measure as gauge
from scripts.bench_support import GB, MIB, P2PCACHE, Agent, Row, cli, info, last_json, progress

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Lap:
    """Wall clock of one way, and the CPU seconds of whoever received."""

    seconds: float
    cpu_s: float


@dataclass(frozen=True, slots=True)
class Result:
    """Medians of one contestant; `server_cpu_s`: what the server spent on it."""

    seconds: float
    cpu_s: float
    server_cpu_s: float


Contestant = Callable[[], Lap]


def race(
    contestants: Mapping[str, Contestant], rounds: int, server_pid: int
) -> dict[str, Result]:  # fmt: skip
    """Run them. Raises what a contestant raises: a way that fails is no measurement."""
    names = list(contestants)
    laps: dict[str, list[Lap]] = {name: [] for name in names}
    served: dict[str, list[float]] = {name: [] for name in names}
    for number in range(-1, rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            before = gauge.cpu_s(server_pid)
            lap = contestants[name]()
            if number >= 0:
                laps[name].append(lap)
                served[name].append(gauge.cpu_s(server_pid) - before)
        progress(f"round {number + 1} of {rounds}")
    return {
        name: Result(
            statistics.median(lap.seconds for lap in laps[name]),
            statistics.median(lap.cpu_s for lap in laps[name]),
            statistics.median(served[name]),
        )
        for name in names
    }


def ours(agent: Agent, ref: str, size: int, *more: str) -> Contestant:
    """A whole `p2pcache get` of an agent that runs, into its store, which does not have it."""

    def get() -> Lap:
        before = gauge.cpu_s(agent.pid)
        done = gauge.run([P2PCACHE, "get", ref, *more, "--json"], agent.env)
        cpu_s = gauge.cpu_s(agent.pid) - before + done.cpu_s
        fetched = last_json(done.stdout)["fetched_bytes"]
        if fetched < size:
            raise RuntimeError(f"the pull moved {fetched} of {size} bytes: the store was not empty")
        cli(agent.env, "rm", ref, "--force")
        return Lap(done.seconds, cpu_s)

    return get


def command(
    argv: list[str], env: Mapping[str, str], made: Callable[[], Path], size: int,
    clear: Callable[[], None],
) -> Contestant:  # fmt: skip
    """A whole command of others; `made`: the file that it must leave, `clear`: removes it."""

    def run() -> Lap:
        done = gauge.run(argv, env)
        if (left := made()).stat().st_size != size:
            raise RuntimeError(f"{argv[0]} left {left.stat().st_size} bytes instead of {size}")
        clear()
        return Lap(done.seconds, done.cpu_s)

    return run


def figures(results: Mapping[str, Result], size: int) -> list[Row]:
    """What each did, for information."""
    rows = [info(f"{name}, MB/s", size / 1e6 / one.seconds) for name, one in results.items()]
    rows += [info(f"{name}, CPU-s/GB", one.cpu_s / (size / GB)) for name, one in results.items()]
    rows += [
        info(f"{name}, the server's CPU-s/GB", one.server_cpu_s / (size / GB))
        for name, one in results.items()
    ]
    return rows


def random_file(path: Path, size: int) -> None:
    """The same bytes each time, of no pattern."""
    source = random.Random(7)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as stream:
        for _ in range(size // MIB):
            stream.write(source.randbytes(MIB))
