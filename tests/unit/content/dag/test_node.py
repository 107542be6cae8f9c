"""dag-pb and UnixFS data: what others write is read, what nobody may write is refused."""

from __future__ import annotations

import contextlib
import hashlib
import tracemalloc

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from p2pcache.content import cid as cids
from p2pcache.content import varint
from p2pcache.content.dag import fsdata, node
from p2pcache.content.dag.fsdata import FsData, Kind
from p2pcache.content.dag.node import Link, Node
from p2pcache.errors import Untrusted

RAW = cids.raw_cid(hashlib.sha256(b"x").digest())
V0 = b"\x12\x20" + hashlib.sha256(b"y").digest()
IDENTITY = b"\x01\x55\x00\x02hi"

links = st.builds(
    Link, st.sampled_from([RAW, V0, IDENTITY]), st.binary(max_size=20),
    st.none() | st.integers(0, 2**63 - 1),
)  # fmt: skip


@given(st.lists(links, max_size=5), st.none() | st.binary(max_size=20))
def test_what_is_written_is_read_again(written: list[Link], data: bytes | None) -> None:
    assert node.parse(node.encode(written, data)) == Node(tuple(written), data)


def link(cid: bytes = RAW, name: bytes = b"n", size: int = 1) -> bytes:
    return node.encode_link(Link(cid, name, size))


def test_data_may_stand_before_the_links_as_old_writers_put_them() -> None:
    assert node.parse(b"\x0a\x01d" + link() * 2) == node.parse(link() * 2 + b"\x0a\x01d")


def test_a_link_may_leave_out_its_name_and_its_size() -> None:
    found = node.parse(node.field(node.LINKS, node.field(node.HASH, RAW)))
    assert found == Node((Link(RAW),), None)
    assert node.parse(b"") == Node((), None)


BROKEN = {
    "links on both sides": link() + b"\x0a\x01d" + link(),
    "data twice": b"\x0a\x01d\x0a\x01d",
    "another field": b"\x1a\x01d",
    "another wire type": b"\x10\x01",
    "cut short": link()[:-1],
    "a gigabyte": b"\x0a\x80\x80\x80\x80\x04d",
    "a number of ten bytes": b"\x0a" + b"\xff" * 9 + b"\x01",
    "a number with a spare byte": b"\x0a\x81\x00d",
    "no hash": node.field(node.LINKS, node.field(node.NAME, b"n")),
    "hash twice": node.field(node.LINKS, node.field(node.HASH, RAW) * 2),
    "name before hash": node.field(node.LINKS, node.field(node.NAME, b"") + b"\x0a\x24" + RAW),
    "a hash that is no CID": link(b"\x01\x55\x12\x20short"),
    "bytes behind the CID": link(RAW + b"x"),
    "a CID of version 2": link(b"\x02" + RAW[1:]),
    "a size that is cut": node.field(node.LINKS, node.field(node.HASH, RAW) + b"\x18\x80"),
    "3 MiB": b"\x0a\x80\x80\xc0\x01" + bytes(3 << 20),
    "links without end": node.encode_link(Link(b"\x01\x55\x00\x00")) * (node.MAX_LINKS + 1),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_node_that_nobody_may_write_is_refused(name: str) -> None:
    with pytest.raises(Untrusted):
        node.parse(BROKEN[name])


@given(st.binary(max_size=100) | st.lists(st.sampled_from([*BROKEN.values()][:12])).map(b"".join))
def test_only_untrusted_comes_out_of_a_node(block: bytes) -> None:
    with contextlib.suppress(Untrusted):
        node.parse(block)


meanings = st.builds(
    FsData, st.sampled_from(Kind), st.binary(max_size=10), st.none() | st.integers(0, 2**63 - 1),
    st.lists(st.integers(0, 2**63 - 1), max_size=4).map(tuple),
    st.none() | st.just(fsdata.MURMUR3), st.none() | st.just(256),
    st.none() | st.integers(0, 0o7777),
    st.none() | st.tuples(st.integers(-(2**62), 2**62), st.integers(0, 999_999_999)),
)  # fmt: skip


@given(meanings)
def test_the_meaning_of_a_node_comes_back(meaning: FsData) -> None:
    assert fsdata.parse(fsdata.encode(meaning)) == meaning


def test_sizes_may_be_packed_and_unknown_fields_are_skipped() -> None:
    data = b"\x08\x02\x18\x03\x22\x02\x01\x02" + b"\x7d\0\0\0\0" + b"\x79" + bytes(8) + b"\x7a\x01x"
    assert fsdata.parse(data) == FsData(Kind.FILE, size=3, block_sizes=(1, 2))


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\x18\x01", b"\x08\x06", b"\x08", b"\x08\x02\x12\x05x", b"\x08\x02\x7d\0",
        b"\x08\x02\x7b", b"\x08\x02\x18" + b"\xff" * 9 + b"\x01", b"\x08\x02\x18" + b"\xff" * 11,
        b"\x08\x02\x38\x80\x80\x80\x80\x10", b"\x08\x02\x42\x02\x15\0",
        b"\x08\x02\x18\x80\0", b"\x08\x02\x42\x0b\x08" + b"\xff" * 9 + b"\x7f",
    ],
)  # fmt: skip
def test_data_that_are_no_unixfs_are_refused(data: bytes) -> None:
    with pytest.raises(Untrusted):
        fsdata.parse(data)


@given(st.binary(max_size=60).map(b"\x08\x02".__add__) | st.binary(max_size=60))
@example(b"\x08\x02\x42\x0b\x08" + b"\xff" * 9 + b"\x01")
def test_only_untrusted_comes_out_of_unixfs_data(data: bytes) -> None:
    with contextlib.suppress(Untrusted):
        fsdata.parse(data)


PACKED = b"\x08\x02" + node.field(0x22, b"\x01" * (2 << 20))
SINGLE = b"\x08\x02" + b"\x20\x01" * (1 << 20)


@pytest.mark.parametrize("data", [PACKED, SINGLE], ids=["packed", "single"])
def test_more_sizes_than_links_are_refused_before_they_are_held(data: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(Untrusted, match="more sizes than its 3 links"):
            fsdata.of_node(Node((Link(RAW),) * 3, data))
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 3 << 20, "the packed ones are cut out once"


def test_numbers_of_unknown_fields_are_not_kept() -> None:
    fields = b"".join(varint.encode(number << 3) + b"\x01" for number in range(100, 200_000))
    tracemalloc.start()
    try:
        assert fsdata.parse(b"\x08\x02" + fields) == FsData(Kind.FILE)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 1 << 20
