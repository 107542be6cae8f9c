"""What the acts of the demo are made of: commands shown as a user types them, agents, checks."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.processes import stop

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

STATE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "p2pcache-demo"
P2PCACHE = str(Path(sys.executable).parent / "p2pcache")
MB = 1_000_000
START_S = 60.0

OFFLINE_LOAD = """
import hashlib, json, sys, warnings
from pathlib import Path
from huggingface_hub import hf_hub_download, scan_cache_dir, snapshot_download
repo, expected = sys.argv[1], json.loads(sys.argv[2])
folder = Path(snapshot_download(repo))
print("snapshot_download:", folder)
print("hf_hub_download:  ", hf_hub_download(repo, "config.json"))
found = {str(p.relative_to(folder)): p for p in folder.rglob("*") if p.is_file()}
for path, sha256 in expected.items():
    got = hashlib.sha256(found[path].read_bytes()).hexdigest()
    if got != sha256:
        sys.exit(f"{path}: {got}, expected {sha256}")
scan = scan_cache_dir()
if scan.warnings:
    sys.exit(f"scan_cache_dir: {scan.warnings}")
print(f"{len(found)} files, {len(expected)} of them compared by sha256, scan_cache_dir: no warning")
"""


def places(folder: Path) -> dict[str, str]:
    """Where an act keeps its store and its Hugging Face cache: not in the user's own."""
    return {"P2PCACHE_HOME": str(folder / "home"), "HF_HOME": str(folder / "huggingface")}


@dataclass(frozen=True, slots=True)
class Act:
    """One pull of a repository from one endpoint, with a store and an HF cache of its own."""

    title: str
    folder: Path
    repo_id: str
    endpoint: str | None  # None: the Hub itself
    slow: tuple[str, ...]
    expected: dict[str, str]  # sha256 (hex) by path
    remark: str
    agent: str = ""  # its name where the act has several
    settings: Mapping[str, str] = field(default_factory=dict)  # variables of its own

    @property
    def home(self) -> Path:
        return Path(places(self.folder)["P2PCACHE_HOME"])

    def env(self) -> dict[str, str]:
        env = {key: value for key, value in os.environ.items() if not key.startswith("P2PCACHE_")}
        env |= places(self.folder) | dict(self.settings)
        env.pop("HF_HUB_CACHE", None)
        if self.endpoint is not None:
            env["HF_ENDPOINT"] = self.endpoint
            env["NO_PROXY"] = env["no_proxy"] = "127.0.0.1"
        return env


def headline(text: str) -> None:
    print(f"\n=== {text}", flush=True)


def say(text: str) -> None:
    print(text, flush=True)


def show(act: Act, *args: str, after: str = "") -> None:
    """A command as a user would type it, with the agent that it is for."""
    who = f"[{act.agent}] " if act.agent else ""
    say(f"{who}$ p2pcache {shlex.join(args)}{after}")


def run(act: Act, *args: str) -> str:
    """One p2pcache command, shown as a user would type it; its stdout."""
    show(act, *args)
    done = subprocess.run(
        [P2PCACHE, *args], env=act.env(), stdin=subprocess.DEVNULL, text=True, check=False,
        stdout=subprocess.PIPE,
    )  # fmt: skip
    if done.returncode != 0:
        raise SystemExit(f"error: p2pcache {args[0]} ended with status {done.returncode}")
    return done.stdout


def get(act: Act, *more: str) -> dict[str, Any]:
    """`p2pcache get` of the act's repository into its HF cache; the JSON result."""
    args = ("get", f"hf://{act.repo_id}", "--hf-cache", *more, "--json")
    value = json.loads(run(act, *args).strip().splitlines()[-1])
    assert isinstance(value, dict)
    return value


@contextlib.contextmanager
def agent(act: Act) -> Iterator[subprocess.Popen[bytes]]:
    """The daemon, until the block ends (or kills it)."""
    with agents([act]) as (process,):
        yield process


@contextlib.contextmanager
def agents(acts: Sequence[Act]) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Several, which start at once."""
    processes = []
    try:
        for act in acts:
            act.home.mkdir(parents=True, exist_ok=True)
            show(act, "agent", "run", after=" &")
            with (act.folder / "agent.log").open("ab") as out:
                process = subprocess.Popen(
                    [P2PCACHE, "agent", "run"],
                    env=act.env(), stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                )  # fmt: skip
            processes.append(process)
        for act, process in zip(acts, processes, strict=True):
            _wait_ready(act, process)
        yield processes
    finally:
        for process in processes:
            if process.poll() is None:
                stop(process)


def _wait_ready(act: Act, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_S
    while subprocess.run(
        [P2PCACHE, "status"], env=act.env(), capture_output=True, check=False
    ).returncode:
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"error: the agent did not start; see {act.folder / 'agent.log'}")
        time.sleep(0.1)


def load_offline(act: Act) -> None:
    headline("Unmodified huggingface_hub loads it, with HF_HUB_OFFLINE=1")
    env = act.env() | {"HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "http://127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE_LOAD, act.repo_id, json.dumps(act.expected)],
        env=env, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise SystemExit("error: the offline load failed")
