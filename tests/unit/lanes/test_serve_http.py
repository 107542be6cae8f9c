"""What a byte server reads out of a request's head."""

from __future__ import annotations

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pcache.errors import LocalFault, Untrusted
from p2pcache.lanes.bundle_wire import MAX_BUNDLE, pack_names, parse_names
from p2pcache.lanes.serve.control import Unpacker, pack
from p2pcache.lanes.serve.http import Ask, Refusal, parse_request, span_of

SIZE = 1000


def request(target: str = "/blob/1220", method: str = "GET", **headers: str) -> h11.Request:
    named = [(name.replace("_", "-"), value) for name, value in headers.items()]
    return h11.Request(
        method=method, target=target,
        headers=[("Host", "x"), ("Authorization", "Ticket abc"), *named],
    )  # fmt: skip


def refused(asked: h11.Request) -> int:
    with pytest.raises(Refusal) as caught:
        parse_request(asked)
    return caught.value.status


def test_a_blob_and_a_bundle_are_all_there_is() -> None:
    assert parse_request(request()) == Ask(b"\x12\x20", "abc")
    assert parse_request(request("/bundle", "POST", Content_Length="9")).body_bytes == 9


@pytest.mark.parametrize("target", [
    "/", "/blob/", "/blob/../etc/passwd", "/../../etc/passwd", "/blob/12/../../x", "/blob/%2e%2e",
    "/blob/1", "/blob/zz", "/blob/AB", "/blob/12?x", "/blob/12#x", "/blob/" + "ab" * 65, "*",
    "http://x/blob/1220", "//blob/1220", "/blob/1220/", "/bundle/..", "/BLOB/1220",
])  # fmt: skip
def test_nothing_else_is_found_and_no_path_is_made_of_it(target: str) -> None:
    assert refused(request(target)) == 404


@pytest.mark.parametrize(("method", "target"), [
    ("POST", "/blob/1220"), ("PUT", "/blob/1220"), ("DELETE", "/blob/1220"), ("CONNECT", "/bundle"),
    ("GET", "/bundle"), ("get", "/blob/1220"),
])  # fmt: skip
def test_other_methods_are_refused(method: str, target: str) -> None:
    assert refused(request(target, method)) == 405


def test_bodies_are_bounded_before_they_are_read() -> None:
    assert refused(request(Content_Length="1")) == 413
    assert refused(request("/bundle", "POST", Content_Length="100000")) == 413
    assert refused(request("/bundle", "POST", Transfer_Encoding="chunked")) == 411


def test_two_of_a_header_that_matters_are_refused() -> None:
    two = h11.Request(
        method="GET", target="/blob/1220",
        headers=[("Host", "x"), ("Range", "bytes=0-1"), ("Range", "bytes=2-3")],
    )  # fmt: skip
    assert refused(two) == 400


def test_no_ticket_is_a_401_that_keeps_the_connection() -> None:
    for text in ("Bearer abc", "Ticketabc", ""):
        asked = h11.Request(
            method="GET", target="/blob/1220", headers=[("Host", "x"), ("Authorization", text)]
        )
        with pytest.raises(Refusal) as caught:
            parse_request(asked)
        assert (caught.value.status, caught.value.close) == (401, False)


RANGES: dict[str | None, object] = {
    None: None, "bytes=0-": (0, 1000), "bytes=0-0": (0, 1), "bytes=10-19": (10, 20),
    "bytes=10-99999": (10, 1000), "bytes=999-": (999, 1000), "bytes=-1": (999, 1000),
    "bytes=-5000": (0, 1000), "Bytes=5-6": (5, 7), "bytes= 5-6 ": (5, 7),
    "lines=1-2": None, "": None,  # an unknown unit is ignored (RFC 9110 14.2)
    "bytes=1000-": 416, "bytes=1000-1001": 416, "bytes=20-10": 416, "bytes=-0": 416,
    "bytes=0-1,5-6": 416, "bytes=0-9,5-14": 416, "bytes=0-,-1": 416,
    "bytes=" + ",".join(f"{n}-{n}" for n in range(10_000)): 416,
    "bytes=": 400, "bytes": 400, "bytes=-": 400, "bytes=--5": 400, "bytes=-5-10": 400,
    "bytes=a-b": 400, "bytes=0x1-2": 400, "bytes=1.0-2": 400, "bytes=+1-2": 400,
    "bytes=" + "9" * 30 + "-": 400, "bytes=\u0661-\u0662": 400,
}  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), RANGES.items(), ids=lambda value: str(value)[:30])
def test_ranges(text: str | None, expected: object) -> None:
    ask = Ask(b"\x12", "abc", range_text=text)
    if isinstance(expected, int):
        with pytest.raises(Refusal) as caught:
            span_of(ask, SIZE)
        assert caught.value.status == expected
        if expected == 416:
            assert ("Content-Range", "bytes */1000") in caught.value.headers
    else:
        assert span_of(ask, SIZE) == expected


def test_a_range_of_another_representation_is_the_whole_one() -> None:
    asked = Ask(b"\x12", "abc", range_text="bytes=0-0", if_range='"12"')
    assert span_of(asked, SIZE) == (0, 1)
    assert span_of(Ask(b"\x12", "abc", range_text="bytes=0-0", if_range='"13"'), SIZE) is None


@given(st.text(max_size=60), st.integers(0, 10_000))
def test_any_range_text_is_a_span_inside_the_blob_or_a_refusal(text: str, size: int) -> None:
    try:
        span = span_of(Ask(b"\x12", "abc", range_text="bytes=" + text), size)
    except Refusal as refusal:
        span, status = None, refusal.status
    else:
        status = 206
    assert status in (206, 400, 416)
    if status == 206:
        assert span is not None
        assert 0 <= span[0] < span[1] <= size


@given(st.lists(st.binary(min_size=1, max_size=64), max_size=MAX_BUNDLE))
def test_names_of_a_bundle_come_back(names: list[bytes]) -> None:
    assert parse_names(pack_names(names)) == names


@given(st.binary(max_size=2000))
def test_any_list_of_names_is_bounded_or_untrusted(body: bytes) -> None:
    try:
        names = parse_names(body)
    except Untrusted:
        return
    assert len(names) <= MAX_BUNDLE
    assert all(1 <= len(name) <= 64 for name in names)


def test_too_many_names_are_untrusted() -> None:
    with pytest.raises(Untrusted):
        parse_names(pack_names([b"x"] * (MAX_BUNDLE + 1)))


@given(st.lists(st.lists(st.binary(max_size=9), max_size=3), max_size=4), st.integers(1, 7))
def test_control_messages_survive_any_cut(lists: list[list[bytes]], step: int) -> None:
    data = b"".join(pack("kind", 1, each) for each in lists)
    unpacker, found = Unpacker(), []
    for at in range(0, len(data), step):
        found += unpacker.feed(data[at : at + step])
    assert found == [["kind", 1, each] for each in lists]


def test_a_control_message_that_is_none_is_a_local_fault() -> None:
    for data in (b"\xff\xff\xff\xff", b"\0\0\0\1\xc1", b"\0\0\0\1\x01", b"\0\0\0\2\x91\x01"):
        with pytest.raises(LocalFault):
            Unpacker().feed(data)
