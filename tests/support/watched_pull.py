"""What tests of whole pulls share: fresh content for each test, and what must not be visible."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
import zlib
from typing import TYPE_CHECKING, Any

from tests.support.agents import REPO, Agent
from tests.support.hub_repo import HubRepo, Recipe, build_repo, lfs, text
from tests.support.processes import stop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from tests.support.hub_stub import HubStub

BLOCK = 1 << 20
# Two streams, so that what travels together does not depend on the cores of the machine; bounds
# short enough to be waited for.
QUICK = {"fetch.no_progress": "1s", "fetch.patience": "3s", "fetch.max_streams": "2"}
WAIT_S = 15.0


def seed_of(name: str) -> int:
    """A number of its own for each test: the agent is shared, so content must not be."""
    return zlib.crc32(name.encode())


def fresh_repo(folder: Path, name: str, recipes: Mapping[str, Recipe] | None = None) -> HubRepo:
    """A repository whose name and bytes no other test has: three small files, two large ones."""
    seed = seed_of(name)
    usual = {
        "a.json": text(f'{{"a": {seed}}}\n'),
        "b.json": text(f'{{"b": {seed}}}\n'),
        "c.json": text(f'{{"c": {seed}}}\n'),
        "first.safetensors": lfs(BLOCK + 1, seed),
        "second.safetensors": lfs(3 * BLOCK + 5, seed + 1),
    }
    return build_repo(folder, usual if recipes is None else recipes, repo_id=f"demo/m{seed}")


def pull(agent: Agent, hub: HubStub, repo: HubRepo, **options: Any) -> dict[str, Any]:
    """`get` of a whole repository. `token`: the caller's."""
    return agent.get(ref_of(repo), credentials=asks(hub, options.pop("token", None)), **options)


def asks(hub: HubStub, token: str | None = None) -> dict[str, str]:
    """Credentials of a call."""
    return {"hf_endpoint": hub.url} | ({} if token is None else {"hf_token": token})


def ref_of(repo: HubRepo) -> str:
    return f"hf://{repo.repo_id}"


def body_paths(hub: HubStub) -> set[str]:
    """Names of the files whose bytes the hub was asked for."""
    return {
        request.path.partition("?")[0].rpartition("/")[2]
        for request in hub.asked
        if "/resolve/" in request.path or "/cdn/" in request.path
    }


def stored(agent: Agent, sha256: str) -> bool:
    """Whether the agent's store shows a blob under this name."""
    return bool(list((agent.home / "blobs-v1").rglob(sha256)))


def shown(folder: Path) -> set[str]:
    """Everything but directories below `folder`."""
    if not folder.exists():
        return set()
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if not p.is_dir()}


def wait_until(true: Callable[[], object], what: str) -> None:
    give_up = time.monotonic() + WAIT_S
    while not true():
        assert time.monotonic() < give_up, f"never: {what}"
        time.sleep(0.02)


@contextlib.contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """Fail a test that would wait for ever: a pull without end is what many faults lead to."""

    def late(*_: object) -> None:
        raise AssertionError(f"no end after {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def other_client(agent: Agent, ref: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process of its own that gets `ref` and can be killed."""
    code = "import sys, p2pcache; p2pcache.Client(sys.argv[1]).get(sys.argv[2])"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(agent.home), ref],
        cwd=REPO, env=agent.env, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield process
    finally:
        stop(process)
