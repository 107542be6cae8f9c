"""Push to peers: real agents on loopback keep so many copies, or it is said how many do."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from p2pcache import errors
from tests.support.agents import REPO
from tests.support.blobs import MIB
from tests.support.hub_repo import build_repo, text
from tests.support.hub_stub import GOOD_TOKEN, hub_stub
from tests.support.network import network, peer_id, wait_until
from tests.support.partial_files import some_bytes
from tests.support.watched_pull import at_most

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.agents import Agent

FILES = {"a.bin": some_bytes(3 * MIB + 5, b"a"), "sub/b.txt": b"hello\n"}
SIZE = sum(map(len, FILES.values()))


@pytest.fixture(autouse=True)
def bounded() -> Iterator[None]:
    with at_most(120):
        yield


@pytest.fixture(scope="module")
def agents(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Agent]]:
    with ExitStack() as stack:
        yield stack.enter_context(network(tmp_path_factory.mktemp("net"), 4))


def folder(tmp_path: Path, name: str) -> Path:
    """A folder with content of its own."""
    for path, body in {**FILES, "name": name.encode()}.items():
        (tmp_path / name / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name / path).write_bytes(body)
    return tmp_path / name


def push(agent: Agent, what: Path | str, **options: Any) -> dict[str, Any]:
    with agent.client() as client:
        return dict(client.push(what, "peers", **options))


def gone(agent: Agent, what: Path) -> bool:
    """Whether its copy went, which it does as soon as the agent has looked who has one."""
    with agent.client() as client:
        try:
            return client.rm(str(what))["freed_bytes"] > 0
        except errors.UsageError:
            return False


def holders(agents: list[Agent], manifest: str) -> set[str]:
    """Who has all of it, by its own word."""
    found = set()
    for agent in agents:
        with agent.client() as client:
            rows = [row for row in client.ls() if row["manifest"] == manifest]
            if any(row["present_bytes"] == row["total_bytes"] for row in rows):
                found.add(peer_id(agent))
    return found


def test_so_many_others_have_it_when_push_returns_and_keep_it(
    agents: list[Agent], tmp_path: Path
) -> None:
    what = folder(tmp_path, "two")
    seen: list[int] = []
    dry = push(agents[0], what, replicas=2, dry_run=True)["to"]
    size = SIZE + len(b"two")
    assert (dry["missing_bytes"], dry["missing_objects"], dry["dry_run"]) == (2 * size, 6, True)
    with agents[0].client() as client:
        assert client.preloads() == []
        done = client.push(
            what, "peers", replicas=2, on_progress=lambda p: seen.append(p.get("done_bytes", 0))
        )
    others = holders(agents[1:], done["manifest"])
    assert len(others) == 2
    assert done["to"] is not None
    assert (done["to"]["sent_bytes"], done["to"]["destination"]) == (2 * size, "peers")
    assert done["to"]["ref"] == done["manifest"]
    with agents[0].client() as client:
        (preload,) = client.preloads()
    wait_until(lambda: gone(agents[0], what), "others have it: ours is free to go")
    for agent in agents[1:]:
        with agent.client() as client:
            client.gc(target_bytes=0)
    assert holders(agents[1:], done["manifest"]) == others, "no eviction takes these copies"
    assert (preload["replicas"], preload["nodes"]) == (2, "3")


def test_again_it_sends_nothing_and_joins_what_is_there(
    agents: list[Agent], tmp_path: Path
) -> None:
    what = folder(tmp_path, "again")
    first = push(agents[1], what, replicas=3)
    with agents[1].client() as client:
        before = len(client.preloads())
        wait_until(
            lambda: push(agents[1], what, replicas=3, dry_run=True)["to"]["missing_bytes"] == 0,
            "it is known who has it",
        )
        again = push(agents[1], what, replicas=3)
        assert len(client.preloads()) == before
    assert again["to"]["sent_bytes"] == 0
    assert len(holders(agents, first["manifest"])) == 4


def test_too_few_agents_are_said_before_anything_is_asked_of_them(
    agents: list[Agent], tmp_path: Path
) -> None:
    what = folder(tmp_path, "few")
    argv = [sys.executable, "-m", "p2pcache", "push", str(what), "peers", "--replicas", "9"]
    done = subprocess.run(
        argv, cwd=REPO, env=agents[0].env, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == errors.Unavailable.exit_code
    assert "9 copies need as many other agents, and 3 are here" in done.stderr
    manifest = push_here(agents[0], what)
    assert holders(agents[1:], manifest) == set()
    for bad in ({}, {"replicas": 0}, {"replicas": 10**9}):
        with pytest.raises(errors.UsageError, match="a number of agents"):
            push(agents[0], what, **bad)


def push_here(agent: Agent, what: Path) -> str:
    with agent.client() as client:
        return str(client.push(what)["manifest"])


def test_what_is_gated_goes_to_nobody_who_may_not_read_it(tmp_path: Path) -> None:
    repo = build_repo(tmp_path / "repo", {"config.json": text('{"gated": 1}')})
    with hub_stub(repo) as hub, network(tmp_path, 2, env={"HF_ENDPOINT": hub.url}) as (one, two):
        hub.gated.add(repo.repo_id)
        login = {"hf_token": GOOD_TOKEN, "hf_endpoint": hub.url}
        with pytest.raises(errors.Denied, match="gated or private"):
            push(one, f"hf://{repo.repo_id}", replicas=1, credentials=login)
        with pytest.raises(errors.Denied, match="may not read it"):
            push(one, f"hf://{repo.repo_id}", replicas=1, credentials=login, allow_gated=True)
        with two.client() as client:
            assert client.ls() == []
        assert GOOD_TOKEN not in json.dumps(one.why())
