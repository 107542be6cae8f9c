"""Who brings what: the rules of `owners`, by hand and at random."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from p2pcache.transfer.machine.owners import (
    FIRST_LEASES,
    MAX_BROKEN,
    MAX_UNITS,
    TAKES_LEASES,
    OwnerOptions,
    Owners,
    Unit,
    rendezvous,
)

NAMES = [f"peer{n}" for n in range(6)]
EVENTS = ["declines", "accepts", "ends", "leaves"]
KEY = b"\x12\x20" + bytes(32)
OPTIONS = OwnerOptions()
LATE = OPTIONS.blind_s + 0.01


def owners(me: str, members=NAMES, now: float = 0.0) -> Owners:
    made = Owners(me, members, OPTIONS, now)
    made.add_blob(0, KEY)
    made.took(0.1)  # the origin is quick: see the last tests for when nobody knows yet
    return made


def all_take_part(made: Owners, but: str = "", now: float = 0.0) -> Owners:
    for name in NAMES:
        if name != but:
            made.heard(name, intake=1e6, declines=False, brings=(), now=now)
    return made


def owned(piece: int, by: str) -> Unit:
    """The first unit from `piece` on that this member owns."""
    view = all_take_part(owners("peer0"))
    return next(Unit(0, n) for n in range(piece, 1000) if view.owner(Unit(0, n), LATE) == by)


@given(piece=st.integers(0, 10_000), late=st.booleans())
def test_all_members_name_the_same_owner(piece, late):
    now = LATE if late else 0.0
    views = [all_take_part(owners(name)) for name in NAMES]
    assert len({view.owner(Unit(0, piece), now) for view in views}) == 1


@settings(max_examples=500, deadline=None)
@given(
    history=st.lists(
        st.tuples(
            st.sampled_from(["declines", "accepts", "ends", "leaves"]), st.sampled_from(NAMES)
        ),
        max_size=30,
    ),
    pieces=st.lists(st.integers(0, 5000), min_size=1, max_size=8),
)
def test_whatever_happened_a_view_that_all_share_has_one_owner_of_each_unit(history, pieces):
    views = {name: all_take_part(owners(name)) for name in NAMES}
    declining: set[str] = set()
    ended: set[str] = set()
    gone: set[str] = set()
    for what, name in history:
        for viewer, view in views.items():
            if what == "leaves":
                view.left(name)
            elif viewer == name:
                view.counted(0, 1e6, can_ask=what != "declines", oldest_s=0.0, now=LATE)
            else:
                intake = None if what == "ends" else 1e6
                declines = what == "declines"
                view.heard(name, intake=intake, declines=declines, brings=(), now=LATE)
        for group, word in ((declining, "declines"), (ended, "ends"), (gone, "leaves")):
            (group.add if what == word else group.discard)(name)
        able = set(NAMES) - declining - ended - gone
        for piece in pieces if able else ():
            unit = Unit(0, piece)
            first = next(n for n in rendezvous(KEY + piece.to_bytes(8, "big"), frozenset(NAMES))
                         if n in able)  # fmt: skip
            named = {views[n].owner(unit, LATE) for n in able | (declining - gone - ended)}
            assert named == {first}
            assert [n for n in able if views[n].is_mine(unit, LATE)] == [first]


def test_the_units_are_spread_over_the_members():
    view = all_take_part(owners("peer0"))
    counts = dict.fromkeys(NAMES, 0)
    for piece in range(1200):
        counts[view.owner(Unit(0, piece), LATE)] += 1
    assert min(counts.values()) > 120


@given(heard=st.sets(st.sampled_from(NAMES[1:])), piece=st.integers(0, 500))
def test_a_blind_start_never_collides_with_what_is_named_later(heard, piece):
    unit = Unit(0, piece)
    mine = owners("peer0")
    for name in heard:
        mine.heard(name, intake=1.0, declines=False, brings=(), now=0.0)
    if mine.owner(unit, 0.0) == "peer0":
        for name in NAMES[1:]:
            assert all_take_part(owners(name)).owner(unit, LATE) == "peer0"
        assert mine.owner(unit, LATE) == "peer0"


def test_who_does_not_take_part_or_declines_or_left_owns_nothing():
    unit = owned(0, "peer1")
    view = owners("peer0")
    assert view.owner(unit, 0.0) == "peer1", "blind: anybody may take part"
    assert view.owner(unit, LATE) == "peer0", "nobody was heard"
    all_take_part(view)
    assert view.owner(unit, LATE) == "peer1"
    view.heard("peer1", intake=1.0, declines=True, brings=(), now=0.0)
    assert view.owner(unit, LATE) != "peer1"
    view.heard("peer1", intake=1.0, declines=False, brings=(), now=0.0)
    assert view.owner(unit, LATE) == "peer1"
    view.heard("peer1", intake=None, declines=False, brings=(), now=0.0)
    assert view.owner(unit, LATE) != "peer1", "it has ended its part"
    all_take_part(view).left("peer1")
    assert view.owner(unit, LATE) != "peer1"


def test_the_owner_of_a_unit_that_stays_loses_it_after_a_lease_to_the_next():
    unit = owned(0, "peer1")
    view = all_take_part(owners("peer0"))
    view.watch(unit, LATE)
    view.watch(unit, LATE + 0.9)
    assert view.owner(unit, LATE + 0.9) == "peer1"
    view.watch(unit, LATE + 1.1)
    second = view.owner(unit, LATE + 1.1)
    assert second != "peer1"
    view.watch(unit, LATE + 2.2)
    assert view.owner(unit, LATE + 2.2) not in ("peer1", second)
    view.moved("peer1", [Unit(0, 3)], LATE + 2.3)
    assert view.owner(unit, LATE + 2.3) == "peer1", "its blocks arrive: it is alive"


def test_an_owner_that_is_busy_with_another_unit_is_not_suspected_while_that_arrives():
    unit, other = owned(0, "peer1"), Unit(0, 999)
    view = all_take_part(owners("peer0"))
    view.watch(unit, 1.0)
    view.heard("peer1", intake=1.0, declines=False, brings=[other], now=1.0)
    view.moved("peer1", [other], 1.9)
    view.watch(unit, 2.5)
    assert view.owner(unit, 2.5) == "peer1"
    view.watch(unit, 3.6)
    assert view.owner(unit, 3.6) != "peer1", "to say that one is busy is not enough"


def test_a_far_unit_that_never_comes_is_noticed_too():
    view = all_take_part(owners("peer0"))
    view.heard("peer1", intake=1.0, declines=False, brings=[Unit(0, 999)], now=1.0)
    mine = owned(0, "peer1")
    view.watch(None, 2.9)
    assert view.owner(mine, 2.9) == "peer1"
    view.watch(None, 3.1)
    assert view.owner(mine, 3.1) != "peer1"


def test_who_announces_and_brings_nothing_is_believed_for_two_leases():
    unit = owned(0, "peer0")
    view = all_take_part(owners("peer0"))
    assert view.is_mine(unit, 1.0)
    for at in (1.0, 1.5, 2.0, 2.5, 3.5):  # it says so again and again
        view.heard("peer1", intake=1.0, declines=False, brings=[unit], now=at)
        assert view.is_mine(unit, at) == (at >= 3.0)
    assert not view.yields(unit, 3.6), "nor does anybody yield to it"
    view.moved("peer1", [unit], 4.0)
    assert not view.is_mine(unit, 4.0), "a block came after all"


def test_who_breaks_its_word_again_and_again_is_not_heard_any_more():
    view = all_take_part(owners("peer0"))
    at = 1.0
    for number in range(MAX_BROKEN):
        unit = owned(100 * number, "peer0")
        view.heard("peer1", intake=1.0, declines=False, brings=[unit], now=at)
        assert not view.is_mine(unit, at)
        view.heard("peer1", intake=1.0, declines=False, brings=[], now=at + 0.5)
        view.heard("peer1", intake=1.0, declines=False, brings=[unit], now=at + 1.0)
        assert not view.is_mine(unit, at + 2.4), "half a second of them it did not say so"
        assert view.is_mine(unit, at + 2.6), "what is said again is no newer"
        view.moved("peer1", [Unit(0, 9999)], at + 2.7)  # says it has something: believed again
        at += 3.0
    unit = owned(900, "peer0")
    view.heard("peer1", intake=1.0, declines=False, brings=[unit], now=at)
    assert view.is_mine(unit, at)
    assert view.owner(owned(0, "peer1"), at) != "peer1"


def test_who_takes_a_unit_back_because_its_origin_said_wait_breaks_no_word():
    unit = owned(0, "peer0")
    view = all_take_part(owners("peer0"))
    view.heard("peer1", intake=1.0, declines=False, brings=[unit], now=0.3)
    view.heard("peer1", intake=1.0, declines=True, brings=[], now=1.0)
    view.watch(None, 1.1)
    view.heard("peer1", intake=1.0, declines=False, brings=[unit], now=31.0)
    view.watch(None, 31.1)
    assert view.suspects == []
    assert view.is_brought(unit, 32.2), "1.3 of its two leases are left"
    assert not view.is_brought(unit, 32.4)


def test_who_keeps_its_word_after_all_is_heard_again():
    """An origin that was silent makes everybody break it: once it is back, one copy is enough."""
    view = all_take_part(owners("peer0"))
    at = 1.0
    for _ in range(MAX_BROKEN):
        unit = owned(0, "peer0")
        view.heard("peer1", intake=1.0, declines=False, brings=[unit], now=at)
        assert view.is_mine(unit, at + 2.1)
        view.moved("peer1", [Unit(0, 9999)], at + 2.2)
        view.heard("peer1", intake=1.0, declines=False, brings=[], now=at + 2.3)
        at += 3.0
    mine = owned(0, "peer1")
    assert view.owner(mine, at) != "peer1"
    view.moved("peer1", [unit], at)
    assert view.owner(mine, at) == "peer1"


def test_a_member_may_bring_more_units_than_are_remembered():
    view = all_take_part(owners("peer0"))
    at = 1.0
    for piece in range(2 * MAX_UNITS):
        at += 0.01
        view.heard("peer1", intake=1.0, declines=False, brings=[Unit(0, piece)], now=at)
        view.moved("peer1", [Unit(0, piece)], at)
        assert view.is_brought(Unit(0, piece), at + 0.1), "140 GB have 8,345 units"


def test_who_has_just_brought_a_unit_has_time_to_say_that_it_has_it():
    unit = owned(0, "peer1")
    view = all_take_part(owners("peer0"))
    view.heard("peer1", intake=1.0, declines=False, brings=[unit], now=1.0)
    view.heard("peer1", intake=None, declines=True, brings=[], now=1.5)
    assert view.is_brought(unit, 1.6), "its blocks are still to be told of"
    assert view.next_at(1.6) <= 1.5 + OPTIONS.arrives_s
    assert not view.is_brought(unit, 1.8), "nor did they come"


def test_of_two_that_bring_the_same_unit_exactly_one_stops():
    unit = owned(0, "peer1")
    first, second = all_take_part(owners("peer1")), all_take_part(owners("peer0"))
    first.heard("peer0", intake=1.0, declines=False, brings=[unit], now=1.0)
    second.heard("peer1", intake=1.0, declines=False, brings=[unit], now=1.0)
    assert not first.yields(unit, 1.0)
    assert second.yields(unit, 1.0)


def test_a_slow_agent_declines_and_so_does_one_that_may_ask_nobody():
    view = all_take_part(owners("peer0"))
    view.counted(0, 1.0, can_ask=True, oldest_s=0.0, now=0.5)
    assert not view.declines, "too early to tell"
    view.counted(9, 1.0, can_ask=True, oldest_s=0.0, now=2.0)
    assert view.declines, "a third of the median's intake is 333,333"
    view.counted(9, 1.0, can_ask=True, oldest_s=0.0, now=3.1)
    assert not view.declines, "nothing new in a lease: the fast ones only say that they are"
    view.counted(10, 400_000.0, can_ask=True, oldest_s=0.0, now=3.2)
    assert not view.declines
    view.counted(0, 400_000.0, can_ask=False, oldest_s=0.0, now=4.0)
    assert view.declines
    unit = owned(0, "peer0")
    assert view.owner(unit, 4.0) != "peer0"


def test_the_lease_grows_where_the_origin_is_slow():
    view = Owners("peer0", NAMES, OPTIONS, 0.0)
    assert view.lease_s == FIRST_LEASES, "nobody knows how slow it is"
    view.took(3.0)
    assert view.lease_s == 12.0
    view.counted(0, 1.0, can_ask=True, oldest_s=5.0, now=1.0)
    assert view.lease_s == 20.0, "the unit under way tells before its end"
    view.took(1e9)
    assert view.lease_s == OPTIONS.lease_most_s, "nobody's patience ends while a promise counts"


def test_before_anything_came_a_lease_follows_how_many_ask_the_origin():
    view = Owners("peer0", NAMES, OPTIONS, 0.0)
    for name in ("peer1", "peer2", "peer3"):
        view.heard(name, intake=1.0, declines=False, brings=[Unit(0, int(name[-1]))], now=0.0)
    assert view.lease_s == 3 * FIRST_LEASES


def test_the_window_is_wider_where_not_all_are_linked():
    options = OwnerOptions()
    members = [f"m{number}" for number in range(options.all_linked + 1)]
    assert Owners("m0", members[:-1], options, 0.0).window == options.window_least
    assert Owners("m0", members, options, 0.0).window == options.window_wide


def test_the_window_grows_with_what_appears():
    view = owners("peer0")
    assert view.window == 12
    exists = 0
    for beat in range(1, 50):
        exists += 20
        view.counted(exists, 1.0, can_ask=True, oldest_s=0.0, now=beat * 0.1)
    assert 70 < view.window <= 84, "200 units/s, 0.4 s ahead"


def test_alone_until_somebody_is_heard():
    view = owners("peer0", members=["peer0"])
    assert view.alone
    assert not view.has_partners
    view.heard("peer1", intake=1.0, declines=False, brings=(), now=0.0)
    assert not view.alone
    view.left("peer1")
    assert view.alone


def test_where_the_origin_is_slow_an_owner_is_suspected_for_longer_than_a_lease():
    unit = owned(0, "peer1")
    view = all_take_part(owners("peer0"))
    view.took(3.0)
    view.watch(unit, LATE)
    view.watch(unit, LATE + 12.1)
    assert view.owner(unit, LATE + 12.1) != "peer1"
    assert view.owner(unit, LATE + 12.1 + 1.5 * view.lease_s) != "peer1"


def test_who_asks_no_origin_learns_of_the_quickest_other_how_slow_it_is():
    view = all_take_part(Owners("peer0", NAMES, OPTIONS, 0.0))
    view.add_blob(0, KEY)
    for name, piece, took_s in (("peer1", 1, 2.0), ("peer2", 2, 9.0)):
        view.heard(name, intake=1.0, declines=False, brings=[Unit(0, piece)], now=1.0)
        view.moved(name, [Unit(0, piece)], 1.0 + took_s)
    assert view.lease_s == OPTIONS.lease_units * 2.0
    view.moved("peer1", [Unit(0, 1)], 20.0)
    assert view.lease_s == OPTIONS.lease_units * 2.0, "its other blocks tell nothing of the first"


def test_who_only_takes_what_others_brought_loses_its_units_after_some_leases():
    view = all_take_part(owners("peer0"))
    unit, at = owned(0, "peer1"), 1.0
    while view.owner(unit, at) == "peer1" and at < 100.0:
        view.watch(unit, at)
        view.moved("peer1", [Unit(0, 999)], at + 0.5, new=False)
        at += 1.0
    assert TAKES_LEASES <= at <= TAKES_LEASES + 4.0
    view = all_take_part(owners("peer0"))
    for second in range(1, 30):
        view.watch(unit, float(second))
        view.moved("peer1", [Unit(0, 999)], second + 0.5, new=True)
    assert view.owner(unit, 30.0) == "peer1", "it brings what is new"
