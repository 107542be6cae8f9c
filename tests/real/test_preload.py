"""Preloads with real agents on loopback: who gets it, from where, and what interrupts it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from p2pcache import errors
from p2pcache.agent.priority import YIELD_S
from tests.support import faulty_http as fh
from tests.support.agents import REPO, running_agent
from tests.support.blobs import MIB
from tests.support.faulty_http import FaultyServer
from tests.support.hub_repo import HubRepo, build_repo, lfs, text
from tests.support.hub_stub import GOOD_TOKEN, hub_stub
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
    """An agent's own line; of one that has not heard of it yet, one that says so."""
    try:
        return next(line for line in state_of(agent, preload)["agents"] if line["self"])
    except errors.NotFound:
        return {"state": "unknown", "done_bytes": 0}


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


def test_one_that_is_killed_and_comes_back_ends_complete(tmp_path: Path, repo: HubRepo):
    with (
        hub_of(tmp_path, repo) as hub,
        network(tmp_path, 4, env={"HF_ENDPOINT": hub.url}) as agents,
    ):
        preload = start(agents[0])
        wait_until(lambda: own(agents[3], preload)["done_bytes"] > 8 * MIB, "it pulls")
        brought = own(agents[3], preload)["origin_bytes"]
        agents[3].kill()
        agents[3].start()
        state = watched(agents[0], preload)
        assert state["totals"]["complete"] == state["totals"]["agents"] == 4
        assert has_it(agents[3], repo)
        # What it alone had brought the others may have to bring again, and with it the pieces that
        # were on their way to it. From the start again it would cost a copy.
        lost = (brought + 2 * MIB) / repo.total_bytes
        copies = hub.body_bytes() / repo.total_bytes
        assert copies <= 1.10 + lost, (copies, lost)
        assert lost < 0.5, "it was killed half way"


def test_the_issuer_may_restart_and_who_joins_later_is_served(tmp_path: Path, repo: HubRepo):
    with (
        hub_of(tmp_path, repo) as hub,
        network(tmp_path, 3, env={"HF_ENDPOINT": hub.url}) as agents,
    ):
        preload = start(agents[1])
        wait_until(lambda: own(agents[2], preload)["done_bytes"] > 4 * MIB, "it pulls")
        agents[1].stop()
        agents[1].start()
        with running_agent(
            tmp_path / "late", settings=LOOPBACK, prefix=(), HF_ENDPOINT=hub.url
        ) as late:
            join(late, agents[0])
            wait_until(lambda: knows(agents[1], 3), "all know it")
            state = watched(agents[1], preload)
            assert state["mine"], "it knows that the preload is its own"
            assert state["totals"]["complete"] == state["totals"]["agents"] == 4
            assert has_it(late, repo)
            sent = hub.body_bytes()
            agents[1].stop()  # now nobody but who heard of it can tell
            with running_agent(
                tmp_path / "later", settings=LOOPBACK, prefix=(), HF_ENDPOINT=hub.url
            ) as later:
                join(later, agents[0])
                wait_until(lambda: has_it(later, repo), "who joins after the issuer left gets it")
            assert hub.body_bytes() - sent < MIB, "and from agents that have it"


def test_a_cancel_stops_everybody_and_outlives_retelling(tmp_path: Path, repo: HubRepo):
    with (
        hub_of(tmp_path, repo, MIB // 4) as hub,  # each request gets a second's share at once
        network(tmp_path, 3, env={"HF_ENDPOINT": hub.url}) as agents,
    ):
        preload = start(agents[0])
        for agent in agents:
            wait_until(lambda a=agent: own(a, preload)["state"] == "pulling", "all pull")
        agents[2].kill()  # it knows the preload, and not its end
        with agents[1].client() as client, pytest.raises(errors.Denied, match="its signer"):
            client.cancel_preload(preload)
        with agents[0].client() as client:
            assert client.cancel_preload(preload[:8])["cancelled"]
        wait_until(lambda: own(agents[1], preload)["state"] == "cancelled", "it is told")
        time.sleep(1.0)
        sent = hub.body_bytes()
        agents[2].start()
        wait_until(lambda: knows(agents[2], 2), "it is back")
        wait_until(lambda: own(agents[2], preload)["state"] == "cancelled", "it is told, too")
        assert state_of(agents[1], preload)["cancelled"], "and has not told it anew"
        time.sleep(1.5)
        assert hub.body_bytes() - sent < 4 * MIB, "nobody goes on"


def test_a_number_and_labels_choose_the_same_agents_everywhere(tmp_path: Path, repo: HubRepo):
    each = {2: {"agent.labels": "gpu=h100, rack=1"}, 3: {"agent.labels": "gpu=a100"}}
    with (
        hub_of(tmp_path, repo, None) as hub,
        network(tmp_path, 4, env={"HF_ENDPOINT": hub.url}, each=each) as agents,
    ):
        labelled = watched(agents[0], start(agents[0], nodes="gpu=h100"))
        assert labelled["totals"]["agents"] == 1
        assert [has_it(agent, repo) for agent in agents] == [False, False, True, False]
        line = next(line for line in labelled["agents"] if line["chosen"])
        assert (line["peer"], line["labels"]) == (peer_id(agents[2]), "gpu=h100,rack=1")
        two = start(agents[1], nodes="2")
        state = watched(agents[1], two)
        assert state["totals"]["complete"] == state["totals"]["agents"] == 2
        chosen = [{x["peer"] for x in state_of(a, two)["agents"] if x["chosen"]} for a in agents]
        assert all(one == chosen[0] for one in chosen), "each decides alone, and alike"
        wrong = [a for a in agents if peer_id(a) not in chosen[0] and has_it(a, repo)]
        assert all(a is agents[2] for a in wrong), "who is not chosen fetches nothing"


def test_a_foreground_pull_is_alone_while_it_runs(tmp_path: Path, repo: HubRepo):
    """That it has its lone speed then is measured by `scripts/bench preload`."""
    other = build_repo(tmp_path / "other", {"a.bin": lfs(64 * MIB, 9)}, repo_id="demo/other")
    site = tmp_path / "second"
    extra = static_hub(other, site)
    with (
        hub_of(tmp_path, repo, MIB // 2) as hub,
        nginx(site, tmp_path / "nginx2", extra=extra) as second,
        network(tmp_path, 2, env={"HF_ENDPOINT": hub.url}) as agents,
    ):
        preload = start(agents[0])
        wait_until(lambda: own(agents[1], preload)["done_bytes"] > MIB, "it pulls")

        def foreground() -> None:
            agents[1].get(
                "hf://demo/other", credentials={"hf_endpoint": second.url}, hf_cache=False,
                limit_rate=16 * MIB,
            )  # fmt: skip

        pulling = threading.Thread(target=foreground)
        pulling.start()
        wait_until(lambda: own(agents[1], preload)["state"] == "waiting", "it waits")
        time.sleep(YIELD_S)  # what it had asked for is given up by then
        done_bytes = own(agents[1], preload)["done_bytes"]
        told: list[dict[str, Any]] = []
        while pulling.is_alive():
            told.append(own(agents[1], preload))
            time.sleep(0.1)
        assert len(told) > 3, "it was looked at while the pull ran"
        assert {(one["state"], one["done_bytes"]) for one in told[:-1]} == {("waiting", done_bytes)}
        assert watched(agents[0], preload)["totals"]["complete"] == 2, "it goes on afterwards"


def test_an_agent_that_stops_does_not_wait_for_who_watches(tmp_path: Path, repo: HubRepo):
    with (
        hub_of(tmp_path, repo, 64 * 1024) as hub,
        network(tmp_path, 2, env={"HF_ENDPOINT": hub.url}) as agents,
    ):
        watching = subprocess.Popen(
            [sys.executable, "-m", "p2pcache", "preload", REF, "--watch"],
            cwd=REPO, env=agents[0].env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            wait_until(lambda: list_of(agents[0]), "it is under way")
            time.sleep(1.0)
            began = time.monotonic()
            agents[0].stop()
            taken_s = time.monotonic() - began
            _, said = watching.communicate(timeout=10)
        finally:
            watching.kill()
            watching.wait()
        assert "stopping" in said
        assert taken_s < 4.0, "less than what requests are waited for"


def list_of(agent: Agent) -> list[Any]:
    with agent.client() as client:
        return list(client.preloads())


def test_who_lets_nobody_preload_refuses_and_the_others_go_on(tmp_path: Path, repo: HubRepo):
    each = {2: {"preload.from": "nobody"}, 1: {"preload.from": "admin"}}
    with (
        hub_of(tmp_path, repo, None) as hub,
        network(tmp_path, 3, env={"HF_ENDPOINT": hub.url}, each=each) as agents,
    ):
        state = watched(agents[0], start(agents[0]))
        by_peer = {line["peer"]: line["state"] for line in state["agents"]}
        assert by_peer[peer_id(agents[0])] == by_peer[peer_id(agents[1])] == "complete"
        assert not has_it(agents[2], repo)
        with agents[1].client() as client, pytest.raises(errors.Denied, match="admin"):
            client.preload(REF, credentials={"hf_endpoint": hub.url})


def command(agent: Agent, *argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "p2pcache", "preload", *argv],
        cwd=REPO, env=agent.env, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_the_command_watches_and_copies_that_are_to_stay_stay(tmp_path: Path, repo: HubRepo):
    with (
        hub_of(tmp_path, repo) as hub,
        network(tmp_path, 3, env={"HF_ENDPOINT": hub.url}) as agents,
    ):
        done = command(agents[1], REF, "--replicas", "2", "--watch", "--json")
        assert done.returncode == 0, done.stderr
        *progress, last = map(json.loads, done.stdout.splitlines())
        assert progress
        assert {line["type"] for line in progress} == {"preload-progress"}
        assert (last["type"], last["totals"]["complete"]) == ("preload", 3)
        listed = command(agents[0], "list")
        assert last["id"][:12] in listed.stdout
        assert command(agents[0], "cancel", last["id"]).returncode == 14
        wait_until(lambda: evictions(agents) == [0, 0, 1], "one of three copies may go")
        wait_until(
            lambda: [agent for agent in agents if not has_it(agent, repo)], "and its agent said so"
        )
        time.sleep(6)
        assert evictions(agents) == [0, 0, 0], "now there are two, and both stay"
        keeper = next(agent for agent in agents if has_it(agent, repo))
        with keeper.client() as client, pytest.raises(errors.UsageError, match="a preload keeps"):
            client.rm(last["manifest"])
        assert command(agents[1], "cancel", last["id"]).returncode == 0
        wait_until(lambda: sum(evictions(agents)) > 0, "after the cancel they may go")


def evictions(agents: list[Agent]) -> list[int]:
    """In how many agents a gc down to nothing evicts something, sorted."""
    out = []
    for agent in agents:
        with agent.client() as client:
            out.append(min(1, client.gc(target_bytes=0)["evicted"]))
    return sorted(out)


def test_gated_content_goes_to_those_with_access_and_the_rest_refuse(tmp_path: Path, repo: HubRepo):
    with hub_stub(repo) as hub, contextlib.ExitStack() as stack:
        hub.gated.add("demo/model")
        agents = [
            stack.enter_context(
                running_agent(
                    tmp_path / f"n{n}", settings=LOOPBACK, prefix=(), HF_ENDPOINT=hub.url,
                    **({"HF_TOKEN": GOOD_TOKEN} if n < 2 else {}),
                )
            )
            for n in range(4)
        ]  # fmt: skip
        with agents[0].client() as client:
            client.init()
        for agent in agents[1:]:
            join(agent, agents[0])
        for agent in agents:
            wait_until(lambda a=agent: knows(a, 3), "they know each other")
        with agents[0].client() as client:
            client.grant(REF, peer_id(agents[2]), expires_s=600)
            credentials = {"hf_endpoint": hub.url, "hf_token": GOOD_TOKEN}
            preload = client.preload(REF, credentials=credentials)["id"]
        wait_until(
            lambda: own(agents[3], preload)["state"] == "refused", "without access it refuses"
        )
        state = watched(agents[0], preload)
        by_peer = {line["peer"]: line for line in state["agents"]}
        states = [by_peer[peer_id(agent)]["state"] for agent in agents]
        assert states == ["complete", "complete", "complete", "refused"]
        stranger = state_of(agents[3], preload)
        others = [line for line in stranger["agents"] if not line["self"]]
        assert {line["state"] for line in others} <= {"waiting"}, "as they were before they looked"
        assert not any(line["total_bytes"] for line in stranger["agents"])
        with agents[3].client() as client:
            assert not any(entry["present_bytes"] for entry in client.ls())


def test_a_path_is_not_told_and_an_address_is_asked_for_the_admin_alone(tmp_path: Path):
    body = tmp_path / "model.bin"
    body.write_bytes(bytes(3 * MIB))
    with FaultyServer() as web, network(tmp_path, 3, env={"HF_ENDPOINT": "http://127.0.0.1:9"}) as (
        admin, member, other,
    ):  # fmt: skip
        with member.client() as client:
            client.push(body)
            pushed = client.preload(str(body))
            assert str(tmp_path) not in json.dumps(pushed)
        assert watched(member, pushed["id"])["totals"]["complete"] == 3
        data = bytes(range(256)) * 8192
        url = web.on("/inner", fh.ranged(data, ETag='"1"'))
        ref = f"{url}#sha256={hashlib.sha256(data).hexdigest()}"

        with member.client() as client:
            answer = client.preload(ref)
            assert "admin" in answer["notes"][0]
            assert "inner" not in json.dumps(answer), "an address may be a secret"
        wait_until(lambda: own(other, answer["id"])["state"] == "complete", "from who has it")
        by_admin = {line["peer"]: line for line in state_of(member, answer["id"])["agents"]}
        assert by_admin[peer_id(other)]["origin_bytes"] == 0
        assert by_admin[peer_id(admin)]["origin_bytes"] == 0
        assert by_admin[peer_id(member)]["origin_bytes"] >= len(data)
