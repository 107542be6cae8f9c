"""Three agents share one download while it runs; then the origin stops, and a fourth gets it all.

All of it on one machine, on loopback only: there is no multicast there, so agents join by token
(on a LAN, mDNS finds those that hold the network's key). What is claimed is checked, by the
origin's own log and by the agents' receipts.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import time
from typing import TYPE_CHECKING, Any

from scripts.demo_stage import (
    MB,
    P2PCACHE,
    Act,
    agent,
    agents,
    headline,
    load_offline,
    run,
    say,
    show,
)
from tests.support.nginx import nginx, static_hub
from tests.support.processes import stop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from tests.support.hub_repo import HubRepo

NAMES = ("one", "two", "three")
LOOPBACK = {"P2PCACHE_NETWORK_HOSTS": "127.0.0.1", "P2PCACHE_NETWORK_MDNS": "off"}
# All of a pull, whoever it gets bytes from: about 20 s, long enough to watch the others get from
# the first what it has so far. Without it they would overtake it at an nginx on this machine.
LIMIT = ("--limit-rate", "14MiB")
MEET_S = 20.0  # to know of each other by the one that both joined
BEGIN_S = 30.0  # for the first bytes of the first
PULL_S = 180.0  # for all three; 25 s on 2 cores
POLL_S = 0.25
HEAD_START = 0.2  # of the bytes are with the first when the others begin


def network_act(folder: Path, repo: HubRepo) -> None:
    """The whole act. Raises SystemExit when something that is claimed does not hold."""
    headline("A network: three agents share one download, a fourth gets it without an origin")
    say("(it begins with empty stores in every run: who has everything has nothing to share)")
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.ExitStack() as stack:
        site = folder / "site"
        extra = static_hub(repo, site)
        with nginx(site, folder / "server", extra=extra) as origin:
            acts = [stage_act(folder, name, repo, origin.url) for name in (*NAMES, "four")]
            stack.enter_context(agents(acts[:3]))
            form(acts[:3])
            headline("The first pulls from the origin; the others get from it what it has so far")
            _share(acts[:3])
            sent = origin.body_bytes()
        headline("What the origin's own log says (nginx access.log)")
        say(f"sent in all: {sent / MB:.1f} MB; the repository: {repo.total_bytes / MB:.1f} MB")
        say(f"three copies without sharing would be {3 * repo.total_bytes / MB:.1f} MB")
        claim(sent < 1.5 * repo.total_bytes, "the origin sent less than one and a half copies")
        _offline(acts, stack, repo)
    for name in NAMES:  # it all held: three more copies are worth nothing to a second run
        shutil.rmtree(folder / name)


def stage_act(folder: Path, name: str, repo: HubRepo, url: str) -> Act:
    """One agent on loopback, with a home of its own below `folder`."""
    expected = {path: file.sha256 for path, file in repo.files.items()}
    return Act(name, folder / name, repo.repo_id, url, (), expected, "", name, LOOPBACK)


def claim(holds: bool, what: str) -> None:
    """Say what holds; SystemExit when it does not."""
    if not holds:
        raise SystemExit(f"error: this does not hold: {what}")
    say(f"ok: {what}")


def _answer(act: Act, *args: str) -> Any:  # noqa: ANN401 - what `--json` prints
    """What a command prints with --json: one document, or a list of its lines."""
    done = subprocess.run(
        [P2PCACHE, *args, "--json"],
        env=act.env(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    return [json.loads(line) for line in done.stdout.splitlines()]


def _wait(true: Callable[[], bool], what: str, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise SystemExit(f"error: not within {seconds:.0f} s: {what}")
        time.sleep(POLL_S)


# -- one network -------------------------------------------------------------------------------


def form(acts: Sequence[Act]) -> None:
    """`init` on the first; the others join it, and hear of each other by themselves."""
    first = acts[0]
    print(run(first, "init"), end="")
    for act in acts[1:]:
        _join(act, first)
    _wait(
        lambda: all(len(_answer(act, "peers")) == len(acts) - 1 for act in acts),
        "each is connected with all others",
        MEET_S,
    )
    print(run(acts[-1], "peers"), end="")
    say("The others were told of the first alone, and found each other.")


def _join(act: Act, host: Act) -> None:
    token = run(host, "invite", "--expires", "10m", "--quiet").strip()
    show(act, "join", f"{token[:24]}...")
    done = subprocess.run(
        [P2PCACHE, "join", "-", "--quiet"], env=act.env(), input=token, text=True, check=False
    )
    if done.returncode != 0:
        raise SystemExit(f"error: p2pcache join ended with status {done.returncode}")


# -- one download ------------------------------------------------------------------------------


@contextlib.contextmanager
def pulling(act: Act, *more: str) -> Iterator[subprocess.Popen[bytes]]:
    """A `get` that runs beside the block."""
    args = ("get", f"hf://{act.repo_id}", "--hf-cache", *more)
    show(act, *args, after=" &")
    process = subprocess.Popen(
        [P2PCACHE, *args], env=act.env(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            stop(process)


def _share(acts: list[Act]) -> None:
    first, *others = acts
    while_first_ran = dict.fromkeys((act.agent for act in others), 0)
    with contextlib.ExitStack() as stack:
        leader = stack.enter_context(pulling(first, *LIMIT))
        _wait(lambda: _progress(first) > HEAD_START, "a fifth of it is with the first", BEGIN_S)
        pulls = [stack.enter_context(pulling(act, *LIMIT)) for act in others]
        deadline = time.monotonic() + PULL_S
        while any(pull.poll() is None for pull in (leader, *pulls)):
            if time.monotonic() > deadline:
                raise SystemExit(f"error: the pulls are not done after {PULL_S:.0f} s")
            seen = {act.agent: _from_peers_now(act) for act in others}
            if leader.poll() is None:  # asked after: what was seen is of a time when it ran
                for name, count in seen.items():
                    while_first_ran[name] = max(while_first_ran[name], count)
            time.sleep(POLL_S)
        for act, pull in zip(acts, (leader, *pulls), strict=True):
            if pull.returncode != 0:
                raise SystemExit(f"error: [{act.agent}] get ended with status {pull.returncode}")
    for act in others:
        early, in_all = while_first_ran[act.agent], from_peers(receipt(act))
        say(
            f"[{act.agent}] {in_all / MB:.1f} MB came from peers, "
            f"{early / MB:.1f} MB of it while the first was still downloading"
        )
        claim(
            early > receipt(act)["total_bytes"] / 10,
            f"[{act.agent}] got bytes from peers while the first was downloading",
        )
        claim(in_all > receipt(act)["total_bytes"] / 2, f"[{act.agent}] got most of it from peers")


def _pull_now(act: Act) -> dict[str, Any]:
    pulls = _answer(act, "status")[0]["pulls"]
    return dict(pulls[0]) if pulls else {}


def _progress(act: Act) -> float:
    pull = _pull_now(act)
    return float(pull.get("done_bytes", 0) / (pull.get("total_bytes") or 1))


def _from_peers_now(act: Act) -> int:
    sources: dict[str, int] = _pull_now(act).get("sources", {})
    return sum(count for name, count in sources.items() if name != "hf")


def receipt(act: Act) -> dict[str, Any]:
    """Of the agent's last pull."""
    return dict(_answer(act, "why", "last")[0])


def from_peers(of: dict[str, Any]) -> int:
    """Bytes, by a receipt."""
    return sum(source["bytes"] for source in of["sources"] if source["kind"] == "peer")


# -- no origin ---------------------------------------------------------------------------------


def _offline(acts: list[Act], stack: contextlib.ExitStack, repo: HubRepo) -> None:
    headline("The origin is stopped. A fourth agent joins by token and asks for the name")
    fourth = acts[-1]
    stack.enter_context(agent(fourth))
    _join(fourth, acts[1])
    run(fourth, "get", f"hf://{repo.repo_id}", "--hf-cache")
    got = receipt(fourth)
    claim(
        from_peers(got) == repo.total_bytes,
        f"[four] all {repo.total_bytes / MB:.1f} MB came from peers; nginx is gone",
    )
    load_offline(fourth)
    for act in acts:
        headline(f"The receipt of agent {act.agent}")
        print(run(act, "why", "last"), end="", flush=True)
    shares = ", ".join(f"{s['name']} {s['bytes'] / MB:.1f} MB" for s in got["sources"])
    say(f"\nThe fourth got: {shares}")
