"""Who is proven to have lied, and who is not: every case of evidence about one blob."""

from __future__ import annotations

import hashlib
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pcache.content.ranges import RangeSet
from p2pcache.content.signed import sign_attestation
from p2pcache.lanes.orders import UNKNOWN_HASH
from p2pcache.transfer.trust import Evidence, size_verdicts
from tests.support.swarms import MIB, Key

if TYPE_CHECKING:
    from p2pcache.content.peerid import PeerId

NAME = b"\x12\x20" + bytes(32)
KEYS = [Key(n) for n in range(5)]
A, B, C, D = (key.peer_id for key in KEYS[:4])

MET = {A, B, C, D}


def h(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


RIGHT = [h(f"right {n}") for n in range(4)]
WRONG = [h(f"wrong {n}") for n in range(4)]


def evidence(proven: bytes | None = None) -> Evidence:
    made = Evidence("model.bin", 4, proven)
    for name, key in zip("abcd", KEYS, strict=False):
        made.knows_peer(name, key.peer_id)
        made.asks(name, has_all=True)
    return made


def signed(who: int, first: int, *hashes: bytes):
    return sign_attestation(KEYS[who], NAME, 4 * MIB, first * MIB, b"".join(hashes))


def proved(made: Evidence) -> set[bytes]:
    return {verdict.peer for verdict in made.proved(b"".join(RIGHT), MET)}


def test_honest_senders_and_signers_are_never_named():
    made = evidence()
    made.attested(signed(0, 0, *RIGHT))
    made.said(B, 0, b"".join(RIGHT))
    for name in "abc":
        made.brought(name, 0, b"".join(RIGHT))
    assert proved(made) == set()


def test_who_sent_other_bytes_is_named_with_the_block_and_both_hashes():
    made = evidence()
    made.brought("a", 1, WRONG[1])
    (verdict,) = made.proved(b"".join(RIGHT), MET)
    assert verdict.peer == A
    assert "block 1 of model.bin" in verdict.reason
    assert WRONG[1].hex() in verdict.reason
    assert RIGHT[1].hex() in verdict.reason


def test_who_signed_another_hash_is_named():
    made = evidence()
    made.attested(signed(1, 2, WRONG[2]))
    assert proved(made) == {B}


def test_who_said_another_hash_unsigned_is_named():
    made = evidence()
    made.said(C, 0, b"".join(WRONG))
    assert proved(made) == {C}


def test_a_relay_of_bytes_that_another_signed_for_is_excused_the_signer_is_not():
    made = evidence()
    made.asks("b", has_all=False)
    made.attested(signed(0, 0, WRONG[0]))
    made.brought("b", 0, WRONG[0])
    assert proved(made) == {A}


def test_nobody_is_excused_by_the_word_of_one_that_nobody_met():
    made = evidence()
    made.asks("b", has_all=False)
    made.attested(signed(4, 0, WRONG[0]))
    made.brought("b", 0, WRONG[0])
    assert proved(made) == {B, KEYS[4].peer_id}


def test_one_peer_is_excused_once_in_a_pull_however_many_sign_for_it():
    pull: set[PeerId] = set()
    for signer, named in ((0, {A}), (2, {B, C})):
        made = Evidence("model.bin", 4, excused=pull)
        made.knows_peer("b", B)
        made.attested(signed(signer, 0, *WRONG))
        made.brought("b", 0, WRONG[0] + WRONG[1])
        assert proved(made) == named


def test_who_told_of_all_of_it_had_the_digest_to_check_and_is_not_excused():
    made = evidence()
    made.attested(signed(0, 0, WRONG[0]))
    made.brought("b", 0, WRONG[0])
    assert proved(made) == {A, B}


@pytest.mark.parametrize("asked", [(False,), (True, False), (False, True)])
def test_who_told_of_some_blocks_is_left_out_for_wrong_bytes_and_not_banned(asked):
    made = evidence()
    for has_all in asked:
        made.asks("b", has_all=has_all)
    made.brought("b", 0, WRONG[0])
    assert [(v.peer, v.bans) for v in made.proved(b"".join(RIGHT), MET)] == [(B, False)]
    sure = evidence(b"".join(RIGHT))
    sure.asks("b", has_all=False)
    verdict = sure.refuted("b", 3, WRONG[3])
    assert verdict is not None
    assert not verdict.bans


def test_a_word_of_its_own_bans_who_told_of_some_blocks():
    made = evidence()
    made.asks("b", has_all=False)
    made.brought("b", 0, WRONG[0])
    made.said(B, 1, WRONG[1])
    assert [(v.peer, v.bans) for v in made.proved(b"".join(RIGHT), MET)] == [(B, True)]


def test_nobody_is_excused_by_a_signature_of_his_own():
    made = evidence()
    made.attested(signed(0, 0, WRONG[0]))
    made.brought("a", 0, WRONG[0])
    assert proved(made) == {A}


def test_an_origin_is_never_a_liar_of_ours_to_ban():
    made = evidence()
    made.brought("web", 0, WRONG[0])
    assert proved(made) == set()


def test_a_block_against_a_proven_map_is_proof_at_once():
    made = evidence(b"".join(RIGHT))
    verdict = made.refuted("a", 3, WRONG[3])
    assert verdict is not None
    assert verdict.peer == A
    assert made.refuted("web", 3, WRONG[3]) is None


def test_a_block_against_a_signed_map_proves_nothing_yet():
    made = evidence()
    made.attested(signed(1, 0, *RIGHT))
    assert made.refuted("a", 0, WRONG[0]) is None
    assert made.expected(0, 1) == RIGHT[0]


def test_who_has_all_of_it_and_sends_what_it_did_not_sign_is_a_liar_whatever_is_right():
    made = evidence()
    made.attested(signed(0, 0, *WRONG))
    assert made.refuted("a", 2, RIGHT[2]) is None
    assert made.contradicts_itself("a", 1) is None, "nothing was sent"
    verdict = made.contradicts_itself("a", 2)
    assert verdict is not None
    assert (verdict.peer, verdict.bans) == (A, True)
    assert all(hash_.hex() in verdict.reason for hash_ in (WRONG[2], RIGHT[2]))
    assert [v.peer for v in made.contradictions()] == [A]


def test_who_sends_what_it_said_or_what_others_signed_does_not_contradict_itself():
    made = evidence()
    made.attested(signed(1, 0, *RIGHT))
    made.said(A, 0, b"".join(WRONG[:2]))
    made.brought("a", 0, b"".join([*WRONG[:2], WRONG[2]]))
    made.brought("web", 0, b"".join(RIGHT))
    assert made.contradictions() == []


def test_who_told_of_some_blocks_may_have_had_one_brought_anew():
    made = evidence()
    made.asks("a", has_all=False)
    made.attested(signed(0, 0, *WRONG))
    made.brought("a", 0, RIGHT[0])
    assert made.contradictions() == []


def test_a_map_outweighs_one_sender_and_two_senders_outweigh_a_map():
    made = evidence()
    made.attested(signed(3, 0, WRONG[0]))
    made.brought("a", 0, RIGHT[0])
    assert made.expected(0, 1) == WRONG[0]
    made.brought("b", 0, RIGHT[0])
    assert made.expected(0, 1) == RIGHT[0]


def test_what_is_signed_is_expected_and_the_rest_unknown():
    made = evidence()
    assert made.expected(0, 4) is None
    made.attested(signed(0, 1, RIGHT[1]))
    assert made.expected(0, 3) == UNKNOWN_HASH + RIGHT[1] + UNKNOWN_HASH


def test_two_who_differ_from_a_map_outvote_its_signer_for_the_whole_blob():
    made = evidence()
    made.attested(signed(0, 0, *WRONG))
    made.refuted("b", 0, RIGHT[0])
    assert not made.contradicted()
    made.refuted("c", 1, RIGHT[1])
    assert made.contradicted()
    assert not made.contradicted(), "told once"
    assert made.expected(2, 4) is None


def test_an_origin_alone_outvotes_a_map():
    made = evidence()
    made.attested(signed(0, 0, *WRONG))
    made.brought("web", 0, RIGHT[0])
    assert made.contradicted()
    assert not made.is_vouched(3, WRONG[3])
    assert made.is_vouched(0, RIGHT[0])


def test_equal_voices_expect_nothing():
    made = evidence()
    made.attested(signed(0, 0, WRONG[0]))
    made.attested(signed(1, 0, RIGHT[0]))
    assert made.expected(0, 1) is None


def test_a_doubted_block_accepts_what_comes_unless_it_is_proven():
    made = evidence()
    made.attested(signed(0, 0, *RIGHT))
    made.doubt(RangeSet.of((1, 2)))
    assert made.expected(0, 2) == RIGHT[0] + UNKNOWN_HASH
    sure = evidence(b"".join(RIGHT))
    sure.doubt(RangeSet.of((0, 4)))
    assert sure.expected(0, 4) == b"".join(RIGHT)


@given(
    words=st.lists(st.tuples(st.integers(0, 39), st.integers(1, 8), st.booleans()), max_size=8),
    asked=st.lists(st.tuples(st.integers(0, 39), st.integers(1, 9)), max_size=5),
)
def test_unspoken_blocks_are_those_that_nobody_said_anything_of(words, asked):
    made, spoken = Evidence("model.bin", 48), set()
    for first, count, is_signed in words:
        spoken |= set(range(first, first + count))
        if is_signed:
            made.attested(signed(0, first, *[RIGHT[0]] * count))
        else:
            made.said(B, first, RIGHT[0] * count)
    blocks = RangeSet.of(*((first, first + count) for first, count in asked))
    found = {n for first, last in made.unspoken(blocks) for n in range(first, last)}
    assert found == {n for first, last in blocks for n in range(first, last)} - spoken


def test_what_is_unspoken_of_a_large_blob_is_found_at_once():
    made = Evidence("model.bin", 70_000)
    made.said(A, 0, RIGHT[0] * 69_999)
    began = time.process_time()
    for _ in range(100):
        assert made.unspoken(RangeSet.of((0, 70_000))) == RangeSet.of((69_999, 70_000))
    assert time.process_time() - began < 0.2, "20 a second are asked for each growing peer"


def test_only_signed_proven_or_own_origin_blocks_are_vouched_for():
    made = evidence()
    made.brought("a", 0, RIGHT[0])
    made.said(A, 0, RIGHT[0])
    assert not made.is_vouched(0, RIGHT[0]), "an unsigned word cannot be passed on"
    made.attested(signed(1, 0, RIGHT[0]))
    assert made.is_vouched(0, RIGHT[0])
    assert not made.is_vouched(0, WRONG[0])
    made.brought("web", 1, RIGHT[1])
    assert made.is_vouched(1, RIGHT[1])


def test_suspects_are_what_is_disputed_then_what_one_peer_alone_sent_then_all():
    made = evidence()
    made.brought("web", 0, RIGHT[0] + RIGHT[1])
    made.brought("a", 2, RIGHT[2])
    made.brought("b", 3, WRONG[3])
    made.attested(signed(2, 3, RIGHT[3]))
    assert made.suspects() == RangeSet.of((3, 4))
    assert made.suspects() == RangeSet.of((2, 3))
    assert made.suspects() is None


def test_a_disputed_block_is_a_suspect_again_when_another_sender_was_heard():
    made = evidence()
    made.brought("web", 0, b"".join(RIGHT[:3]))
    made.brought("a", 3, WRONG[3])
    made.brought("b", 3, RIGHT[3])
    assert made.suspects() == RangeSet.of((3, 4))
    made.brought("c", 3, RIGHT[3])
    assert made.suspects() == RangeSet.of((3, 4))
    assert made.suspects() is None


def test_a_wrong_size_is_named_when_the_right_one_is_proven():
    verdicts = size_verdicts("model.bin", 100, [(A, 99), (B, 100), (C, 1 << 50)])
    assert {verdict.peer for verdict in verdicts} == {A, C}


@given(
    lies=st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 3), st.booleans()), max_size=30)
)
def test_exactly_those_who_differed_are_named_whatever_the_order(lies):
    made = evidence()
    for name, block, is_lie in lies:
        made.brought(name, block, (WRONG if is_lie else RIGHT)[block])
    liars = {KEYS["abcd".index(name)].peer_id for name, _, is_lie in lies if is_lie}
    assert proved(made) == liars
