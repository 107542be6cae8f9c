"""Names without their origin: whose word it was, how old, and what a lie about a name can do."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any

import pytest

from p2pcache import errors
from tests.support.agents import running_agent
from tests.support.blobs import MIB, sha256_file
from tests.support.hub_repo import HubRepo, build_repo, lfs, text
from tests.support.hub_stub import hub_stub
from tests.support.network import LOOPBACK, join, network, peer_id, peers_of, wait_until
from tests.support.watched_pull import at_most

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.agents import Agent

pytestmark = pytest.mark.slow

REF = "hf://demo/model"
NOWHERE = {"hf_endpoint": "http://127.0.0.1:9"}


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> HubRepo:
    files = {"config.json": text('{"a": 1}\n'), "model.safetensors": lfs(3 * MIB + 5, 7)}
    return build_repo(tmp_path_factory.mktemp("repo"), files)


def resolved(agent: Agent, repo: HubRepo) -> None:
    with hub_stub(repo) as hub:
        agent.get(REF, credentials={"hf_endpoint": hub.url}, hf_cache=False)


def get(agent: Agent, to: Path) -> dict[str, Any]:
    return agent.get(REF, credentials=NOWHERE, to=str(to))


def is_true(folder: Path, repo: HubRepo) -> bool:
    return all(sha256_file(folder / p) == f.sha256 for p, f in repo.files.items())


def word_of(agent: Agent) -> list[tuple[str, str]]:
    """(peer, age) of each word that the receipt of the last pull names."""
    notes = " ".join(agent.why()["notes"])
    return re.findall(r"the word of peer (\w+), (.+?) old", notes)


def test_the_receipt_says_whose_word_it_was_and_how_old(tmp_path: Path, repo: HubRepo):
    with at_most(60), network(tmp_path, 2) as (a, b):
        resolved(a, repo)
        time.sleep(2)
        get(b, tmp_path / "out")
        assert is_true(tmp_path / "out", repo)
        ((who, age),) = word_of(b)
        assert who == peer_id(a)
        assert re.fullmatch(r"\d+(\.\d+)? ?s", age), age
        assert 2 <= float(age.rstrip(" s")) < 30


def test_a_word_that_is_too_old_does_not_count(tmp_path: Path, repo: HubRepo):
    with (
        at_most(60),
        network(tmp_path, 1) as (a,),
        running_agent(tmp_path / "b", settings={**LOOPBACK, "names.max_age": "1s"}) as b,
    ):
        join(b, a)
        resolved(a, repo)
        time.sleep(1.5)
        with pytest.raises((errors.Unavailable, errors.NotFound)):
            get(b, tmp_path / "out")


def liar_and_its_content(folder: Path) -> Path:
    (folder / "other").mkdir(parents=True)
    (folder / "other" / "model.safetensors").write_bytes(b"another model" * 100_000)
    return folder / "other"


@pytest.mark.parametrize("trusted", [False, True])
def test_a_lying_name_leads_to_other_content_whole_and_signed_for_and_never_to_bad_bytes(
    tmp_path: Path, repo: HubRepo, trusted: bool
):
    content = liar_and_its_content(tmp_path)
    with at_most(90), network(tmp_path, 1) as (a,):
        with a.client() as client:
            other = client.push(content)["manifest"]
        resolved(a, repo)
        trust = {"names.trust": peer_id(a)} if trusted else {}
        fault = {"BAD_AGENT_FAULT": "LyingName", "BAD_AGENT_MANIFEST": other}
        with (
            running_agent(
                tmp_path / "liar", settings=LOOPBACK, module="tests.support.bad_agent", **fault
            ) as liar,
            running_agent(tmp_path / "b", settings={**LOOPBACK, **trust}) as b,
        ):
            with liar.client() as client:
                client.push(content)
            join(liar, a)
            join(b, a)
            wait_until(lambda: len(peers_of(b)) == 2, "it knows both")
            get(b, tmp_path / "out")
            assert word_of(b)[0][0] == peer_id(a if trusted else liar), "the receipt names it"
            if trusted:
                assert is_true(tmp_path / "out", repo)
            else:
                shown = tmp_path / "out" / "model.safetensors"
                assert shown.read_bytes() == (content / "model.safetensors").read_bytes()
            with b.client() as client:
                assert client.verify()["bad"] == []


def test_a_word_in_the_name_of_another_agent_is_not_believed_and_its_sender_is_cut(
    tmp_path: Path, repo: HubRepo
):
    content = liar_and_its_content(tmp_path)
    with at_most(90), network(tmp_path, 1) as (a,):
        with a.client() as client:
            other = client.push(content)["manifest"]
        resolved(a, repo)
        fault = {
            "BAD_AGENT_FAULT": "ForgedName",
            "BAD_AGENT_MANIFEST": other,
            "BAD_AGENT_SIGNER": peer_id(a),
        }
        with (
            running_agent(
                tmp_path / "liar", settings=LOOPBACK, module="tests.support.bad_agent", **fault
            ) as liar,
            running_agent(tmp_path / "b", settings=LOOPBACK) as b,
        ):
            with liar.client() as client:
                client.push(content)
            join(liar, a)
            join(b, a)
            wait_until(lambda: len(peers_of(b)) == 2, "it knows both")
            get(b, tmp_path / "out")
            assert is_true(tmp_path / "out", repo)
            assert word_of(b)[0][0] == peer_id(a)
            wait_until(lambda: peers_of(b) == {peer_id(a)}, "who forged it is cut")
