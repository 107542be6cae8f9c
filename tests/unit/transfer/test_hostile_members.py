"""What members can do to a pull by what they say and refuse, while its origin is well: little."""

from __future__ import annotations

import pytest

from p2pcache.content.ranges import RangeSet
from p2pcache.lanes.orders import Fault, FaultKind
from p2pcache.sources.port import SourceKind
from p2pcache.transfer import events as ev
from p2pcache.transfer.machine.blame import REFUSES_S
from p2pcache.transfer.machine.words import Words
from tests.support.machine_world import MIB
from tests.support.timed_pull import ORIGIN, TimedPull, brings, refuses

OTHER = "other"
FIRST = RangeSet.of((0, 1))
ALL = RangeSet.of((0, 64))
SILENT = Fault(FaultKind.UNAVAILABLE, "silent")
LARGE, SMALL = [64 * MIB], [1000] * 8


def other_refuses(job, now):
    return refuses(job) if job.source == OTHER else brings(job)


def slow_origin(job, now):
    return brings(job, 0.3)


@pytest.mark.parametrize("sizes", [LARGE, SMALL])
@pytest.mark.parametrize("partner", [None, OTHER])
def test_who_has_all_and_is_always_busy_ends_no_pull(sizes, partner):
    pull = TimedPull(sizes, other_refuses, partner=partner)
    pull.holds(OTHER)
    if partner is not None:
        pull.every(1.0, ev.Partner(OTHER, 1e6, False, ()))
    assert pull.run() < REFUSES_S + 6.0


def test_small_files_of_who_is_busy_for_a_while_come_from_the_origin():
    pull = TimedPull(SMALL, lambda job, now: other_refuses(job, now) if now < 20.0 else brings(job))
    pull.holds(OTHER)
    assert pull.run() < 1.0


def test_a_peer_cannot_ask_for_minutes():
    long = Fault(FaultKind.UNAVAILABLE, "busy", retry_after_s=300.0, http_status=503)
    pull = TimedPull(
        LARGE, lambda job, now: refuses(job, long) if now < 1.0 else brings(job), origin=False
    )
    pull.holds(OTHER)
    assert pull.run() < 20.0


def test_who_repeats_that_it_has_a_block_brings_nothing_by_it():
    silent = TimedPull(LARGE, lambda job, now: brings(job), partner=OTHER)
    loud = TimedPull(LARGE, lambda job, now: brings(job), partner=OTHER)
    for pull, has in ((silent, ()), (loud, (ev.SourceHas(OTHER, 0, FIRST),))):
        pull.at(0.0, ev.SourceUp(OTHER, SourceKind.PEER, 8, frozenset()))
        pull.every(0.5, ev.Partner(OTHER, 1e6, False, ()), *has)
    assert loud.run() < 2 * silent.run()


@pytest.mark.parametrize("takes_back", [False, True])
def test_who_says_that_it_brings_everything_stops_our_requests_only_as_long_as_it_is_in_time(
    takes_back,
):
    silent = TimedPull(LARGE, slow_origin, partner=OTHER)
    liar = TimedPull(LARGE, slow_origin, partner=OTHER)
    lost = (ev.SourceLost(OTHER, 0),) if takes_back else ()
    silent.every(0.1, ev.Partner(OTHER, 1e6, False, ()))
    liar.at(0.0, ev.SourceUp(OTHER, SourceKind.PEER, 8, frozenset()))
    liar.every(
        0.1, *lost, ev.SourceHas(OTHER, 0, FIRST), ev.Partner(OTHER, 1e6, False, ((0, ALL),))
    )
    assert liar.run() < 1.5 * silent.run()
    assert liar.requests(ORIGIN) < 2 * silent.requests(ORIGIN)


def stalls_at_first(job, now):
    if job.source == OTHER and now < 1.0:
        return refuses(job, SILENT, 10.0)
    return brings(job)


def parked(pull: TimedPull, seconds: float) -> None:
    pull.at(0.0, ev.OriginWord(ORIGIN, "m1", seconds), ev.OriginWord(ORIGIN, "m2", seconds))


def test_an_origin_that_may_not_be_asked_is_no_reason_to_leave_a_holder():
    pull = TimedPull([8 * MIB], stalls_at_first)
    pull.holds(OTHER)
    parked(pull, 290.0)
    assert pull.run() < 15.0


def test_a_pull_wakes_when_its_origin_may_be_asked_again():
    pull = TimedPull([8 * MIB], stalls_at_first)
    parked(pull, 30.0)
    assert 30.0 <= pull.run() < 32.0


def test_one_who_speaks_all_the_time_is_refuted_by_a_request_that_went_well():
    words, now = Words(300.0), 0.0
    for _ in range(10):
        words.heard(OTHER, 300.0, now)
        words.heard(OTHER, 300.0, now + 0.5)  # while our request is under way
        words.tried(now + 0.1, now + 1.0, well=True)
        now += 1.0
    assert words.limited_until < now
