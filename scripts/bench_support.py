"""What every benchmark shares: rows with goals, a folder on tmpfs, an agent, the JSON document.

A figure without something to compare it with says little: a row has a goal, and the ratio rows
compare with a peer that was measured in the same run.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.processes import stop

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from p2pcache import Client

MIB = 1 << 20
GIB = 1 << 30
GB = 1_000_000_000
P2PCACHE = str(Path(sys.executable).parent / "p2pcache")
AGENT_START_S = 20.0
CORES = len(os.sched_getaffinity(0))
WORKERS = min(4, CORES)  # fetch workers of the agent, which is also its number of streams


@dataclass(frozen=True, slots=True)
class Options:
    """`quick`: smaller sizes and fewer rounds, under about 90 s; the goals stay the same."""

    quick: bool


@dataclass(frozen=True, slots=True)
class Row:
    """One figure. `goal` None: for information. `holds` None: no goal, or not measured."""

    name: str
    value: float | None
    goal: str | None = None
    holds: bool | None = None


def info(name: str, value: float | None) -> Row:
    return Row(name, None if value is None else round(value, 4))


def at_most(name: str, value: float, bound: float) -> Row:
    return Row(name, round(value, 4), f"<= {bound:g}", value <= bound)


def at_least(name: str, value: float, bound: float) -> Row:
    return Row(name, round(value, 4), f">= {bound:g}", value >= bound)


def above(name: str, value: float, bound: float) -> Row:
    return Row(name, round(value, 4), f"> {bound:g}", value > bound)


def progress(text: str) -> None:
    """What is being measured now, for whoever waits."""
    print(f"bench: {text}", file=sys.stderr, flush=True)


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cpu": cpu,
        "cores": CORES,
        "memory_gib": round(memory / GIB, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def document(bench: str, rows: list[Row], *, quick: bool, seconds: float) -> str:
    """The last line of every benchmark."""
    from p2pcache.version import __version__

    return json.dumps(
        {
            "bench": bench,
            "quick": quick,
            "seconds": round(seconds, 1),
            "machine": machine(),
            "version": __version__,
            "results": [asdict(row) for row in rows],
        }
    )


def table(rows: list[Row]) -> str:
    """The same for people."""
    width = max(len(row.name) for row in rows)
    lines = []
    for row in rows:
        value = "not measured" if row.value is None else f"{row.value:,.4g}"
        mark = {None: "", True: "holds", False: "MISSED"}[row.holds]
        lines.append(f"{row.name:<{width}}  {value:>12}  {row.goal or '':<10} {mark}".rstrip())
    return "\n".join(lines)


def _is_tmpfs(path: Path) -> bool:
    best, kind = "", ""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, where, fs, *_ = line.split()
        if str(path).startswith(where) and len(where) >= len(best):
            best, kind = where, fs
    return kind == "tmpfs"


@contextlib.contextmanager
def on_tmpfs(need_bytes: int) -> Iterator[Path]:
    """A folder in memory, so that no disk is measured; emptied when the block ends."""
    shm = Path("/dev/shm")
    if shm.is_dir() and _is_tmpfs(shm) and shutil.disk_usage(shm).free >= need_bytes:
        folder = Path(tempfile.mkdtemp(prefix="p2pcache-bench-", dir=shm))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return
    folder = Path(tempfile.mkdtemp(prefix="p2pcache-bench-"))
    mount = ["mount", "-t", "tmpfs", "-o", f"size={need_bytes}", "tmpfs", str(folder)]
    if subprocess.run(mount, check=False).returncode:
        folder.rmdir()
        raise SystemExit(
            f"error: no tmpfs with {need_bytes // MIB} MiB free\n"
            "hint: make /dev/shm larger (mount -o remount,size=8g /dev/shm), or run as root"
        )
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)
        folder.rmdir()


def environment(**more: str) -> dict[str, str]:
    """This environment without proxies (everything is on loopback) and without foreign settings."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.lower().endswith("_proxy") and not key.startswith(("P2PCACHE_", "HF_"))
    }
    return {**kept, "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", **more}


@dataclass(frozen=True, slots=True)
class Agent:
    """A running agent with a home of its own."""

    pid: int
    env: Mapping[str, str]

    def client(self) -> Client:
        """A connection to it: what a Python program has."""
        from p2pcache import Client

        return Client(self.env["P2PCACHE_HOME"])


def cli(env: Mapping[str, str], *args: str) -> dict[str, Any]:
    """One CLI command with --json; its document. Not for timing."""
    done = subprocess.run(
        [P2PCACHE, *args, "--json"], env=dict(env), capture_output=True, text=True, check=False,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    if done.returncode != 0:
        raise RuntimeError(f"p2pcache {' '.join(args)}: {done.returncode}\n{done.stderr[-2000:]}")
    return last_json(done.stdout)


def last_json(stdout: str) -> dict[str, Any]:
    """The document at the end of a command's output."""
    value = json.loads(stdout.strip().splitlines()[-1])
    if not isinstance(value, dict):
        raise TypeError(f"not a JSON object: {stdout[-200:]!r}")
    return value


@contextlib.contextmanager
def agent(home: Path, module: str | None = None, **more: str) -> Iterator[Agent]:
    """`p2pcache agent run` on `home`, ready, until the block ends; or another agent's `module`."""
    home.mkdir(parents=True, exist_ok=True)
    env = environment(P2PCACHE_HOME=str(home), **more)
    log = home.parent / f"{home.name}.log"
    command = [P2PCACHE, "agent", "run"] if module is None else [sys.executable, "-m", module]
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out
        )
    try:
        deadline = time.monotonic() + AGENT_START_S
        while subprocess.run(
            [P2PCACHE, "status"], env=env, capture_output=True, check=False
        ).returncode:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the agent did not start:\n{log.read_text()[-3000:]}")
            time.sleep(0.1)
        yield Agent(process.pid, env)
    finally:
        stop(process)
