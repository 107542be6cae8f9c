"""Agents in one network, as their users see it: init, invite, join, peers, names without origin."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from p2pcache import errors
from tests.support.agents import running_agent
from tests.support.hub_repo import HubRepo, build_repo
from tests.support.hub_stub import hub_stub
from tests.support.network import LOOPBACK, join, network, peer_id, peers_of, wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from p2pcache.agent.localapi.answers import CheckAnswer
    from tests.support.agents import Agent

NETWORK_CHECKS = {"network", "addresses", "port", "keys", "clock", "members"}
NOWHERE = {"hf_endpoint": "http://127.0.0.1:9"}


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> HubRepo:
    return build_repo(tmp_path_factory.mktemp("repo"))


def test_three_agents_that_joined_one_after_the_other_all_know_each_other(tmp_path: Path):
    with network(tmp_path, 3) as (a, b, c):
        ids = {peer_id(a), peer_id(b), peer_id(c)}
        assert len(ids) == 3
        assert peers_of(c) == ids - {peer_id(c)}


def test_peers_shows_where_each_listens_also_whoever_dialled_us(tmp_path: Path):
    with network(tmp_path, 3) as agents:
        listens = {}
        for agent in agents:
            with agent.client() as client:
                made = client.init()
            listens[made["peer"]] = {one.partition("/p2p/")[0] for one in made["addresses"]}
        for agent in agents:
            with agent.client() as client:
                for peer in client.peers():
                    assert peer["address"] in listens[peer["peer"]]
                    assert set(peer["addresses"]) == listens[peer["peer"]]


def test_a_restarted_agent_is_the_same_peer_and_comes_back_by_itself(tmp_path: Path):
    with network(tmp_path, 2) as (a, b):
        before = peer_id(b)
        b.kill()
        wait_until(lambda: not peers_of(a), "a killed peer is noticed")
        b.start()
        wait_until(lambda: peers_of(a) == {before}, "it comes back")


def test_a_port_that_is_taken_for_a_moment_keeps_no_agent_out_of_its_network(tmp_path: Path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        settings = {**LOOPBACK, "network.port": str(other.getsockname()[1])}
        with running_agent(tmp_path / "a", settings=settings) as a, a.client() as client:
            with pytest.raises(errors.LocalFault, match="in use"):
                client.init()
            told = client.status()["network"]
            assert told["state"] == "off"
            assert "in use" in str(told["why"])
            assert "tried again" in str(told["why"])
            other.close()
            wait_until(lambda: client.status()["network"]["state"] == "on", "it is open")


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


def test_trust_and_max_age_of_one_get_win_over_the_settings(tmp_path: Path, repo: HubRepo):
    with network(tmp_path, 2) as (a, b):
        with hub_stub(repo) as hub, a.client() as client:
            client.get("hf://demo/model", credentials={"hf_endpoint": hub.url}, hf_cache=False)
        options = {"credentials": NOWHERE, "hf_cache": False, "dry_run": True}
        for refused in ({"trust": "none"}, {"trust": peer_id(b)}, {"max_age": 0.001}):
            with pytest.raises(errors.Unavailable):
                b.get("hf://demo/model", **options, **refused)
        with pytest.raises(errors.UsageError, match="trust"):
            b.get("hf://demo/model", **options, trust="alice")
        b.get("hf://demo/model", **options, trust=f"{peer_id(a)}, {peer_id(b)}", max_age=600.0)
        for refused in ({"trust": "none"}, {"max_age": 0.001}):
            with pytest.raises(errors.Unavailable):  # also when the word is recorded by now
                b.get("hf://demo/model", **options, **refused)


def checks(agent: Agent) -> dict[str, CheckAnswer]:
    with agent.client() as client:
        return {check["check"]: check for check in client.doctor()}


def test_status_and_doctor_tell_of_the_network(tmp_path: Path):
    with network(tmp_path, 2, settings={"lanes.limit_up": "10 MiB"}) as (a, b):
        with a.client() as client:
            shown = client.status()["network"]
        assert shown["state"] == "on"
        assert shown["members"] == 1
        assert shown["peer"] == peer_id(a)
        assert shown["dht"] is not None
        lanes = shown["lanes"]
        assert (lanes["tls"], lanes["limit_up_bytes_per_s"], lanes["sent_bytes"]) == (
            True, 10 << 20, 0,
        )  # fmt: skip
        assert lanes["port"] > 0
        bad = [check for check in checks(a).values() if not check["ok"]]
        assert [check for check in bad if check["check"] in NETWORK_CHECKS] == []
        b.kill()
        wait_until(lambda: not peers_of(a), "it is noticed")
        found = checks(a)
        assert not found["members"]["ok"]
        assert "127.0.0.1" in found["addresses"]["detail"]
        assert found["addresses"]["hint"] is not None


def test_an_agent_without_a_network_says_so_and_nothing_is_wrong(tmp_path: Path):
    with running_agent(tmp_path / "a", settings=LOOPBACK) as a:
        with a.client() as client:
            assert client.status()["network"] == {"state": "none", "why": "no network key"}
        assert checks(a)["network"]["ok"]


def test_a_port_that_is_taken_is_told_by_status_and_doctor(tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        settings = {**LOOPBACK, "network.port": port}
        with running_agent(tmp_path / "a", settings=settings) as a, a.client() as client:
            with pytest.raises(errors.LocalFault, match=port):
                client.init()
            shown = client.status()["network"]
            assert shown["state"] == "off"
            assert port in (shown["why"] or "")
            found = checks(a)["network"]
            assert not found["ok"]
            assert "network.port" in (found["hint"] or "")


def test_an_agent_with_another_key_is_told_on_both_sides(tmp_path: Path):
    with network(tmp_path, 1) as (a,):
        with a.client() as client:
            where = client.init()["addresses"][0]
        settings = {**LOOPBACK, "network.bootstrap": where}
        with running_agent(tmp_path / "b", settings=settings) as b:
            with b.client() as client:
                client.init()
            wait_until(lambda: not checks(b)["keys"]["ok"], "the one that dialled knows", 40.0)
            found = checks(b)
            assert not found["bootstrap"]["ok"]
            assert "another network" in found["bootstrap"]["detail"]
            assert not checks(a)["keys"]["ok"]
