"""scripts/bench idle: many agents in one network that all hold much, while nobody asks.

Every agent has 10,000 blobs in its index and knows all the others; then nothing happens, and each
one's process tree is watched. The goal is DESIGN's: an agent is no burden for who does not use it.
Its figure is the PSS of all processes of an agent together: a page that several processes share is
divided among them, so the sum over all agents is what the machine really gives. RSS counts such a
page once in each process; it is printed too. See docs/performance.md.
"""

from __future__ import annotations

import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from scripts import measure as gauge
from scripts.bench_network import joined, peers_of, wait_until
from scripts.bench_support import GIB, Options, Row, at_most, info, on_tmpfs, progress

if TYPE_CHECKING:
    from scripts.bench_support import Agent

FILE_BYTES = 64  # what counts is the index, not the bytes
SETTLE_S = 10.0  # DHT tables and announcements of what was just pushed
PUSHERS = 2
KINDS = {  # what a process is, by a word of its command line
    "p2pcache.agent": "the agent",
    "p2pcache.lanes.serve": "byte server",
    "forkserver": "fork server and workers",
    "resource_tracker": "resource tracker",
}


def _filled(folder: Path, number: int, blobs: int) -> Path:
    """A folder of so many different small files, each agent's its own."""
    made = folder / f"files-{number}"
    for n in range(blobs):
        path = made / f"{n % 100:02}" / f"{n:05}"
        if n < 100:
            path.parent.mkdir(parents=True)
        path.write_bytes(f"{number} {n} ".encode().ljust(FILE_BYTES, b"."))
    return made


def _by_kind(pid: int) -> dict[str, float]:
    """PSS of an agent's processes, MB."""
    found = dict.fromkeys(KINDS.values(), 0.0)
    for one in gauge.tree(pid):
        with suppress(OSError):
            line = Path(f"/proc/{one}/cmdline").read_text()
            kind = next((kind for word, kind in KINDS.items() if word in line), "others")
            found[kind] = found.get(kind, 0.0) + gauge.memory_bytes_alone(one, "Pss") / 1e6
    return found


def measure(options: Options) -> list[Row]:
    """Every row of this benchmark."""
    count, blobs, idle_s = (8, 1000, 20.0) if options.quick else (16, 10_000, 120.0)
    with on_tmpfs(2 * GIB) as folder, ExitStack() as stack:
        progress(f"{count} agents")
        # a short run does not last until workers and their fork server leave by themselves
        workers_idle = "4s" if options.quick else "60s"  # the default
        agents = joined(stack, folder, count, P2PCACHE_WORKERS_IDLE=workers_idle)
        progress(f"{blobs} blobs each")

        def fill(number: int, running: Agent) -> None:
            with running.client() as client:
                client.push(_filled(folder, number, blobs))

        with ThreadPoolExecutor(PUSHERS) as pool:
            list(pool.map(fill, range(count), agents))
        wait_until(
            lambda: all(len(peers_of(running)) == count - 1 for running in agents),
            "all agents know all others",
        )
        time.sleep(SETTLE_S)
        progress("nobody asks")
        before = [gauge.cpu_s(running.pid) for running in agents]
        began = time.monotonic()
        time.sleep(idle_s)
        took = time.monotonic() - began
        shares = [
            100 * (gauge.cpu_s(running.pid) - cpu_s) / took
            for running, cpu_s in zip(agents, before, strict=True)
        ]
        rss = [gauge.memory_bytes(running.pid, "Rss") / 1e6 for running in agents]
        pss = [gauge.memory_bytes(running.pid, "Pss") / 1e6 for running in agents]
        own = [gauge.memory_bytes_alone(running.pid, "Rss") / 1e6 for running in agents]
        kinds = [_by_kind(running.pid) for running in agents]
        processes = [len(gauge.tree(running.pid)) for running in agents]
    return [
        info("agents", count),
        info("blobs in the index of each", blobs),
        at_most("memory (PSS) of all processes of an agent, worst, MB", max(pss), 110.0),
        at_most("CPU of an agent, worst, % of a core", max(shares), 0.5),
        info("RSS of the agent process alone, worst, MB", max(own)),
        info("RSS of all its processes, each page in each, worst, MB", max(rss)),
        info("memory (PSS) of all processes, median, MB", statistics.median(pss)),
        *(
            info(f"PSS of {kind}, median, MB", statistics.median(one[kind] for one in kinds))
            for kind in KINDS.values()
        ),
        info("processes of an agent, median", statistics.median(processes)),
        info("CPU, median, % of a core", statistics.median(shares)),
    ]
