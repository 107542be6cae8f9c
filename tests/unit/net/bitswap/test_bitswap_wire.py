"""Messages of bitswap: ours come back, anything else is Untrusted, and nothing is unbounded."""

from __future__ import annotations

import hashlib
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pcache.content import cid as cids
from p2pcache.content import varint
from p2pcache.errors import Untrusted
from p2pcache.net.bitswap import wire
from p2pcache.net.bitswap.wire import Block, Entry, Kind, Message

DIGESTS = st.binary(min_size=32, max_size=32)
V0 = DIGESTS.map(lambda digest: b"\x12\x20" + digest)
V1 = st.builds(
    lambda codec, digest: cids.make_cid(codec, b"\x12\x20" + digest),
    st.sampled_from([cids.RAW, cids.DAG_PB, cids.DAG_CBOR, cids.DAG_JSON]),
    DIGESTS,
)
CIDS = V0 | V1
ENTRIES = st.builds(
    Entry,
    CIDS,
    st.integers(-(1 << 31), (1 << 31) - 1),
    st.sampled_from(Kind),
    st.booleans(),
    st.booleans(),
)
LISTS = st.lists(CIDS, max_size=5).map(tuple)
MESSAGES = st.builds(
    Message,
    st.lists(ENTRIES, max_size=5).map(tuple),
    st.booleans(),
    st.lists(st.builds(Block, CIDS.map(wire.prefix_of), st.binary(max_size=300)), max_size=5).map(
        tuple
    ),
    LISTS,
    LISTS,
)


def body(framed: bytes) -> bytes:
    length, at = varint.decode(framed)
    assert length == len(framed) - at
    return framed[at:]


def field(number: int, data: bytes) -> bytes:
    return bytes([number << 3 | 2]) + varint.encode(len(data)) + data


def wanted(*entries: bytes) -> bytes:
    return field(1, b"".join(field(1, entry) for entry in entries))


CID = cids.raw_cid(hashlib.sha256(b"block").digest())


@given(MESSAGES)
def test_a_message_comes_back(message):
    assert wire.parse(body(wire.frame(message))) == message


@given(MESSAGES, st.data())
def test_a_broken_message_is_untrusted_or_another_message(message, data):
    whole = bytearray(body(wire.frame(message)))
    for _ in range(data.draw(st.integers(1, 3))):
        if whole:
            at = data.draw(st.integers(0, len(whole) - 1))
            whole[at] ^= data.draw(st.integers(1, 255))
    cut = data.draw(st.integers(0, len(whole)))
    for broken in (bytes(whole), bytes(whole[:cut])):
        try:
            wire.parse(broken)
        except Untrusted:
            continue


@given(st.binary(max_size=400))
def test_noise_is_untrusted_or_a_message(data):
    try:
        wire.parse(data)
    except Untrusted:
        return


@given(st.binary(max_size=40), st.binary(max_size=40))
def test_any_prefix_gives_a_cid_or_is_untrusted(prefix, data):
    try:
        cid = wire.cid_of(Block(prefix, data))
    except Untrusted:
        return
    assert cids.checked(cid) == cid
    assert wire.prefix_of(cid) == prefix


@given(CIDS, st.binary(max_size=100))
def test_the_prefix_of_a_cid_and_the_bytes_make_the_cid_again(cid, data):
    sha = hashlib.sha256(data).digest()
    same = cid[: len(cid) - 32] + sha
    assert wire.cid_of(Block(wire.prefix_of(cid), data)) == same


@pytest.mark.parametrize(("code", "name"), [(0x12, "sha256"), (0x13, "sha512"), (0x1E, "blake3")])
def test_hashes_that_are_known(code, name):
    import blake3

    made = blake3.blake3(b"x").digest() if name == "blake3" else hashlib.new(name, b"x").digest()
    prefix = b"\x01\x55" + bytes([code, len(made)])
    assert wire.cid_of(Block(prefix, b"x")) == prefix + made


@pytest.mark.parametrize(
    "prefix",
    [
        b"",
        b"\x01\x55\x12",
        b"\x01\x55\x12\x1f",  # a digest cut short
        b"\x01\x55\x12\x20\x00",
        b"\x02\x55\x12\x20",
        b"\x00\x55\x12\x20",  # version 0 is dag-pb
        b"\x01\x55\x16\x20",  # sha3-256
        b"\x01\x55\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x20",
    ],
)
def test_prefixes_that_name_nothing_are_untrusted(prefix):
    with pytest.raises(Untrusted):
        wire.cid_of(Block(prefix, b"data"))


def test_the_bytes_that_boxo_writes_are_understood():
    # a want-have as Kubo 0.43 sends it: block, priority 2147483632, wantType 1, full false
    entry = field(1, CID) + b"\x10\xf0\xff\xff\xff\x07\x20\x01"
    message = wire.parse(field(1, field(1, entry)) + b"\x28\x00")
    assert message.entries == (Entry(CID, 2147483632, Kind.HAVE),)


def test_a_negative_priority_of_ten_bytes_is_one():
    entry = field(1, CID) + b"\x10" + b"\xff" * 9 + b"\x01"
    assert wire.parse(wanted(entry)).entries[0].priority == -1


def test_fields_of_later_versions_are_skipped():
    message = wire.parse(wanted(field(1, CID)) + field(9, b"new") + b"\x50\x07" + b"\x5d1234")
    assert message == Message((Entry(CID),))


def test_a_block_of_protocol_1_0_is_of_version_0():
    block = wire.parse(field(2, b"data")).blocks[0]
    assert wire.cid_of(block) == b"\x12\x20" + hashlib.sha256(b"data").digest()


@pytest.mark.parametrize(
    "data",
    [
        wanted(b""),  # an entry without a CID
        wanted(field(1, CID) + b"\x20\x02"),  # no such want
        wanted(field(1, CID[:-1])),
        wanted(field(1, CID + b"x")),
        wanted(field(1, b"\x01\x55\x12" + varint.encode(1 << 30))),
        field(4, field(1, CID) + b"\x10\x02"),
        field(4, b""),
        b"\x0a\xff\xff\xff\xff\x04",  # 1.25 GB of want-list
        b"\x1a\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01",  # ten bytes of length: negative
        b"\x0a" + b"\xff" * 11,
        b"\x0b",  # a group
        b"\x09123",
    ],
)
def test_what_makes_no_sense_is_untrusted(data):
    with pytest.raises(Untrusted):
        wire.parse(data)


@pytest.mark.parametrize(
    "data",
    [
        field(1, field(1, field(1, CID)) * 100_000),
        field(1, b"\x0a\x00" * 2_000_000),
        b"\x1a\x00" * 2_000_000,
        b"\x12\x00" * 2_000_000,
        field(4, field(1, CID)) * 100_000,
        b"\x28\x00" * 2_000_000,
        b"\x4a\x00" * 2_000_000,
        b"\x4d1234" * 800_000,
        b"\x0a\x00" * 2_000_000,
        field(1, b"\x10\x01" * 2_000_000),
        field(1, field(1, field(1, CID) + b"\x10\x01" * 2_000_000)),
        field(3, b"\x28\x00" * 2_000_000),
        field(4, field(1, CID) + b"\x10\x01" * 2_000_000),
        field(1, field(1, field(1, CID) + b"\x10\x01" * 200)) * 5000,
    ],
    ids=[
        "wants",
        "empty wants",
        "blocks",
        "old blocks",
        "presences",
        "pending bytes",
        "unknown fields",
        "unknown numbers",
        "empty want-lists",
        "full or not",
        "priorities of a want",
        "fields of a block",
        "kinds of a presence",
        "fields of many wants",
    ],
)
def test_a_list_of_millions_is_untrusted_and_costs_little(data):
    tracemalloc.start()
    with pytest.raises(Untrusted):
        wire.parse(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 << 20


def test_the_longest_honest_message_has_few_enough_fields():
    wants = tuple(
        Entry(cids.raw_cid(number.to_bytes(32, "big")), 1, Kind.HAVE, True, True)
        for number in range(wire.MAX_ITEMS)
    )
    assert wire.parse(body(wire.frame(Message(wants, full=True)))).entries == wants
    names = tuple(want.cid for want in wants)
    assert wire.parse(body(wire.frame(Message(haves=names, dont_haves=names)))).haves == names
