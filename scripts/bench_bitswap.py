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
from random import Random
from typing import TYPE_CHECKING, Any

from p2pcache.net.network_key import NetworkKey, format_network_key
from scripts.bench_support import GB, MIB, Options, Row, at_least, at_most, info, on_tmpfs, progress
from tests.support.bitswap_kubo import LIKE_OURS, ON_A_LAN
from tests.support.kubo_daemon import KuboDaemon, kubo_daemon
from tests.support.processes import stop

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    Fetched = dict[str, float]

KEY = NetworkKey(b"bench bitswap".ljust(32, b"."))
LATE_S = 1.0
ROUNDS = 3  # the best counts: others run on this machine too


@dataclass
class Node:
    """A running `bitswap_node`."""

    process: subprocess.Popen[bytes]
    peer: str
    addresses: list[str]

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
        best: Fetched | None = None
        for seed in range(ROUNDS):
            took = b.tell("fetch", root=a.tell("add", seed=seed, size=size))
            if best is None or took["seconds"] < best["seconds"]:
                best = took
        assert best is not None
        late = _late(a, b)
        rows = [
            at_least(f"agent to agent, {where}, MB/s", _rate(best), 100),
            info(f"agent to agent, {where}, receiver's CPU-s/GB", _cpu(best)),
        ]
        if key is not None:
            rows.append(at_most("agent to agent, late block, s", late, 0.25))
            rows.append(at_most("agent to agent, blocks that came twice", best["again"], 0))
        return rows


def _late(a: Node, b: Node) -> float:
    """How long after it came to one it was at the other, who had asked before."""
    late = a.tell("late", pause_s=LATE_S)
    return float(b.tell("get", cid=late["cid"]) - late["at"])


def _with_kubo(
    kubo: KuboDaemon, repo: Path, key: NetworkKey | None, where: str, size: int
) -> list[Row]:
    progress(f"from and to Kubo, {where} network")
    with node(key) as ours:
        _call(kubo, "swarm/connect", ours.address)
        from_kubo: Fetched | None = None
        to_kubo_s: float | None = None
        for seed in range(ROUNDS):
            file = repo / "file"
            file.write_bytes(Random(200 + seed).randbytes(size))
            root = kubo.add(file, *LIKE_OURS)
            took = ours.tell("fetch", root=root)
            if from_kubo is None or took["seconds"] < from_kubo["seconds"]:
                from_kubo = took
            root = ours.tell("add", seed=100 + seed, size=size)
            began = time.monotonic()
            _call(kubo, "pin/add", root)
            seconds = time.monotonic() - began
            to_kubo_s = seconds if to_kubo_s is None else min(seconds, to_kubo_s)
        late = ours.tell("late", pause_s=LATE_S)
        _call(kubo, "block/get", late["cid"])
        late_s = time.monotonic() - late["at"]
    assert from_kubo is not None
    assert to_kubo_s is not None
    rows = [
        at_least(f"from Kubo, {where}, MB/s", _rate(from_kubo), 140),
        info(f"from Kubo, {where}, our CPU-s/GB", _cpu(from_kubo)),
        at_least(f"to Kubo, {where}, MB/s", size / 1e6 / to_kubo_s, 140),
    ]
    if key is not None:
        rows.append(at_most("to Kubo, late block, s", late_s, 0.25))
    return rows


def _rate(took: Fetched) -> float:
    return took["bytes"] / 1e6 / took["seconds"]


def _cpu(took: Fetched) -> float:
    return took["cpu_s"] / took["bytes"] * GB


def _call(kubo: KuboDaemon, path: str, arg: str) -> bytes:
    url = f"http://{kubo.api}/api/v0/{path}?{urllib.parse.urlencode({'arg': arg})}"
    with urllib.request.urlopen(url, data=b"", timeout=120) as answer:
        return bytes(answer.read())
