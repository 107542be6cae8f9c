"""Copies that nobody else could give again, with real agents: which evict, and which refuse."""

from __future__ import annotations

import random
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

WHY = "the last known copy: its origin cannot be reached"
RELIED_ON = "the copy that others rely on when they evict theirs: no origin can be reached"


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
