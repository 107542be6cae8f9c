"""`get <cid>` out of a real Kubo: alone, beside peers, and what a Kubo may do wrong."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from p2pcache import errors
from tests.support.agents import running_agent
from tests.support.blobs import sha256_file, write_blob
from tests.support.kubo_daemon import kubo_daemon
from tests.support.watched_pull import at_most

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.kubo_daemon import KuboDaemon

pytestmark = pytest.mark.slow

MIB = 1 << 20
MISSING = "bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi"


@pytest.fixture(scope="module")
def kubo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KuboDaemon]:
    repo = tmp_path_factory.mktemp("kubo") / "repo"
    repo.mkdir()
    with kubo_daemon(repo, None, gateway=True, profile="unixfs-v1-2025") as daemon:
        yield daemon


def settings(kubo: KuboDaemon) -> dict[str, str]:
    return {"network.enabled": "off", "ipfs.kubo": str(kubo.repo)}


def sources(why: dict) -> dict[str, dict]:
    return {source["name"]: source for source in why["sources"]}


@pytest.mark.parametrize("size", [0, 5, MIB, MIB + 1, 40 * MIB + 7])
def test_a_file_comes_from_kubo_by_its_cid(tmp_path: Path, kubo: KuboDaemon, size: int):
    file = write_blob(tmp_path, size)
    root = kubo.add(file.path)
    with at_most(60), running_agent(tmp_path / "a", settings=settings(kubo)) as agent:
        answer = agent.get(f"ipfs://{root}", to=str(tmp_path / "out"))
        assert sha256_file(tmp_path / "out" / answer["path"]) == file.sha256
        assert answer["fetched_bytes"] == size
        used = sources(agent.why())["kubo"]
        assert (used["kind"], used["bytes"], used["outcome"]) == ("kubo", size, "used")
        again = agent.get(root, offline=True)
        assert again["fetched_bytes"] == 0


def folder(where: Path) -> dict[str, str]:
    files = {"big.bin": 3 * MIB + 1, "a/small.txt": 100, "a/b/empty": 0, "a/b/one": MIB}
    made = {}
    for number, (path, size) in enumerate(files.items()):
        blob = write_blob(where.parent / "parts", size, seed=number)
        (where / path).parent.mkdir(parents=True, exist_ok=True)
        blob.path.rename(where / path)
        made[path] = blob.sha256
    return made


def test_a_folder_and_a_path_in_it(tmp_path: Path, kubo: KuboDaemon):
    files = folder(tmp_path / "folder")
    root = kubo.add(tmp_path / "folder")
    with at_most(60), running_agent(tmp_path / "a", settings=settings(kubo)) as agent:
        with agent.client() as client:
            listed = client.resolve(f"{root}/a")
        assert {f["path"] for f in listed["files"]} == {"a/small.txt", "a/b/empty", "a/b/one"}
        answer = agent.get(f"{root}/big.bin", to=str(tmp_path / "one"))
        assert sha256_file(tmp_path / "one" / "big.bin") == files["big.bin"]
        answer = agent.get(f"ipfs://{root}", to=str(tmp_path / "all"))
        assert answer["manifest"] is not None
        assert {p: sha256_file(tmp_path / "all" / p) for p in files} == files
        assert answer["fetched_bytes"] == MIB + 100, "the large file was here"
    with running_agent(tmp_path / "a", settings={"network.enabled": "off"}) as agent:
        answer = agent.get(root, to=str(tmp_path / "again"))
        assert answer["manifest"] is not None
        assert {p: sha256_file(tmp_path / "again" / p) for p in files} == files


def test_what_kubo_does_not_have_costs_at_most_250_ms(tmp_path: Path, kubo: KuboDaemon):
    with at_most(60), running_agent(tmp_path / "a", settings=settings(kubo)) as agent:
        for _ in range(3):
            began = time.monotonic()
            with pytest.raises(errors.NotFound, match="Kubo"):
                agent.get(MISSING)
            took_s = time.monotonic() - began
        assert took_s < 0.25
