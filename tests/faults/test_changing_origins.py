"""Origins that lie about what a file is, or that have another version of it a moment later."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from p2pcache import errors
from tests.support import faulty_http as fh
from tests.support.agents import Agent, running_agent
from tests.support.blobs import MIB, left_behind, sha256_file
from tests.support.faulty_http import FaultyServer
from tests.support.partial_files import some_bytes
from tests.support.watched_pull import QUICK

if TYPE_CHECKING:
    from collections.abc import Iterator

import hashlib


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    with running_agent(tmp_path_factory.mktemp("agent"), settings=QUICK) as running:
        yield running


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with FaultyServer() as running:
        yield running


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("claimed", [3 * MIB, 6 * MIB, 9 * MIB])
def test_who_lies_about_a_digest_does_not_block_it_for_the_honest(
    agent: Agent, server: FaultyServer, claimed: int
) -> None:
    good = some_bytes(6 * MIB, b"good %d" % claimed)
    pin = f"#sha256={sha256(good)}"
    evil = server.on("/evil", fh.ranged(some_bytes(claimed, b"evil"))) + pin
    with pytest.raises(errors.Untrusted):
        agent.get(evil)
    assert left_behind(agent.home) == [], "the bytes of a lie are not kept"
    done = agent.get(server.on("/good", fh.ranged(good)) + pin)
    assert done["fetched_bytes"] == len(good)
    assert sha256_file(next((agent.home / "blobs-v1").rglob(sha256(good)))) == sha256(good)


def test_the_progress_of_the_honest_does_not_stop_at_a_lie_about_the_size(
    agent: Agent, server: FaultyServer
) -> None:
    good = some_bytes(6 * MIB, b"stopped on its way")
    pin = f"#sha256={sha256(good)}"
    half = fh.first(2, fh.cut(good, 2 * MIB, fh.hang_up), fh.status(404))
    with pytest.raises(errors.P2PCacheError):
        agent.get(server.on("/half", fh.first(1, fh.ranged(good), half)) + pin)
    with pytest.raises(errors.Untrusted):
        agent.get(server.on("/evil", fh.ranged(some_bytes(3 * MIB, b"evil"))) + pin)
    agent.get(server.on("/good", fh.ranged(good)) + pin)
    assert left_behind(agent.home) == []
