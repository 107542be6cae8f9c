"""scripts/bench local: what is complete already, and what the agent costs while nobody asks.

Warm calls go over one connection of the Python client, as a library user has it; the whole CLI
process is measured from fork to exit.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import measure as gauge
from bench_support import GIB, MIB, P2PCACHE, Options, Row, agent, at_most, info, on_tmpfs, progress
from origins import HubRepo, git_blob_id, nginx

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

REPO = "bench/local"
COMMIT = hashlib.sha1(b"bench local", usedforsecurity=False).hexdigest()
REF = f"hf://{REPO}@{COMMIT}"
LARGE = "model.safetensors"
SMALL_FILES = 20
SMALL_BYTES = 2_000
LARGE_BYTES = 64 * MIB


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


def make_repo(folder: Path) -> HubRepo:
    """A model as the Hub lists it: one large file and twenty small ones."""
    chance, root = random.Random(64), folder / "repo"
    root.mkdir()
    contents = {
        f"part-{number:02}.json": chance.randbytes(SMALL_BYTES) for number in range(SMALL_FILES)
    }
    etags = {path: git_blob_id(data) for path, data in contents.items()}
    tree: list[dict[str, Any]] = [
        {"type": "file", "path": path, "size": len(data), "oid": etags[path]}
        for path, data in contents.items()
    ]
    large = contents[LARGE] = chance.randbytes(LARGE_BYTES)
    etags[LARGE] = hashlib.sha256(large).hexdigest()
    lfs = {"oid": etags[LARGE], "size": LARGE_BYTES, "pointerSize": 134}
    tree.append({"type": "file", "path": LARGE, "size": LARGE_BYTES, "oid": "0" * 40, "lfs": lfs})
    for path, data in contents.items():
        (root / path).write_bytes(data)
    info_json, tree_json = folder / "info.json", folder / "tree.json"
    info_json.write_text(json.dumps({"id": REPO, "sha": COMMIT}))
    tree_json.write_text(json.dumps(tree))
    return HubRepo(REPO, COMMIT, root, tree_json, info_json, etags, {LARGE: LARGE_BYTES})


def _warm(home: Path, pid: int, env: Mapping[str, str], calls: int) -> list[Row]:
    from p2pcache import Client

    with Client(home) as client:
        first = client.get(REF)
        resolve_ms = _milliseconds(lambda: client.resolve(REF), calls)
        before = _written_bytes(pid)
        get_ms = _milliseconds(lambda: client.get(REF), calls)
        written = (_written_bytes(pid) - before) / calls
    command = [P2PCACHE, "get", REF, "--json"]
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
        repo = make_repo(folder)
        with (
            nginx(folder / "nginx", repo.folder, repos=[repo]) as server,
            agent(home, HF_ENDPOINT=server.plain, HF_HOME=str(folder / "hf")) as running,
        ):
            # The client of this process sends its own endpoint along, as any program's does.
            os.environ["HF_ENDPOINT"] = server.plain
            progress("idle agent")
            time.sleep(2.0)  # what it does once after its start is not idling
            before = gauge.cpu_s(running.pid)
            time.sleep(idle_s)
            share = (gauge.cpu_s(running.pid) - before) / idle_s
            rss = gauge.memory_bytes(running.pid, "Rss") / MIB
            progress("warm calls")
            rows = _warm(home, running.pid, running.env, calls)
    return [
        *rows,
        at_most("idle agent, RSS of all its processes, MB", rss * MIB / 1e6, 105.0),
        at_most("idle agent, % of one core", share * 100, 0.2),
    ]
