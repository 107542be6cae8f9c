"""One preload at one agent: what is said of it after progress, failures and tries."""

from __future__ import annotations

import pytest

from p2pcache.agent.preload.job import LAST_RETRY_S, TRIES, Job
from p2pcache.errors import Denied, DiskFull, NotFound, Unavailable, Untrusted
from p2pcache.net.sync.preloads import Stage, State
from p2pcache.store.preloads import PreloadRow
from p2pcache.transfer.progress import Progress

ID = bytes(32)


def job(origin_bytes=0) -> Job:
    row = PreloadRow(ID, b"signer", b"teller", 9, None, None, origin_bytes)
    state = State(ID, Stage.WAITING, 0, 0, origin_bytes, 0.0, "", "")
    return Job(row, state, earlier_bytes=origin_bytes)


def test_what_nobody_delivers_is_waited_for_and_then_a_failure_that_is_tried_on():
    one = job()
    waits = []
    for tried in range(1, 12):
        one.failed(Unavailable("not now") if tried % 2 else NotFound("nowhere"), 100.0)
        waits.append(one.at - 100.0)
        assert one.state.stage is (Stage.WAITING if tried < TRIES else Stage.FAILED)
    assert waits[:4] == [2.0, 4.0, 8.0, 16.0]
    assert waits[-1] == LAST_RETRY_S


@pytest.mark.parametrize(
    ("error", "stage"),
    [(Denied, Stage.REFUSED), (DiskFull, Stage.FAILED), (Untrusted, Stage.FAILED)],
)
def test_what_waiting_will_not_mend_is_said_at_once(error, stage):
    one = job()
    one.failed(error("no"), 0.0)
    assert (one.state.stage, one.state.code) == (stage, error.code)


def test_bytes_from_origins_add_up_over_pulls_and_peers_are_none():
    one = job(origin_bytes=100)
    sources = {"hf": 30, "12D3KooWpeer": 50}
    one.progress(Progress("fetching", None, 80, 200, sources=sources))
    assert (one.state.done_bytes, one.state.origin_bytes) == (80, 130)
    one.count(35)
    assert one.state.origin_bytes == 135, "with what came twice"
    one.progress(Progress("fetching", None, 90, 200, sources={"hf": 5}))
    assert one.state.origin_bytes == 140


def test_everybody_is_told_of_a_turn_and_not_of_bytes():
    one = job()
    assert one.turned
    one.told = one.state
    one.progress(Progress("fetching", None, 1, 2))
    assert not one.turned
    one.turn(Stage.PULLING, "")
    assert one.turned
