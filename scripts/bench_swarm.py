"""scripts/bench swarm: N agents in network namespaces start the same pull at the same moment.

Every host's link carries B each way (`tc tbf`), the origin's link O. Nobody has the model. The
bound is that of DESIGN 11, `max(F/O, F/B, N*F/(O + N*B))`, with F in bytes as the origin sends
them; what the wire adds (TCP, IP, TLS, HTTP: 4-5 %) is part of the distance, and so are the names,
the manifest and the first hello. The copies are counted in the origin's own log. Needs root.

The agents are warm, as agents are that run for days: each has just pulled a small file of another
repository, so that its helper processes run (all of them begin at one moment here, on two cores: a
second or two that nodes with cores of their own do not lose).

All agents share this machine's cores. Where they are too many for them the cores are the limit and
not the links: so links are slower the more agents there are (`CORES_MOVE`), and the rate is in the
name of each row.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import statistics
import tempfile
import time
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from scripts import swarm_others as others
from scripts.bench_support import MIB, Options, Row, at_most, info, progress
from tests.support.agents import running_agent
from tests.support.fleet import fleet, lan_hub
from tests.support.hub_repo import build_repo, lfs
from tests.support.namespaces import can_make_namespaces, lan
from tests.support.pulling import Pull

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.agents import Agent
    from tests.support.hub_repo import HubRepo
    from tests.support.namespaces import Lan
    from tests.support.nginx import Nginx

REF = "hf://demo/model"
MBIT = 125_000  # bytes/s
CORES_MOVE = 50  # Mbit/s of each of 8 agents on 2 cores, which leaves them half idle
ALONE_LINK = 100 * MBIT
SLOW_LINK = 1 * MBIT
ARIA_BYTES = 32 * MIB  # each of N independent downloads takes N times as long as a swarm's


PULL_S = 600.0


class Act(Enum):
    """What happens besides."""

    NOTHING = "nobody has it"
    KILLED = "one of them is killed at 50 %"
    SEED = "one has it, no origin"


@dataclass(frozen=True, slots=True)
class Case:
    """`origin`: the origin's link as a multiple of B."""

    nodes: int
    origin: float
    size: int
    act: Act = Act.NOTHING

    @property
    def link(self) -> int:
        """B, bytes/s each way."""
        cores = len(os.sched_getaffinity(0))
        return min(100, CORES_MOVE * 8 * cores // (2 * self.nodes)) * MBIT

    @property
    def name(self) -> str:
        """How its rows begin."""
        act = "" if self.act is Act.NOTHING else f", {self.act.value}"
        rate = f"{self.link // MBIT} Mbit/s"
        return f"N={self.nodes} at {rate}, O={self.origin:g}B, {self.size // MIB} MiB{act}"

    @property
    def bound_s(self) -> float:
        """The least time that physics allows for the last node."""
        if self.act is Act.SEED:
            return self.size / self.link
        rate = self.origin * self.link
        shared = self.nodes * self.size / (rate + self.nodes * self.link)
        return max(self.size / rate, self.size / self.link, shared)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Seconds from the start of each node; bytes in the origin's log; bytes fetched twice."""

    seconds: list[float]
    origin_bytes: int
    duplicate_bytes: int


def measure(options: Options) -> list[Row]:
    """Every case once; see the module."""
    if not can_make_namespaces():
        raise SystemExit("error: scripts/bench swarm makes network namespaces: run it as root")
    size = 256 * MIB
    cases = [Case(8, 1.0, size)]
    if not options.quick:
        cases += [Case(8, o, size) for o in (0.5, 4.0)]
        cases += [Case(16, 1.0, size)]
        cases += [Case(8, 1.0, size, Act.KILLED), Case(8, 1.0, size, Act.SEED)]
    rows: list[Row] = []
    for case in cases:
        progress(case.name)
        rows += _rows(case, run(case))
    rows += _useless_peers(128 * MIB if options.quick else 2 * size)
    if not options.quick:
        rows += _others(Case(8, 1.0, size))
    return rows


def _rows(case: Case, seen: Outcome) -> list[Row]:
    last, median = max(seen.seconds), statistics.median(seen.seconds)
    total = case.size * case.nodes
    most = 1.05 if case.act is Act.KILLED else 1.03
    rows = [
        info(f"{case.name}: the bound, s", case.bound_s),
        at_most(f"{case.name}: last node over the bound", last / case.bound_s, 1.20),
        at_most(f"{case.name}: median node over the bound", median / case.bound_s, 1.15),
        at_most(f"{case.name}: duplicate bytes, share", seen.duplicate_bytes / total, 0.02),
    ]
    if case.act is not Act.SEED:
        copies = seen.origin_bytes / case.size
        rows.append(at_most(f"{case.name}: copies that left the origin", copies, most))
        if case.origin * case.link * case.bound_s <= case.size * 1.001:  # the origin is the limit
            limit = case.size / (case.origin * case.link)
            rows.append(at_most(f"{case.name}: last node over F/O", last / limit, 1.10))
    return rows


@contextlib.contextmanager
def _place() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="p2pswarm-", dir="/dev/shm"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run(case: Case) -> Outcome:
    """One case, with agents of its own. RuntimeError: a pull failed, or brought wrong bytes."""
    with _place() as folder, contextlib.ExitStack() as stack:
        repo = build_repo(folder / "repo", {"model.safetensors": lfs(case.size, 7)})
        net = stack.enter_context(lan(case.nodes + 1))
        origin = stack.enter_context(contextlib.ExitStack())
        hub = origin.enter_context(lan_hub(net, case.nodes, repo, folder))
        agents = fleet(stack, net, case.nodes, folder)
        warm_up(agents, net, folder)
        ref = REF
        if case.act is Act.SEED:  # before the links are limited
            seed, *agents = agents
            ref = seed.get(REF, credentials={"hf_endpoint": hub.url}, hf_cache=False)["manifest"]
            origin.close()
        for number in range(case.nodes):
            net.limit(number, case.link)
        net.limit(case.nodes, round(case.origin * case.link))
        kill_s = 0.5 * case.bound_s if case.act is Act.KILLED else None
        return _pull(agents, hub, repo, ref, kill_s)


def warm_up(agents: list[Agent], net: Lan, folder: Path) -> None:
    """Each pulls a small file of a hub that is gone afterwards."""
    warm = folder / "warm"
    repo = build_repo(warm / "repo", {"model.safetensors": lfs(MIB, 8)}, repo_id="demo/warm")
    with lan_hub(net, 0, repo, warm) as hub:
        for agent in agents:
            agent.get("hf://demo/warm", credentials={"hf_endpoint": hub.url}, hf_cache=False)


def _useless_peers(size: int) -> list[Row]:
    """G19: one that pulls beside a peer that has all of it behind a thin link, and one that has no
    network, each alone at its turn.
    """
    progress("beside a peer of no use")
    with _place() as folder, contextlib.ExitStack() as stack:
        repo = build_repo(folder / "repo", {"model.safetensors": lfs(size, 7)})
        net = stack.enter_context(lan(4))
        hub = stack.enter_context(lan_hub(net, 3, repo, folder))
        pulls, holds = fleet(stack, net, 2, folder)
        alone = stack.enter_context(
            running_agent(
                folder / "n2", settings={"network.enabled": "false"},
                prefix=("setsid", *net.prefix(2)),
            )
        )  # fmt: skip
        warm_up([pulls, holds, alone], net, folder)
        options = {"credentials": {"hf_endpoint": hub.url}, "hf_cache": False}
        holds.get(REF, **options)
        for number, link in enumerate((ALONE_LINK, SLOW_LINK, ALONE_LINK, 4 * ALONE_LINK)):
            net.limit(number, link)
        took = {}
        for agent in (alone, pulls):
            began = time.monotonic()
            agent.get(REF, **options)
            took[agent.home] = time.monotonic() - began
        ratio = took[pulls.home] / took[alone.home]
        more_s = took[pulls.home] - took[alone.home]
        rate = f"{ALONE_LINK // MBIT} Mbit/s"
        return [
            info(f"a plain origin at {rate}, {size // MIB} MiB: s", took[alone.home]),
            info("beside a peer of 1 Mbit/s that has all of it: s more", more_s),
            at_most("beside a peer of 1 Mbit/s that has all of it: times as long", ratio, 1.05),
        ]


def _others(case: Case) -> list[Row]:
    """The same without us."""
    with _place() as folder, contextlib.ExitStack() as stack:
        repo = build_repo(folder / "repo", {"model.safetensors": lfs(ARIA_BYTES, 7)})
        net = stack.enter_context(lan(case.nodes + 1))
        hub = stack.enter_context(lan_hub(net, case.nodes, repo, folder))
        for number in range(case.nodes):
            net.limit(number, case.link)
        net.limit(case.nodes, round(case.origin * case.link))
        alike = replace(case, size=ARIA_BYTES)
        rows = others.aria2c(net, hub, case.nodes, alike.size, alike.bound_s, folder)
    seed = replace(case, act=Act.SEED)
    for rows_of in (others.libtorrent, others.kubo):
        with _place() as folder, lan(case.nodes) as net:
            repo = build_repo(folder / "repo", {"model.safetensors": lfs(case.size, 7)})
            file = repo.plain / "model.safetensors"
            rows += rows_of(net, case.nodes, file, case.link, seed.bound_s, folder)
    return rows


def _pull(
    agents: list[Agent], hub: Nginx, repo: HubRepo, ref: str, kill_s: float | None
) -> Outcome:
    credentials = {"hf_endpoint": hub.url}
    pulls = [
        Pull(agent, ref, credentials=credentials, hf_cache=False, patience_s=PULL_S)
        for agent in agents
    ]
    began = time.monotonic()
    ended: dict[int, float] = {}
    with contextlib.ExitStack() as stack:
        for pull in pulls:
            stack.enter_context(pull)
        while len(ended) < len(pulls):
            if kill_s is not None and time.monotonic() - began >= kill_s:
                kill_s = None
                pulls.pop()
                agents.pop().kill()
            for number, pull in enumerate(pulls):
                if number not in ended and pull.is_over:
                    ended[number] = time.monotonic() - began
            time.sleep(0.01)
            if time.monotonic() - began > PULL_S:
                raise RuntimeError(f"only {len(ended)} of {len(pulls)} ended in {PULL_S:g} s")
    if errors := [str(pull.error) for pull in pulls if pull.error is not None]:
        raise RuntimeError(f"{len(errors)} pulls failed: {errors[0]}")
    receipts = [agent.why() for agent in agents]
    for agent in agents:
        _check(agent, repo)
    for number, receipt in enumerate(receipts):
        origin = sum(s["bytes"] for s in receipt["sources"] if s["kind"] != "peer")
        progress(f"  n{number}: {ended[number]:.1f} s, {origin / MIB:.1f} MiB of the origin, "
                 f"{receipt['duplicate_bytes']} twice, {receipt['retries']} retries")  # fmt: skip
    return Outcome(
        list(ended.values()), hub.body_bytes(), sum(r["duplicate_bytes"] for r in receipts)
    )


def _check(agent: Agent, repo: HubRepo) -> None:
    digest = repo.files["model.safetensors"].sha256
    path = next(agent.home.rglob(f"blobs-v1/{digest[:2]}/{digest}"))
    with path.open("rb") as stream:
        if hashlib.file_digest(stream, "sha256").hexdigest() != digest:
            raise RuntimeError(f"wrong bytes in {path}")
