"""Who is asked when members are near and far: one copy of a unit crosses the border of a zone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pcache.content.ranges import RangeSet
from p2pcache.sources.port import SourceKind
from p2pcache.transfer import events as ev
from p2pcache.transfer.machine import Download
from p2pcache.transfer.machine.owners import OwnerOptions, Owners, Unit
from p2pcache.transfer.machine.zones import FAR, SAME_RACK, SAME_ZONE, Place, distance
from tests.support.machine_world import MIB, specs
from tests.unit.transfer.test_swarm_machine import OPTIONS, Pull

NAMES = [f"peer{n}" for n in range(6)]
ZONE_OF = {name: "ab"[n % 2] for n, name in enumerate(NAMES)}
KEY = bytes(34)
LATE = 0.5


def view_of(me: str, zones: dict[str, str] = ZONE_OF) -> Owners:
    """What a member knows when all take part."""
    view = Owners(me, NAMES, OwnerOptions(), 0.0)
    view.add_blob(0, KEY)
    view.took(0.1)
    for name in NAMES:
        view.placed(name, far=zones[name] != zones[me])
        if name != me:
            view.heard(name, intake=1e6, declines=False, brings=(), now=0.0)
    return view


@pytest.mark.parametrize(
    ("mine", "theirs", "far"),
    [
        (Place("a", "1"), Place("a", "1"), SAME_RACK),
        (Place("a", "1"), Place("a", "2"), SAME_ZONE),
        (Place("a", "1"), Place("b", "1"), FAR),
        (Place("a"), Place("a", "2"), SAME_RACK),
        (Place(), Place("b", "2"), SAME_RACK),
        (Place("a"), Place(), SAME_RACK),
    ],
)
def test_who_tells_no_zone_is_treated_as_without_zones(mine, theirs, far):
    assert distance(mine, theirs) == far


@given(piece=st.integers(0, 5000), declining=st.sets(st.sampled_from(NAMES)))
def test_a_zone_has_one_carrier_of_each_unit_also_where_all_of_it_decline(piece, declining):
    views = {name: view_of(name) for name in NAMES}
    for name in declining:
        for viewer, view in views.items():
            if viewer == name:
                view.counted(0, 1e6, can_ask=False, oldest_s=0.0, now=LATE)
            else:
                view.heard(name, intake=1e6, declines=True, brings=(), now=LATE)
    for zone in "ab":
        inside = [name for name in NAMES if ZONE_OF[name] == zone]
        named = {views[name].owner(Unit(0, piece), LATE, across=True) for name in inside}
        assert len(named) == 1
        assert named <= set(inside)


def test_the_next_of_the_zone_carries_a_unit_whose_carrier_does_nothing_for_a_lease():
    view = view_of("peer0")
    unit = next(
        Unit(0, n) for n in range(99) if view.owner(Unit(0, n), LATE, across=True) == "peer2"
    )
    view.watch(unit, LATE, across=True)
    view.watch(unit, LATE + 1.1, across=True)
    assert view.owner(unit, LATE + 1.1, across=True) in ("peer0", "peer4")


def test_what_another_zone_carries_for_itself_is_not_waited_for():
    view = view_of("peer0")
    unit = next(
        Unit(0, n) for n in range(99) if view.owner(Unit(0, n), LATE, across=True) == "peer0"
    )
    view.heard("peer1", intake=1e6, declines=False, brings=[unit], now=LATE)
    assert view.is_mine(unit, LATE, across=True)
    view.heard("peer2", intake=1e6, declines=False, brings=[unit], now=LATE)
    assert not view.is_mine(unit, LATE, across=True)


def test_a_zone_with_one_member_has_no_such_rule():
    alone = {name: "a" if name == "peer0" else "b" for name in NAMES}
    assert not view_of("peer0", alone).is_zoned(LATE)
    assert view_of("peer0").is_zoned(LATE)


def zoned(*sizes: int, streams: int = 4) -> Pull:
    """`me` and `near` in one zone, `far0` and `far1` in another; no origin."""
    pull = Pull(*sizes, origin=False, peers=0)
    names = ["near", "far0", "far1"]
    owners = Owners("me", ["me", *names], OwnerOptions(), 0.0)
    for index in range(len(sizes)):
        owners.add_blob(index, bytes([index]) * 34)
    pull.machine = Download(
        specs(*sizes), piece_bytes=2 * MIB, streams=streams, options=OPTIONS, chance=lambda: 0.5,
        now=0.0, hopeful=True, owners=owners,
    )  # fmt: skip
    for name in names:
        pull.tell(ev.Placed(name, FAR if name.startswith("far") else SAME_RACK))
        pull.tell(ev.Partner(name, 1e6, False, ()))
        pull.tell(ev.SourceUp(name, SourceKind.PEER, 8, frozenset()))
    pull.now = 0.5
    pull.owners = owners
    return pull


def test_what_our_zone_has_is_not_asked_of_another_also_when_its_holder_is_busy():
    pull = zoned(40 * MIB, streams=16)
    for name in ("near", "far0", "far1"):
        pull.tell(ev.SourceHas(name, 0))
    jobs = pull.open(blocks=40)
    assert {job.source for job in jobs} == {"near"}
    assert len(jobs) == 8, "it takes no more; the rest waits for it"


def test_what_only_another_zone_has_is_carried_unit_by_unit_by_its_carriers():
    pull = zoned(40 * MIB)
    pull.tell(ev.SourceHas("far0", 0))
    todo = pull.open(blocks=40)
    carried: set[int] = set()
    while todo:
        assert len(pull.running) == 1, "like an origin: few at once"
        job = todo.pop(0)
        carried |= {job.start // (2 * MIB)}
        assert job.end - job.start <= 2 * MIB
        todo += pull.end(job)
    mine = {n for n in range(20) if pull.owners.owner(Unit(0, n), 0.5, across=True) == "me"}
    assert carried
    assert carried <= mine, "the others are its neighbour's"
    said = [action for action in pull.out if isinstance(action, ev.Say)]
    assert not said or not said[-1].brings


def test_what_is_carried_is_told_so_that_the_others_of_the_zone_wait():
    pull = zoned(40 * MIB)
    pull.tell(ev.SourceHas("far0", 0))
    (job,) = pull.open(blocks=40)
    (said,) = [action for action in pull.out if isinstance(action, ev.Say)]
    assert said.brings == ((0, RangeSet.of((job.start // MIB, job.end // MIB))),)


def test_a_small_file_crosses_once_too():
    pull = zoned(*[1000] * 30)
    todo: list[ev.Batch] = []

    def tell(event: ev.Event) -> None:
        pull.tell(event)
        todo.extend(a.batch for a in pull.out if isinstance(a, ev.FetchBatch))

    for index in range(30):
        tell(ev.SourceHas("far0", index))
    asked: set[int] = set()
    while todo:
        batch = todo.pop()
        asked |= set(batch.blobs)
        tell(ev.BatchEnded(batch, (None,) * len(batch.blobs), 1, 0.1))
    mine = {n for n in range(30) if pull.owners.owner(Unit(n, 0), 0.5, across=True) == "me"}
    assert 0 < len(asked) < 30
    assert asked <= mine
