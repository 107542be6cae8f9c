"""Preloads with real agents on loopback: who gets it, from where, and what interrupts it."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from p2pcache import errors
from tests.support.agents import running_agent
from tests.support.blobs import MIB
from tests.support.hub_repo import HubRepo, build_repo, lfs, text
from tests.support.network import LOOPBACK, join, knows, network, peer_id, wait_until
from tests.support.nginx import nginx, static_hub
from tests.support.watched_pull import at_most

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.agents import Agent
    from tests.support.nginx import Nginx

pytestmark = pytest.mark.slow

REF = "hf://demo/model"
SLOW = 3 * MIB  # bytes/s of each connection to the hub: one agent has one


@pytest.fixture(autouse=True)
def bounded() -> Iterator[None]:
    with at_most(120):
        yield


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> HubRepo:
    files = {
        "config.json": text('{"a": 1}\n'),
        "one.safetensors": lfs(24 * MIB + 5, 7),
        "two.safetensors": lfs(8 * MIB, 8),
    }
    return build_repo(tmp_path_factory.mktemp("repo"), files)


@contextmanager
def hub_of(folder: Path, repo: HubRepo, rate: int | None = SLOW) -> Iterator[Nginx]:
    site = folder / "site"
    extra = static_hub(repo, site)
    with nginx(site, folder / "nginx", extra=extra, limit_rate_bytes_per_s=rate) as hub:
        yield hub


def start(agent: Agent, **options: Any) -> str:
    credentials = {"hf_endpoint": agent.env["HF_ENDPOINT"]}
    with agent.client() as client:
        return client.preload(REF, credentials=credentials, **options)["id"]


def watched(agent: Agent, preload: str, on_progress: Any = None) -> dict[str, Any]:
    with agent.client() as client:
        return dict(client.preload_state(preload, watch=True, on_progress=on_progress))


def state_of(agent: Agent, preload: str) -> dict[str, Any]:
    with agent.client() as client:
        return dict(client.preload_state(preload))


def own(agent: Agent, preload: str) -> dict[str, Any]:
    return next(line for line in state_of(agent, preload)["agents"] if line["self"])


def has_it(agent: Agent, repo: HubRepo) -> bool:
    with agent.client() as client:
        return any(
            entry["present_bytes"] == entry["total_bytes"] == repo.total_bytes
            for entry in client.ls()
        )


def test_all_get_it_with_about_one_origin_copy(tmp_path: Path, repo: HubRepo):
    with (
        hub_of(tmp_path, repo) as hub,
        network(tmp_path, 4, env={"HF_ENDPOINT": hub.url}) as agents,
    ):
        seen: list[dict[str, Any]] = []
        state = watched(agents[1], start(agents[1]), lambda p: seen.append(dict(p)))
        assert state["over"]
        assert [line["state"] for line in state["agents"]] == ["complete"] * 4
        assert state["totals"]["complete"] == state["totals"]["agents"] == 4
        assert all(has_it(agent, repo) for agent in agents)
        copies = hub.body_bytes() / repo.total_bytes
        assert copies <= 1.10, copies
        assert state["totals"]["origin_copies"] == pytest.approx(copies, abs=0.05)
        moving = [p for p in seen if "totals" in p and p["totals"]["bytes_per_s"] > 0]
        assert any(p["totals"]["eta_s"] is not None for p in moving)
        assert agents[2].why()["outcome"] == "complete", "`why` tells of it as of any pull"
