"""Whom to have a link with, decided without a network."""

from __future__ import annotations

import itertools
import random

from hypothesis import given
from hypothesis import strategies as st

from p2pcache.net.mesh import Mesh, MeshOptions, Standing
from p2pcache.net.sync.machine import Cause
from tests.support.members import peer

ME = peer(100)


def mesh(me=ME, **options):
    return Mesh(me, MeshOptions(**options), random.Random(1).random)


def test_an_unreachable_contact_is_tried_ever_more_rarely_and_forgotten():
    made, now, dials = mesh(), 0.0, []
    made.found(peer(1), ["/a"], now, "config")
    while (at := made.next_at(now)) is not None:
        now = max(now, at)
        for who, addresses in made.due(now):
            assert (who, addresses) == (peer(1), ("/a",))
            dials.append(now)
            made.failed(who, now)
    gaps = [b - a for a, b in itertools.pairwise(dials)]
    assert gaps[0] >= 0.5
    assert max(gaps) <= 60
    assert 10 < len(dials) < 40
    assert dials[-1] > 600


def test_new_addresses_are_tried_at_once():
    made = mesh()
    made.found(peer(1), ["/a"], 0.0, "config")
    for _ in range(8):
        for who, _ in made.due(1e6):
            made.failed(who, 100.0)
    made.found(peer(1), ["/b"], 101.0, "config")
    assert made.due(101.6) == [(peer(1), ("/b", "/a"))]


def test_ourselves_and_liars_are_never_dialled():
    made = mesh()
    made.found(ME, ["/me"], 0.0, "config")
    made.found(peer(1), ["/a"], 0.0, "config")
    made.unlinked(peer(1), Cause.UNTRUSTED, 0.0)
    assert made.due(200.0) == []
    assert made.refuses(peer(1), 200.0)
    assert made.refuses(ME, 0.0)
    assert made.due(400.0) == [(peer(1), ("/a",))]


@given(
    st.binary(min_size=1, max_size=2),
    st.binary(min_size=1, max_size=2),
    st.floats(0, 4),
    st.floats(0, 4),
)
def test_both_ends_keep_the_same_of_two_links(low, high, one_s, two_s):
    """Each end may see either link first."""
    if low == high:
        return
    a, b = mesh(low), mesh(high)
    g = b"g"
    for first_at_a in (True, False):
        for first_at_b in (True, False):
            a_opened = [Standing(True, g, one_s), Standing(False, g, two_s)]
            b_opened = [Standing(False, g, two_s), Standing(True, g, one_s)]
            kept = []
            for end, other, first, (mine, theirs) in (
                (a, high, first_at_a, a_opened),
                (b, low, first_at_b, b_opened[::-1]),
            ):
                old, new = (mine, theirs) if first else (theirs, mine)
                stays = new if end.replaces(other, old, new) else old
                kept.append(stays.opened_by_us)
            assert kept[0] != kept[1], "one end opened it, the other did not"


def test_a_restarted_peer_and_a_link_it_gave_up_are_replaced():
    made = mesh()
    old = Standing(True, b"1", 0.0)
    assert made.replaces(peer(1), old, Standing(False, b"2", 1.0))
    assert made.replaces(peer(200), old, Standing(False, b"2", 1.0))
    assert not made.replaces(peer(200), old, Standing(False, b"1", 1.0))
    assert made.replaces(peer(1), old, Standing(True, b"1", 1.0))
    assert made.replaces(peer(1), old, Standing(False, b"1", 6.0))
    assert made.replaces(peer(200), old, Standing(False, b"1", 6.0))


def linked(made, numbers, now=0.0, *, ours=False):
    for number in numbers:
        made.linked(peer(number), [f"/at/{number}"], now, ours=ours)


def test_a_large_network_gets_neighbours_and_those_with_what_we_want():
    made = mesh()
    linked(made, range(1000, 1070))
    made.due(0.0)
    assert made.sparse
    for number in range(1000, 1070):
        made.unlinked(peer(number), Cause.BYE, 0.0)
    dialled = [who for who, _ in made.due(1.0)]
    assert made.sparse, "who was linked a while ago is still a member"
    assert len(dialled) == 8
    wanted = next(peer(n) for n in range(1000, 1070) if peer(n) not in dialled)
    made.meet(wanted, 1.0)
    assert [who for who, _ in made.due(1.0)] == [wanted]
    for who in [*dialled, wanted]:
        made.linked(who, ["/a"], 2.0, ours=True)
    assert made.surplus(frozenset()) == []
    made.part(wanted)
    assert len(made.surplus(frozenset())) == 1
    assert made.surplus(frozenset([wanted, *dialled])) == []


def test_a_network_that_became_small_gets_a_full_mesh_again():
    made = mesh(full_mesh=8, back_to_full=6, neighbours=2, fresh_s=600.0)
    linked(made, range(1, 11), ours=True)
    made.due(0.0)
    assert made.sparse
    for number in range(4, 11):
        made.unlinked(peer(number), Cause.LOST, 1.0)
    made.found(peer(4), ["/at/4"], 500.0, peer(1))
    made.found(peer(5), ["/at/5"], 500.0, "mdns")
    made.due(600.0)
    assert made.sparse
    assert made.next_at(600.0) <= 601.0, "nobody else needs to say anything"
    made.due(601.0)
    assert not made.sparse, "neither linked nor mentioned for 10 minutes; mDNS is no member's word"
    assert made._contacts.alive_count(601.0) == 1


def test_an_announcement_is_acted_on_once():
    made = mesh(max_seen=3)
    assert made.is_news(b"1")
    assert not made.is_news(b"1")
    for one in (b"2", b"3", b"4"):
        assert made.is_news(one)
    assert len(made._seen) == 3
