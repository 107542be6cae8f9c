"""The pull machine with peers: by block, around who stalls, lacks, lies or is full."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pcache.content.ranges import RangeSet
from p2pcache.lanes.orders import Fault, FaultKind
from p2pcache.sources.port import SourceKind
from p2pcache.transfer import events as ev
from p2pcache.transfer.machine import Download
from tests.support.machine_world import MIB, World, specs
from tests.support.told_pull import HALF, OPTIONS, Pull


@settings(max_examples=300, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    sizes=st.lists(st.sampled_from([0, 1, MIB, MIB + 1, 5 * MIB, 40 * MIB + 3]), max_size=5),
    sources=st.integers(0, 2),
    peers=st.integers(1, 4),
    faults=st.sampled_from([0.0, 0.1, 0.5, 0.9]),
)
def test_every_pull_with_peers_ends_and_keeps_its_promises(seed, sizes, sources, peers, faults):
    world = World(seed, sizes, sources, faults, peers)
    world.run()
    statistics = world.machine.statistics()
    assert sum(s.kept_bytes for s in statistics.sources) == statistics.fetched_bytes
    if faults == 0.0:
        assert sources == 0 or isinstance(world.end, ev.Finished)
        assert statistics.fetched_bytes <= sum(sizes), "no byte is counted twice"
    budget = max(2 * MIB, int(sum(sizes) * world.options.duplicate_share))
    assert world.twin_bytes <= budget + 2 * MIB, "duplicates of the endgame are bounded"


def test_peers_are_asked_for_the_blocks_they_told_and_the_origin_for_the_others():
    pull = Pull(12 * MIB, streams=6)
    pull.tell(ev.SourceHas("p0", 0, RangeSet.of((0, 4))))
    pull.tell(ev.SourceHas("p1", 0, RangeSet.of((4, 6))))
    asked: dict[str, set[int]] = {"p0": set(), "p1": set(), "origin": set()}
    todo = pull.open(blocks=12)
    while todo:
        job = todo.pop(0)
        asked[job.source] |= set(range(job.start // MIB, job.end // MIB))
        todo += pull.end(job)
    assert asked == {"p0": set(range(4)), "p1": {4, 5}, "origin": set(range(6, 12))}


def test_the_origin_brings_nothing_while_peers_hold_everything():
    pull = Pull(40 * MIB)
    pull.tell(ev.SourceHas("p0", 0))
    todo = pull.open(blocks=40)
    while todo:
        job = todo.pop(0)
        pull.now += 0.01
        todo += pull.end(job)
    assert pull.source("origin").requests == 0
    assert pull.source("p0").kept_bytes == 40 * MIB


def test_what_only_a_peer_in_trouble_holds_is_asked_of_the_origin_at_once():
    pull = Pull(4 * MIB, streams=1)
    pull.tell(ev.SourceHas("p0", 0))
    (job,) = pull.open(blocks=4)
    (again,) = pull.end(job, done=0, why=Fault(FaultKind.UNAVAILABLE, "reset"))
    assert (job.source, again.source) == ("p0", "origin")


def test_runs_of_a_peer_are_whole_pieces_where_it_has_them():
    pull = Pull(64 * MIB, streams=4, origin=False)
    pull.tell(ev.SourceHas("p0", 0))
    jobs = pull.open(blocks=64)
    assert len(jobs) == 4
    assert all(job.start % (2 * MIB) == 0 for job in jobs)
    assert all((job.end - job.start) % (2 * MIB) == 0 for job in jobs)


def test_the_shorter_queue_of_two_is_asked():
    pull = Pull(40 * MIB, streams=1, origin=False)
    for peer in ("p0", "p1"):
        pull.tell(ev.SourceHas(peer, 0))
    pull.tell(ev.SourceQueue("p0", 3.0))
    assert [job.source for job in pull.open(blocks=40)] == ["p1"]
    pull.tell(ev.SourceQueue("p1", 9.0))
    (job,) = pull.running.values()
    assert [j.source for j in pull.end(job)] == ["p0"]


def test_whom_a_busy_holder_names_is_asked_before_others():
    pull = Pull(40 * MIB, streams=1, origin=False)
    pull.tell(ev.SourceHas("p0", 0))
    (job,) = pull.open(blocks=40)
    pull.tell(ev.SourceUp("p2", SourceKind.PEER, 8, frozenset()))
    for peer in ("p1", "p2"):
        pull.tell(ev.SourceHas(peer, 0))
    pull.tell(ev.SourceQueue("p1", 5.0))
    why = Fault(
        FaultKind.UNAVAILABLE, "busy", retry_after_s=1.0, http_status=503,
        instead=("p1", "nobody", "origin"),
    )  # fmt: skip
    (job,) = pull.end(job, done=0, why=why)
    assert job.source == "p1", "although its queue was long when it was told"
    assert pull.source("p0").left is None


def test_an_origin_that_one_member_may_not_ask_is_asked_for_one_thing_at_a_time():
    pull = Pull(400 * MIB, streams=8)
    pull.tell(ev.OriginWord("origin", "p0", 60.0))
    jobs = pull.open(blocks=400)
    assert len(jobs) == 1
    pull.now += 1.0
    assert len(pull.end(jobs[0])) > 1, "it was served: the word was wrong, or not about us"


def test_an_origin_that_two_members_may_not_ask_is_left_alone_until_then_and_no_longer():
    pull = Pull(40 * MIB, streams=4)
    pull.tell(ev.OriginWord("origin", "p0", 60.0))
    pull.tell(ev.OriginWord("origin", "p1", 1e9))
    assert pull.open(blocks=40) == []
    pull.now = 59.0
    assert pull.tell(ev.Tick()) == []
    pull.now = 60.1
    assert [job.source for job in pull.tell(ev.Tick())] == ["origin"]


def test_a_request_that_was_never_made_refutes_and_tries_nothing():
    pull = Pull(40 * MIB, streams=1)
    for member in ("p0", "p1"):
        pull.tell(ev.OriginWord("origin", member, 60.0))
    assert pull.open(blocks=40) == []
    pull.now = 61.0
    (job,) = pull.tell(ev.Tick())
    assert pull.end(job, done=0, why=Fault(FaultKind.TURN, "turn", retry_after_s=1.0)) == []
    for member in ("p0", "p1"):
        pull.tell(ev.OriginWord("origin", member, 60.0))
    pull.now = 62.5
    assert [job.source for job in pull.tell(ev.Tick())] == ["origin"]


def test_words_on_an_origin_stop_no_peer_and_end_no_pull():
    pull = Pull(40 * MIB, streams=4)
    pull.tell(ev.SourceHas("p0", 0))
    for member in ("p0", "p1"):
        pull.tell(ev.OriginWord("origin", member, 1e9))
        pull.tell(ev.OriginWord("p0", member, 1e9))
    assert {job.source for job in pull.open(blocks=40)} == {"p0"}


def test_no_more_than_eight_requests_are_in_flight_to_one_peer():
    pull = Pull(400 * MIB, streams=16, origin=False)
    pull.tell(ev.SourceHas("p0", 0))
    assert len(pull.open(blocks=400)) == 8


def test_an_advert_that_was_not_true_is_forgotten_and_the_peer_is_asked_less():
    pull = Pull(8 * MIB, streams=1)
    pull.tell(ev.SourceHas("p0", 0, RangeSet.of((0, 2))))
    (job,) = pull.open(blocks=8)
    assert job.source == "p0"
    why = Fault(FaultKind.NOT_FOUND, "not here", http_status=404)
    (other,) = pull.end(job, done=0, why=why)
    assert other.source == "origin"
    pull.now = 100.0
    pull.tell(ev.SourceHas("p0", 0, RangeSet.of((6, 8))))
    assert [j.source for j in pull.end(other)] == ["p0"], "what it tells later counts"


def test_a_full_queue_is_no_failure_another_is_tried_at_once():
    pull = Pull(80 * MIB, streams=2, origin=False)
    pull.tell(ev.SourceHas("p0", 0))
    job, second = pull.open(blocks=80)
    pull.tell(ev.SourceHas("p1", 0))
    why = Fault(FaultKind.UNAVAILABLE, "busy", http_status=503)
    (other,) = pull.end(job, done=job.start, why=why)
    assert (job.source, other.source) == ("p0", "p1")
    pull.end(second, done=second.start, why=why)
    pull.now = 0.6
    pull.tell(ev.SourceDown("p1", "left"))
    assert [j.source for j in pull.running.values()] == ["p0", "p0"], "in good standing"


def test_a_peer_that_refuses_is_not_asked_for_as_much_again_at_once():
    pull = Pull(200 * MIB, streams=8, origin=False, peers=8)
    for number in range(8):
        pull.tell(ev.SourceHas(f"p{number}", 0))
    pull.open(blocks=200)
    assert len(pull.running) == 8
    why = Fault(FaultKind.UNAVAILABLE, "busy", http_status=503)
    for _ in range(5):
        job = next(iter(pull.running.values()))
        pull.end(job, done=job.start, why=why)
    assert len(pull.running) == 3, "each refusal is one less, down to three"
    for _ in range(2):
        pull.end(next(iter(pull.running.values())))
    assert len(pull.running) == 4, "two that came are one more"


def test_a_peer_that_differs_from_the_map_is_not_asked_for_that_block_again():
    pull = Pull(2 * MIB, streams=1, origin=False)
    pull.tell(ev.SourceHas("p0", 0))
    (job,) = pull.open(blocks=2)
    pull.tell(ev.SourceHas("p1", 0))
    why = Fault(FaultKind.UNTRUSTED, "other bytes", arrived=b"x" * 32)
    (other,) = pull.end(job, done=job.start, why=why)
    assert (job.source, other.source) == ("p0", "p1")
    pull.now = 100.0
    pull.end(other, done=MIB, why=Fault(FaultKind.UNAVAILABLE, "cut"))
    assert [j.start for j in pull.running.values()] == [MIB]


def test_when_only_those_who_differ_are_left_the_map_is_doubted():
    pull = Pull(2 * MIB, streams=1, origin=False, peers=1)
    pull.tell(ev.SourceHas("p0", 0))
    (job,) = pull.open(blocks=2)
    why = Fault(FaultKind.UNTRUSTED, "other bytes", arrived=b"x" * 32)
    pull.end(job, done=0, why=why)
    assert ev.Doubt(0, RangeSet.of((0, 1))) in pull.out
    (again,) = pull.running.values()
    assert again.start == 0, "the same peer is asked, now without a map"


def endgame(pull: Pull, blocks: int) -> ev.Job:
    """Everything is brought but what the last request brings: that one."""
    for peer in ("p0", "p1"):
        pull.tell(ev.SourceHas(peer, 0))
    pull.open(blocks=blocks)
    while len(pull.running) > 1:
        pull.now += 0.02
        pull.end(next(iter(pull.running.values())))
    (late,) = pull.running.values()
    return late


def wait_for_a_second_request(pull: Pull, until: float) -> ev.Job | None:
    while pull.now < until:
        pull.now += 0.02
        if made := pull.tell(ev.Tick()):
            return made[0]
    return None


def test_in_the_endgame_a_late_request_is_asked_for_twice_and_the_loser_is_stopped():
    pull = Pull(40 * MIB, streams=2, origin=False)
    late = endgame(pull, 40)
    began = pull.now
    twin = wait_for_a_second_request(pull, began + 1.4)
    assert twin is not None
    assert twin.source != late.source
    assert (twin.start, twin.end) == (late.start, late.end)
    assert wait_for_a_second_request(pull, pull.now + 0.5) is None, "never three"
    pull.end(twin)
    assert pull.stopped == [late.id]
    assert not any(isinstance(a, ev.Digest) for a in pull.out), "the loser still has the files"
    pull.end(late, done=late.end, blame=False)
    assert any(isinstance(a, ev.Digest) for a in pull.out)
    assert pull.machine.statistics().fetched_bytes == 40 * MIB


def test_the_loser_s_bytes_are_the_only_duplicates_and_counted_once():
    pull = Pull(40 * MIB, streams=2, origin=False)
    late = endgame(pull, 40)
    twin = wait_for_a_second_request(pull, pull.now + 1.4)
    assert twin is not None
    pull.tell(ev.Progress(late, late.start + MIB))
    pull.tell(ev.Progress(twin, twin.start + MIB))
    pull.end(late)
    pull.machine.handle(ev.Ended(twin, twin.end, 2 * MIB, 0.1, None), pull.now)
    statistics = pull.machine.statistics()
    assert statistics.fetched_bytes == 40 * MIB
    assert statistics.duplicate_bytes == 2 * MIB


def test_no_more_than_the_budget_is_asked_for_twice():
    pull = Pull(80 * MIB, streams=8, origin=False)
    for peer in ("p0", "p1"):
        pull.tell(ev.SourceHas(peer, 0))
    pull.open(blocks=80)
    known: set[int] = set()
    asked: set[int] = set()
    twice = 0
    while pull.now < 1.4:  # three requests never end by themselves
        for job in pull.running.values():
            if job.id not in known:
                blocks = set(range(job.start // MIB, job.end // MIB))
                twice += len(blocks & asked)
                asked |= blocks
                known.add(job.id)
        pull.now += 0.02
        moving = [j for j in pull.running.values() if j.id not in (2, 3, 4)]
        if moving:
            pull.end(moving[0])
        else:
            pull.tell(ev.Tick())
    assert asked == set(range(80))
    assert twice <= 2


def test_the_origin_is_spared_while_the_peer_that_holds_it_is_at_its_limit():
    pull = Pull(400 * MIB, streams=16, peers=1)
    pull.tell(ev.SourceHas("p0", 0))
    assert {job.source for job in pull.open(blocks=400)} == {"p0"}


def test_the_origin_is_spared_for_small_files_that_a_peer_has():
    pull = Pull(1000, 2000, 3000, streams=0)
    pull.tell(ev.SourceHas("p0", 1))
    pull.tell(ev.Streams(2))
    batches = {a.batch.source: a.batch.blobs for a in pull.out if isinstance(a, ev.FetchBatch)}
    assert batches["p0"] == (1,)
    assert 1 not in batches["origin"]


def test_a_banned_peer_is_not_asked_again_and_its_requests_are_stopped():
    pull = Pull(40 * MIB, streams=2)
    pull.tell(ev.SourceHas("p0", 0))
    jobs = pull.open(blocks=40)
    made = pull.tell(ev.SourceDown("p0", "sent wrong bytes"))
    assert pull.stopped == [job.id for job in jobs]
    assert {job.source for job in made} == {"origin"}
    assert pull.source("p0").left == "sent wrong bytes"


def test_a_peer_whose_connection_ended_is_waited_for_and_brings_the_rest():
    pull = Pull(4 * MIB, origin=False, peers=1)
    pull.tell(ev.SourceHas("p0", 0))
    for job in pull.open(blocks=4):
        pull.tell(ev.SourceDown("p0", "its connection ended", may_return=True))
        pull.end(job, done=job.start, blame=False)
    pull.now = 15.0  # a cable that was out for 10 s, and a dial that is tried again
    pull.tell(ev.Tick())
    assert not any(isinstance(a, ev.Failed) for a in pull.out), "a cable may come back"
    pull.tell(ev.SourceUp("p0", SourceKind.PEER, 8, frozenset()))
    made = pull.tell(ev.SourceHas("p0", 0))
    assert {job.source for job in made} == {"p0"}


def test_a_peer_that_does_not_come_back_is_not_waited_for_any_longer():
    pull = Pull(4 * MIB, origin=False, peers=1)
    pull.tell(ev.SourceHas("p0", 0))
    for job in pull.open(blocks=4):
        pull.tell(ev.SourceDown("p0", "its connection ended", may_return=True))
        pull.end(job, done=job.start, blame=False)
    (wake,) = [action for action in pull.out if isinstance(action, ev.Wake)]
    assert wake.at == pytest.approx(OPTIONS.return_s)
    pull.now = wake.at + 0.1
    pull.tell(ev.Tick())
    (failed,) = pull.out
    assert failed == ev.Failed((0,), (), (("p0", pytest.approx(20.1)),)), "and says who had it"


def test_what_nobody_told_of_is_waited_for_no_longer_than_hoped():
    pull = Pull(4 * MIB, origin=False, peers=0)
    pull.tell(ev.Tick())
    (wake,) = pull.out
    assert wake.at == pytest.approx(OPTIONS.hope_s)
    pull.now = wake.at + 0.1
    pull.tell(ev.Tick())
    assert pull.out == [ev.Failed((0,), ())]


def test_agents_that_fetch_together_ask_the_origin_for_different_bytes():
    pull = Pull(40 * MIB, streams=1, peers=1)
    pull.tell(ev.SourceHas("p0", 0, RangeSet.of((0, 2))))
    pull.tell(ev.SourceDown("p0", "busy"))
    (alone,) = pull.open(blocks=40)
    assert alone.start == 0, "in order, while nobody else fetches it"
    pull = Pull(40 * MIB, streams=2, peers=1)
    pull.tell(ev.SourceHas("p0", 0, RangeSet.of((0, 2))))
    jobs = {job.source: job for job in pull.open(blocks=40)}
    assert jobs["p0"].start == 0
    assert jobs["origin"].start == 20 * MIB, "somewhere among what nobody has, not next"


def test_an_origin_that_is_still_to_come_is_waited_for_longer_than_hoped():
    """A process that stood still, or an origin that is slow to say where it has something."""
    pull = Pull(4 * MIB, origin=False, peers=0, to_come=("origin",))
    pull.now = 2 * OPTIONS.hope_s
    pull.tell(ev.Tick())
    assert not any(isinstance(action, ev.Failed) for action in pull.out)
    pull.tell(ev.SourceUp("origin", SourceKind.ORIGIN, 8))
    assert [a.blob for a in pull.out if isinstance(a, ev.Open)] == [0]


def test_while_this_process_stood_still_nobody_was_slow_and_no_patience_ran():
    pull = Pull(4 * MIB)
    pull.tell(ev.SourceHas("p0", 0))
    assert pull.open(blocks=4)
    stopped_s = 2 * OPTIONS.patience_s
    pull.now += stopped_s
    pull.tell(ev.StoodStill(stopped_s))
    assert not any(isinstance(action, (ev.Failed, ev.Abort)) for action in pull.out)
    pull.now += stopped_s
    pull.tell(ev.Tick())
    assert any(isinstance(action, ev.Abort) for action in pull.out), "now somebody was slow"


def test_while_this_process_stood_still_no_hope_ended():
    pull = Pull(4 * MIB, origin=False, peers=0)
    pull.open(blocks=4)
    pull.now = 3 * OPTIONS.hope_s
    pull.tell(ev.StoodStill(pull.now))
    assert not any(isinstance(action, ev.Failed) for action in pull.out)
    pull.now += OPTIONS.hope_s + 0.1
    pull.tell(ev.Tick())
    assert isinstance(pull.out[-1], ev.Failed)


def test_a_blob_that_waits_for_its_sources_holds_up_no_other():
    """One request at a time, and the first blob has a block that nobody has yet."""
    pull = Pull(4 * MIB, 2 * MIB, streams=1, origin=False, peers=1)
    pull.tell(ev.SourceHas("p0", 0, RangeSet.of((0, 2))))
    pull.tell(ev.SourceHas("p0", 1))
    (first,) = pull.open(0, blocks=4)
    pull.end(first)
    assert [a.blob for a in pull.out if isinstance(a, ev.Open)] == [1]
    assert [job.blob for job in pull.open(1, blocks=2)] == [1]


def test_nobody_is_left_and_nobody_comes_ends_the_pull_soon():
    pull = Pull(4 * MIB, origin=False, peers=0)
    pull.open(blocks=4)
    pull.now = OPTIONS.hope_s + 0.1
    pull.tell(ev.Tick())
    assert isinstance(pull.out[-1], ev.Failed)


def test_peers_may_come_to_a_pull_that_began_without_any():
    pull = Pull(4 * MIB, origin=False, peers=0, hopeful=False)
    pull.tell(ev.Listening())
    assert not any(isinstance(action, ev.Failed) for action in pull.out)
    pull.tell(ev.SourceUp("p0", SourceKind.PEER, 8, frozenset()))
    pull.tell(ev.SourceHas("p0", 0))
    assert pull.open(blocks=4)


def test_suspects_alone_are_compared_and_by_somebody_else():
    pull = Pull(4 * MIB, streams=1, origin=False)
    pull.tell(ev.SourceHas("p0", 0))
    todo = pull.open(blocks=4)
    while todo:
        todo += pull.end(todo.pop(0))
    assert pull.out[0] == ev.Digest(0, again=False)
    pull.tell(ev.SourceHas("p1", 0))
    (job,) = pull.tell(ev.Digested(0, False, "wrong", RangeSet.of((1, 3))))
    assert job.compare
    assert (job.source, job.start, job.end) == ("p1", MIB, 2 * MIB) or job.end == 3 * MIB


def test_an_empty_file_is_asked_for_too():
    pull = Pull(0, peers=0)
    (batch,) = [a.batch for a in pull.out if isinstance(a, ev.FetchBatch)] or [None]
    assert batch is not None or pull.source("origin").requests == 1


def test_who_only_says_that_it_brings_does_not_hold_up_a_pull():
    from p2pcache.transfer.machine.owners import OwnerOptions, Owners

    owners = Owners("me", ["me", "liar"], OwnerOptions(), 0.0)
    owners.add_blob(0, b"\x12\x20" + bytes(32))
    machine = Download(
        specs(64 * MIB), piece_bytes=MIB, streams=8, options=OPTIONS, chance=lambda: HALF,
        now=0.0, hopeful=True, owners=owners,
    )  # fmt: skip
    now, todo, over = 0.0, [ev.SourceUp("origin", SourceKind.ORIGIN, 8)], None
    said = ev.Partner("liar", 1e6, False, ((0, RangeSet.of((63, 64))),))
    while over is None and now < 30:
        out = machine.handle_all([*todo, said, ev.Tick()], now)
        todo = []
        now += 0.05
        for action in out:
            match action:
                case ev.Open(blob):
                    todo.append(ev.Opened(blob, bytes(64)))
                case ev.Fetch(job):
                    todo.append(ev.Ended(job, job.end, job.end - job.start, 0.05, None))
                case ev.Digest(blob):
                    todo.append(ev.Digested(blob, ok=True))
                case ev.Finished() | ev.Failed():
                    over = action
    assert isinstance(over, ev.Finished)
    assert now < 10


def test_what_is_ours_to_bring_is_asked_of_the_origin_before_peers_are_asked():
    from p2pcache.transfer.machine.owners import OwnerOptions, Owners

    names = ["me", "p0"]
    owners = Owners("me", names, OwnerOptions(), 0.0)
    owners.add_blob(0, b"\x12\x20" + bytes(32))
    machine = Download(
        specs(64 * MIB), piece_bytes=MIB, streams=3, options=OPTIONS, chance=lambda: HALF,
        now=0.0, hopeful=True, owners=owners,
    )  # fmt: skip
    told: list[ev.Event] = [
        ev.SourceUp("p0", SourceKind.PEER, 8, frozenset()),
        ev.Partner("p0", 1e6, False, ()),
        ev.SourceHas("p0", 0, RangeSet.of((0, 16))),
        ev.SourceUp("origin", SourceKind.ORIGIN, 8),
    ]
    machine.handle_all(told, 1.0)
    jobs = [a.job for a in machine.handle(ev.Opened(0, bytes(64)), 1.0) if isinstance(a, ev.Fetch)]
    assert [job.source for job in jobs] == ["origin", "p0", "p0"]
    assert jobs[0].start >= 16 * MIB


def test_where_others_may_join_an_origin_is_asked_for_short_runs():
    from p2pcache.transfer.machine.owners import OwnerOptions, Owners

    def first_run(members: list[str]) -> int:
        owners = Owners("me", members, OwnerOptions(), 0.0)
        owners.add_blob(0, b"\x12\x20" + bytes(32))
        machine = Download(
            specs(64 * MIB), piece_bytes=MIB, streams=2, options=OPTIONS, chance=lambda: HALF,
            now=0.0, hopeful=True, owners=owners,
        )  # fmt: skip
        machine.handle(ev.SourceUp("origin", SourceKind.ORIGIN, 8), 1.0)
        out = machine.handle(ev.Opened(0, bytes(64)), 1.0)
        return next(a.job.end - a.job.start for a in out if isinstance(a, ev.Fetch))

    assert first_run(["me", "later"]) == MIB
    assert first_run(["me"]) == MIB, "a member that nobody knows yet may join as well"


def in_a_swarm(*sizes: int, partner: str = "other", origin: bool = True) -> Pull:
    """A pull that takes part with one other member, past its blind time."""
    from p2pcache.transfer.machine.owners import OwnerOptions, Owners

    pull = Pull(*sizes, origin=False, peers=0)
    owners = Owners("me", ["me", partner], OwnerOptions(), 0.0)
    for index in range(len(sizes)):
        owners.add_blob(index, bytes([index]) * 34)
    pull.machine = Download(
        specs(*sizes), piece_bytes=2 * MIB, streams=4, options=OPTIONS, chance=lambda: HALF,
        now=0.0, hopeful=True, owners=owners,
    )  # fmt: skip
    pull.tell(ev.Partner(partner, 1e6, False, ()))
    pull.now = 0.5
    if origin:
        pull.tell(ev.SourceUp("origin", SourceKind.ORIGIN, 8))
    return pull


@pytest.mark.parametrize("kind", [FaultKind.DENIED, FaultKind.NOT_FOUND])
def test_whose_origin_refuses_a_blob_for_good_says_that_it_brings_nothing(kind):
    """Else the others wait a lease for each of the units that are its."""
    pull = in_a_swarm(40 * MIB)
    jobs = pull.open(blocks=40)
    assert jobs, "some units are its own"
    pull.end(jobs[0], done=jobs[0].start, why=Fault(kind, "refused", http_status=403))
    pull.now += 0.2
    pull.tell(ev.Tick())
    (said,) = [action for action in pull.out if isinstance(action, ev.Say)]
    assert said.declines


def test_an_owner_that_is_overdue_between_two_looks_is_taken_over_at_the_next():
    """Nothing else happens: no word comes, nothing runs. Only a wake leads on."""
    pull = in_a_swarm(40 * MIB)
    for job in pull.open(blocks=40):
        pull.end(job)
    while pull.running:
        pull.end(next(iter(pull.running.values())))
    pull.tell(ev.Tick())
    ticks = 0
    while not pull.running and ticks < 100:
        suspected = any(isinstance(action, ev.Suspect) for action in pull.out)
        wakes = [action.at for action in pull.out if isinstance(action, ev.Wake)]
        assert wakes, "nobody wakes it any more"
        assert wakes[0] <= pull.now + (0.02 if suspected else 1.0)
        pull.now = wakes[0] if ticks != 1 else pull.now + 0.05  # and once for no reason
        pull.tell(ev.Tick())
        ticks += 1
    assert pull.running
