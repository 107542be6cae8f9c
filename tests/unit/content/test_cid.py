"""CIDs: fixed vectors in every base, and nothing but UsageError for whatever else comes."""

from __future__ import annotations

import base64
import contextlib
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pcache.content import cid as cids
from p2pcache.content.cid import format_cid, looks_like_cid, parse_cid
from p2pcache.errors import UsageError

SHA = hashlib.sha256(b"hello").digest()
RAW = bytes([1, 0x55, 0x12, 32]) + SHA
BASE32 = "bafkreibm6jg3ux5qumhcn2b3flc3tyu6dmlb4xa7u5bf44yegnrjhc4yeq"
DIGITS = {
    "z": "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz",
    "k": "0123456789abcdefghijklmnopqrstuvwxyz",
}


def in_base(prefix: str, data: bytes) -> str:
    """The big-number bases by hand; a leading zero byte is one first digit."""
    digits, number, out = DIGITS[prefix], int.from_bytes(data, "big"), ""
    while number:
        number, rest = divmod(number, len(digits))
        out = digits[rest] + out
    return out


SPELLINGS = {
    "base32": BASE32,
    "base32 upper": BASE32.upper(),
    "base16": "f" + RAW.hex(),
    "base16 upper": "F" + RAW.hex().upper(),
    "base58": "z" + in_base("z", RAW),
    "base36": "k" + in_base("k", RAW),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_base_means_the_same_bytes(spelling: str) -> None:
    text = SPELLINGS[spelling]

    assert looks_like_cid(text)
    assert parse_cid(text) == RAW == cids.raw_cid(SHA)
    assert format_cid(parse_cid(text)) == BASE32


def test_version_0_becomes_version_1() -> None:
    text = in_base("z", b"\x12\x20" + SHA)

    assert text.startswith("Qm")
    assert looks_like_cid(text)
    assert parse_cid(text) == cids.dagpb_cid(SHA)


# The empty UnixFS folder, known to everyone who ever ran `ipfs init`.
def test_a_known_pair_of_both_versions_agrees() -> None:
    v0 = "QmUNLLsPACCz1vLxQVkXqqLX5R1X345qqfHbsf67hvA3Nn"
    v1 = "bafybeiczsscdsbs7ffqz55asqdf3smv6klcw3gofszvwlyarci47bgf354"

    assert parse_cid(v0) == parse_cid(v1) == cids.dagpb_cid(hashlib.sha256(b"\n\2\10\1").digest())


@given(
    st.sampled_from([cids.raw_cid, cids.dagpb_cid, cids.dagcbor_cid]),
    st.binary(min_size=32, max_size=32),
)
def test_text_and_bytes_go_round(make, sha256: bytes) -> None:
    cid = make(sha256)

    assert parse_cid(format_cid(cid)) == cid
    assert looks_like_cid(format_cid(cid))
    assert cids.multihash(cid) == b"\x12\x20" + sha256
    assert cids.codec(cid) in (cids.RAW, cids.DAG_PB, cids.DAG_CBOR)


DAG_JSON = b"\x01\xa9\x02\x12\x20" + SHA


@pytest.mark.parametrize("text", ["bafkqaaa", "BAFKQAAA", "bafkqabtimvwgy3yk"])
def test_inlined_content_is_a_cid_however_short(text: str) -> None:
    cid = parse_cid(text)
    assert looks_like_cid(text.lower())
    assert cids.parts(cid).hash_code == cids.IDENTITY
    assert format_cid(cid) == text.lower()


def test_codecs_of_two_bytes_and_other_hashes_go_round() -> None:
    for cid in (DAG_JSON, b"\x01\x70\x1e\x20" + SHA, b"\x01\x55\x13\x40" + SHA + SHA):
        assert parse_cid(format_cid(cid)) == cid
        parts = cids.parts(cid)
        assert cids.codec(cid) == parts.codec
        assert cids.multihash(cid).endswith(parts.digest)
        assert cids.make_cid(parts.codec, cids.multihash(cid)) == cid


def test_a_cid_of_version_0_stays_one_where_it_is_written_again() -> None:
    text = "QmUNLLsPACCz1vLxQVkXqqLX5R1X345qqfHbsf67hvA3Nn"
    cid = cids.parse_cid_as_written(text)
    assert cids.is_v0(cid)
    assert format_cid(cid) == text
    assert cids.as_v0(cids.as_v1(cid)) == cid
    assert (cids.codec(cid), cids.multihash(cid)) == (cids.DAG_PB, cid)
    with pytest.raises(ValueError, match="CIDv0"):
        cids.as_v0(RAW)


JUNK = [
    "", "b", "z", "f", "Qm", "word", BASE32[:-1], BASE32 + "a", BASE32 + "=", BASE32[:-1] + "1",
    " " + BASE32, BASE32 + "\n", "Qm" + "0" * 44, "f" + RAW.hex()[:-2], "f" + RAW.hex() + "00",
    "f02" + RAW.hex()[2:], "f01", "f" + "0" * 80, "b" * 513, "é" * 40, "\ud800", "\0",
]  # fmt: skip


@pytest.mark.parametrize("text", JUNK, ids=lambda text: ascii(text[:20]))
def test_what_is_not_a_cid_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_cid(text)


prefixed = st.tuples(
    st.sampled_from("bBzfFkKQumMtvcCh97059"), st.text("abcQm012345=zZ", max_size=70)
)


@given(
    st.text(max_size=70)
    | prefixed.map("".join)
    | st.binary(max_size=80).map(bytes.hex).map("f{}".format)
)
def test_only_usage_errors_come_out(text: str) -> None:
    looks_like_cid(text)
    with contextlib.suppress(UsageError):
        cid = parse_cid(text)
        assert parse_cid(format_cid(cid)) == cid


@given(st.binary(max_size=40) | st.binary(max_size=60).map(lambda digest: RAW[:2] + digest))
def test_the_short_way_takes_usual_texts_alone_and_as_the_long_one(data: bytes) -> None:
    for text in (format_cid(data), format_cid(data)[:-1], format_cid(data) + "a", BASE32.upper()):
        found = cids.parse_base32(text)
        assert found is None or (format_cid(found) == text and cids.checked(found) == found)
    assert cids.parse_base32(BASE32) == RAW


@pytest.mark.parametrize("text", [*JUNK, *(SPELLINGS[one] for one in SPELLINGS if one != "base32")])
def test_the_short_way_leaves_other_texts_to_the_long_one(text: str) -> None:
    assert cids.parse_base32(text) is None


def test_a_text_of_version_0_in_base32_is_no_cid() -> None:
    assert cids.parse_base32(format_cid(cids.dagpb_cid(SHA))) is not None
    v0 = "b" + base64.b32encode(b"\x12\x20" + SHA).decode().lower().rstrip("=")
    assert cids.parse_base32(v0) is None
