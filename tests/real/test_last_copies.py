"""Copies that nobody else could give again, with real agents: which evict, and which refuse."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Any

import pytest

from p2pcache import errors
from tests.support.blobs import MIB
from tests.support.network import network, wait_until
from tests.support.watched_pull import at_most

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.agents import Agent

pytestmark = pytest.mark.slow

WHY = "the last known copy: no origin that answers has it"
REPLICA = "one of the copies that a preload keeps"
RELIED_ON = "the copy that others rely on when they evict theirs: no origin that answers has it"


@pytest.fixture(autouse=True)
def bounded() -> Iterator[None]:
    with at_most(60):
        yield


def random_file(path: Path, size: int, seed: int) -> Path:
    path.write_bytes(random.Random(seed).randbytes(size))
    return path


def gc(agent: Agent, target: int = 0, **options: Any) -> dict[str, Any]:
    with agent.client() as client:
        return dict(client.gc(target_bytes=target, **options))


def test_a_copy_that_a_preload_keeps_goes_when_another_agent_took_it_over(tmp_path: Path):
    size = 3 * MIB
    body = random_file(tmp_path / "model.bin", size, 4)
    other = random_file(tmp_path / "other.bin", 6 * MIB, 5)
    with network(tmp_path, 3, settings={"store.capacity": "8 MiB"}) as agents:
        preload = kept_twice(agents, body)
        wait_until(lambda: sum(may_go(a) for a in agents) == 1, "one of three may go")
        gone = next(agent for agent in agents if may_go(agent))
        assert gc(gone)["evicted"] == 1
        wait_until(lambda: holders(agents, preload) == 2, "and all know it")
        leaving = next(agent for agent in agents if agent is not gone)
        assert gc(leaving)["kept"] == {REPLICA: size}, "nobody waits for that room"
        with leaving.client() as client:
            client.push(other)
        assert [entry["total_bytes"] for entry in present(leaving)] == [6 * MIB]
        assert [entry["total_bytes"] for entry in present(gone)] == [size], "it was asked"
        wait_until(lambda: holders(agents, preload) == 2, "there are as many as before")


def test_a_copy_that_nobody_could_take_over_is_refused_at_once(tmp_path: Path):
    size = 3 * MIB
    body = random_file(tmp_path / "model.bin", size, 6)
    other = random_file(tmp_path / "other.bin", 6 * MIB, 7)
    with network(tmp_path, 2, settings={"store.capacity": "8 MiB"}) as agents:
        kept_twice(agents, body)
        began = time.monotonic()
        with agents[0].client() as client, pytest.raises(errors.DiskFull, match=REPLICA):
            client.push(other)
        assert time.monotonic() - began < 8.0, "nobody is waited for"
        assert all(present(agent) for agent in agents)


def kept_twice(agents: list[Agent], body: Path) -> str:
    with agents[0].client() as client:
        client.push(body)
        preload = client.preload(str(body), replicas=2)["id"]
        client.preload_state(preload, watch=True)
    return preload


def may_go(agent: Agent) -> bool:
    return bool(gc(agent, dry_run=True)["evicted"])


def present(agent: Agent) -> list[dict[str, Any]]:
    with agent.client() as client:
        return [dict(entry) for entry in client.ls() if entry["present_bytes"]]


def holders(agents: list[Agent], preload: str) -> int:
    """Of how many agents all say that they have it."""
    told = set()
    for agent in agents:
        with agent.client() as client:
            told.add(client.preload_state(preload)["totals"]["complete"])
    return told.pop() if len(told) == 1 else -1


def kept(agent: Agent) -> list[str | None]:
    with agent.client() as client:
        return [entry.get("kept") for entry in client.ls() if entry["present_bytes"]]


def test_of_what_was_pushed_somewhere_one_copy_stays_whoever_evicts_first(tmp_path: Path):
    size = 3 * MIB
    body = random_file(tmp_path / "model.bin", size, 1)
    with network(tmp_path, 3) as agents:
        with agents[0].client() as client:
            pushed = client.push(body)["manifest"]
            with pytest.raises(errors.UsageError, match="last known copy"):
                client.rm(pushed)
        assert kept(agents[0]) == [WHY]
        answer = gc(agents[0])
        assert (answer["evicted"], answer["kept"]) == (0, {WHY: size})
        for agent in agents[1:]:
            agent.get(pushed)
        wait_until(lambda: WHY not in kept(agents[0]), "it hears that others have it")
        wait_until(lambda: sum(RELIED_ON in kept(agent) for agent in agents) == 1, "all hear")
        dry = [gc(agent, dry_run=True)["kept"] for agent in agents]
        assert sorted(map(str, dry)) == sorted(map(str, [{}, {}, {RELIED_ON: size}]))
        assert sorted(gc(agent)["evicted"] for agent in agents) == [0, 1, 1]
        wait_until(lambda: [WHY] in map(kept, agents), "who has it hears that it is alone")
        assert sum(gc(agent)["evicted"] for agent in agents) == 0
        keeper = next(agent for agent in agents if kept(agent))
        with keeper.client() as client:
            assert client.rm(pushed, force=True)["freed_bytes"] == size


def test_a_store_full_of_last_copies_says_which_and_what_to_do(tmp_path: Path):
    first = random_file(tmp_path / "first.bin", 6 * MIB, 2)
    second = random_file(tmp_path / "second.bin", 6 * MIB, 3)
    with network(tmp_path, 2, each={0: {"store.capacity": "10 MiB"}}) as (small, large):
        with small.client() as client:
            mine = client.push(first)["manifest"]
        with large.client() as client:
            theirs = client.push(second)["manifest"]
        with pytest.raises(errors.DiskFull, match=r"nobody else can give `.*first\.bin`") as caught:
            small.get(theirs)
        assert "rm REF --force" in (caught.value.hint or "")
        with small.client() as client:
            assert client.ls()[0]["present_bytes"] == 6 * MIB
        large.get(mine)
        with small.client() as client:
            client.rm(mine)  # somebody else has it now: that is enough for who says so
        small.get(theirs)
