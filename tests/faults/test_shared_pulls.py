"""Clients that want the same thing, and clients that die: a real agent, real processes."""

from __future__ import annotations

import hashlib
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import faulty_http as fh
from tests.support.agents import Agent, running_agent
from tests.support.faulty_http import Exchange, FaultyServer
from tests.support.partial_files import some_bytes
from tests.support.watched_pull import BLOCK, QUICK, at_most, other_client, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from p2pcache.agent.localapi.answers import Progress

BLOCKS = 8


class SlowBlob:
    """A blob that takes a while, on a real server that counts what it sends."""

    def __init__(self, web: FaultyServer, seed: str) -> None:
        self.body = some_bytes(BLOCKS * BLOCK, seed.encode())
        self.sent_bytes = 0
        self._count = threading.Lock()
        url = web.on("/blob", self._answer)
        self.ref = f"{url}#sha256={hashlib.sha256(self.body).hexdigest()}"

    def _answer(self, ask: Exchange) -> bool:
        if ask.range == (0, 1):
            return fh.ranged(self.body)(ask)
        assert ask.range is not None
        start, end = ask.range
        ask.head(206, Content_Length=end - start,
                 Content_Range=f"bytes {start}-{end - 1}/{len(self.body)}")  # fmt: skip
        for at in range(start, end, BLOCK // 4):
            ask.wait(0.07)
            ask.send(self.body[at : at + BLOCK // 4])
            with self._count:
                self.sent_bytes += BLOCK // 4
        return True


@pytest.fixture(autouse=True)
def bounded() -> Iterator[None]:
    with at_most(30):
        yield


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    with running_agent(tmp_path_factory.mktemp("agent"), settings=QUICK) as running:
        yield running
        assert running.process is not None
        assert running.process.poll() is None, running.log.read_text()


@pytest.fixture
def blob(request: pytest.FixtureRequest) -> Iterator[SlowBlob]:
    with FaultyServer() as web:
        yield SlowBlob(web, request.node.name)


def pulls(agent: Agent) -> list[dict[str, Any]]:
    with agent.client() as client:
        return client.status()["pulls"]


def test_two_clients_that_want_the_same_thing_share_one_download(
    agent: Agent, blob: SlowBlob
) -> None:
    answers: list[dict[str, Any]] = []
    clients = [
        threading.Thread(target=lambda: answers.append(agent.get(blob.ref))) for _ in range(2)
    ]
    for client in clients:
        client.start()
    for client in clients:
        client.join(20)
    assert [answer["fetched_bytes"] for answer in answers] == [len(blob.body)] * 2
    assert blob.sent_bytes == len(blob.body), "the origin sent one copy"


def test_a_client_that_is_killed_does_not_stop_a_pull_that_another_waits_for(
    agent: Agent, blob: SlowBlob
) -> None:
    with other_client(agent, blob.ref) as dying:
        wait_until(lambda: pulls(agent), "the first client's pull runs")

        def on_progress(progress: Progress) -> None:
            if progress["done_bytes"]:
                dying.kill()

        with agent.client() as client:
            done = client.get(blob.ref, on_progress=on_progress)
        assert dying.wait(5) == -9, "it was killed, and had not finished before"
    assert done["fetched_bytes"] == len(blob.body)
    assert blob.sent_bytes == len(blob.body)


def test_the_last_client_that_leaves_stops_the_pull_and_what_is_verified_stays(
    agent: Agent, blob: SlowBlob
) -> None:
    with other_client(agent, blob.ref) as dying:
        wait_until(lambda: blob.sent_bytes >= 3 * BLOCK, "some blocks were sent")
        dying.kill()
        wait_until(lambda: not pulls(agent), "the pull ends with its last client")
    sent_bytes = blob.sent_bytes
    time.sleep(0.4)
    assert blob.sent_bytes - sent_bytes <= 2 * BLOCK // 4, "what was on its way in two streams"
    receipt = agent.why(blob.ref)
    kept_bytes = receipt["fetched_bytes"]  # of runs that had ended; more may be verified
    assert kept_bytes >= BLOCK
    assert "the caller went away" in receipt["outcome"]
    assert agent.get(blob.ref)["fetched_bytes"] <= len(blob.body) - kept_bytes
    assert blob.sent_bytes <= len(blob.body) + 2 * BLOCK, "a block of each stream came twice"
