"""One MinIO, one agent and one hub for all tests of hf-cache-sync's buckets."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest

from p2pcache.cli.main import main
from tests.support.agents import Agent, running_agent
from tests.support.blobs import MIB
from tests.support.bucket_team import (
    OFFLINE,
    Make,
    Run,
    Team,
)
from tests.support.hub_repo import HubRepo, build_repo, lfs, text
from tests.support.hub_stub import HubStub, hub_stub
from tests.support.minio import Minio, minio

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

APACHE = text("                Apache License\n    ... under the terms of this agreement ...\n")


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Minio]:
    with minio(tmp_path_factory.mktemp("minio")) as running:
        yield running


@pytest.fixture(scope="package")
def repo(tmp_path_factory: pytest.TempPathFactory) -> HubRepo:
    return build_repo(tmp_path_factory.mktemp("repo"))


@pytest.fixture(scope="package")
def twin(tmp_path_factory: pytest.TempPathFactory) -> HubRepo:
    """A dataset of the model's name."""
    recipes = {"data.csv": text("a,b\n"), "big.bin": lfs(70_000, 9)}
    return build_repo(tmp_path_factory.mktemp("twin"), recipes, repo_type="dataset")


@pytest.fixture(scope="package")
def under(tmp_path_factory: pytest.TempPathFactory) -> HubRepo:
    """Its name has the sign that hf-cache-sync writes for a slash."""
    root = tmp_path_factory.mktemp("under")
    return build_repo(root, {"LICENSE": APACHE, "w.bin": lfs(5_000, 7)}, repo_id="org/my__model")


@pytest.fixture(scope="package")
def hub(repo: HubRepo, twin: HubRepo, under: HubRepo) -> Iterator[HubStub]:
    with hub_stub(repo, twin, under) as stub:
        yield stub


@pytest.fixture(scope="package")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    with running_agent(tmp_path_factory.mktemp("agent"), **OFFLINE) as running:
        yield running


@pytest.fixture(scope="package")
def versions(tmp_path_factory: pytest.TempPathFactory) -> list[HubRepo]:
    """Three commits of one repository, each with 1 MiB of its own and 1 MiB that all share."""
    return [
        build_repo(
            tmp_path_factory.mktemp(f"v{n}"),
            {"shared.bin": lfs(MIB, 100), "own.bin": lfs(MIB, 200 + n)},
        )
        for n in range(3)
    ]


@pytest.fixture
def make(server: Minio, agent: Agent, hub: HubStub, tmp_path: Path) -> Make:
    names = iter(range(10))

    def one(**fields: Any) -> Team:
        name = f"b{abs(hash(tmp_path)) % 10**9}-{next(names)}"
        folder = tmp_path / name
        folder.mkdir()
        return Team(server, name, folder, agent, hub, server.bucket(name), **fields)

    return one


@pytest.fixture
def run(make: Make, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Team, Run]]:
    """A bucket, and the commands of this process on it: by the file in the working directory."""

    def on(**fields: Any) -> tuple[Team, Run]:
        team = make(**fields)
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "B2_BUCKET", "AWS_PROFILE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("P2PCACHE_HOME", str(team.agent.home))
        monkeypatch.setenv("HF_HUB_CACHE", str(team.ours))
        monkeypatch.setenv("HF_ENDPOINT", team.hub.url)
        shutil.copyfile(team.settings, team.folder / ".hf-cache-sync.yaml")
        monkeypatch.chdir(team.folder)
        return team, lambda *args: main(["bucket", *args])

    return on
