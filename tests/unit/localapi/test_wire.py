import contextlib

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pcache.agent.localapi.wire import (
    MAX_DEPTH,
    MAX_FRAME_BYTES,
    MAX_ID,
    MAX_ITEMS,
    Cancel,
    Failed,
    FrameReader,
    Hello,
    Item,
    Progress,
    Request,
    Result,
    encode,
    parse_from_client,
    parse_from_server,
)
from p2pcache.errors import ALL_ERRORS, LocalFault, Untrusted

IDS = st.integers(1, MAX_ID)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False)
    | st.text(max_size=20) | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=8,
)  # fmt: skip
FIELDS = st.dictionaries(st.text(max_size=9), PLAIN, max_size=4)
OPS = st.text(min_size=1, max_size=64).filter(lambda op: op != "cancel")
FROM_CLIENT = (
    st.builds(Request, IDS, OPS, FIELDS)
    | st.builds(Cancel, IDS, IDS)
    | st.builds(Hello, st.text(max_size=200), st.integers(0, 2**31))
)
FROM_SERVER = (
    st.builds(Hello, st.text(max_size=200), st.integers(0, 2**31))
    | st.builds(
        Progress, st.integers(0, MAX_ID), FIELDS.map(lambda f: without(f, "id", "type", "v"))
    )
    | st.builds(Item, IDS, FIELDS)
    | st.builds(Result, IDS, FIELDS)
    | st.builds(Failed, st.integers(0, MAX_ID), FIELDS)
)


def without(fields, *names):
    return {key: value for key, value in fields.items() if key not in names}


def frame(body):
    return len(body).to_bytes(4, "big") + body


@given(st.lists(FROM_CLIENT, max_size=4))
def test_what_a_client_sends_arrives_equal_whole_and_byte_by_byte(messages):
    stream = b"".join(encode(message) for message in messages)
    whole, slow = FrameReader(), FrameReader()
    assert [parse_from_client(body) for body in whole.feed(stream)] == messages
    one_by_one = [body for byte in stream for body in slow.feed(bytes([byte]))]
    assert [parse_from_client(body) for body in one_by_one] == messages
    assert slow.buffered_bytes == 0


@given(FROM_SERVER)
def test_what_a_server_sends_arrives_equal(message):
    (body,) = FrameReader().feed(encode(message))
    assert parse_from_server(body) == message


@given(st.binary(max_size=300), st.booleans())
def test_garbage_gives_only_untrusted(garbage, in_a_frame):
    stream = frame(garbage) if in_a_frame else garbage
    for step in (len(stream) or 1, 1):
        reader = FrameReader()
        try:
            for start in range(0, len(stream), step):
                for body in reader.feed(stream[start : start + step]):
                    for parse in (parse_from_client, parse_from_server):
                        with contextlib.suppress(Untrusted):
                            parse(body)
        except Untrusted:
            pass


@given(FROM_CLIENT | FROM_SERVER, st.data())
def test_a_damaged_frame_gives_only_untrusted_or_another_message(message, data):
    body = bytearray(encode(message)[4:])
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(body[: data.draw(st.integers(0, len(body)))])
    for candidate in (bytes(body), cut):
        for parse in (parse_from_client, parse_from_server):
            with contextlib.suppress(Untrusted):
                parse(candidate)


@given(PLAIN)
def test_any_msgpack_value_is_a_message_or_untrusted(value):
    body = msgpack.packb(value)
    for parse in (parse_from_client, parse_from_server):
        with contextlib.suppress(Untrusted):
            parse(body)


@pytest.mark.parametrize("length", [0, MAX_FRAME_BYTES + 1, 2**32 - 1])
def test_a_length_out_of_bounds_is_refused_before_anything_is_kept(length):
    reader = FrameReader()
    with pytest.raises(Untrusted):
        list(reader.feed(length.to_bytes(4, "big") + b"x" * 50))
    assert reader.buffered_bytes == 0
    with pytest.raises(Untrusted):  # the borders are lost: nothing after it is believed
        list(reader.feed(encode(Cancel(1, 2))))


def test_the_largest_frame_passes_and_one_byte_more_does_not():
    overhead = len(encode(Item(1, {"x": b"y" * 70_000}))) - 70_000 - 4
    largest = Item(1, {"x": b"y" * (MAX_FRAME_BYTES - overhead)})
    (body,) = FrameReader().feed(encode(largest))
    assert len(body) == MAX_FRAME_BYTES
    assert parse_from_server(body) == largest
    with pytest.raises(LocalFault):
        encode(Item(1, {"x": b"y" * (MAX_FRAME_BYTES - overhead + 1)}))


@pytest.mark.parametrize(
    "value",
    [
        {"id": 1, "op": "x", "args": {"a": msgpack.ExtType(5, b"")}},
        {"id": 1, "op": "x", "args": {"a": msgpack.Timestamp(1)}},
        {"id": 1, "op": "x", "args": {b"bytes": 1}},
        {"id": 1, "op": "x", "args": {"a": [0] * (MAX_ITEMS + 1)}},
        {"id": 1, "op": "x"},
        {"id": 1, "op": "x" * 65, "args": {}},
        {"id": True, "op": "x", "args": {}},
        {"id": 0, "op": "x", "args": {}},
        {"id": MAX_ID + 1, "op": "x", "args": {}},
        {"id": 1, "op": "cancel", "args": {}},
        {"v": [1], "agent": "x", "pid": 1},
        {"v": [1, 0], "agent": "x" * 201, "pid": 1},
        [],
        1,
    ],
)
def test_a_request_that_is_not_one_is_untrusted(value):
    with pytest.raises(Untrusted):
        parse_from_client(msgpack.packb(value))


def test_a_deep_nest_is_untrusted():
    nest = {}
    for _ in range(MAX_DEPTH):
        nest = {"a": nest}
    with pytest.raises(Untrusted):
        parse_from_client(msgpack.packb({"id": 1, "op": "x", "args": nest}))


def test_an_array_that_claims_more_than_it_has_allocates_nothing():
    claim = b"\xdd\x7f\xff\xff\xff" * 200  # 200 nested arrays of 2 GiB entries each
    with pytest.raises(Untrusted):
        parse_from_client(claim)


def test_another_major_version_is_our_softwares_matter_and_a_newer_minor_is_none():
    Hello("x", 1, (1, 99)).check()
    with pytest.raises(LocalFault, match=r"version 2\.0"):
        Hello("x", 1, (2, 0)).check()


@pytest.mark.parametrize("kind", ALL_ERRORS)
def test_every_error_keeps_its_type_message_and_hint(kind):
    (body,) = FrameReader().feed(encode(Failed(3, kind("what", hint="then").to_wire())))
    error = parse_from_server(body).exception()
    assert (type(error), error.message, error.hint) == (kind, "what", "then")


def nested(depth):
    return {"a": nested(depth - 1)} if depth else {}


@pytest.mark.parametrize(
    "bad",
    [
        {"a": object()}, {"a": 2**64}, {"a": "\udcff"}, {"a": [0] * (MAX_ITEMS + 1)},
        {str(n): n for n in range(MAX_ITEMS + 1)}, nested(MAX_DEPTH), {1: 2},
    ],
    ids=["type", "number", "text", "list", "map", "depth", "key"],
)  # fmt: skip
def test_what_cannot_be_sent_says_so(bad):
    with pytest.raises(LocalFault):
        encode(Request(1, "get", bad))
