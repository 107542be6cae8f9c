"""What real agents tell each other of how busy they are, and what follows from it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

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
    blob = write_blob(tmp_path / "blob", 12 * MIB)
    with network(tmp_path, 4, each={0: {"lanes.limit_up": "4 MiB"}}) as (a, b, c, d):
        with a.client() as client:
            client.push(blob.path)
        with contextlib.ExitStack() as stack:
            pulls = [
                stack.enter_context(Pull(each, f"sha256:{blob.sha256}")) for each in (b, c, d)
            ]
        assert [pull.error for pull in pulls] == [None] * 3
        for each in (b, c, d):
            assert blob.in_store(each.home).stat().st_size == blob.size
            with each.client() as client:
                assert list(client.bans()) == []
