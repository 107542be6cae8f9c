"""A hub and an agent for all tests of pointer files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.agents import Agent, running_agent
from tests.support.faulty_http import FaultyServer
from tests.support.hub_repo import HubRepo, build_repo
from tests.support.hub_stub import HubStub, hub_stub

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="package")
def repo(tmp_path_factory: pytest.TempPathFactory) -> HubRepo:
    return build_repo(tmp_path_factory.mktemp("repo"))


@pytest.fixture(scope="package")
def hub(repo: HubRepo) -> Iterator[HubStub]:
    with hub_stub(repo) as stub:
        yield stub


@pytest.fixture(scope="package")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    with running_agent(tmp_path_factory.mktemp("agent")) as running:
        yield running


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with FaultyServer() as running:
        yield running


@pytest.fixture
def here(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> Agent:
    """The agent is that of this process' commands and of `p2pcache.truss`."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("P2PCACHE_HOME", str(agent.home))
    monkeypatch.setenv("HF_HOME", agent.env["HF_HOME"])
    return agent
