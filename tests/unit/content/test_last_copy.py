from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from p2pcache.content.last_copy import Copy, copy_of, least
from p2pcache.content.preload import score

CONTENT = b"\x01\x71\x12\x20" + bytes(32)
PEERS = [bytes([n]) * 38 for n in range(8)]
RANKED = sorted(PEERS, key=lambda peer: score(CONTENT, peer))
LOW, HIGH = RANKED[0], RANKED[-1]


def test_what_its_origin_gives_may_go():
    assert copy_of(CONTENT, LOW, [], origin=True) is Copy.SPARE
    assert copy_of(CONTENT, None, [], origin=True) is Copy.SPARE


def test_what_nobody_else_has_is_the_last_copy():
    assert copy_of(CONTENT, LOW, [], origin=False) is Copy.LAST
    assert copy_of(CONTENT, LOW, [LOW], origin=False) is Copy.LAST


def test_without_a_network_nobody_else_has_it():
    assert copy_of(CONTENT, None, [HIGH], origin=False) is Copy.LAST


def test_of_two_holders_one_may_evict_and_the_other_may_not():
    assert copy_of(CONTENT, LOW, [HIGH], origin=False) is Copy.SPARE
    assert copy_of(CONTENT, HIGH, [LOW], origin=False) is Copy.RELIED_ON


@given(st.sets(st.sampled_from(PEERS), min_size=1), st.data())
def test_whatever_agents_see_at_once_one_copy_stays(holders, data):
    """Each knows some of the true holders, and all that may evict do so at the same moment."""
    gone = set()
    for me in holders:
        seen = data.draw(st.sets(st.sampled_from(sorted(holders))))
        if copy_of(CONTENT, me, seen, origin=False) is Copy.SPARE:
            gone.add(me)
    assert holders - gone


def test_a_blob_of_several_manifests_is_as_spare_as_the_most_spare():
    assert least([Copy.LAST, Copy.SPARE, Copy.RELIED_ON]) is Copy.SPARE
    assert least([Copy.LAST, Copy.RELIED_ON]) is Copy.RELIED_ON
    assert least([Copy.LAST]) is Copy.LAST
    assert least([]) is Copy.SPARE
