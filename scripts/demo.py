"""The main job on real input: pull a model, kill the agent half-way, resume, load it offline.

Then three agents share one download, and a fourth gets the model with no origin at all. At the end
five agents start together on an empty network, and the origin sends one copy.

    scripts/demo                  a repository of about 300 MB, made here, from two real servers
    scripts/demo hf://org/name    the same against the Hugging Face Hub, for whoever has internet
    scripts/demo --fresh          forget what an earlier demo kept

State stays in ${XDG_CACHE_HOME:-~/.cache}/p2pcache-demo, so a second run moves no bytes; only the
network acts begin anew each time, as agents that have everything would have nothing to share.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from scripts.demo_network import network_act
from scripts.demo_stage import (
    MB,
    P2PCACHE,
    STATE,
    Act,
    agent,
    get,
    headline,
    load_offline,
    places,
    run,
    say,
)
from scripts.demo_swarm import swarm_act
from tests.support.hub_repo import Recipe, build_repo, lfs, text
from tests.support.nginx import nginx, static_hub
from tests.support.olah import olah

REPO_ID = "demo/model"
RECIPES = {
    "README.md": text("---\nlicense: apache-2.0\n---\n# demo/model\n\nRandom weights.\n"),
    "config.json": text('{"model_type": "demo", "hidden_size": 64}\n'),
    "model-00001-of-00002.safetensors": lfs(140 * MB, 1),
    "model-00002-of-00002.safetensors": lfs(140 * MB, 2),
    "tokenizer/merges.txt": Recipe(size=2 * MB, seed=3),
    "tokenizer/added_tokens.json": text("{}\n"),
    "empty.txt": text(""),
}
HALF_WAY_S = 600.0  # the real Hub over a slow line
# nginx on this machine would be done before anybody could kill anything.
SLOW = ("--limit-rate", "60MiB")


def on_disk_bytes(folder: Path) -> int:
    """What the store really occupies: a partial file is sparse."""
    total = 0
    for where, _, names in os.walk(folder):  # unlike `rglob` it bears that folders go meanwhile
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                if name == "data" or "blobs-v1" in Path(where).parts:
                    total += (Path(where) / name).stat().st_blocks * 512
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
    network_act(STATE / "network", repo)
    swarm_act(STATE / "swarm", repo)
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
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the agents and servers end with us
    STATE.mkdir(parents=True, exist_ok=True)
    if args.ref is None:
        local_demo()
    else:
        hub_demo(args.ref)


if __name__ == "__main__":
    main()
