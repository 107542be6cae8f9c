"""scripts/bench local: what is complete already, and what the agent costs while nobody asks.

Warm calls go over one connection of the Python client, as a library user has it; the whole CLI
process is measured from fork to exit.
"""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scripts import measure as gauge
from scripts.bench_support import (
    GIB,
    MIB,
    P2PCACHE,
    Options,
    Row,
    agent,
    at_most,
    info,
    on_tmpfs,
    progress,
)
from tests.support.hub_repo import Recipe, build_repo, lfs
from tests.support.nginx import nginx, static_hub

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

REPO = "bench/local"
LARGE_BYTES = 64 * MIB
RECIPES = {"model.safetensors": lfs(LARGE_BYTES, 1)} | {
    f"part-{number:02}.json": Recipe(size=2_000, seed=number) for number in range(20)
}


def _milliseconds(call: Callable[[], Any], count: int) -> list[float]:
    took = []
    for _ in range(count):
        began = time.perf_counter()
        call()
        took.append((time.perf_counter() - began) * 1000)
    return took


def _written_bytes(pid: int) -> int:
    """Bytes that the tree handed to write calls so far; a copied model would show here."""
    total = 0
    for member in gauge.tree(pid):
        for line in Path(f"/proc/{member}/io").read_text().splitlines():
            if line.startswith("wchar:"):
                total += int(line.split()[1])
    return total


def _warm(home: Path, ref: str, pid: int, env: Mapping[str, str], calls: int) -> list[Row]:
    from p2pcache import Client

    with Client(home) as client:
        first = client.get(ref)
        resolve_ms = _milliseconds(lambda: client.resolve(ref), calls)
        before = _written_bytes(pid)
        get_ms = _milliseconds(lambda: client.get(ref), calls)
        written = (_written_bytes(pid) - before) / calls
    command = [P2PCACHE, "get", ref, "--json"]
    process_ms = [gauge.run(command, env).seconds * 1000 for _ in range(max(5, calls // 10))]
    return [
        info("files of the model", first["files"]),
        at_most("warm resolve over the socket, p50 ms", statistics.median(resolve_ms), 5.0),
        at_most("warm get over the socket, p50 ms", statistics.median(get_ms), 5.0),
        # The bookkeeping of a get (receipt, last use, the answer) is written; the model is not.
        at_most("bytes written by a warm get, share of the model", written / LARGE_BYTES, 0.01),
        at_most("warm get, whole CLI process, p50 ms", statistics.median(process_ms), 150.0),
    ]


def measure(options: Options) -> list[Row]:
    """Every row of this benchmark."""
    calls, idle_s = (50, 15.0) if options.quick else (300, 60.0)
    with on_tmpfs(GIB) as folder:
        home = folder / "home"
        repo = build_repo(folder / "repo", RECIPES, repo_id=REPO)
        hub, site = static_hub(repo, folder / "site"), folder / "site"
        ref = f"hf://{REPO}@{repo.commit}"
        with (
            nginx(site, folder / "nginx", extra=hub) as server,
            agent(home, HF_ENDPOINT=server.url, HF_HOME=str(folder / "hf")) as running,
        ):
            # The client of this process sends its own endpoint and cache folder along, as any
            # program's does.
            os.environ.update(HF_ENDPOINT=server.url, HF_HOME=str(folder / "hf"))
            progress("idle agent")
            time.sleep(2.0)  # what it does once after its start is not idling
            before = gauge.cpu_s(running.pid)
            time.sleep(idle_s)
            share = (gauge.cpu_s(running.pid) - before) / idle_s
            rss = gauge.memory_bytes(running.pid, "Rss") / MIB
            progress("warm calls")
            rows = _warm(home, ref, running.pid, running.env, calls)
    return [
        *rows,
        at_most("idle agent, RSS of all its processes, MB", rss * MIB / 1e6, 105.0),
        at_most("idle agent, % of one core", share * 100, 0.2),
    ]
