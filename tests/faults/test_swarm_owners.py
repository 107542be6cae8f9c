"""Agents that bring one blob together, each from an origin of its own, when an origin or an owner
fails: every pull ends, nobody waits for longer than a promise is believed, the receipts say why.

Real processes on loopback. Each agent has its own address of the same blob.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from p2pcache import errors
from p2pcache.transfer.machine.owners import BRING_LEASES, OwnerOptions
from tests.support import faulty_http as fh
from tests.support.agents import frozen
from tests.support.blobs import MIB, sha256_file, write_blob
from tests.support.network import network, peer_id, wait_until
from tests.support.pulling import Pull
from tests.support.swarms import dripping, paced
from tests.support.watched_pull import at_most

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from tests.support.agents import Agent
    from tests.support.blobs import ServedBlob

pytestmark = pytest.mark.slow

SIZE = 24 * MIB + 12_345
RATE = 6 * MIB  # of each connection to an origin: a unit needs a sixth of a second
LEASE_S = OwnerOptions().lease_s
PROMISE_S = BRING_LEASES * LEASE_S
BUSY_S = 8.0  # of a loaded machine; the faults would cost 20 s and more


@pytest.fixture(scope="module")
def blob(tmp_path_factory: pytest.TempPathFactory) -> ServedBlob:
    return write_blob(tmp_path_factory.mktemp("blob"), SIZE)


@dataclass
class Site:
    """One origin. It tells the size to whoever asks, and gives the body as `answer` does."""

    server: fh.FaultyServer
    blob: ServedBlob

    def answers(self, answer: fh.Answer) -> None:
        whole = self.blob.path.read_bytes()
        right = fh.ranged(whole)

        def probed(ask: fh.Exchange) -> bool:
            start, end = ask.range or (0, len(whole))
            return (right if end - start <= 1 else answer)(ask)

        self.server.on("/model.bin", probed)

    @property
    def ref(self) -> str:
        return f"{self.server.url('/model.bin')}#sha256={self.blob.sha256}"


@contextlib.contextmanager
def sites(blob: ServedBlob, count: int) -> Iterator[list[Site]]:
    body = blob.path.read_bytes()
    with contextlib.ExitStack() as stack:
        made = [Site(stack.enter_context(fh.FaultyServer()), blob) for _ in range(count)]
        for site in made:
            site.answers(paced(body, RATE))
        yield made


def together(agents: list[Agent], origins: list[Site]) -> tuple[list[dict[str, Any]], list[float]]:
    """All of them get it at once: their receipts, and how long each took."""
    pulls = [Pull(agent, site.ref) for agent, site in zip(agents, origins, strict=True)]
    with contextlib.ExitStack() as stack:
        for pull in pulls:
            stack.enter_context(pull)
    assert [pull.error for pull in pulls] == [None] * len(pulls)
    receipts = [agent.why() for agent in agents]
    return receipts, [receipt["seconds"] for receipt in receipts]


def is_whole(blob: ServedBlob, *agents: Agent) -> bool:
    return all(sha256_file(blob.in_store(agent.home)) == blob.sha256 for agent in agents)


def copies(receipts: list[dict[str, Any]]) -> float:
    return sum(receipt["origin_copies"]["own"] for receipt in receipts)


def texts(receipt: Mapping[str, Any]) -> list[str]:
    return [incident["text"] for incident in receipt["incidents"]]


def test_who_has_a_thin_origin_delays_nobody_for_longer_than_its_word_is_believed(
    tmp_path: Path, blob: ServedBlob
):
    with at_most(110), sites(blob, 3) as origins, network(tmp_path, 3) as agents:
        origins[2].answers(dripping(blob.path.read_bytes(), 10_000))
        receipts, took_s = together(agents, origins)
        assert is_whole(blob, *agents)
        alone_s = SIZE / 2 / RATE  # two of them bring it
        name = peer_id(agents[2])
        for receipt, seconds in zip(receipts, took_s, strict=True):
            assert seconds < alone_s + PROMISE_S + BUSY_S, "a block of its own needs 105 s"
            assert receipt["where"]["owner_s"] < PROMISE_S + BUSY_S / 2
        assert copies(receipts) < 1.15
    told = [text for receipt in receipts[:2] for text in texts(receipt) if name in text]
    assert any("taken over after" in text for text in told), told


def test_an_owner_whose_token_is_refused_says_so_and_the_others_bring_its_part(
    tmp_path: Path, blob: ServedBlob
):
    with at_most(110), sites(blob, 3) as origins, network(tmp_path, 3) as agents:
        origins[2].answers(fh.status(403))
        receipts, took_s = together(agents, origins)
        assert is_whole(blob, *agents)
        name = peer_id(agents[2])
    assert max(took_s) < SIZE / 2 / RATE + LEASE_S + BUSY_S
    assert copies(receipts) < 1.15
    row = next(s for s in receipts[2]["sources"] if s["kind"] == "origin")
    assert "403" in " ".join(texts(receipts[2]))
    assert row["requests"] <= 2, "what is refused is not asked for again"
    for receipt in receipts[:2]:
        assert any(name in text and "owns nothing now" in text for text in texts(receipt))


def test_with_all_refused_but_one_that_one_brings_it_for_all(tmp_path: Path, blob: ServedBlob):
    with at_most(110), sites(blob, 4) as origins, network(tmp_path, 4) as agents:
        for site in origins[1:]:
            site.answers(fh.status(403))
        receipts, took_s = together(agents, origins)
        assert is_whole(blob, *agents)
    assert max(took_s) < SIZE / RATE + LEASE_S + BUSY_S
    assert copies(receipts) == pytest.approx(1.0, abs=0.05)
    for receipt in receipts[1:]:
        assert "403" in " ".join(texts(receipt))
        assert any("this node owned nothing" in text for text in texts(receipt))


@pytest.mark.parametrize("minor", [0, 1])
def test_an_agent_of_an_older_minor_version_gets_it_too_and_delays_nobody(
    tmp_path: Path, blob: ServedBlob, minor: int
):
    old = {2: {"OLD_MINOR": str(minor)}}
    with at_most(110), sites(blob, 3) as origins, network(tmp_path, 3, old=old) as agents:
        receipts, took_s = together(agents, origins)
        assert is_whole(blob, *agents)
    assert max(took_s) < SIZE / RATE + LEASE_S + BUSY_S
    # Of version 1.0 nobody hears what it brings: at most its own part twice.
    assert copies(receipts) < (1.1 if minor else 2.0)


def test_those_that_are_cut_off_end_by_themselves_and_say_who_had_it(
    tmp_path: Path, blob: ServedBlob
):
    """Half of the network and the origin are gone from one moment to the next."""
    settings = {"fetch.patience": "4s", "fetch.peer_return": "4s", "fetch.no_progress": "1s"}
    with (
        at_most(110),
        sites(blob, 4) as origins,
        network(tmp_path, 4, settings=settings) as agents,
    ):
        pulls = [Pull(agent, site.ref) for agent, site in zip(agents, origins, strict=True)]
        with pulls[0], pulls[1], pulls[2] as third, pulls[3] as fourth:
            third.wait_bytes(4 * MIB)
            with frozen(agents[0]), frozen(agents[1]):
                for site in origins[2:]:
                    site.answers(fh.stall)
                    site.server.cut()
                began = time.monotonic()
                third.wait_end()
                fourth.wait_end()
                assert time.monotonic() - began < 18
        assert isinstance(third.error, errors.Unavailable), third.answer
        assert isinstance(fourth.error, errors.Unavailable)
        assert (pulls[0].error, pulls[1].error) == (None, None), "they go on where they stood"
        kept = agents[2].why()["fetched_bytes"]
        assert kept >= 4 * MIB
        assert texts(agents[2].why())


def test_who_has_it_in_our_zone_is_asked_and_not_the_one_in_another(
    tmp_path: Path,
):
    each = {n: {"network.zone": zone} for n, zone in enumerate(["eu-1a", "eu-1b", "eu-1b"])}
    with at_most(110), network(tmp_path, 3, each=each) as (far, near, agent):
        zones = {peer_id(far): "eu-1a", peer_id(near): "eu-1b"}
        wait_until(lambda: zones_of(agent) == zones, "it knows where they are")
        sent = []
        for number in range(3):  # on a busy machine the near one may answer later, once
            one = write_blob(tmp_path / str(number), 8 * MIB, seed=number)
            for holder in (far, near):
                with holder.client() as client:
                    client.push(one.path)
            agent.get(f"sha256:{one.sha256}")
            assert is_whole(one, agent)
            sent.append({s["name"]: s["bytes"] for s in agent.why()["sources"]})
            if sent[-1].get(peer_id(near)) == 8 * MIB:
                return
        raise AssertionError(sent)


def zones_of(agent: Agent) -> dict[str, str]:
    with agent.client() as client:
        return {peer["peer"]: peer["zone"] for peer in client.peers()}
