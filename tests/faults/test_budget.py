"""The byte budget holds for every kind of file, and never at the cost of what is being used."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from p2pcache import errors
from tests.support.agents import Agent, running_agent
from tests.support.blobs import MIB, write_blob
from tests.support.hub_repo import build_repo, lfs, many_small_files
from tests.support.hub_stub import hub_stub
from tests.support.nginx import nginx
from tests.support.pulling import Pull
from tests.support.watched_pull import shown

if TYPE_CHECKING:
    from pathlib import Path


def used_bytes(agent: Agent) -> int:
    with agent.client() as client:
        return client.status()["store"]["used_bytes"]


def small_files(folder: Path, count: int, size: int) -> Path:
    for number in range(count):
        write_blob(folder, size, seed=number)
    return folder


def test_small_files_do_not_get_past_the_budget(tmp_path: Path) -> None:
    folder = small_files(tmp_path / "many", 60, 200_000)
    with running_agent(tmp_path, settings={"store.capacity": "1 MiB"}) as agent:
        with agent.client() as client, pytest.raises(errors.DiskFull, match="its budget is"):
            client.push(str(folder))
        assert used_bytes(agent) <= MIB


def test_small_files_leave_the_reserve_of_the_disk_alone(tmp_path: Path) -> None:
    folder = small_files(tmp_path / "few", 2, 1000)
    with (
        running_agent(tmp_path, P2PCACHE_STORE_RESERVE="1000 TiB") as agent,
        agent.client() as client,
        pytest.raises(errors.DiskFull, match="reserved"),
    ):
        client.push(str(folder))


def test_after_a_pull_the_watermarks_hold(tmp_path: Path) -> None:
    sizes = [3 * MIB, 3 * MIB, 3 * MIB, MIB - MIB // 8]
    blobs = [write_blob(tmp_path / "origin", size, seed) for seed, size in enumerate(sizes)]
    with (
        nginx(tmp_path / "origin", tmp_path / "nginx") as server,
        running_agent(tmp_path, settings={"store.capacity": "10 MiB"}) as agent,
    ):
        for blob in blobs[:3]:
            agent.get(blob.ref(server))
        assert used_bytes(agent) == 9 * MIB, "below the high watermark nothing goes"
        agent.get(blobs[3].ref(server))
        assert used_bytes(agent) <= 8.5 * MIB
        kept = {path.name for path in (agent.home / "blobs-v1").glob("*/*")}
        assert kept == {blob.sha256 for blob in blobs[1:]}, "the oldest went"


def test_what_a_pull_brought_is_not_evicted_before_it_is_placed(tmp_path: Path) -> None:
    """Small files of a hub are known by a git id until they are here: they are held as well."""
    recipes = {**many_small_files(20), "model.safetensors": lfs(5 * MIB, 1)}
    repo = build_repo(tmp_path / "repo", recipes)
    other = write_blob(tmp_path / "origin", 3 * MIB)
    with (
        hub_stub(repo) as hub,
        nginx(tmp_path / "origin", tmp_path / "nginx") as server,
        running_agent(tmp_path, settings={"store.capacity": "8 MiB"}) as agent,
    ):
        options = {"credentials": {"hf_endpoint": hub.url}, "to": str(tmp_path / "out")}
        with Pull(agent, f"hf://{repo.repo_id}", limit_rate=MIB, **options) as pull:
            pull.wait_bytes(repo.total_bytes - 5 * MIB + MIB)
            with pytest.raises(errors.DiskFull, match="part of a running pull"):
                agent.get(other.ref(server))
        assert pull.error is None
        assert shown(tmp_path / "out") == set(repo.files)


def test_an_offline_get_that_cannot_be_had_evicts_nothing(tmp_path: Path) -> None:
    first, second = (write_blob(tmp_path / "origin", 6 * MIB, seed) for seed in (1, 2))
    settings = {"store.capacity": "8 MiB", "resolve.ttl": "1h"}
    with (
        nginx(tmp_path / "origin", tmp_path / "nginx") as server,
        running_agent(tmp_path, settings=settings) as agent,
        agent.client() as client,
    ):
        for blob in (first, second):
            agent.get(blob.ref(server))
        with pytest.raises(errors.NotFound):
            client.get(first.ref(server), offline=True)
        assert (agent.home / "blobs-v1" / second.sha256[:2] / second.sha256).exists()
