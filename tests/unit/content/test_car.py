"""CAR framing: what we write others read, and what others write is bounded before it is read."""

from __future__ import annotations

import hashlib
import struct

import libipld
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from p2pcache.content import car, varint
from p2pcache.content import cid as cids
from p2pcache.errors import Untrusted


def raw(data: bytes) -> bytes:
    return cids.raw_cid(hashlib.sha256(data).digest())


ROOT = raw(b"root")
V0 = b"\x12\x20" + hashlib.sha256(b"v0").digest()


@given(st.lists(st.binary(max_size=100), max_size=10))
def test_what_is_written_is_read_again(blocks: list[bytes]) -> None:
    data = car.encode_header([ROOT])
    for block in blocks:
        data += b"".join(car.encode_section(raw(block), block))

    assert _decoded(data) == ([ROOT], [(raw(block), block) for block in blocks])


def test_libipld_reads_what_is_written() -> None:  # of DAG-CBOR alone; Kubo reads the rest
    block = libipld.encode_dag_cbor({"a": 1})
    cid = cids.dagcbor_cid(hashlib.sha256(block).digest())
    data = car.encode_header([cid]) + b"".join(car.encode_section(cid, block))
    header, found = libipld.decode_car(data)
    assert (header["roots"], found) == ([cid], {cid: {"a": 1}})


def _decoded(data: bytes) -> tuple[list[bytes], list[tuple[bytes, bytes]]]:
    """By our own parsers, frame by frame, as a reader of a file does it."""
    start, end = car.header_extent(data[: car.HEAD_BYTES])
    roots = list(car.parse_header(data[start:end]))
    found = []
    at = end
    while at < len(data):
        section = car.parse_section(data[at : at + car.HEAD_BYTES])
        found.append((section.cid, data[at + section.start : at + section.end]))
        at += section.end
    return roots, found


@given(st.integers(0, 2**63 - 1))
def test_a_varint_comes_back(number: int) -> None:
    encoded = varint.encode(number)
    assert varint.decode(b"x" + encoded + b"y", 1) == (number, len(encoded) + 1)


@pytest.mark.parametrize(
    "data", [b"", b"\x80", b"\x80" * 20, b"\xff" * 9 + b"\x01", b"\x80\x00", b"\xff\x80\x00"]
)
def test_a_varint_that_is_cut_or_huge_or_padded_is_refused(data: bytes) -> None:
    with pytest.raises(Untrusted):
        varint.decode(data)


@given(st.binary(max_size=200))
@example(b"\x12\x20")
@example(b"\xff" * 64)
@example(varint.encode(car.MAX_BLOCK_BYTES + car.CID_BYTES + 1) + ROOT)
@example(varint.encode(10) + ROOT)
@example(varint.encode(0) + ROOT)
def test_only_untrusted_comes_out_of_a_section(data: bytes) -> None:
    try:
        section = car.parse_section(data[: car.HEAD_BYTES])
    except Untrusted:
        return
    assert section.start <= section.end <= section.start + car.MAX_BLOCK_BYTES + 2
    assert len(section.cid) <= car.MAX_CID_BYTES


def test_a_section_is_limited_to_a_block_before_anything_of_it_is_read() -> None:
    most = varint.encode(car.MAX_BLOCK_BYTES + car.CID_BYTES) + ROOT
    assert car.parse_section(most).end - car.parse_section(most).start == car.MAX_BLOCK_BYTES
    for length in (car.MAX_BLOCK_BYTES + car.CID_BYTES + 1, 2**62):
        with pytest.raises(Untrusted, match="over the limit"):
            car.parse_section(varint.encode(length) + ROOT)


@pytest.mark.parametrize(
    "cid",
    [
        V0,
        cids.make_cid(cids.DAG_JSON, b"\x13\x40" + bytes(64)),
        cids.make_cid(cids.RAW, b"\x1e\x20" + bytes(32)),
        cids.make_cid(cids.RAW, b"\x00\x05hello"),
    ],
    ids=["v0", "sha2-512", "blake3", "identity"],
)
def test_a_section_of_every_cid_is_taken_as_it_is_written(cid: bytes) -> None:
    section = car.parse_section(varint.encode(len(cid) + 5) + cid + b"hello")
    assert section.cid == cid
    assert section.end - section.start == 5


def test_a_section_of_a_hash_that_is_not_known_is_refused() -> None:
    sha1 = b"\x01\x55\x11\x14" + bytes(20)
    with pytest.raises(Untrusted, match="not supported"):
        car.parse_section(varint.encode(len(sha1) + 5) + sha1 + b"hello")


def test_the_header_of_a_carv2_tells_where_its_carv1_lies() -> None:
    assert car.parse_header(libipld.encode_dag_cbor({"version": 2})) is None
    header = bytes(16) + struct.pack("<QQQ", 51 + 7, 1000, 0)
    assert car.parse_v2(header) == (7, 1000)
    for begin in (50, 0, 1 << 40):
        with pytest.raises(Untrusted, match="cannot"):
            car.parse_v2(bytes(16) + struct.pack("<QQQ", begin, 1000, 0))
    with pytest.raises(Untrusted, match="cut short"):
        car.parse_v2(header[:-1])


HEADERS = [
    {"version": 2, "roots": []},
    {"roots": [ROOT], "version": 2},
    {"roots": [ROOT], "version": 1, "more": 1},
    {"roots": ROOT, "version": 1},
    {"roots": ["text"], "version": 1},
    [],
    1,
]


@pytest.mark.parametrize("plain", HEADERS, ids=repr)
def test_a_header_of_another_shape_is_refused(plain: object) -> None:
    with pytest.raises(Untrusted):
        car.parse_header(libipld.encode_dag_cbor(plain))


@given(st.binary(max_size=300))
@example(b"\x81" * 60_000)  # deep
@example(b"\x9b" + b"\xff" * 8)  # a list of 2^64
def test_only_untrusted_comes_out_of_a_header(body: bytes) -> None:
    with pytest.raises(Untrusted):
        car.parse_header(body)


@pytest.mark.parametrize("length", [0, car.MAX_HEADER_BYTES + 1, 2**60])
def test_a_header_bomb_is_refused_by_its_length(length: int) -> None:
    with pytest.raises(Untrusted, match="header"):
        car.header_extent(varint.encode(length) + b"\xa2")


def test_more_roots_than_a_header_holds_are_not_written() -> None:
    with pytest.raises(ValueError, match="too many"):
        car.encode_header([raw(b"%d" % n) for n in range(2000)])


def test_the_index_is_go_cars_multihash_index_sorted() -> None:
    first, second = sorted([hashlib.sha256(b"a").digest(), hashlib.sha256(b"b").digest()])
    data = car.encode_index([(second, 59), (first, 700)])
    assert data == b"".join([
        b"\x81\x08",  # multicodec 0x0401
        struct.pack("<i", 1), struct.pack("<Q", 0x12),  # one hash function: sha2-256
        struct.pack("<i", 1), struct.pack("<I", 40), struct.pack("<q", 80),  # two rows of 40
        first, struct.pack("<Q", 700), second, struct.pack("<Q", 59),
    ])  # fmt: skip
    assert car.encode_index([]) == b"\x81\x08" + struct.pack("<i", 0)
