"""The main job on real input: pull a model, kill the agent half-way, resume, load it offline.

    scripts/demo                  a repository of about 300 MB, made here, from two real servers
    scripts/demo hf://org/name    the same against the Hugging Face Hub, for whoever has internet
    scripts/demo --fresh          forget what an earlier demo kept

State stays in ${XDG_CACHE_HOME:-~/.cache}/p2pcache-demo, so a second run moves no bytes.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.hub_repo import Recipe, build_repo, lfs, text
from tests.support.nginx import nginx, static_hub
from tests.support.olah import olah
from tests.support.processes import stop

if TYPE_CHECKING:
    from collections.abc import Iterator

STATE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "p2pcache-demo"
P2PCACHE = str(Path(sys.executable).parent / "p2pcache")
REPO_ID = "demo/model"
MB = 1_000_000
RECIPES = {
    "README.md": text("---\nlicense: apache-2.0\n---\n# demo/model\n\nRandom weights.\n"),
    "config.json": text('{"model_type": "demo", "hidden_size": 64}\n'),
    "model-00001-of-00002.safetensors": lfs(140 * MB, 1),
    "model-00002-of-00002.safetensors": lfs(140 * MB, 2),
    "tokenizer/merges.txt": Recipe(size=2 * MB, seed=3),
    "tokenizer/added_tokens.json": text("{}\n"),
    "empty.txt": text(""),
}
START_S = 60.0
HALF_WAY_S = 600.0  # the real Hub over a slow line
# nginx on this machine would be done before anybody could kill anything.
SLOW = ("--limit-rate", "60MiB")

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

    @property
    def home(self) -> Path:
        return Path(places(self.folder)["P2PCACHE_HOME"])

    def env(self) -> dict[str, str]:
        env = {key: value for key, value in os.environ.items() if not key.startswith("P2PCACHE_")}
        env |= places(self.folder)
        env.pop("HF_HUB_CACHE", None)
        if self.endpoint is not None:
            env["HF_ENDPOINT"] = self.endpoint
            env["NO_PROXY"] = env["no_proxy"] = "127.0.0.1"
        return env


def headline(text: str) -> None:
    print(f"\n=== {text}", flush=True)


def say(text: str) -> None:
    print(text, flush=True)


def run(act: Act, *args: str) -> str:
    """One p2pcache command, shown as a user would type it; its stdout."""
    say(f"$ p2pcache {shlex.join(args)}")
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
    act.home.mkdir(parents=True, exist_ok=True)
    log = act.folder / "agent.log"
    say("$ p2pcache agent run &")
    with log.open("ab") as out:
        process = subprocess.Popen(
            [P2PCACHE, "agent", "run"],
            env=act.env(), stdin=subprocess.DEVNULL, stdout=out, stderr=out,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + START_S
        while subprocess.run(
            [P2PCACHE, "status"], env=act.env(), capture_output=True, check=False
        ).returncode:
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"error: the agent did not start; see {log}")
            time.sleep(0.1)
        yield process
    finally:
        if process.poll() is None:
            stop(process)


def on_disk_bytes(folder: Path) -> int:
    """What the store really occupies: a partial file is sparse."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            if path.name == "data" or "blobs-v1" in path.parts:
                total += path.stat().st_blocks * 512
    return total


def interrupt_half_way(act: Act, missing: int) -> None:
    """Start the pull, wait until half of it is on disk, end the agent with SIGKILL."""
    had = on_disk_bytes(act.home)
    with agent(act) as process:
        args = ("get", f"hf://{act.repo_id}", "--hf-cache", *act.slow)
        say(f"$ p2pcache {shlex.join(args)}")
        pull = subprocess.Popen([P2PCACHE, *args], env=act.env(), stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + HALF_WAY_S
        while (arrived := on_disk_bytes(act.home) - had) < missing // 2:
            if pull.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"error: the pull ended ({pull.returncode}) before half of it")
            time.sleep(0.02)
        say(f"$ kill -KILL {process.pid}        # {arrived / MB:.0f} MB have arrived")
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        say(f"the waiting `p2pcache get` ended with status {pull.wait(60)}")


def load_offline(act: Act) -> None:
    headline("Unmodified huggingface_hub loads it, with HF_HUB_OFFLINE=1")
    env = act.env() | {"HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "http://127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE_LOAD, act.repo_id, json.dumps(act.expected)],
        env=env, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise SystemExit("error: the offline load failed")


def perform(act: Act) -> int:
    """The whole act; the bytes that the finishing `get` fetched."""
    headline(act.title)
    with agent(act):
        missing = int(get(act, "--dry-run")["dry_run"]["missing_bytes"])
    say(f"to fetch: {missing / MB:.1f} MB")
    if missing:
        interrupt_half_way(act, missing)
        headline("A new agent, the same command: what was verified is kept")
    with agent(act):
        result = get(act)
        fetched = int(result["fetched_bytes"])
        say(f"fetched {fetched / MB:.1f} MB of {int(result['total_bytes']) / MB:.1f} MB now")
        if missing:
            say(act.remark)
        load_offline(act)
        headline("The receipt")
        print(run(act, "why", "last"), end="", flush=True)
    return fetched


def local_demo() -> None:
    headline(f"A repository of about 300 MB (kept in {STATE})")
    repo = build_repo(STATE / "origin", RECIPES, repo_id=REPO_ID)
    say(f"{REPO_ID}@{repo.commit[:12]}: {len(repo.files)} files, {repo.total_bytes / MB:.1f} MB")
    expected = {path: file.sha256 for path, file in repo.files.items()}
    moved = {}
    with olah(repo, STATE / "olah" / "server") as server:
        moved["olah"] = perform(
            Act(
                "olah, a Hugging Face mirror that other people wrote",
                STATE / "olah",
                REPO_ID,
                server.url,
                (),
                expected,
                "olah ignores Range: it sends a file that was cut from its first byte again. "
                "Files that were finished are not asked for again.",
            )
        )
    site = STATE / "nginx" / "site"
    shutil.rmtree(site, ignore_errors=True)
    with nginx(site, STATE / "nginx" / "server", extra=static_hub(repo, site)) as fast:
        moved["nginx"] = perform(
            Act(
                "nginx, which honours Range (a second, empty store)",
                STATE / "nginx",
                REPO_ID,
                fast.url,
                SLOW,
                expected,
                "nginx honours Range: only the blocks that were missing were asked for.",
            )
        )
    finish(moved, STATE / "nginx")


def exports(folder: Path) -> list[str]:
    """What a shell needs to see the store and the Hugging Face cache that an act left behind."""
    return [f"export {name}={shlex.quote(value)}" for name, value in places(folder).items()]


def finish(moved: dict[str, int], folder: Path) -> None:
    headline("Done")
    for name, fetched in moved.items():
        say(f"{name}: the last get fetched {fetched} bytes")
    if any(moved.values()):
        say("Run scripts/demo again: the store is kept, and no bytes move.")
    say("To go on in this shell with what is kept (the README's quickstart):")
    for line in exports(folder):
        say(f"  {line}")


def hub_demo(ref: str) -> None:
    repo_id = ref.removeprefix("hf://")
    key = hashlib.sha256(repo_id.encode()).hexdigest()[:12]
    act = Act(
        f"{ref} from the Hugging Face Hub", STATE / f"hub-{key}", repo_id, None, (), {},
        "The Hub honours Range: only the blocks that were missing were asked for.",
    )  # fmt: skip
    finish({"hub": perform(act)}, act.folder)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="scripts/demo",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("ref", nargs="?", help="hf://org/name: pull it from the real Hub")
    parser.add_argument("--fresh", action="store_true", help="forget what an earlier demo kept")
    args = parser.parse_args()
    if args.ref is not None and not args.ref.startswith("hf://"):
        parser.error("a ref looks like hf://org/name")
    if args.fresh:
        shutil.rmtree(STATE, ignore_errors=True)
    STATE.mkdir(parents=True, exist_ok=True)
    if args.ref is None:
        local_demo()
    else:
        hub_demo(args.ref)


if __name__ == "__main__":
    main()
