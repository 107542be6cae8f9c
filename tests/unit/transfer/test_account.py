"""Where time and bytes went: the account of a pull, by hand and at random."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pcache.content.ranges import RangeSet
from p2pcache.lanes.orders import Fault, FaultKind
from p2pcache.sources.port import SourceKind
from p2pcache.transfer import events as ev
from p2pcache.transfer.account import MAX_INCIDENTS, Account, binding, bound_terms
from tests.support.machine_world import MIB, specs
from tests.support.recorded_world import RecordedWorld

SIZES = st.lists(st.sampled_from([0, 1, MIB, MIB + 1, 5 * MIB, 40 * MIB + 3]), max_size=5)
BLOCKS = 10


class Told:
    """An account of one blob of BLOCKS blocks, told by hand."""

    def __init__(self) -> None:
        self.account = Account(specs(BLOCKS * MIB))
        self.now = 0.0
        self.note([ev.SourceUp("hub", SourceKind.ORIGIN, 4)])
        self.note([ev.SourceUp("p0", SourceKind.PEER, 4, frozenset())])

    def note(self, events=(), actions=(), after: float = 0.0):
        self.now += after
        self.account.note(events, actions, self.now)
        return self.account.tally()

    def fetch(self, number: int, source: str, first: int = 0, end: int = 1) -> ev.Job:
        job = ev.Job(number, 0, source, first * MIB, end * MIB)
        self.note((), [ev.Fetch(job)])
        return job

    def says(self, name: str, *spans: tuple[int, int], intake=1e6, declines=False, after=0.0):
        brings = ((0, RangeSet.of(*spans)),) if spans else ()
        return self.note([ev.Partner(name, intake, declines, brings)], after=after)

    def has(self, name: str, *spans: tuple[int, int], after=0.0):
        return self.note([ev.SourceHas(name, 0, RangeSet.of(*spans))], after=after)


def ended(job: ev.Job, fault: Fault | None = None, **more) -> ev.Ended:
    done = job.start if fault else job.end
    return ev.Ended(job, done, done - job.start, 0.1, fault, **more)


def test_every_second_is_counted_under_what_held():
    told = Told()
    told.note((), [ev.Open(0)], after=1.0)  # a second in which nobody was there
    told.note([ev.Opened(0, bytes(BLOCKS))], after=2.0)
    one = told.fetch(1, "hub")
    told.note(after=3.0)
    two = told.fetch(2, "p0", 1, 2)
    told.note([ended(one)], after=4.0)
    told.note([ended(two)], after=5.0)
    told.says("p1", (2, 3))
    told.note([], [ev.Digest(0, again=False)], after=6.0)
    told.note([ev.Digested(0, True)], [ev.Finished()], after=7.0)
    told.account.close(told.now + 8.0)
    assert told.account.tally().spent == {
        "idle_s": 1.0,
        "disk_s": 2.0 + 7.0 + 8.0,
        "origin_s": 3.0,
        "both_s": 4.0,
        "peers_s": 5.0,
        "owner_s": 6.0,
    }


@pytest.mark.parametrize(
    ("said", "key"),
    [
        ({"intake": None}, "idle_s"),  # it is done
        ({"declines": True}, "idle_s"),  # it brings nothing, and will not
        ({}, "owner_s"),  # it may own what is missing
    ],
)
def test_only_who_may_bring_something_is_waited_for(said, key):
    told = Told()
    told.says("p1", **said)
    assert told.note(after=1.0).spent[key] == 1.0


def test_a_request_that_is_being_stopped_is_no_longer_received_from():
    told = Told()
    job = told.fetch(1, "p0")
    told.note([], [ev.Abort(job)], after=2.0)
    assert told.note(after=1.0).spent == told.account.tally().spent | {
        "peers_s": 2.0,
        "idle_s": 1.0,
    }


def test_what_was_here_is_not_missing():
    told = Told()
    told.note((), [ev.Open(0)])
    assert told.note([ev.Opened(0, bytes([1, 1, *bytes(8)]))]).missing_bytes == 8 * MIB


def test_what_a_member_said_it_brings_and_then_has_left_an_origin():
    told = Told()
    told.says("p1", (0, 4))
    assert told.has("p1", (0, 2)).heard_origin_bytes == 2 * MIB
    assert told.has("p1", (0, 6)).heard_origin_bytes == 4 * MIB, "the rest came from elsewhere"
    assert told.has("p1", (0, 6)).heard_origin_bytes == 4 * MIB, "told twice, counted once"


def test_two_members_that_bring_the_same_are_two_copies():
    told = Told()
    for name in ("p1", "p2"):
        told.says(name, (0, 4))
        told.has(name, (0, 4))
    assert told.account.tally().heard_origin_bytes == 8 * MIB
    assert told.account.tally().nodes == 3


def test_the_last_block_is_told_after_its_request_has_ended():
    told = Told()
    told.says("p1", (0, 4))
    told.says("p1")
    assert told.has("p1", (0, 4), after=0.1).heard_origin_bytes == 4 * MIB


def test_what_a_member_gave_up_and_got_from_another_is_not_its_copy():
    told = Told()
    told.says("p1", (0, 4))
    told.says("p1")
    told.says("p2", (0, 4))
    told.has("p2", (0, 4))
    assert told.has("p1", (0, 4), after=0.1).heard_origin_bytes == 4 * MIB


def test_a_seed_that_has_it_all_brings_nothing_from_an_origin():
    told = Told()
    tally = told.note([ev.SourceHas("p0", 0, None)])
    assert (tally.heard_origin_bytes, tally.nodes) == (0, 1)


def test_the_rate_of_the_origin_is_of_all_that_left_it():
    """Two blocks a second come here, and four to another."""
    told = Told()
    told.says("p1", (0, BLOCKS))
    job = told.fetch(1, "hub", 0, BLOCKS)
    for n in range(1, 5):
        told.has("p1", (0, 2 * n), after=0.25)
        told.note([ev.Progress(job, n * MIB)], after=0.25)
    rate = told.account.tally().origin_bytes_per_s
    assert rate == pytest.approx(6 * MIB, rel=0.2)


def test_an_owner_that_brings_nothing_is_named_with_the_wait():
    told = Told()
    (one,) = told.note([], [ev.Suspect("p1", 1.25, False)], after=3.0).incidents
    assert (one.at_s, one.source) == (3.0, "p1")
    assert one.text == "waited for owner p1; taken over after 1.2 s"
    _, two = told.note([], [ev.Suspect("p2", 2.0, True)]).incidents
    assert "which had said that it brings it" in two.text


def test_a_source_that_froze_or_refused_says_so_once():
    told = Told()
    jobs = [told.fetch(n, "p0", n, n + 1) for n in (1, 2, 3)]
    told.note([], [ev.Abort(job) for job in jobs], after=1.5)
    denied = Fault(FaultKind.DENIED, "hub: 403 for this token", http_status=403)
    for n in (4, 5):
        told.note([ended(told.fetch(n, "hub"), denied)], after=5.0)
    tally = told.account.tally()
    assert [i.text for i in tally.incidents] == [
        "p0 brought nothing for 1.5 s: its pieces went to others",
        "hub: 403 for this token",
    ]
    assert tally.troubles["hub"] == "hub: 403 for this token"


def test_a_late_one_that_another_overtook_is_named_only_if_it_was_silent():
    told = Told()
    quick, silent = told.fetch(1, "hub"), told.fetch(2, "p0", 1, 2)
    told.note([], [ev.Abort(quick, ev.Cause.ENDGAME)], after=0.2)
    assert not told.account.tally().incidents
    told.note([], [ev.Abort(silent, ev.Cause.ENDGAME)], after=1.0)
    assert told.account.tally().troubles == {
        "p0": "brought nothing for 1.2 s: its pieces went to others"
    }


def test_our_own_doing_is_no_fault_of_the_source():
    told = Told()
    fault = Fault(FaultKind.UNAVAILABLE, "stopped")
    told.note([ended(told.fetch(1, "p0"), fault, blame=False)])
    assert not told.account.tally().incidents


def test_incidents_are_bounded_and_the_rest_counted():
    told = Told()
    for n in range(MAX_INCIDENTS + 5):
        told.note([], [ev.Suspect(f"p{n}", 1.0, False)])
    tally = told.account.tally()
    assert (len(tally.incidents), tally.more_incidents) == (MAX_INCIDENTS, 5)


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    sizes=SIZES,
    sources=st.integers(0, 2),
    peers=st.integers(0, 4),
    faults=st.sampled_from([0.0, 0.1, 0.5]),
    more_s=st.floats(0, 10),
)
def test_times_and_duplicates_add_up_whatever_happens(seed, sizes, sources, peers, faults, more_s):
    world = RecordedWorld(seed, sizes, sources, faults, peers)
    world.run()
    recorder = world.machine
    recorder.account.close(world.now + more_s)
    tally = recorder.account.tally()
    assert sum(tally.spent.values()) == pytest.approx(world.now + more_s)
    assert min(tally.spent.values()) >= 0.0
    assert 0 <= tally.missing_bytes <= sum(sizes)
    assert tally.nodes <= 1 + peers
    assert tally.heard_origin_bytes <= peers * sum(sizes)
    statistics = recorder.statistics()
    assert sum(statistics.duplicates.values()) == statistics.duplicate_bytes
    assert set(statistics.duplicates) <= {"endgame", "race", "wrong_bytes", "restart"}
    if not peers:
        assert tally.spent["peers_s"] == tally.spent["both_s"] == tally.spent["owner_s"] == 0.0


RATE = st.floats(1.0, 1e12)


@given(fetched=st.integers(1, 10**15), nodes=st.integers(1, 1000), origin=RATE, link=RATE)
def test_the_bound_is_the_design_s(fetched, nodes, origin, link):
    terms = bound_terms(
        fetched_bytes=fetched, from_origins_bytes=fetched, nodes=nodes,
        origin_bytes_per_s=origin, link_bytes_per_s=link,
    )  # fmt: skip
    assert max(terms.values()) == pytest.approx(
        max(fetched / origin, fetched / link, nodes * fetched / (origin + nodes * link))
    )
    assert terms[binding(terms)] == max(terms.values())


@given(
    bytes_=st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 10**9)), min_size=2),
)
def test_no_pull_is_faster_than_its_bound(bytes_):
    """Whatever came in each second: rates are best seconds, so each term is below the time."""
    came, left = [a for a, _ in bytes_], [b for _, b in bytes_]
    terms = bound_terms(
        fetched_bytes=sum(came), from_origins_bytes=sum(left), nodes=2,
        origin_bytes_per_s=max(left), link_bytes_per_s=max(came),
    )  # fmt: skip
    assert max(terms.values(), default=0.0) <= len(bytes_) * (1 + 1e-9)


def test_without_an_origin_there_is_no_origin_term():
    terms = bound_terms(
        fetched_bytes=100, from_origins_bytes=0, nodes=4, origin_bytes_per_s=0.0,
        link_bytes_per_s=10.0,
    )  # fmt: skip
    assert terms == {"link": 10.0, "swarm": 10.0}
