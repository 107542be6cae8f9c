"""The door for blocks of IPFS: each hash function, and what is refused unhashed."""

from __future__ import annotations

import contextlib
import hashlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from p2pcache.content import cid as cids
from p2pcache.content.cid import parse_cid
from p2pcache.content.dag import hashes
from p2pcache.content.dag.hashes import cid_of, verify_cid
from p2pcache.errors import Untrusted

HELLO = {
    "sha2-256": "bafkreibm6jg3ux5qumhcn2b3flc3tyu6dmlb4xa7u5bf44yegnrjhc4yeq",
    "identity": "bafkqablimvwgy3y",
}
EMPTY_BLAKE3 = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"


def test_every_hash_that_we_know_is_checked() -> None:
    for code in hashes.KNOWN:
        cid = cid_of(cids.RAW, b"hello world", code)
        verify_cid(cid, b"hello world")
        with pytest.raises(Untrusted, match="not to"):
            verify_cid(cid, b"hello worlt")
    verify_cid(parse_cid(HELLO["sha2-256"]), b"hello")
    verify_cid(parse_cid(HELLO["identity"]), b"hello")
    verify_cid(b"\x01\x55\x1e\x20" + bytes.fromhex(EMPTY_BLAKE3), b"")
    verify_cid(b"\x01\x55\x13\x40" + hashlib.sha512(b"x").digest(), b"x")


def test_a_cid_of_version_0_is_checked_as_it_is() -> None:
    verify_cid(b"\x12\x20" + hashlib.sha256(b"x").digest(), b"x")


@pytest.mark.parametrize(
    "multihash",
    [
        b"\x11\x14" + hashlib.sha1(b"x").digest(),
        b"\x12\x10" + hashlib.sha256(b"x").digest()[:16],  # cut: 128 bits are easier to make
        b"\x12\x00",
        b"\x13\x20" + hashlib.sha512(b"x").digest()[:32],
        b"\x1e\x01\x00",
        b"\xb2\x40\x20" + hashlib.blake2b(b"x", digest_size=32).digest(),
    ],
)
def test_other_functions_and_shortened_digests_are_refused(multihash: bytes) -> None:
    with pytest.raises(Untrusted, match=r"not supported|belong"):
        verify_cid(b"\x01\x55" + multihash, b"x")


def test_a_block_over_the_limit_is_refused_before_it_is_hashed() -> None:
    block = bytes(3 << 20)
    with pytest.raises(Untrusted, match="over the limit"):
        verify_cid(cid_of(cids.RAW, block), block)
    verify_cid(cid_of(cids.RAW, block), block, most=len(block))


@given(st.binary(max_size=60), st.binary(max_size=5))
@example(b"\x01\x00\x00\x00", b"")  # which holds: the content of its CID
def test_only_untrusted_comes_out(cid: bytes, block: bytes) -> None:
    with contextlib.suppress(Untrusted):
        verify_cid(cid, block)


@given(st.binary(max_size=60).map(b"\x01\x55".__add__))
def test_a_cid_is_read_from_its_bytes_or_refused(data: bytes) -> None:
    try:
        cid, end = cids.read_cid(data)
    except Untrusted:
        return
    assert data[:end] == cid
    parts = cids.parts(cid)
    assert cids.make_cid(parts.codec, cids.multihash(cid)) == cid
