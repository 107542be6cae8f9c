"""The largest, the smallest and the most: an empty file, many GiB, five thousand files."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from tests.support.agents import running_agent
from tests.support.blobs import MIB, sha256_file, write_blob
from tests.support.hub_repo import Recipe, build_repo, many_small_files
from tests.support.nginx import nginx, static_hub
from tests.support.proctable import tree_pss_bytes
from tests.support.pulling import Pull


def test_an_empty_file(tmp_path: Path):
    empty = write_blob(tmp_path / "origin", 0)
    with (
        nginx(tmp_path / "origin", tmp_path / "nginx") as server,
        running_agent(tmp_path) as agent,
    ):
        for ref in (empty.ref(server), f"{server.url}/{empty.path.name}"):
            done = agent.get(ref, to=str(tmp_path / "out"))
            assert Path(done["path"]).read_bytes() == b""
        assert agent.get(empty.ref(server), offline=True)["fetched_bytes"] == 0
        with agent.client() as client:
            assert client.verify()["bad"] == []


@pytest.mark.slow
def test_five_thousand_small_files(tmp_path: Path):
    recipes = many_small_files(5_000)
    recipes["empty.txt"] = Recipe(data=b"")
    repo = build_repo(tmp_path / "repo", recipes)
    extra = static_hub(repo, tmp_path / "site")
    with (
        nginx(tmp_path / "site", tmp_path / "nginx", extra=extra) as server,
        running_agent(tmp_path) as agent,
    ):
        options = {"credentials": {"hf_endpoint": server.url}, "to": str(tmp_path / "out")}
        done = agent.get("hf://demo/model", **options)
        assert done["files"] == 5_001
        assert done["fetched_bytes"] == repo.total_bytes
        for path, file in repo.files.items():
            assert sha256_file(tmp_path / "out" / path) == file.sha256, path
        asked = len(server.requests())
        again = agent.get("hf://demo/model", **options)
        assert again["fetched_bytes"] == 0
        assert again["reused_bytes"] == repo.total_bytes
        files = [r for r in server.requests()[asked:] if "/resolve/" in r.uri]
        assert files == [], "not one file was asked for again"


# `head -c 20G /dev/zero | sha256sum`, and so on
SPARSE = {
    20 << 30: "6cb118a8f8b3c19385874297e291dcbcdf3a9837ba1ca7b00ace2491adbff551",
    8 << 30: "ebfb4ef19ae410f190327b5ebd312711263bc7579970e87d9c1e2d84e06b3c25",
    4 << 30: "8479e43911dc45e89f934fe48d01297e16f51d17aa561d4d1c216b1ae0fcddca",
}
STREAMS = 2


# From 8 GiB on pieces are as large as they get: 512 of them, or 1280 in two minutes of two cores.
@pytest.mark.slow
@pytest.mark.parametrize("gib", [8, pytest.param(20, marks=pytest.mark.lab)])
def test_memory_stays_flat_for_many_gib(tmp_path: Path, gib: int):
    # what arrives is not sparse: a machine with a small disk gets the smaller blob
    free = shutil.disk_usage(tmp_path).free
    fits = [size for size in SPARSE if size <= gib << 30 and size + 2 * (1 << 30) < free]
    size = max(fits, default=4 << 30)
    sha256 = SPARSE[size]
    origin = tmp_path / "origin"
    origin.mkdir()
    sparse = origin / "zeros.bin"
    with sparse.open("wb") as file:
        file.truncate(size)
    with (
        nginx(origin, tmp_path / "nginx") as server,
        running_agent(tmp_path, settings={"fetch.max_streams": str(STREAMS)}) as agent,
    ):
        assert agent.process is not None
        idle = tree_pss_bytes(agent.process.pid)
        peak = idle
        with Pull(agent, f"{server.url}/zeros.bin#sha256={sha256}", patience_s=900) as pull:
            while pull.answer is None and pull.error is None:
                peak = max(peak, tree_pss_bytes(agent.process.pid))
                time.sleep(0.25)
        assert pull.error is None
        assert pull.answer is not None
        assert pull.answer["fetched_bytes"] == size
        (agent.home / "blobs-v1" / sha256[:2] / sha256).unlink()
        print(f"{size >> 30} GiB: idle {idle >> 20} MiB, peak {peak >> 20} MiB")
        assert peak - idle <= 64 * MIB + STREAMS * 32 * MIB
