"""The door: bytes that do not match do not come through, and nobody else makes the types."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pcache.content import digests
from p2pcache.content.digests import WholeDigests, whole_digests
from p2pcache.content.verify import Verified, VerifiedBlob, verify, verify_block, verify_whole
from p2pcache.errors import Untrusted

HELLO = whole_digests(b"hello")
SHA = digests.sha256_digest(HELLO.sha256)
assert HELLO.git_sha1 is not None
GIT = digests.git_sha1_digest(HELLO.git_sha1)
OTHER = whole_digests(b"jello")


@pytest.mark.parametrize("key", [None, object(), True, "key"])
def test_verified_values_cannot_be_made_elsewhere(key: object) -> None:
    with pytest.raises(TypeError, match="only content"):
        Verified(key, SHA, b"jello")
    with pytest.raises(TypeError, match="only content"):
        VerifiedBlob(key, HELLO, "asked")


@pytest.mark.parametrize("digest", [SHA, GIT], ids=["sha256", "git"])
def test_bytes_that_match_come_through_by_either_digest(digest: bytes) -> None:
    passed = verify(digest, b"hello")
    assert (passed.digest, passed.data) == (digest, b"hello")

    blob = verify_whole(digest, 5, HELLO)
    assert (blob.digest, blob.size, blob.named_by) == (SHA, 5, "asked")
    assert blob.git_sha1 == HELLO.git_sha1


@pytest.mark.parametrize("digest", [SHA, GIT], ids=["sha256", "git"])
def test_a_mismatch_names_both_digests(digest: bytes) -> None:
    here = OTHER.sha256 if digest == SHA else OTHER.git_sha1
    assert here is not None
    for refused in (
        lambda: verify(digest, b"jello"),
        lambda: verify_whole(digest, 5, OTHER),
        lambda: verify_whole(digest, None, OTHER),
    ):
        with pytest.raises(Untrusted) as caught:
            refused()
        assert digests.describe(digest) in caught.value.message
        assert here.hex() in caught.value.message


@given(st.binary(min_size=1, max_size=40), st.data())
def test_one_flipped_bit_is_seen(data: bytes, draw) -> None:
    bad = bytearray(data)
    bad[draw.draw(st.integers(0, len(data) - 1))] ^= 1 << draw.draw(st.integers(0, 7))
    whole = whole_digests(data)
    assert whole.git_sha1 is not None

    for digest in digests.sha256_digest(whole.sha256), digests.git_sha1_digest(whole.git_sha1):
        assert verify(digest, data).data == data
        with pytest.raises(Untrusted):
            verify(digest, bytes(bad))
    with pytest.raises(Untrusted):
        verify_block(whole.sha256, bad)


def test_another_size_than_promised_names_both_sizes() -> None:
    for digest in (SHA, GIT, None):
        with pytest.raises(Untrusted, match="5 bytes arrived where 6 were promised"):
            verify_whole(digest, 6, HELLO)


def test_without_a_digest_a_blob_is_named_by_what_arrived() -> None:
    assert verify_whole(None, None, HELLO).named_by == "arrived"
    assert verify_whole(None, 5, HELLO).digest == SHA


def test_a_git_id_that_was_not_computed_does_not_pass() -> None:
    with pytest.raises(Untrusted, match="no git blob id"):
        verify_whole(GIT, 5, WholeDigests(5, HELLO.sha256, None))


@pytest.mark.parametrize("asked", [b"", SHA[:-1], SHA[2:], b"\0\x05hello", GIT + b"\0"])
def test_a_digest_of_another_kind_is_untrusted(asked: bytes) -> None:
    with pytest.raises(Untrusted, match="neither"):
        verify_whole(asked, 5, HELLO)


def test_a_block_gives_its_hash_or_names_both() -> None:
    assert verify_block(HELLO.sha256, b"hello") == HELLO.sha256
    with pytest.raises(Untrusted) as caught:
        verify_block(HELLO.sha256, b"jello")
    assert HELLO.sha256.hex() in caught.value.message
    assert hashlib.sha256(b"jello").hexdigest() in caught.value.message
