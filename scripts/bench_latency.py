"""scripts/bench latency: how long the network makes one wait.

All agents are real processes on loopback. Progress is told in beats of 0.2 s, too coarse for a
first byte: its time is that of the whole call for a blob of 64 KiB, which is more, never less. A
piece's delay by a frozen or dead peer is what the reader's own orders say (`traced_agent`): from
the first request for a block, or from the moment of the freeze when that is later, until it has
come, from whomever.
"""

from __future__ import annotations

import json
import os
import random
import signal
import statistics
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from itertools import combinations, pairwise
from typing import TYPE_CHECKING

from p2pcache.errors import P2PCacheError
from scripts import measure as gauge
from scripts.bench_network import joined, peers_of, wait_until
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
MIN_PAIRS = 3  # that only the DHT brings together; more is a better median
ANNOUNCED_S = 1.0  # for a new name to reach the DHT; an announcement takes milliseconds
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


def _by_dht(folder: Path, agents: Sequence[Agent], rounds: int) -> list[float]:
    """Seconds of pulls by agents that have a link with others, but none with who has the blob.

    Blobs are asked for by digest, so no announcement to members names their holder, and each pair
    meets once: afterwards it has a link.
    """
    pairs = list(combinations(range(1, len(agents)), 2))
    took: list[float] = []
    for number, (giver, reader) in enumerate(pairs):
        if len(took) == rounds or _peer(agents[giver]) in peers_of(agents[reader]):
            continue
        ref = _pushed(folder, agents[giver], 30_000 + number)
        time.sleep(ANNOUNCED_S)
        took.append(_get_s(agents[reader], ref))
    if len(took) < MIN_PAIRS:
        raise RuntimeError(f"only {len(took)} pairs of agents have no link")
    return took


def _peer(running: Agent) -> str:
    with running.client() as client:
        return str(client.init()["peer"])


@dataclass(frozen=True, slots=True)
class _Hurt:
    """What a hurt peer did to a pull, seconds."""

    piece_s: float  # the longest wait for a block, from its first request but not before the hurt
    whole_s: float  # the same with the time before the hurt: a request is for several blocks
    usual_s: float  # the same of those that had come before, the median
    pause_s: float  # the longest time in which nothing came


def _pull_hurting(reader: Agent, ref: str, hurt: Sequence[int], how: signal.Signals) -> float:
    """When (monotonic) the peer was hurt: as soon as half of the blob is here."""
    hurt_at: list[float] = []

    def watch(told: object) -> None:
        done = told.get("done_bytes", 0) if isinstance(told, dict) else 0
        if done >= LARGE_BYTES // 2 and not hurt_at:
            _signal_all(hurt, how)
            hurt_at.append(time.monotonic())

    with reader.client() as client:
        client.get(ref, on_progress=watch)
    if not hurt_at:
        raise RuntimeError("the pull was over before its peer was hurt")
    return hurt_at[0]


def _read_trace(trace: Path, hurt_at: float) -> _Hurt:
    """See `traced_agent`. A block of an order that was cut counts as come by a later one."""
    asked: dict[int, float] = {}
    came: dict[int, float] = {}
    orders = sorted(json.loads(line) for line in trace.read_text().splitlines())
    for asked_at, over_at, first, end, done in orders:
        for block in range(first, end):
            asked.setdefault(block, asked_at)
            if block < done:
                came[block] = min(over_at, came.get(block, over_at))
    waits = [(at, at - asked[block]) for block, at in came.items()]
    times = [hurt_at, *sorted(at for at, _ in waits if at > hurt_at)]
    return _Hurt(
        max(at - max(asked[block], hurt_at) for block, at in came.items() if at > hurt_at),
        max(wait for at, wait in waits if at > hurt_at),
        statistics.median(wait for at, wait in waits if at <= hurt_at),
        max(later - before for before, later in pairwise(times)),
    )


def _hurt(folder: Path, how: signal.Signals) -> _Hurt:
    """Three agents have a blob, a fourth gets it; one of the three is frozen or killed half-way.

    The signal goes to all its processes, as when a machine hangs or loses its power.
    """
    trace = folder / "trace"
    with ExitStack() as stack:
        agents = joined(
            stack, folder, 4, last="scripts.traced_agent",
            P2PCACHE_LANES_LIMIT_UP="64 MiB", BENCH_TRACE=str(trace),
        )  # fmt: skip
        path = folder / "large"
        with path.open("wb") as stream:
            for number in range(LARGE_BYTES // MIB):
                stream.write(random.Random(number).randbytes(MIB))
        root = ""
        for giver in agents[:3]:
            with giver.client() as client:
                root = client.push(path)["root"]
        victims = gauge.tree(agents[1].pid)
        try:
            hurt_at = _pull_hurting(agents[3], root, victims, how)
        finally:
            _signal_all(victims, signal.SIGCONT)
        return _read_trace(trace, hurt_at)


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
        with ExitStack() as stack:
            progress("peers that only the DHT knows")
            large = joined(stack, folder / "far", 8, all_know=False, P2PCACHE_NETWORK_FULL_MESH="1")
            by_dht = _by_dht(folder, large, rounds)
        rows = [
            at_most("first bytes from a known peer (whole call), p50 ms", _ms(known), 50.0),
            info("the same, worst, ms", 1000 * max(known)),
            at_most("a miss adds before the origin, p50 ms", miss, 250.0),
            at_most("from push to found and fetched by another, worst s", max(appears), 1.0),
            at_most("from eviction to withdrawn at another, worst s", max(vanishes), 1.0),
            at_most("first bytes by DHT (whole call), p50 ms", _ms(by_dht), 500.0),
            info("the same, worst, ms", 1000 * max(by_dht)),
        ]
        for name, how in (("frozen", signal.SIGSTOP), ("dead", signal.SIGKILL)):
            progress(f"a {name} peer")
            hurt = _hurt(folder / name, how)
            rows += [
                at_most(f"a piece's delay by a {name} peer, worst s", hurt.piece_s, DELAY_GOAL_S),
                info("its time from request to coming, worst s", hurt.whole_s),
                info("the same of those before, median s", hurt.usual_s),
                info("longest time in which nothing came after it, s", hurt.pause_s),
            ]
    return rows
