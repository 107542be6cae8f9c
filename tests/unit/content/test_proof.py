"""A proof of access is about bytes, a nonce and two names; none of them can be left out."""

from __future__ import annotations

from dataclasses import replace

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pcache.content import proof
from p2pcache.content.digests import sha256_digest
from p2pcache.content.manifest import FileEntry, Manifest
from p2pcache.errors import Untrusted

FILES = [
    FileEntry("a", 10, sha256_digest(b"a" * 32)),
    FileEntry("empty", 0, sha256_digest(b"e" * 32)),
    FileEntry("model", 1 << 20, sha256_digest(b"m" * 32)),
]
MANIFEST = Manifest.from_entries(FILES)
CID = MANIFEST.cid()
NONCE = bytes(32)


@given(st.integers(0, sum(f.size for f in FILES) - 1))
def test_every_byte_can_be_asked_for_and_the_range_stays_inside_its_file(at):
    made = proof.make_challenge(CID, FILES, lambda n: at, NONCE)
    assert made is not None
    assert proof.parse_challenge(msgpack.unpackb(msgpack.packb(made.to_wire())), MANIFEST) == made
    assert 0 < made.end - made.start <= proof.MAX_RANGE_BYTES


def test_empty_files_prove_nothing():
    assert proof.make_challenge(CID, [FILES[1]], lambda n: 0, NONCE) is None


def test_the_answer_changes_with_everything_it_is_about():
    made = proof.make_challenge(CID, FILES, lambda n: 5, NONCE)
    assert made is not None
    right = proof.answer(made, b"prover", b"verifier", b"data")
    assert proof.is_proof(right, proof.answer(made, b"prover", b"verifier", b"data"))
    for other in (
        proof.answer(made, b"verifier", b"prover", b"data"),
        proof.answer(made, b"prover", b"verifier", b"date"),
        proof.answer(replace(made, nonce=b"x" * 32), b"prover", b"verifier", b"data"),
        proof.answer(replace(made, start=1), b"prover", b"verifier", b"data"),
        proof.answer(replace(made, digest=FILES[2].digest), b"prover", b"verifier", b"data"),
    ):
        assert not proof.is_proof(right, other)


@pytest.mark.parametrize(
    "change",
    [
        {"manifest": bytes(36)},
        {"digest": sha256_digest(bytes(32))},
        {"start": -1},
        {"end": 11},
        {"end": 0},
        {"nonce": b""},
    ],
)
def test_a_challenge_about_anything_else_is_refused(change):
    made = proof.make_challenge(CID, FILES, lambda n: 5, NONCE)
    assert made is not None
    with pytest.raises(Untrusted):
        proof.parse_challenge(replace(made, **change).to_wire(), MANIFEST)


def test_a_challenge_cannot_ask_for_a_lot():
    wide = proof.Challenge(CID, FILES[2].digest, 0, proof.MAX_RANGE_BYTES + 1, NONCE)
    with pytest.raises(Untrusted):
        proof.parse_challenge(wide.to_wire(), MANIFEST)


@given(st.one_of(st.none(), st.text(), st.lists(st.binary() | st.integers() | st.none())))
def test_only_untrusted_comes_out_of_junk(junk):
    with pytest.raises(Untrusted):
        proof.parse_challenge(junk, MANIFEST)
