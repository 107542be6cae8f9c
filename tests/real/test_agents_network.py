"""Agents in one network, as their users see it: init, invite, join, peers, names without origin."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from p2pcache import errors
from tests.support.agents import running_agent
from tests.support.hub_repo import HubRepo, build_repo
from tests.support.hub_stub import hub_stub
from tests.support.network import LOOPBACK, join, network, peer_id, peers_of, wait_until

if TYPE_CHECKING:
    from pathlib import Path

NOWHERE = {"hf_endpoint": "http://127.0.0.1:9"}


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> HubRepo:
    return build_repo(tmp_path_factory.mktemp("repo"))


def test_three_agents_that_joined_one_after_the_other_all_know_each_other(tmp_path: Path):
    with network(tmp_path, 3) as (a, b, c):
        ids = {peer_id(a), peer_id(b), peer_id(c)}
        assert len(ids) == 3
        assert peers_of(c) == ids - {peer_id(c)}


def test_a_restarted_agent_is_the_same_peer_and_comes_back_by_itself(tmp_path: Path):
    with network(tmp_path, 2) as (a, b):
        before = peer_id(b)
        b.kill()
        wait_until(lambda: not peers_of(a), "a killed peer is noticed")
        b.start()
        wait_until(lambda: peers_of(a) == {before}, "it comes back")


def test_a_damaged_token_and_a_second_network_are_refused(tmp_path: Path):
    with (
        running_agent(tmp_path / "a", settings=LOOPBACK) as a,
        running_agent(tmp_path / "b", settings=LOOPBACK) as b,
    ):
        with a.client() as one, b.client() as two:
            with pytest.raises(errors.Unavailable, match="in no network"):
                one.invite(expires_s=60)
            one.init()
            token = one.invite(expires_s=60)["token"]
            with pytest.raises(errors.UsageError, match="damaged"):
                two.join(token[:-4] + "AAAA")
            two.init()
            with pytest.raises(errors.UsageError, match="another network"):
                two.join(token)
        assert peers_of(a) == set()


def test_a_name_that_another_agent_resolved_is_known_without_an_origin(
    tmp_path: Path, repo: HubRepo
):
    with network(tmp_path, 2) as (a, b):
        with hub_stub(repo) as hub, a.client() as client:
            known = client.resolve("hf://demo/model", credentials={"hf_endpoint": hub.url})
        with b.client() as client:
            for offline in (True, False):
                found = client.resolve("hf://demo/model", credentials=NOWHERE, offline=offline)
                assert found["manifest"] == known["manifest"]
                assert any(peer_id(a) in note for note in found["notes"])
        a.stop()
        with b.client() as client:
            again = client.resolve("hf://demo/model", credentials=NOWHERE, offline=True)
        assert again["manifest"] == known["manifest"], "the word is kept"


def test_without_trust_nobodys_word_counts(tmp_path: Path, repo: HubRepo):
    with (
        network(tmp_path, 1) as (a,),
        hub_stub(repo) as hub,
        running_agent(tmp_path / "b", settings={**LOOPBACK, "names.trust": "none"}) as b,
    ):
        join(b, a)
        with a.client() as client:
            client.resolve("hf://demo/model", credentials={"hf_endpoint": hub.url})
        with b.client() as client, pytest.raises(errors.NotFound):
            client.resolve("hf://demo/model", credentials=NOWHERE, offline=True)
