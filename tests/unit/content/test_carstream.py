"""CARs as streams: of any version, in any pieces, and nothing but Untrusted for what is none."""

from __future__ import annotations

import contextlib
import hashlib
import struct

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from p2pcache.content import car, carstream, varint
from p2pcache.content import cid as cids
from p2pcache.content.carstream import CarReader, encode_car
from p2pcache.content.dag import cbor
from p2pcache.content.dag.hashes import BLAKE3, cid_of
from p2pcache.content.dag.walk import Found
from p2pcache.errors import Untrusted
from tests.support.dags import pieces

CONTENT = [b"", b"one", b"two" * 100]
BLOCKS = [
    Found(cids.raw_cid(hashlib.sha256(CONTENT[0]).digest()), CONTENT[0]),
    Found(b"\x12\x20" + hashlib.sha256(CONTENT[1]).digest(), CONTENT[1]),
    Found(cid_of(cids.DAG_JSON, CONTENT[2], BLAKE3), CONTENT[2]),
]
ROOTS = (BLOCKS[1].cid, BLOCKS[2].cid)
V1 = b"".join(encode_car(ROOTS, BLOCKS))
PRAGMA = b"\x0a\xa1gversion\x02"


def v2(inner: bytes = V1, padding: int = 0, index: bytes = b"index", **other: int) -> bytes:
    begin, length = 51 + padding, len(inner)
    head = struct.pack("<16xQQQ", other.get("begin", begin), other.get("length", length), 0)
    return PRAGMA + head + bytes(padding) + inner + index


def read(data: bytes, step: int = 1 << 20, **options: int) -> tuple[object, list[Found]]:
    reader = CarReader(**options)
    found = [one for part in pieces(data, step) for one in reader.feed(part)]
    reader.close()
    return reader.roots, found


@pytest.mark.parametrize("step", [1, 2, 7, 1000])
@pytest.mark.parametrize("data", [V1, v2(), v2(padding=100), v2(index=b"")])
def test_a_car_of_either_version_is_read_in_any_pieces(data: bytes, step: int) -> None:
    assert read(data, step) == (ROOTS, BLOCKS)


def test_a_car_without_blocks_or_roots_is_one() -> None:
    assert read(b"".join(encode_car(ROOTS, []))) == (ROOTS, [])
    assert read(framed({"roots": [], "version": 1})) == ((), [])
    assert read(framed({"version": 1})) == ((), [])
    assert read(v2(framed({"roots": [], "version": 1}))) == ((), [])


def framed(header: object) -> bytes:
    body = cbor.encode(header)
    return varint.encode(len(body)) + body


@pytest.mark.parametrize("data", [V1, v2(index=b"")])
def test_a_car_that_is_cut_short_is_found_out_wherever_it_is_cut(data: bytes) -> None:
    whole = [len(V1) - sum(map(len, (*car.encode_section(b.cid, b.block),))) for b in BLOCKS[2:]]
    boundaries = {len(b"".join(encode_car(ROOTS, BLOCKS[:n]))) for n in range(4)} | set(whole)
    for end in range(len(data)):
        if data is V1 and end in boundaries:
            continue  # a CARv1 does not say how long it is
        with pytest.raises(Untrusted, match="cut short"):
            read(data[:end])


def section(cid: bytes, block: bytes) -> bytes:
    return b"".join(car.encode_section(cid, block))


HEAD = b"".join(encode_car(ROOTS, []))
MANY = 1 << 30
BROKEN = {
    "a block that does not verify": HEAD + section(BLOCKS[0].cid, b"x"),
    "a flipped bit": V1[:-1] + bytes([V1[-1] ^ 1]),
    "another hash function": HEAD + section(b"\x01\x55\x11\x14" + bytes(20), b"x"),
    "3 MiB": HEAD + section(cids.raw_cid(bytes(32)), bytes(3 << 20)),
    "a frame of a gigabyte": HEAD + varint.encode(MANY) + b"x",
    "a frame of nothing": HEAD + b"\0",
    "a frame of no CID": HEAD + b"\x01\x55",
    "a number without end": HEAD + b"\xff" * 20,
    "a header of a gigabyte": varint.encode(MANY) + b"x",
    "a header of nothing": b"\0" + V1,
    "a header that is no cbor": b"\x02\xff\xff",
    "a header of version 3": framed({"version": 3, "roots": []}),
    "a header with more": framed({"version": 1, "roots": [], "more": 1}),
    "a root that is no link": framed({"version": 1, "roots": [b"x"]}),
    "roots that are no list": framed({"version": 1, "roots": {}}),
    "a list": framed([]),
    "a v2 in a v2": v2(v2()),
    "data that begin in the header": v2(begin=50),
    "data that begin nowhere": v2(begin=MANY * MANY),
    "data that are shorter": v2(length=len(V1) - 1),
    "data that are longer than what is there": v2(length=len(V1) + 5, index=b""),
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("step", [1, 1 << 22])
def test_what_is_no_car_is_refused(name: str, step: int) -> None:
    if step == 1 and len(BROKEN[name]) > 10_000:
        return  # it is long
    with pytest.raises(Untrusted):
        read(BROKEN[name], step)


def test_what_was_refused_stays_refused() -> None:
    reader = CarReader()
    with pytest.raises(Untrusted):
        list(reader.feed(BROKEN["a flipped bit"]))
    assert list(reader.feed(V1)) == []
    with pytest.raises(Untrusted):
        reader.close()


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (HEAD + b"\xff" * 20, "more than 63 bits"),
        (v2(length=len(V1) - 1, index=b""), "ends behind its data"),
        (v2(length=1, index=b"") + bytes(100), "ends behind its data"),
    ],
    ids=["a number without end", "data that are shorter", "data that are no header"],
)
def test_it_is_refused_as_soon_as_it_shows_and_not_at_the_end(data: bytes, why: str) -> None:
    with pytest.raises(Untrusted, match=why):
        list(CarReader().feed(data))


def test_the_limit_of_a_block_is_the_readers() -> None:
    big = HEAD + section(cid_of(cids.RAW, bytes(3 << 20)), bytes(3 << 20))
    assert len(read(big, max_block_bytes=3 << 20)[1]) == 1
    with pytest.raises(Untrusted, match="over the limit"):
        read(V1, max_block_bytes=len(CONTENT[2]) - 1)
    assert read(V1, max_block_bytes=len(CONTENT[2])) == (ROOTS, BLOCKS)


def test_a_promise_of_a_long_frame_takes_no_memory() -> None:
    reader = CarReader()
    with pytest.raises(Untrusted):
        list(reader.feed(HEAD + varint.encode(carstream.MAX_HEADER_BYTES * 4)))


@settings(deadline=None)
@given(st.data(), st.sampled_from([V1, v2(), v2(padding=9)]), st.integers(1, 40))
def test_only_untrusted_comes_out_of_damage(data: st.DataObject, whole: bytes, step: int) -> None:
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(Untrusted):
        read(bytes(damaged[: data.draw(st.integers(0, len(damaged)))]), step)


@given(st.binary(max_size=120), st.integers(1, 20))
@example(PRAGMA + bytes(40), 1)
def test_only_untrusted_comes_out_of_noise(data: bytes, step: int) -> None:
    with contextlib.suppress(Untrusted):
        read(data, step)
    with contextlib.suppress(Untrusted):
        read(HEAD + data, step)
