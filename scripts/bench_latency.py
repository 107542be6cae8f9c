"""scripts/bench latency: how long the network makes one wait.

All agents are real processes on loopback. Progress is told in beats of 0.2 s, too coarse for a
first byte: its time is that of the whole call for a blob of 64 KiB, which is more, never less. The
longest pause behind a frozen or dead peer is between two reports, so up to 0.2 s too long.
"""

from __future__ import annotations

import os
import random
import signal
import statistics
import time
from contextlib import ExitStack, suppress
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

from p2pcache.errors import P2PCacheError
from scripts import measure as gauge
from scripts.bench_network import joined, wait_until
from scripts.bench_support import GIB, MIB, Options, Row, agent, at_most, info, on_tmpfs, progress
from tests.support.blobs import write_blob
from tests.support.nginx import nginx

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from scripts.bench_support import Agent

SMALL_BYTES = 64 << 10
LARGE_BYTES = 256 * MIB
DELAY_GOAL_S = 2.0
PERIOD_S = 5.0  # nobody waits longer for a name to appear


def _ms(seconds: list[float]) -> float:
    return 1000 * statistics.median(seconds)


def _pushed(folder: Path, giver: Agent, number: int) -> str:
    """A new blob on an agent; its ref by digest."""
    path = folder / f"small-{number}"
    path.write_bytes(random.Random(number).randbytes(SMALL_BYTES))
    with giver.client() as client:
        return str(client.push(path)["root"])


def _get_s(reader: Agent, ref: str) -> float:
    with reader.client() as client:
        client.status()  # connected
        began = time.perf_counter()
        client.get(ref)
        return time.perf_counter() - began


def _known(folder: Path, giver: Agent, reader: Agent, rounds: int) -> list[float]:
    refs = [_pushed(folder, giver, number) for number in range(rounds + 1)]
    return [_get_s(reader, ref) for ref in refs][1:]  # the first starts the workers


def _appears(folder: Path, giver: Agent, reader: Agent, rounds: int) -> list[float]:
    """Seconds from the end of a push to the end of the first pull that finds it."""
    took = []
    for number in range(rounds):
        ref = _pushed(folder, giver, 10_000 + number)
        began = time.perf_counter()
        while time.perf_counter() - began < PERIOD_S:
            with suppress(P2PCacheError), reader.client() as client:
                client.get(ref)
                break
        took.append(time.perf_counter() - began)
    return took


def _held(reader: Agent) -> int:
    with reader.client() as client:
        return sum(peer["holds"] for peer in client.peers())


def _vanishes(folder: Path, giver: Agent, reader: Agent, rounds: int) -> list[float]:
    """Seconds from the end of `rm` until the other agent no longer believes that it is there."""
    took = []
    for number in range(rounds):
        before = _held(reader)
        path = folder / f"gone-{number}"
        path.write_bytes(random.Random(20_000 + number).randbytes(SMALL_BYTES))
        with giver.client() as client:
            manifest = client.push(path)["manifest"]
            wait_until(partial(_holds, reader, before + 1), "the other agent is told")
            client.rm(manifest, force=True)
        took.append(wait_until(partial(_holds, reader, before), "it is withdrawn"))
    return took


def _holds(agent: Agent, count: int) -> bool:
    return _held(agent) == count


def _miss(folder: Path, reader: Agent, alone: Agent, rounds: int) -> float:
    """What having peers adds to a small pull from an origin that nobody else has, ms."""
    with_peers: list[float] = []
    without: list[float] = []
    site = folder / "site"
    blobs = [write_blob(site / str(n), SMALL_BYTES + n) for n in range(2 * rounds + 2)]
    for number, blob in enumerate(blobs):
        with nginx(blob.path.parent, folder / f"nginx-{number}") as server:
            asked, took = ((reader, with_peers), (alone, without))[number % 2]
            took.append(_get_s(asked, blob.ref(server)))
    return 1000.0 * (statistics.median(with_peers[1:]) - statistics.median(without[1:]))


def _worst_gap(reader: Agent, ref: str, hurt: Sequence[int], how: signal.Signals) -> float:
    """The longest time without a verified byte after a peer was hurt in the middle, seconds."""
    seen: list[tuple[float, int]] = []
    done_at: list[float] = []

    def watch(told: object) -> None:
        done = told.get("done_bytes", 0) if isinstance(told, dict) else 0
        if not seen or done > seen[-1][1]:
            seen.append((time.perf_counter(), done))
        if done >= LARGE_BYTES // 4 and not done_at:
            done_at.append(time.perf_counter())
            _signal_all(hurt, how)

    with reader.client() as client:
        client.get(ref, on_progress=watch)
    if not done_at:
        raise RuntimeError("the pull was over before its peer was hurt")
    times = [done_at[0], *(at for at, _ in seen if at > done_at[0]), time.perf_counter()]
    return max(later - before for before, later in pairwise(times))


def _hurt(folder: Path, how: signal.Signals) -> float:
    """Two agents have a blob, a third one gets it; one of the two is frozen or killed on the way.

    The signal goes to all its processes, as when a machine hangs or loses its power.
    """
    with ExitStack() as stack:
        agents = joined(stack, folder, 3, P2PCACHE_LANES_LIMIT_UP="64 MiB")
        path = folder / "large"
        with path.open("wb") as stream:
            for number in range(LARGE_BYTES // MIB):
                stream.write(random.Random(number).randbytes(MIB))
        root = ""
        for giver in agents[:2]:
            with giver.client() as client:
                root = client.push(path)["root"]
        victims = gauge.tree(agents[1].pid)
        try:
            return _worst_gap(agents[2], root, victims, how)
        finally:
            _signal_all(victims, signal.SIGCONT)


def _signal_all(pids: Sequence[int], how: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, how)


def measure(options: Options) -> list[Row]:
    """Every row of this benchmark."""
    rounds = 10 if options.quick else 50
    rows: list[Row] = []
    with on_tmpfs(2 * GIB) as folder:
        with ExitStack() as stack:
            giver, reader = joined(stack, folder / "near", 2)
            alone = stack.enter_context(agent(folder / "alone"))
            progress("a peer that is known")
            known = _known(folder, giver, reader, rounds)
            progress("a miss")
            miss = _miss(folder, reader, alone, max(3, rounds // 4))
            progress("push and eviction")
            appears = _appears(folder, giver, reader, rounds)
            vanishes = _vanishes(folder, giver, reader, max(3, rounds // 4))
        rows = [
            at_most("first bytes from a known peer (whole call), p50 ms", _ms(known), 50.0),
            info("the same, worst, ms", 1000 * max(known)),
            at_most("a miss adds before the origin, p50 ms", miss, 250.0),
            at_most("from push to found and fetched by another, worst s", max(appears), 1.0),
            at_most("from eviction to withdrawn at another, worst s", max(vanishes), 1.0),
            # Between links everybody knows everybody up to 64 members, and then nobody asks the
            # DHT: agents that meet only through it need a network larger than this machine's.
            Row("first bytes by DHT, p50 ms", None, "<= 500"),
        ]
        for name, how in (("frozen", signal.SIGSTOP), ("dead", signal.SIGKILL)):
            progress(f"a {name} peer")
            gap = _hurt(folder / name, how)
            # Others go on meanwhile: a pause of all says less than the delay of one piece would.
            rows.append(info(f"longest pause of a pull whose peer is {name}, s", gap))
            rows.append(Row(f"a piece's delay by a {name} peer, s", None, f"<= {DELAY_GOAL_S:g}"))
    return rows
