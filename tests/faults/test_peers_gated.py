"""Gated stays gated among agents: real agents, a Hub that asks for tokens, and what each learns."""

from __future__ import annotations

import re
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from p2pcache import errors
from tests.support.agents import running_agent
from tests.support.blobs import MIB, sha256_file
from tests.support.hub_repo import HubRepo, build_repo, lfs, text
from tests.support.hub_stub import GOOD_TOKEN, NO_ACCESS_TOKEN, HubStub, hub_stub
from tests.support.network import LOOPBACK, is_given, join, knows, network, peer_id, wait_until
from tests.support.pulling import Pull
from tests.support.watched_pull import at_most

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.agents import Agent

pytestmark = pytest.mark.slow

REF = "hf://demo/model"
LARGE = "model.safetensors"
NOWHERE = {"hf_endpoint": "http://127.0.0.1:9"}
NOTHING = (errors.NotFound, errors.Unavailable, errors.Denied)
PROOF_BYTES = 64 << 10
SPARE_BYTES = 6 * MIB  # a peer that brings nothing for 0.5 s has the origin tried, piece by piece


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> HubRepo:
    files = {"config.json": text('{"a": 1}\n'), LARGE: lfs(24 * MIB + 5, 7)}
    return build_repo(tmp_path_factory.mktemp("repo"), files)


@pytest.fixture
def hub(repo: HubRepo) -> Iterator[HubStub]:
    with hub_stub(repo) as running:
        running.gated.add("demo/model")
        yield running


def with_token(hub: HubStub, token: str | None = GOOD_TOKEN) -> dict[str, str]:
    return {"hf_endpoint": hub.url} | ({} if token is None else {"hf_token": token})


def get(agent: Agent, credentials: dict[str, str], **options: Any) -> dict[str, Any]:
    return agent.get(REF, credentials=credentials, hf_cache=False, **options)


def body_bytes(hub: HubStub, repo: HubRepo) -> int:
    """What the origin was asked to send of files."""
    total = 0
    for request in hub.asked:
        path = request.path.partition("?")[0].rpartition("/")[2]
        is_body = request.method == "GET" and path in repo.files and "/tree/" not in request.path
        if is_body and not (request.origin == "hub" and repo.files[path].lfs):  # that redirects
            span = re.fullmatch(r"bytes=(\d+)-(\d*)", request.range or "")
            end = int(span[2]) + 1 if span is not None and span[2] else repo.files[path].size
            total += end - (int(span[1]) if span is not None else 0)
    return total


def sent(agent: Agent) -> int:
    """What an agent's byte server sent to all who are connected."""
    with agent.client() as client:
        return sum(peer["sent_bytes"] for peer in client.peers())


def from_peers(agent: Agent) -> int:
    return sum(s["bytes"] for s in agent.why()["sources"] if s["kind"] == "peer")


def learns_nothing(agent: Agent, repo: HubRepo, manifest: str) -> None:
    """Every way to ask fails, and as it fails for what does not exist. All at once: each takes
    seconds, in which somebody who has it may appear.
    """
    named, offline, by_cid, found, other = refusals(
        lambda: get(agent, NOWHERE),
        lambda: get(agent, NOWHERE, offline=True),
        lambda: agent.get(manifest),
        lambda: agent.get(f"sha256:{repo.files[LARGE].sha256}"),
        lambda: agent.get(f"sha256:{'ab' * 32}"),
    )
    assert isinstance(named, NOTHING)
    assert isinstance(offline, NOTHING)
    assert {type(by_cid), type(found), type(other)} == {errors.NotFound}
    assert without_digest(found.message) == without_digest(other.message)
    with agent.client() as client:
        assert [peer["holds"] for peer in client.peers()] == [0] * len(client.peers())


def refusals(*calls: Callable[[], object]) -> list[errors.P2PCacheError]:
    """What each call raises, all made at once; fails if one does not."""

    def refusal(call: Callable[[], object]) -> errors.P2PCacheError:
        with pytest.raises(errors.P2PCacheError) as caught:
            call()
        return caught.value

    with ThreadPoolExecutor(max_workers=len(calls)) as pool:
        return list(pool.map(refusal, calls))


def without_digest(message: str) -> str:
    return re.sub("[0-9a-f]{64,}", "", message)


def test_without_access_nothing_comes_from_a_peer_not_even_that_it_is_there(
    tmp_path: Path, repo: HubRepo, hub: HubStub
):
    with at_most(120), network(tmp_path, 2) as (a, b):
        manifest = get(a, with_token(hub))["manifest"]
        for token in (None, NO_ACCESS_TOKEN):
            with pytest.raises(errors.Denied):
                get(b, with_token(hub, token))
        learns_nothing(b, repo, manifest)
        assert sent(a) == 0


def test_with_its_own_token_an_agent_proves_its_access_and_the_bytes_come_from_the_peer(
    tmp_path: Path, repo: HubRepo, hub: HubStub
):
    with at_most(90), network(tmp_path, 2) as (a, b):
        get(a, with_token(hub))
        hub.asked.clear()
        get(b, with_token(hub), to=str(tmp_path / "out"))
        assert sha256_file(tmp_path / "out" / LARGE) == repo.files[LARGE].sha256
        assert 0 < body_bytes(hub, repo) <= PROOF_BYTES + SPARE_BYTES, "it is asked for the proof"
        assert from_peers(b) >= repo.total_bytes - SPARE_BYTES
        assert sent(a) >= from_peers(b)


def test_a_wrong_proof_opens_nothing(tmp_path: Path, repo: HubRepo, hub: HubStub):
    bad = {1: {"BAD_AGENT_FAULT": "NoProof"}}
    with at_most(90), network(tmp_path, 2, bad=bad) as (a, b):
        get(a, with_token(hub))
        get(b, with_token(hub))
        assert from_peers(b) == 0
        assert sent(a) == 0


def test_a_grant_opens_it_to_one_agent_and_to_nobody_behind_it(
    tmp_path: Path, repo: HubRepo, hub: HubStub
):
    with at_most(120), network(tmp_path, 3) as (admin, b, c):
        manifest = get(admin, with_token(hub))["manifest"]
        hub.asked.clear()
        with admin.client() as client:
            client.grant(REF, peer_id(b), expires_s=600)
        time.sleep(0.5)
        # under its digest it would come without the word that it is gated
        unnamed = refusals(
            lambda: b.get(manifest), lambda: b.get(f"sha256:{repo.files[LARGE].sha256}")
        )
        assert [type(one) for one in unnamed] == [errors.NotFound] * 2
        assert sent(admin) == 0
        get(b, NOWHERE, to=str(tmp_path / "out"))
        assert sha256_file(tmp_path / "out" / LARGE) == repo.files[LARGE].sha256
        assert sent(admin) >= repo.files[LARGE].size
        assert not hub.asked, "no token, no origin"
        learns_nothing(c, repo, manifest)
        assert sent(b) == 0


def test_with_a_grant_a_plain_get_goes_on_from_peers_where_the_hub_refuses(
    tmp_path: Path, repo: HubRepo, hub: HubStub
):
    with at_most(90), network(tmp_path, 2) as (admin, b):
        get(admin, with_token(hub))
        with pytest.raises(errors.Denied):
            get(b, with_token(hub, None))
        with admin.client() as client:
            client.grant(REF, peer_id(b), expires_s=600)
        for token in (None, NO_ACCESS_TOKEN):
            time.sleep(0.5)
            got = get(b, with_token(hub, token), to=str(tmp_path / f"out{token is None}"))
            assert any("admin lets" in note and "gated" in note for note in got["notes"])
            assert any(peer_id(admin) in note for note in got["notes"]), "whose word it is"
        assert sha256_file(tmp_path / "outTrue" / LARGE) == repo.files[LARGE].sha256
        assert from_peers(b) == 0, "the second time it was here"
        assert any("admin lets" in note for note in b.why()["notes"])


def test_a_grant_that_is_taken_back_opens_nothing_more_also_after_restarts(
    tmp_path: Path, repo: HubRepo, hub: HubStub
):
    with at_most(120), network(tmp_path, 3) as (admin, a, b):
        get(a, with_token(hub))
        with admin.client() as client:
            client.grant(REF, peer_id(b), expires_s=600)
            time.sleep(0.5)
            b.get(REF, credentials=NOWHERE, hf_cache=False, dry_run=True)  # it hears the name
            a.stop()
            client.revoke(REF, peer_id(b))
        a.start()  # it was away, and is told when it comes back
        wait_until(lambda: knows(a, 2), "it is back")
        time.sleep(0.5)
        with a.client() as client:
            assert [(one["peer"], one["revoked"]) for one in client.grants()] == [
                (peer_id(b), True)
            ]
        b.stop()
        b.start()
        wait_until(lambda: knows(b, 2), "it is back")
        by_name, by_digest = refusals(
            lambda: get(b, NOWHERE), lambda: b.get(f"sha256:{repo.files[LARGE].sha256}")
        )
        assert isinstance(by_name, NOTHING)
        assert isinstance(by_digest, errors.NotFound)
        assert sent(a) == 0


def test_a_grant_that_ended_opens_nothing(tmp_path: Path, repo: HubRepo, hub: HubStub):
    with at_most(90), network(tmp_path, 2) as (admin, b):
        manifest = get(admin, with_token(hub))["manifest"]
        with admin.client() as client:
            client.grant(REF, peer_id(b), expires_s=1)
        time.sleep(1.5)
        learns_nothing(b, repo, manifest)
        assert sent(admin) == 0


def test_a_grant_of_somebody_who_is_not_the_admin_is_refused(
    tmp_path: Path, repo: HubRepo, hub: HubStub
):
    with at_most(90), network(tmp_path, 3) as (_, a, b):
        manifest = get(a, with_token(hub))["manifest"]
        with b.client() as client, pytest.raises(errors.Denied):
            client.grant(REF, peer_id(b), expires_s=600)
        # its own word for who the admin is changes nothing at others
        (b.home / "network.admin").write_text(peer_id(b) + "\n")
        b.stop()
        b.start()
        with b.client() as client:
            client.grant(REF, peer_id(b), expires_s=600)
        time.sleep(0.5)
        learns_nothing(b, repo, manifest)
        assert sent(a) == 0


def test_what_is_gated_stays_so_while_it_arrives(tmp_path: Path, repo: HubRepo, hub: HubStub):
    slow = {**LOOPBACK, "fetch.limit_rate": "4 MiB"}
    with (
        at_most(90),
        network(tmp_path, 1) as (b,),
        running_agent(tmp_path / "a", settings=slow) as a,
    ):
        join(a, b)
        with Pull(a, REF, credentials=with_token(hub), hf_cache=False) as pull:
            pull.wait_bytes(4 * MIB)
            with pytest.raises(errors.NotFound):
                b.get(f"sha256:{repo.files[LARGE].sha256}")
        assert pull.error is None
        assert sent(a) == 0


def test_what_an_open_repository_has_too_is_open_before_and_after_the_gated_one_came(
    tmp_path: Path,
):
    """Of one file the open one came first; the other was here of the gated one, and its bytes are
    asked of the open one.
    """
    licence, notice = text("a licence\n" * 20), text("a notice\n" * 20)
    repos = [
        build_repo(tmp_path / at, files, repo_id=f"demo/{at}")
        for at, files in (
            ("one", {"LICENSE": licence}),
            ("model", {"LICENSE": licence, "NOTICE": notice, LARGE: lfs(2 * MIB, 9)}),
            ("two", {"NOTICE": notice, "config.json": text("{}")}),
        )
    ]
    gated = repos[1]
    with at_most(120), hub_stub(*repos) as hub, network(tmp_path, 2) as (a, b):
        hub.gated.add("demo/model")
        for repo in repos:
            credentials = with_token(hub)
            a.get(f"hf://{repo.repo_id}", credentials=credentials, hf_cache=False)
        names = {path: f"sha256:{file.sha256}" for path, file in gated.files.items()}
        b.get(names["LICENSE"])
        wait_until(lambda: is_given(b, names["NOTICE"]), "it is asked for", 30.0)
        assert not is_given(b, names[LARGE])
