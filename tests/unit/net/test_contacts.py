"""Whom we know of in whose word: what nobody proved displaces nothing, and is told to nobody."""

from __future__ import annotations

import random
import time

from p2pcache.net.mesh import Mesh, MeshOptions
from p2pcache.net.sync.machine import Cause
from tests.support.members import peer

ME = peer(100)
X, TELLER = peer(1), peer(2)
FAKES = [f"/fake/{n}" for n in range(8)]


def mesh(**options):
    return Mesh(ME, MeshOptions(**options), random.Random(1).random)


def test_claims_neither_displace_what_was_proven_nor_are_told():
    made = mesh()
    made.connected(X, 0.0, inbound=False, address="/dialled")
    made.linked(X, ["/own/1", "/own/2"], 0.0, ours=True)
    for by in ("mdns", "dht", TELLER):
        made.found(X, FAKES, 1.0, by)
        made.found(X, [f"{one}/{by!r}" for one in FAKES], 1.0, by)
    assert made.contact(X).addresses == ("/dialled", "/own/1", "/own/2")
    assert [one.addresses for one in made.contacts()] == [("/dialled", "/own/1", "/own/2")]
    made.disconnected(X)
    made.unlinked(X, Cause.LOST, 100.0)
    assert made.due(101.0) == [(X, ("/dialled", "/own/1", "/own/2"))]


def test_claims_are_dialled_in_turn_with_what_was_proven():
    made = mesh()
    made.linked(X, ["/own"], 0.0, ours=True)
    made.unlinked(X, Cause.LOST, 50.0)
    made.found(X, ["/moved"], 51.0, "mdns")
    dialled, now = [], 51.0
    for _ in range(6):
        now = max(now, made.next_at(now))
        ((who, addresses),) = made.due(now)
        dialled.append(addresses)
        made.found(X, [f"/fake/{now}"], now, "mdns")  # and ever new ones
        made.failed(who, now)
    assert dialled[0] == dialled[2] == dialled[4] == ("/own",)
    assert "/moved" in dialled[1]
    assert made._known[X].failures == 4, "a claim that leads nowhere says nothing of the peer"


def test_where_a_connection_of_theirs_comes_from_is_told_to_nobody():
    made = mesh()
    made.connected(X, 0.0, inbound=True, address="/ip4/203.0.113.1/tcp/54321")
    made.linked(X, ["/own"], 0.0, ours=False)
    assert made.contact(X).addresses == ("/own",)
    made.linked(X, [], 0.0, ours=False)
    assert made.contact(X).addresses == ()


def test_a_hello_replaces_what_the_one_before_said():
    made = mesh()
    made.linked(X, ["/old"], 0.0, ours=True)
    made.linked(X, ["/new"], 1.0, ours=True)
    assert made.contact(X).addresses == ("/new",)


def test_only_who_was_linked_counts_as_a_member():
    made = mesh()
    made.linked(X, ["/own"], 0.0, ours=True)
    for number in range(1000, 1300):
        made.found(peer(number), ["/fake"], 1.0, "mdns")
        made.found(peer(2000 + number), ["/fake"], 1.0, X)
        made.connected(peer(4000 + number), 1.0, inbound=True)
    made.due(2.0)
    assert not made.sparse


def test_who_tells_of_thousands_displaces_its_own_tales_alone():
    made = mesh(max_told=20)
    made.linked(X, ["/own"], 0.0, ours=True)
    made.linked(TELLER, ["/own"], 0.0, ours=True)
    for number in range(10):
        made.found(peer(500 + number), ["/a"], 0.0, "mdns")
        made.found(peer(600 + number), ["/a"], 0.0, X)
    for number in range(1000, 3000):
        made.found(peer(number), ["/b"], 1.0, TELLER)
        made.found(peer(600 + number % 10), ["/b"], 1.0, TELLER)
        made.found(peer(5000 + number), [], 1.0, TELLER)
    # Those that both told of are in both budgets.
    usual = {X, TELLER, *(peer(n) for n in (*range(500, 510), *range(600, 610)))}
    assert usual < set(made._known)
    assert len(made._known) == len(usual) + 10
    made.unlinked(TELLER, Cause.LOST, 2.0)
    made.unlinked(X, Cause.LOST, 2.0)
    assert len(made._known) == 32, "the tales of those that left are bounded together"
    assert sum(map(len, made._contacts._told.values())) == 30


def test_what_one_tells_of_an_unknown_peer_displaces_no_other_word_on_it():
    made = mesh()
    made.found(X, ["/true"], 0.0, peer(3))
    made.found(X, FAKES, 0.0, TELLER)
    dialled = []
    for now in (1.0, 100.0):
        ((who, addresses),) = made.due(now)
        dialled.append(addresses)
        made.failed(who, now)
    assert dialled == [("/true",), tuple(FAKES)]


def test_a_flood_of_proven_ones_is_bounded_too():
    made = mesh(max_contacts=50)
    made.linked(X, ["/own"], 0.0, ours=True)
    for number in range(1000, 1200):
        made.linked(peer(number), [f"/{n}" for n in range(30)], 1.0, ours=False)
        made.unlinked(peer(number), Cause.LOST, 2.0)
        made.found(peer(number), FAKES, 2.0, "mdns")
    assert len(made._known) == 50
    assert X in made._known
    assert all(len(known.first_hand) <= 8 for known in made._known.values())
    assert all(len(made._known[p].told["mdns"]) <= 8 for p in made._known if p != X)
    assert len(made._turns._later) <= 4 * 50 + 64


def test_black_holes_leave_places_for_others():
    made = mesh()
    made.linked(X, ["/own"], 0.0, ours=True)
    made.linked(TELLER, ["/own"], 0.0, ours=True)
    for number in range(1000, 1200):
        made.found(peer(number), ["/hole"], 0.0, TELLER)
        made.found(peer(1000 + number), ["/hole"], 0.0, "mdns")
    holes = made.due(1.0)
    assert len(holes) == 12
    assert made.due(1.0) == []
    made.found(peer(500), ["/true"], 1.0, X)
    made.due(2.0)
    assert made.next_at(2.0) is None, "not before a dial ended"
    made.failed(holes[0][0], 2.0)
    assert [who for who, _ in made.due(2.0)] == [peer(500)], "few are dialled upon its word"
    made.unlinked(X, Cause.LOST, 3.0)
    assert [who for who, _ in made.due(5.0)] == [X], "some places are for proven ones"


def test_those_that_are_gone_leave_places_for_those_that_came():
    made = mesh()
    for number in range(1000, 1060):
        made.linked(peer(number), ["/own"], 0.0, ours=True)
    for number in range(1000, 1060):
        made.unlinked(peer(number), Cause.LOST, 1.0)
    now = 1.0
    for _ in range(200):
        now = max(now, made.next_at(now))
        for who, _ in made.due(now):
            made.failed(who, now)
    now += 60
    gone = made.due(now)
    assert len(gone) == 6
    made.found(peer(500), ["/true"], now, "mdns")
    assert [who for who, _ in made.due(now)] == [peer(500)]


def test_in_a_large_network_black_holes_are_not_taken_for_neighbours():
    made = mesh(full_mesh=12, back_to_full=8)
    for number in range(1000, 1040):
        made.linked(peer(number), ["/own"], 0.0, ours=False)
    made.due(0.0)
    assert made.sparse
    for number in range(1000, 1040):
        made.unlinked(peer(number), Cause.BYE, 1.0)
    for number in range(2000, 2200):
        made.found(peer(number), ["/hole"], 1.0, "mdns")
    dialled = made.due(3.0)
    assert len(dialled) == 8
    assert 4 <= sum(addresses == ("/own",) for _, addresses in dialled) < 8


def test_tales_have_a_rate():
    made = mesh()
    made.linked(TELLER, ["/own"], 0.0, ours=True)
    assert sum(made.hears(TELLER, 1.0) for _ in range(100)) == 8
    made.unlinked(TELLER, Cause.LOST, 1.0)
    made.linked(TELLER, ["/own"], 1.0, ours=True)
    assert not made.hears(TELLER, 1.0), "another link is no new start"
    assert sum(made.hears(TELLER, 61.0) for _ in range(100)) == 8
    for at in range(100, 200, 3):
        assert made.hears(TELLER, float(at)), "who tells every 3 s is heard"


def test_ten_thousand_tales_cost_little():
    """A loop over all contacts for each one would take minutes here."""
    made = mesh()
    for number in range(1, 41):
        made.linked(peer(number), ["/own"], 0.0, ours=True)
    began, count = time.perf_counter(), 0
    for turn in range(4):
        for teller in range(1, 41):
            for number in range(64):
                count += 1
                who = peer(1000 + 100_000 * turn + 1000 * teller + number)
                made.found(who, FAKES, float(turn), peer(teller))
        made.due(float(turn))
        made.next_at(float(turn))
    took_s = time.perf_counter() - began
    assert count == 10_240
    assert len(made._known) == 40 + count
    assert took_s < 5, f"{took_s:.2f} s"
