"""scripts/bench swarm: N agents in network namespaces start the same pull at the same moment.

Every host's link carries B each way (`tc tbf`), the origin's link O. Nobody has the model. The
bound is that of DESIGN 11, `max(F/O, F/B, N*F/(O + N*B))`, with F in bytes as the origin sends
them; what the wire adds (TCP, IP, TLS, HTTP: 4-5 %) is part of the distance. The copies are counted
in the origin's own log. Needs root.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import statistics
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from scripts.bench_support import MIB, Options, Row, at_most, info, progress
from tests.support.agents import agent_env, running_agent
from tests.support.hub_repo import build_repo, lfs
from tests.support.namespaces import can_make_namespaces, lan
from tests.support.network import knows, wait_until
from tests.support.nginx import nginx, static_hub
from tests.support.pulling import Pull

if TYPE_CHECKING:
    from tests.support.agents import Agent
    from tests.support.hub_repo import HubRepo
    from tests.support.namespaces import Lan
    from tests.support.nginx import Nginx

REF = "hf://demo/model"
LINK = 12_500_000  # B, bytes/s each way: 100 Mbit/s
ORIGIN_PORT = 8080
MEET_S = 90.0
PULL_S = 600.0


@dataclass(frozen=True, slots=True)
class Case:
    """`origin`: the origin's link as a multiple of B."""

    nodes: int
    origin: float
    size: int

    @property
    def name(self) -> str:
        return f"N={self.nodes}, O={self.origin:g}B, {self.size // MIB} MiB"

    @property
    def bound_s(self) -> float:
        """The least time that physics allows for the last node."""
        rate = self.origin * LINK
        shared = self.nodes * self.size / (rate + self.nodes * LINK)
        return max(self.size / rate, self.size / LINK, shared)


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
        cases += [Case(16, o, size) for o in (0.5, 1.0, 4.0)]
    rows: list[Row] = []
    for case in cases:
        progress(case.name)
        rows += _rows(case, _run(case))
    return rows


def _rows(case: Case, seen: Outcome) -> list[Row]:
    last, median = max(seen.seconds), statistics.median(seen.seconds)
    total = case.size * case.nodes
    rows = [
        info(f"{case.name}: the bound, s", case.bound_s),
        at_most(f"{case.name}: last node over the bound", last / case.bound_s, 1.20),
        at_most(f"{case.name}: median node over the bound", median / case.bound_s, 1.15),
        at_most(f"{case.name}: copies that left the origin", seen.origin_bytes / case.size, 1.03),
        at_most(f"{case.name}: duplicate bytes, share", seen.duplicate_bytes / total, 0.02),
    ]
    if case.origin * LINK * case.bound_s <= case.size * 1.001:  # the origin is the limit
        limit = case.size / (case.origin * LINK)
        rows.append(at_most(f"{case.name}: last node over F/O", last / limit, 1.10))
    return rows


def _run(case: Case) -> Outcome:
    folder = Path(tempfile.mkdtemp(prefix="p2pswarm-", dir="/dev/shm"))
    try:
        repo = build_repo(folder / "repo", {"model.safetensors": lfs(case.size, 7)})
        with contextlib.ExitStack() as stack:
            net = stack.enter_context(lan(case.nodes + 1))
            hub = stack.enter_context(_origin(net, case, repo, folder))
            agents = _agents(stack, net, case, folder)
            return _pull(agents, hub, repo)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _origin(
    net: Lan, case: Case, repo: HubRepo, folder: Path
) -> contextlib.AbstractContextManager[Nginx]:
    site = folder / "site"
    extra = static_hub(repo, site)
    net.limit(case.nodes, round(case.origin * LINK))
    return nginx(
        site, folder / "nginx", extra=extra, port=ORIGIN_PORT,
        host=net.ip_of(case.nodes), prefix=("setsid", *net.prefix(case.nodes)),
    )  # fmt: skip


def _agents(stack: contextlib.ExitStack, net: Lan, case: Case, folder: Path) -> list[Agent]:
    agents: list[Agent] = []
    for number in range(case.nodes):
        place = folder / f"n{number}"
        place.mkdir(parents=True)
        home = Path(agent_env(place)["P2PCACHE_HOME"])
        if agents:
            home.mkdir(parents=True)
            shutil.copy2(agents[0].home / "network.key", home / "network.key")
        made = running_agent(place, prefix=("setsid", *net.prefix(number)))
        agents.append(stack.enter_context(made))
        if number == 0:
            with agents[0].client() as client:
                client.init()
    for agent in agents:
        wait_until(partial(knows, agent, case.nodes - 1), "they do not all meet", MEET_S)
    for number in range(case.nodes):
        net.limit(number, LINK)
    return agents


def _pull(agents: list[Agent], hub: Nginx, repo: HubRepo) -> Outcome:
    credentials = {"hf_endpoint": hub.url}
    pulls = [
        Pull(agent, REF, credentials=credentials, hf_cache=False, patience_s=PULL_S)
        for agent in agents
    ]
    began = time.monotonic()
    ended: dict[int, float] = {}
    with contextlib.ExitStack() as stack:
        for pull in pulls:
            stack.enter_context(pull)
        while len(ended) < len(pulls):
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
