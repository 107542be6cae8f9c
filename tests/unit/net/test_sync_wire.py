"""The sync conversation's frames: what goes round comes back; only Untrusted gets out."""

from __future__ import annotations

import dataclasses
import tracemalloc

import msgpack
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from p2pcache.content.ranges import RangeSet
from p2pcache.errors import LocalFault, Untrusted
from p2pcache.net.sync import preloads, spending
from p2pcache.net.sync.fields import MAX_SPANS
from p2pcache.net.sync.wire import (
    MAX_FRAME_BYTES,
    VERSION,
    Announce,
    Brings,
    Bye,
    Coming,
    Contact,
    Drop,
    FrameReader,
    Gone,
    Grown,
    Have,
    Held,
    Hello,
    Holds,
    HoldsEnd,
    LaneInfo,
    Load,
    ManifestAsk,
    ManifestPart,
    Map,
    MapAsk,
    NameAsk,
    Names,
    OtherMajor,
    Peers,
    Permits,
    Ping,
    Pong,
    Refused,
    Said,
    Throttled,
    Ticket,
    TicketAsk,
    Unknown,
    Want,
    encode,
    parse,
)
from p2pcache.net.sync.wire.frames import CODECS
from p2pcache.units import MAX_BYTES


def many(inner, most=4, least=0):
    return st.lists(inner, min_size=least, max_size=most).map(tuple)


IDS = st.integers(1, (1 << 53) - 1)
NAMES = st.binary(min_size=1, max_size=64)
PEERS = st.binary(min_size=38, max_size=38)
SIZES = st.integers(0, 1 << 50)
BLOCKS = st.integers(0, (1 << 32) - 1)
SPANS = st.none() | st.lists(
    st.tuples(st.integers(0, 1000), st.integers(0, 1000)), max_size=30
).map(lambda spans: RangeSet.of(*spans))
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
ADDRESSES = many(TEXT, 8)
LANES = st.builds(
    LaneInfo,
    st.integers(0, 65535),
    ADDRESSES,
    st.none() | st.binary(min_size=32, max_size=32),
    st.binary(max_size=99),
)
AMOUNTS = st.floats(0, 1e5)
LOADS = st.builds(Load, AMOUNTS, AMOUNTS, AMOUNTS)
PROOFS = st.none() | st.binary(max_size=99)
SIGNATURES = st.binary(min_size=64, max_size=64)
ATTESTATIONS = st.tuples(
    NAMES, st.integers(1, 1 << 50), SIZES, st.binary(min_size=32, max_size=512), PEERS, SIGNATURES
)
RESOLUTIONS = st.tuples(
    TEXT, NAMES, st.none() | TEXT, TEXT, TEXT, st.booleans(), st.booleans(), AMOUNTS, PEERS,
    SIGNATURES,
)  # fmt: skip
MESSAGES = st.one_of(
    st.builds(
        Hello,
        st.just(VERSION[0]),
        st.integers(0, 65535),
        st.binary(min_size=16, max_size=16),
        TEXT,
        ADDRESSES,
        LANES,
        st.integers(0, 99),
    ),
    st.builds(Ping, IDS),
    st.builds(Pong, IDS, LOADS),
    st.builds(Want, IDS, st.none() | NAMES, many(NAMES)),
    st.builds(Holds, IDS, many(st.builds(Held, NAMES, SIZES, SPANS))),
    st.builds(HoldsEnd, IDS),
    st.builds(Have, IDS, many(st.builds(Grown, NAMES, SPANS))),
    st.builds(Gone, IDS, many(NAMES)),
    st.builds(
        Brings,
        IDS,
        st.none() | AMOUNTS,
        st.booleans(),
        many(st.builds(Coming, NAMES, SPANS.filter(lambda spans: spans is not None))),
    ),
    st.builds(Throttled, IDS, st.binary(min_size=16, max_size=16), st.floats(0, 3600)),
    st.builds(Drop, IDS),
    st.builds(
        Permits,
        many(st.tuples(TEXT, PEERS, st.floats(0, 1e9), PEERS, SIGNATURES), least=1),
    ),
    st.builds(
        Announce,
        st.sampled_from(Said),
        st.binary(min_size=16, max_size=16),
        PEERS,
        many(NAMES, least=1),
    ),
    st.builds(MapAsk, IDS, NAMES, BLOCKS, st.integers(1, 4096)),
    st.builds(
        Map,
        IDS,
        NAMES,
        SIZES,
        BLOCKS,
        st.none() | st.integers(0, 9).map(lambda n: bytes(32 * n)),
        many(ATTESTATIONS),
    ),
    st.builds(TicketAsk, IDS, NAMES, PROOFS),
    st.builds(Ticket, IDS, st.binary(min_size=1, max_size=99), AMOUNTS),
    st.builds(Refused, IDS, TEXT.filter(lambda t: len(t.encode()) <= 32), TEXT, PROOFS),
    st.builds(ManifestAsk, IDS, NAMES, st.integers(0, 1 << 32)),
    st.builds(
        ManifestPart, IDS, st.integers(0, 1 << 32), st.integers(0, 1 << 32), st.binary(max_size=99)
    ),
    st.builds(NameAsk, IDS, TEXT),
    st.builds(Names, IDS, many(RESOLUTIONS)),
    st.builds(Peers, many(st.builds(Contact, PEERS, ADDRESSES))),
    LOADS,
    st.builds(Bye, TEXT),
    st.builds(preloads.Records, many(st.binary(min_size=1, max_size=300), least=1)),
    st.builds(
        preloads.States,
        many(
            st.builds(
                preloads.State,
                st.binary(min_size=32, max_size=32),
                st.sampled_from(preloads.Stage),
                SIZES,
                SIZES,
                SIZES,
                AMOUNTS,
                TEXT.filter(lambda t: len(t.encode()) <= 32),
                TEXT,
            ),
            least=1,
        ),
    ),
    st.builds(preloads.Watch, many(st.binary(min_size=32, max_size=32))),
    st.builds(
        spending.Spends,
        many(
            st.builds(
                spending.Entry,
                st.binary(min_size=16, max_size=16),
                st.integers(0, spending.MAX_MONTH),
                st.integers(0, MAX_BYTES),
                st.integers(0, spending.MAX_REQUESTS),
                st.booleans(),
                st.integers(0, spending.MAX_RUNNING),
            ),
            least=1,
        ).filter(lambda entries: len({entry.origin for entry in entries}) == len(entries)),
    ),
)


def frames_of(data, step):
    """Every body in a byte stream that comes `step` bytes at a time."""
    reader = FrameReader()
    out = []
    for at in range(0, len(data), step):
        out += list(reader.feed(data[at : at + step]))
    return out


@given(MESSAGES)
@settings(max_examples=400)
def test_what_goes_round_comes_back(message):
    frame = encode(message)
    (body,) = frames_of(frame, len(frame))
    assert parse(body) == message


@given(st.lists(MESSAGES, max_size=5), st.integers(1, 50))
def test_frames_are_cut_the_same_however_they_arrive(messages, step):
    data = b"".join(map(encode, messages))
    assert [parse(body) for body in frames_of(data, step)] == messages
    assert [parse(body) for body in frames_of(data, 1)] == messages


def test_every_kind_is_in_the_round_trip_and_has_one_number():
    kinds = {key for key, _ in CODECS.values()}
    assert len(kinds) == len(CODECS) == 31


@given(st.binary(max_size=300))
@settings(max_examples=1000)
@example(b"")
@example(b"\xc1")
@example(b"\x91" * 250)
@example(b"\xdd\xff\xff\xff\xff")
def test_only_untrusted_comes_out_of_random_bodies(body):
    with_untrusted(parse, body)


@pytest.mark.slow
@given(MESSAGES, st.data())
@settings(max_examples=1000)
def test_only_untrusted_comes_out_of_damaged_messages(message, data):
    body = bytearray(encode(message)[4:])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(body) - 1))
        match data.draw(st.sampled_from(["set", "cut", "insert"])):
            case "set":
                body[at] = data.draw(st.integers(0, 255))
            case "cut":
                del body[at:]
            case "insert":
                body[at:at] = data.draw(st.binary(max_size=8))
        if not body:
            break
    with_untrusted(parse, bytes(body))


@pytest.mark.slow
@given(MESSAGES)
@settings(max_examples=100)
def test_every_byte_of_a_message_may_be_anything(message):
    body = encode(message)[4:]
    for at in range(min(len(body), 200)):
        for value in (0, 0x80, 0x90, 0xC0, 0xC1, 0xC4, 0xC7, 0xCB, 0xD9, 0xDC, 0xDD, 0xDF, 0xFF):
            with_untrusted(parse, body[:at] + bytes([value]) + body[at + 1 :])
        with_untrusted(parse, body[:at])


def with_untrusted(call, *args):
    try:
        return call(*args)
    except Untrusted:
        return None


@given(st.binary(max_size=200), st.integers(1, 20))
def test_only_untrusted_comes_out_of_random_streams(data, step):
    reader = FrameReader()
    for at in range(0, len(data), step):
        try:
            for body in reader.feed(data[at : at + step]):
                parse(body)
        except Untrusted:
            pass


HUGE = (10_000_000).to_bytes(4, "big")
BOMBS = {
    "ten million names in a want": msgpack.packb([4, 1, None])[:0] + b"\x94\x04\x01\xc0\xdd" + HUGE,
    "ten million fields": b"\xdd" + HUGE + b"\x04",
    "ten million entries of holds": b"\x93\x05\x01\xdd" + HUGE + b"\x93",
    "a list where a name belongs": b"\x94\x04\x01\xdd" + HUGE + b"\x90",
    "a map where a name belongs": b"\x94\x04\x01\xdf" + HUGE + b"\x90",
    "a map of ten million at the top": b"\xdf" + HUGE,
    "lists in lists in an unknown kind": b"\x92\xcc\xc8" + b"\xdd\0\0\x10\0" * 200_000,
    "lists in lists in a known kind": b"\x94\x04\x01" + b"\xdd\0\0\x04\0" * 200_000,
    "an extension of 4 GiB": b"\x94\x04\x01\xc9\xff\xff\xff\xff\x01",
    "bytes of 4 GiB": b"\x94\x04\x01\xc6\xff\xff\xff\xff",
    "text of 4 GiB": b"\x92\x18\xdb\xff\xff\xff\xff",
    "a megabyte of empty entries": b"\x93\x05\x01\xdd\x00\x0f\xff\xf0" + b"\x90" * 1_000_000,
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_header_that_promises_much_costs_little(bomb):
    body = BOMBS[bomb]
    tracemalloc.start()
    try:
        with pytest.raises(Untrusted):
            parse(body)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 64 * 1024 + 3 * len(body)


def test_a_frame_is_bounded_before_it_is_read():
    reader = FrameReader()
    assert list(reader.feed((MAX_FRAME_BYTES).to_bytes(4, "big"))) == []
    assert reader.needed == reader.body_bytes == MAX_FRAME_BYTES
    for length in (0, MAX_FRAME_BYTES + 1, (1 << 32) - 1):
        reader = FrameReader()
        with pytest.raises(Untrusted):
            list(reader.feed(length.to_bytes(4, "big")))
        with pytest.raises(Untrusted):
            list(reader.feed(b"\0\0\0\x01\x90"))


def test_lists_are_bounded_also_when_all_of_them_is_there():
    parse(msgpack.packb([4, 1, None, [b"x"] * 1024]))
    for body in (
        [4, 1, None, [b"x"] * 1025],
        [7, 1, [[b"x", None]] * 1025],
        [10, bytes(16), bytes(38), []],
        [22, [[bytes(38), []]] * 65],
        [22, [[bytes(38), ["/ip4/1.2.3.4/tcp/1"] * 9]]],
        [21, 1, [[]] * 17],
        [3, 1, [0.0] * 40],
    ):
        with pytest.raises(Untrusted):
            parse(msgpack.packb(body))


def test_newer_minors_may_add_kinds_and_fields_but_older_ones_lack_nothing():
    hello = Hello(*VERSION, bytes(16), "a", (), LaneInfo(1, (), None, b""))
    plain = msgpack.unpackb(encode(hello)[4:])
    assert parse(msgpack.packb([*plain, {"new": [1, 2]}, "more"])) == hello
    plain[6].append("a field of a newer lane")
    assert parse(msgpack.packb(plain)) == hello
    assert parse(msgpack.packb([200, [1, [2, {"x": 3}]]])) == Unknown(200)
    assert parse(msgpack.packb([1, 2, 5, {"all": "else"}, *range(5)])) == OtherMajor(2, 5)
    with pytest.raises(Untrusted):
        parse(msgpack.packb([1, 1, 0, bytes(16)]))


def test_where_an_agent_is_came_later_and_is_bounded():
    placed = Hello(*VERSION, bytes(16), "a", (), LaneInfo(1, (), None, b""), 0, "eu-1a", "r7")
    plain = msgpack.unpackb(encode(placed)[4:])
    assert parse(msgpack.packb(plain)) == placed
    older = parse(msgpack.packb(plain[:-2]))
    assert (older.zone, older.rack) == ("", "")
    with pytest.raises(Untrusted):
        parse(msgpack.packb([*plain[:-1], "r" * 65]))
    with pytest.raises(Untrusted):
        parse(msgpack.packb([*plain[:-1], 7]))
    with pytest.raises(Untrusted):
        parse(msgpack.packb(plain[:-3]))


@pytest.mark.parametrize(
    "wrong",
    [
        {"origin": b"x" * 15}, {"month": spending.MAX_MONTH + 1}, {"bytes_total": MAX_BYTES + 1},
        {"bytes_total": -1}, {"requests_total": spending.MAX_REQUESTS + 1},
        {"running": spending.MAX_RUNNING + 1},
    ],
    ids=str,
)  # fmt: skip
def test_figures_of_origins_are_bounded(wrong):
    good = spending.Entry(b"x" * 16, 24311, 5, 1, True, 1)
    values = [good.origin, good.month, good.bytes_total, good.requests_total, 1, good.running]
    kind = next(number for number, (made, _) in CODECS.items() if made is spending.Spends)
    assert parse(msgpack.packb([kind, [values]])) == spending.Spends((good,))
    names = [field.name for field in dataclasses.fields(good)]
    bad = [wrong.get(name, value) for name, value in zip(names, values, strict=True)]
    with pytest.raises(Untrusted):
        parse(msgpack.packb([kind, [bad]]))
    with pytest.raises(Untrusted):
        parse(msgpack.packb([kind, [values] * (spending.MAX_ENTRIES + 1)]))
    with pytest.raises(LocalFault):
        encode(spending.Spends((dataclasses.replace(good, **wrong),)))


def test_figures_of_one_origin_come_once_in_a_message():
    one = spending.Entry(b"x" * 16, 24311, 5, 1, True, 1)
    other = dataclasses.replace(one, origin=b"y" * 16)
    twice = encode(spending.Spends((one, other, dataclasses.replace(one, bytes_total=6))))
    (body,) = frames_of(twice, len(twice))
    with pytest.raises(Untrusted, match="twice"):
        parse(body)


def test_what_peers_would_refuse_is_not_sent():
    for wrong in (
        Want(0, None, ()),
        Want(1, None, (b"",)),
        Want(1, None, (b"x" * 65,)),
        Want(1, None, (b"x",) * 1025),
        Map(1, b"x", 0, 0, bytes(32 * 4097), ()),
    ):
        with pytest.raises(LocalFault):
            encode(wrong)
    long = Refused(1, "denied", "ü" * 1000, None)
    assert len(parse(encode(long)[4:]).text.encode()) <= 256


def test_spans_are_sorted_disjoint_and_bounded():
    def have(raw):
        return msgpack.packb([7, 1, [[b"name", raw]]])

    def pairs(*numbers):
        return b"".join(number.to_bytes(4, "big") for number in numbers)

    assert parse(have(pairs(0, 5, 7, 9))).entries[0].blocks == RangeSet.of((0, 5), (7, 9))
    for wrong in (pairs(0), pairs(5, 5), pairs(0, 5, 5, 9), pairs(7, 9, 0, 5), pairs(0, 9, 3, 12)):
        with pytest.raises(Untrusted):
            parse(have(wrong))
    with pytest.raises(Untrusted):
        parse(have(pairs(*range((MAX_SPANS + 1) * 2))))
    many_spans = RangeSet.of(*((2 * n, 2 * n + 1) for n in range(MAX_SPANS + 10)))
    sent = Have(1, (Grown(b"name", many_spans),))
    got = parse(encode(sent)[4:])
    assert got.entries[0].blocks == RangeSet(many_spans.spans[:MAX_SPANS]), "says less, not wrong"
    assert dataclasses.replace(got, entries=()) == Have(1, ())
