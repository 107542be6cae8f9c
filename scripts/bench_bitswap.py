"""Blocks by bitswap: agent to agent, from Kubo, to Kubo; a block that arrives late.

Each end is a process of its own with blocks in memory, so that the engine and the stream under it
are measured, not a disk: 256 MiB of 1 MiB blocks, every one hashed by who receives it. In a private
network, as agents are, and in an open one, where Kubo has no second cipher to run: that is what the
goals towards Kubo were measured in first.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any

from p2pcache.net.network_key import NetworkKey, format_network_key
from scripts.bench_support import GB, MIB, Options, Row, at_least, at_most, info, on_tmpfs, progress
from scripts.measure import cpu_s
from tests.support.bitswap_kubo import LIKE_OURS, ON_A_LAN
from tests.support.kubo_daemon import KuboDaemon, kubo_daemon
from tests.support.processes import stop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


KEY = NetworkKey(b"bench bitswap".ljust(32, b"."))
LATE_S = 1.0
ROUNDS = 3  # the best counts: others run on this machine too


@dataclass(frozen=True)
class Moved:
    """One transfer: what it took of both processes."""

    bytes: int
    seconds: float
    to_cpu_s: float
    from_cpu_s: float

    @property
    def rate(self) -> float:
        return self.bytes / 1e6 / self.seconds

    def rows(self, name: str, goal: float) -> list[Row]:
        """A busy machine falsifies the rate, and the seconds of CPU much less."""
        return [
            at_least(f"{name}, MB/s", self.rate, goal),
            info(f"{name}, receiver's CPU-s/GB", self.to_cpu_s / self.bytes * GB),
            info(f"{name}, sender's CPU-s/GB", self.from_cpu_s / self.bytes * GB),
        ]


@dataclass
class Node:
    """A running `bitswap_node`."""

    process: subprocess.Popen[bytes]
    peer: str
    addresses: list[str]

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def address(self) -> str:
        return f"{self.addresses[0]}/p2p/{self.peer}"

    def tell(self, do: str, **more: object) -> Any:  # noqa: ANN401 - JSON
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"do": do, **more}).encode() + b"\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


@contextlib.contextmanager
def node(key: NetworkKey | None) -> Iterator[Node]:
    secret = [] if key is None else ["--key", key.secret.hex()]
    process = subprocess.Popen(
        [sys.executable, "-m", "scripts.bitswap_node", *secret],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        said = json.loads(process.stdout.readline())
        yield Node(process, said["peer"], said["addresses"])
    finally:
        stop(process)


def measure(options: Options) -> list[Row]:
    size = (64 if options.quick else 256) * MIB
    rows = []
    with on_tmpfs(4 * size) as folder:
        for key, where in ((KEY, "private"), (None, "open")):
            rows += _agents(key, where, size)
            with kubo_daemon(
                folder / where, None if key is None else format_network_key(key), changes=ON_A_LAN
            ) as kubo:
                rows += _with_kubo(kubo, folder / where, key, where, size)
    return rows


def _agents(key: NetworkKey | None, where: str, size: int) -> list[Row]:
    progress(f"agent to agent, {where} network")
    with node(key) as a, node(key) as b:
        b.tell("connect", peer=a.peer, addresses=a.addresses)
        moved = []
        for seed in range(ROUNDS):
            root = a.tell("add", seed=seed, size=size)
            moved.append(_moved(size, b.pid, a.pid, partial(b.tell, "fetch", root=root)))
        rows = _best(moved).rows(f"agent to agent, {where}", 100)
        if key is not None:
            rows.append(at_most("agent to agent, late block, s", _late(a, b), 0.25))
            again = b.tell("again")
            rows.append(at_most("agent to agent, blocks that came twice", again, 0))
        return rows


def _late(a: Node, b: Node) -> float:
    """How long after it came to one it was at the other, who had asked before."""
    late = a.tell("late", pause_s=LATE_S)
    return float(b.tell("get", cid=late["cid"]) - late["at"])


def _with_kubo(
    kubo: KuboDaemon, repo: Path, key: NetworkKey | None, where: str, size: int
) -> list[Row]:
    progress(f"from and to Kubo, {where} network")
    from_kubo, to_kubo = [], []
    with node(key) as ours:
        _call(kubo, "swarm/connect", ours.address)
        for seed in range(ROUNDS):
            file = repo / "file"
            file.write_bytes(Random(200 + seed).randbytes(size))
            root = kubo.add(file, *LIKE_OURS)
            fetch = partial(ours.tell, "fetch", root=root)
            from_kubo.append(_moved(size, ours.pid, kubo.pid, fetch))
            root = ours.tell("add", seed=100 + seed, size=size)
            pin = partial(_call, kubo, "pin/add", root)
            to_kubo.append(_moved(size, kubo.pid, ours.pid, pin))
        late = ours.tell("late", pause_s=LATE_S)
        _call(kubo, "block/get", late["cid"])
        late_s = time.monotonic() - late["at"]
    rows = _best(from_kubo).rows(f"from Kubo, {where}", 140)
    rows += _best(to_kubo).rows(f"to Kubo, {where}", 140)
    if key is not None:
        rows.append(at_most("to Kubo, late block, s", late_s, 0.25))
    return rows


def _moved(size: int, to: int, came_from: int, move: Callable[[], object]) -> Moved:
    """`to`, `came_from`: their processes."""
    began, to_s, from_s = time.monotonic(), cpu_s(to), cpu_s(came_from)
    move()
    return Moved(size, time.monotonic() - began, cpu_s(to) - to_s, cpu_s(came_from) - from_s)


def _best(moved: list[Moved]) -> Moved:
    return max(moved, key=lambda one: one.rate)


def _call(kubo: KuboDaemon, path: str, arg: str) -> bytes:
    url = f"http://{kubo.api}/api/v0/{path}?{urllib.parse.urlencode({'arg': arg})}"
    with urllib.request.urlopen(url, data=b"", timeout=120) as answer:
        return bytes(answer.read())
