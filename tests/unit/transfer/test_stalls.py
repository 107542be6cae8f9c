"""The pull machine around who stalls: who loses what, after how long, and who is asked instead."""

from __future__ import annotations

from p2pcache.content.ranges import RangeSet
from p2pcache.lanes.orders import Fault, FaultKind
from p2pcache.transfer import events as ev
from tests.support.machine_world import MIB
from tests.support.told_pull import OPTIONS, Pull


def test_a_frozen_peer_loses_its_pieces_within_two_seconds_and_is_not_asked_for_them_again():
    pull = Pull(8 * MIB, streams=1, origin=False)
    pull.tell(ev.SourceHas("p0", 0))
    (job,) = pull.open(blocks=8)
    pull.tell(ev.SourceHas("p1", 0))
    pull.now = 1.6
    made = pull.tell(ev.Tick())
    assert pull.stopped == [job.id]
    assert [j.source for j in made] == ["p1"]
    assert pull.end(job, done=0, blame=False) == []
    assert pull.source("p0").retries == 1


def test_a_peer_that_moves_is_not_frozen():
    pull = Pull(8 * MIB, streams=1, origin=False)
    pull.tell(ev.SourceHas("p0", 0))
    (job,) = pull.open(blocks=8)
    pull.tell(ev.SourceHas("p1", 0))
    for block in range(1, (job.end - job.start) // MIB):
        pull.now += 1.0
        pull.tell(ev.Progress(job, job.start + block * MIB))
        assert pull.stopped == []


def crowded() -> tuple[Pull, ev.Job]:
    """Two requests to p0; the first of them does not move, and p1 could bring it."""
    pull = Pull(40 * MIB, streams=2, piece=1, peers=2, origin=False)
    pull.tell(ev.SourceHas("p0", 0))
    first, _ = pull.open(blocks=40)
    block = first.start // MIB
    pull.tell(ev.SourceHas("p1", 0, RangeSet.of((block, block + 1))))
    return pull, first


def others_end(pull: Pull, first: ev.Job) -> None:
    for job in [job for job in pull.running.values() if job.id != first.id]:
        pull.end(job)
    pull.tell(ev.Tick())


def test_a_peer_that_brings_our_other_blocks_is_crowded_and_not_frozen():
    pull, first = crowded()
    for at in (1.0, 2.0, 3.0, 4.0):
        pull.now = at
        others_end(pull, first)
    assert pull.stopped == []
    pull.end(first)
    assert pull.source("p0").retries == 0


def test_one_request_of_a_peer_that_brings_others_is_not_waited_for_without_end():
    pull, first = crowded()
    while first.id not in pull.stopped:
        pull.now += 0.5
        assert pull.now <= 3 * OPTIONS.stall_s + 0.5
        others_end(pull, first)


def test_a_frozen_peer_keeps_its_pieces_when_nobody_else_has_them():
    pull = Pull(8 * MIB, streams=1, origin=False)
    pull.tell(ev.SourceHas("p0", 0))
    pull.open(blocks=8)
    pull.now = 5.0
    pull.tell(ev.Tick())
    assert pull.stopped == []


def test_the_tail_of_a_quick_pull_does_not_excuse_who_brought_nothing_meanwhile():
    """What comes in falls when the others have ended: that is no sign of a thin link of ours."""
    pull = Pull(24 * MIB, streams=2, piece=1, peers=2, origin=False)
    pull.tell(ev.SourceHas("p0", 0))
    first = pull.open(blocks=24)
    pull.now = 0.4
    pull.tell(ev.SourceHas("p1", 0))
    pull.tell(ev.Streams(9))
    while brings := [job for job in pull.running.values() if job.source == "p1"]:
        pull.now += 0.005
        pull.end(brings[0])
    assert len(pull.running) > len(first)
    raced = len(pull.stopped)  # by a twin, of the endgame
    while len(pull.stopped) == raced:
        pull.now += 0.05
        pull.tell(ev.Tick())
    assert pull.now <= OPTIONS.stall_s + 0.1


def test_a_peer_that_brought_nothing_yet_does_not_spare_the_origin_for_long():
    pull = Pull(64 * MIB, streams=5, peers=1)
    pull.tell(ev.SourceHas("p0", 0))
    silent = pull.open(blocks=64)
    pull.now = OPTIONS.first_block_s - 0.05
    assert pull.tell(ev.Tick()) == []
    assert {job.source for job in silent} == {"p0"}
    pull.now = OPTIONS.first_block_s
    (asked,) = pull.tell(ev.Tick())
    assert asked.source == "origin"
    pull.end(silent[0])
    assert {job.source for job in pull.end(asked)} == {"p0"}, "it brings what it has: spared again"


def test_no_peer_is_silent_while_this_process_stood_still():
    pull = Pull(64 * MIB, streams=5, peers=1)
    pull.tell(ev.SourceHas("p0", 0))
    pull.open(blocks=64)
    pull.now = 2.0
    assert pull.tell(ev.StoodStill(1.9)) == []
    pull.now = 1.9 + OPTIONS.first_block_s
    (asked,) = pull.tell(ev.Tick())
    assert asked.source == "origin"


def test_a_new_peer_is_asked_beside_a_silent_one():
    pull = Pull(64 * MIB, streams=5, peers=2)
    pull.tell(ev.SourceHas("p0", 0))
    pull.open(blocks=64)
    pull.now = OPTIONS.first_block_s
    (asked,) = pull.tell(ev.SourceHas("p1", 0))
    assert asked.source == "p1"


def test_a_source_under_a_tenth_of_the_median_rate_loses_its_pieces():
    pull = Pull(900 * MIB, streams=2, piece=16)
    pull.tell(ev.SourceHas("p0", 0, RangeSet.of((0, 16))))
    slow, _ = pull.open(blocks=900)
    assert slow.source == "p0"
    pull.tell(ev.SourceHas("p1", 0, RangeSet.of((0, 16))))
    for beat in range(1, 40):
        pull.now += 0.05
        if beat % 5 == 0:
            pull.tell(ev.Progress(slow, slow.start + beat // 5 * MIB))
        if pull.stopped:
            break
        pull.end(next(j for j in pull.running.values() if j.source == "origin"))
    assert pull.stopped == [slow.id]
    assert 1.5 <= pull.now < 2.0


def test_with_all_holders_frozen_the_origin_is_asked_after_one_stall():
    pull = Pull(64 * MIB, streams=4, peers=3)
    for name in ("p0", "p1", "p2"):
        pull.tell(ev.SourceHas(name, 0))
    pull.open(blocks=64)
    assert {job.source for job in pull.running.values()} <= {"p0", "p1", "p2"}
    asked: list[ev.Job] = []
    while not asked and pull.now < 10:
        pull.now += 0.05
        flying = dict(pull.running)
        asked = [job for job in pull.tell(ev.Tick()) if job.source == "origin"]
        for number in pull.stopped:
            if number in flying:
                asked += [
                    job
                    for job in pull.end(flying[number], done=flying[number].start, blame=False)
                    if job.source == "origin"
                ]
    assert pull.now < 2.0


def test_what_an_origin_does_not_bring_is_asked_of_a_peer_that_has_it():
    """Also when nothing else is on its way: an origin that drips would be asked for ever."""
    pull = Pull(2 * MIB, streams=1, piece=2, peers=1)
    (slow,) = pull.open(blocks=2)
    assert slow.source == "origin"
    pull.tell(ev.SourceHas("p0", 0))
    asked = []
    while not asked and pull.now < 12.0:
        pull.now += 0.5
        asked += pull.tell(ev.Tick())
        if slow.id in pull.stopped:
            asked += pull.end(slow, done=0, blame=False)
            pull.stopped.clear()
    assert [job.source for job in asked] == ["p0"]


def stalled_at_the_end(pull: Pull, first: ev.Job) -> list[ev.Job]:
    """What is asked of others once a request that is the last one did not move."""
    asked: list[ev.Job] = []
    while not asked and pull.now < OPTIONS.patience_s:
        pull.now += 0.1
        asked += pull.tell(ev.Tick())
        if first.id in pull.stopped:
            asked += pull.end(first, done=first.start, blame=False)
            pull.stopped.clear()
    return asked


def test_the_last_request_of_a_frozen_peer_goes_to_another_where_no_origin_is():
    """Nothing else moves any more then, so that it looks as if our own link were slow."""
    pull = Pull(2 * MIB, streams=1, peers=2, origin=False)
    pull.tell(ev.SourceHas("p0", 0))
    (first,) = pull.open(blocks=2)
    pull.tell(ev.SourceHas("p1", 0))
    assert [job.source for job in stalled_at_the_end(pull, first)] == ["p1"]
    assert pull.now < 2.0


def test_what_stalled_is_risked_again_while_the_origin_is_in_trouble_too():
    pull = Pull(2 * MIB, streams=1, peers=2)
    pull.tell(ev.SourceHas("p0", 0))
    (first,) = pull.open(blocks=2)
    pull.tell(ev.SourceHas("p1", 0))
    (second,) = stalled_at_the_end(pull, first)
    assert second.source == "origin", "it is not risked twice"
    down = Fault(FaultKind.UNAVAILABLE, "down", http_status=503)
    assert [job.source for job in pull.end(second, done=0, why=down)] == ["p1"]


def test_a_lone_holder_that_stalled_is_asked_again_for_the_same():
    pull = Pull(2 * MIB, streams=1, peers=2, origin=False)
    pull.tell(ev.SourceHas("p0", 0))
    (first,) = pull.open(blocks=2)
    pull.tell(ev.SourceHas("p1", 0))
    (second,) = stalled_at_the_end(pull, first)
    pull.tell(ev.SourceDown("p1", "left"))
    asked: list[ev.Job] = pull.end(second, done=0, blame=False)
    while not asked and pull.now < 30.0:
        pull.now += 0.5
        asked = pull.tell(ev.Tick())
    assert [job.source for job in asked] == ["p0"]


def test_what_another_brought_before_a_stopped_request_ended_is_not_its():
    """The end of a request is read from what is here, whoever brought it."""
    pull = Pull(2 * MIB, streams=1, peers=2, origin=False)
    pull.tell(ev.SourceHas("p0", 0))
    (first,) = pull.open(blocks=2)
    pull.tell(ev.SourceHas("p1", 0))
    pull.now = OPTIONS.stall_s + 0.1
    (second,) = pull.tell(ev.Tick())
    pull.tell(ev.Ended(first, first.end, 1000, 0.1, None, blame=False))
    pull.end(second)
    assert pull.source("p0").kept_bytes == 0
    assert pull.source("p1").kept_bytes == 2 * MIB
    assert pull.machine._sources["p0"].failures == 1


def test_the_other_requests_of_who_stalled_follow_as_soon_as_something_came_of_elsewhere():
    """One was tried elsewhere to see whether our own link is slow; it is not."""
    pull = Pull(5 * MIB, streams=2, peers=2, origin=False, piece=1)
    pull.tell(ev.SourceHas("p0", 0, RangeSet.of((0, 2))))
    pull.open(blocks=5)
    assert [job.source for job in pull.running.values()] == ["p0", "p0"]
    pull.tell(ev.SourceHas("p1", 0, RangeSet.of((0, 2))))  # the rest nobody has: no endgame yet
    pull.machine._intake = 2e6  # of what came before: a link this thin may need seconds for a block
    brought: list[ev.Job] = []
    while len(brought) < 2 and pull.now < 10.0:
        pull.now += 0.1
        for job in [job for job in pull.running.values() if job.source == "p1"]:
            brought.append(job)
            pull.end(job)
        pull.tell(ev.Tick())
    assert pull.now < OPTIONS.stall_s + 0.5
