"""What real agents tell each other of how busy they are, and what follows from it."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING

import pytest

from tests.support import faulty_http as fh
from tests.support.blobs import MIB, write_blob
from tests.support.network import network, wait_until
from tests.support.pulling import Pull

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.agents import Agent

pytestmark = pytest.mark.slow


def queue_s(agent: Agent) -> float:
    """How busy the one other agent says it is."""
    with agent.client() as client:
        return float(client.peers()[0]["queue_s"])


def test_a_busy_agent_tells_its_queue_to_who_pulls_from_it(tmp_path: Path):
    blob = write_blob(tmp_path / "blob", 24 * MIB)
    with network(tmp_path, 2, each={0: {"lanes.limit_up": "6 MiB"}}) as (a, b):
        with a.client() as client:
            client.push(blob.path)
        assert queue_s(b) == 0.0
        with Pull(b, f"sha256:{blob.sha256}") as pull:
            pull.wait_bytes(MIB)
            wait_until(lambda: queue_s(b) > 0.1, "nothing is told of a queue", 5)
        assert pull.error is None
        wait_until(lambda: queue_s(b) == 0.0, "nor of its end")


def test_one_slow_seed_serves_all_its_readers_and_nobody_is_blamed_for_its_queue(tmp_path: Path):
    blob = write_blob(tmp_path / "blob", 6 * MIB)
    with network(tmp_path, 3, each={0: {"lanes.limit_up": "3 MiB"}}) as (a, b, c):
        with a.client() as client:
            client.push(blob.path)
        with contextlib.ExitStack() as stack:
            pulls = [stack.enter_context(Pull(each, f"sha256:{blob.sha256}")) for each in (b, c)]
        assert [pull.error for pull in pulls] == [None] * 2
        for each in (b, c):
            assert blob.in_store(each.home).stat().st_size == blob.size
            with each.client() as client:
                assert list(client.bans()) == []


def test_an_origin_that_told_two_agents_to_wait_is_not_asked_by_a_third(tmp_path: Path):
    blob = write_blob(tmp_path / "blob", 8 * MIB)
    good = fh.ranged(blob.path.read_bytes(), ETag='"one"')
    opens_at = [float("inf")]
    refused: list[float] = []
    lock = threading.Lock()

    def answer(ask: fh.Exchange) -> bool:
        start, end = ask.range or (0, 0)
        if end - start < MIB or time.monotonic() >= opens_at[0]:
            return good(ask)
        with lock:
            refused.append(time.monotonic())
            if len(refused) == 1:
                opens_at[0] = refused[0] + 6.0
        ask.head(429, Content_Length=0, Retry_After=int(opens_at[0] - time.monotonic()) + 1)
        return True

    with fh.FaultyServer() as server, network(tmp_path, 3) as (a, b, c):
        ref = f"{server.on('/blob', answer)}#sha256={blob.sha256}"
        with Pull(a, ref) as first, Pull(b, ref) as second:
            wait_until(lambda: refused, "nobody asked")
            time.sleep(2.0)
            before = len(refused)
            began = time.monotonic()
            with Pull(c, ref) as third:
                pass
        assert [pull.error for pull in (first, second, third)] == [None] * 3
        assert began < opens_at[0] - 1, "the machine was too busy for this test"
        assert before >= 2, "two were told to wait"
        assert len(refused) == before, "and the third asked nevertheless"
