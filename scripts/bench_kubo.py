"""scripts/bench kubo: a file and a folder out of a Kubo by its CID, tmpfs to tmpfs, over loopback.

Beside it, in the same rounds and from the same Kubo: a second Kubo's `pin add` of the same root.
What is timed is the call; both end with every block verified and kept.
"""

from __future__ import annotations

import contextlib
import random
import shutil
import statistics
import time
from typing import TYPE_CHECKING

from p2pcache.errors import NotFound
from scripts import measure as gauge
from scripts.bench_support import (
    GB,
    GIB,
    MIB,
    Options,
    Row,
    agent,
    at_least,
    at_most,
    info,
    on_tmpfs,
    progress,
)
from tests.support.kubo_daemon import kubo_daemon

if TYPE_CHECKING:
    from pathlib import Path

    from p2pcache import Client
    from scripts.bench_support import Agent
    from tests.support.kubo_daemon import KuboDaemon

FILES = 8  # of the folder
SMALL_FILES, SMALL_BYTES = 2000, 16 << 10  # of the folder of small ones
TIMES = 1.5  # Kubo's own `pin add` from the same Kubo
MISSING = "bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi"
MISSING_S = 0.25


def _file(path: Path, size: int, seed: int) -> None:
    source = random.Random(seed)
    with path.open("wb") as stream:
        for _ in range(size // MIB):
            stream.write(source.randbytes(MIB))


def _get(client: Client, pid: int, root: str, size: int) -> tuple[float, float]:
    """Seconds and CPU seconds of one pull into an empty store."""
    before, began = gauge.cpu_s(pid), time.perf_counter()
    done = client.get(root)
    seconds, cpu_s = time.perf_counter() - began, gauge.cpu_s(pid) - before
    if done["fetched_bytes"] != size:
        raise RuntimeError(f"the pull moved {done['fetched_bytes']} of {size} bytes")
    with contextlib.suppress(NotFound):  # a folder is listed first, and named for that
        client.rm(root)
    client.gc(target_bytes=1)
    return seconds, cpu_s


def _pin(folder: Path, seed: KuboDaemon, root: str) -> float:
    """`pin add` on a Kubo that is connected with the first and has nothing yet."""
    repo = folder / "second"
    with kubo_daemon(repo, None) as second:
        second.rpc("swarm/connect", f"{seed.addresses[0]}/p2p/{seed.peer}")
        began = time.perf_counter()
        second.rpc("pin/add", root, timeout=600)
        seconds = time.perf_counter() - began
    shutil.rmtree(repo)
    return seconds


def _missing(client: Client) -> float:
    began = time.perf_counter()
    with contextlib.suppress(NotFound):
        client.get(MISSING)
    return time.perf_counter() - began


def _rounds(
    folder: Path, seed: KuboDaemon, reader: Agent, roots: dict[str, tuple[str, int]], rounds: int
) -> list[Row]:
    took: dict[str, list[float]] = {}
    cpu: dict[str, list[float]] = {}
    absent: list[float] = []
    with reader.client() as client:
        for number in range(-1, rounds):  # one that is not counted warms workers
            for kind, (root, size) in roots.items():
                pinned = _pin(folder, seed, root)
                seconds, cpu_s = _get(client, reader.pid, root, size)
                if number >= 0:
                    took.setdefault(f"{kind}: kubo pin add", []).append(pinned)
                    took.setdefault(f"{kind}: get", []).append(seconds)
                    cpu.setdefault(kind, []).append(cpu_s)
            absent.append(_missing(client))
    rows: list[Row] = []
    for kind, (_, size) in roots.items():
        mine, theirs = (statistics.median(took[f"{kind}: {what}"]) for what in _WHAT)
        rows += [
            info(f"{kind}: get, MB/s", size / 1e6 / mine),
            info(f"{kind}: kubo pin add, MB/s", size / 1e6 / theirs),
            _over(kind, theirs / mine),
            info(f"{kind}: agent CPU-s/GB", statistics.median(cpu[kind]) / (size / GB)),
        ]
    return [*rows, at_most("what Kubo has not, s (slowest)", max(absent), MISSING_S)]


def _over(kind: str, times: float) -> Row:
    name = f"{kind}: get over kubo pin add"
    return info(name, times) if kind == "small files" else at_least(name, times, TIMES)


_WHAT = ("get", "kubo pin add")


def measure(options: Options) -> list[Row]:
    """Every row of this benchmark."""
    size, rounds = (256 * MIB, 1) if options.quick else (GIB, 3)
    with on_tmpfs(6 * size + GIB) as folder:
        content = folder / "model"
        content.mkdir()
        for number in range(FILES):
            _file(content / f"part-{number}.safetensors", size // FILES, number)
        _file(folder / "model.safetensors", size, FILES)
        repo = folder / "first"
        repo.mkdir()
        with kubo_daemon(repo, None, gateway=True, profile="unixfs-v1-2025") as seed:
            progress("adding to Kubo")
            small = folder / "small"
            small.mkdir()
            source = random.Random(FILES + 1)
            for number in range(SMALL_FILES):
                (small / f"{number}.json").write_bytes(source.randbytes(SMALL_BYTES))
            roots = {
                "file": (seed.add(folder / "model.safetensors"), size),
                "folder": (seed.add(content), size),
                "small files": (seed.add(small), SMALL_FILES * SMALL_BYTES),
            }
            (folder / "model.safetensors").unlink()
            shutil.rmtree(small)
            shutil.rmtree(content)
            where = {"P2PCACHE_IPFS_KUBO": str(repo), "P2PCACHE_NETWORK_ENABLED": "off"}
            with agent(folder / "agent", **where) as reader:
                progress("agent and Kubo in turns")
                return _rounds(folder, seed, reader, roots, rounds)
