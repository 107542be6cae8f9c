"""Every fault of an origin in one table: what it does, who is blamed, which blocks are kept."""

from __future__ import annotations

import errno
import os
import resource
import signal
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from p2pcache.lanes.fetch import fetch
from p2pcache.lanes.orders import BLOCK_BYTES, FaultKind, FetchLimits, Location, file_validator
from tests.support import faulty_http as fh
from tests.support.faulty_http import FaultyServer
from tests.support.partial_files import PATIENT, QUICK, PartialFiles, block_hashes, some_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SIZE = 3 * BLOCK_BYTES + 1000  # three whole blocks and a short one
BODY = some_bytes(SIZE)
HALF = BLOCK_BYTES + BLOCK_BYTES // 2  # one whole block and half of the next


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with FaultyServer() as running:
        yield running


@pytest.fixture
def partial(tmp_path: Path) -> PartialFiles:
    return PartialFiles(tmp_path / "partial", SIZE)


def assert_kept(partial: PartialFiles, done: int, digests: bytes, body: bytes = BODY) -> None:
    """Exactly the blocks below `done` are live, in the map, on disk and in the report."""
    blocks = -(-done // BLOCK_BYTES)
    assert partial.read("live") == b"\x01" * blocks + b"\0" * (partial.blocks - blocks)
    assert partial.read("data")[:done] == body[:done]
    assert digests == block_hashes(body)[: 32 * blocks]
    assert partial.read("map")[: 32 * blocks] == digests
    assert not any(partial.read("map")[32 * blocks :])


def test_a_good_server_gives_every_block(server: FaultyServer, partial: PartialFiles) -> None:
    report = fetch(partial.order(server.on("/f", fh.ranged(BODY, ETag='"e1"'))))
    assert report.fault is None
    assert (report.done, report.total_bytes, report.etag) == (SIZE, SIZE, '"e1"')
    assert report.wire_bytes == SIZE
    assert report.first_byte_s is not None
    assert 0 <= report.first_byte_s <= report.seconds
    assert_kept(partial, SIZE, report.digests)
    assert server.seen[0][1]["range"] == f"bytes=0-{SIZE - 1}"
    assert server.seen[0][1]["accept-encoding"] == "identity"


def test_a_piece_in_the_middle_lands_in_the_middle(
    server: FaultyServer, partial: PartialFiles
) -> None:
    url = server.on("/f", fh.ranged(BODY))
    report = fetch(partial.order(url, start=BLOCK_BYTES, end=2 * BLOCK_BYTES))
    assert (report.fault, report.done) == (None, 2 * BLOCK_BYTES)
    assert partial.read("live") == b"\0\x01\0\0"
    assert partial.read("data")[BLOCK_BYTES : 2 * BLOCK_BYTES] == BODY[BLOCK_BYTES:][:BLOCK_BYTES]
    assert not any(partial.read("data")[:BLOCK_BYTES])


def wrong_range(**headers: object) -> fh.Answer:
    return fh.ranged(BODY, **headers)


def longer(ask: fh.Exchange) -> bool:
    ask.head(206, Content_Length=SIZE + 5, Content_Range=f"bytes 0-{SIZE - 1}/{SIZE}")
    ask.send(BODY + b"extra")
    return True


def not_http(ask: fh.Exchange) -> bool:
    ask.send(b"220 smtp.example ready\r\n")
    return False


K = FaultKind
# What the server does -> who is blamed, how much is kept, a word of the message.
FAULTS: dict[str, tuple[fh.Answer, FaultKind, int, str]] = {
    "resets mid-body": (fh.cut(BODY, HALF, fh.reset), K.UNAVAILABLE, BLOCK_BYTES, "cut"),
    "closes mid-body": (fh.cut(BODY, HALF, fh.hang_up), K.UNAVAILABLE, BLOCK_BYTES, "early"),
    "closes before a block": (fh.cut(BODY, 500, fh.hang_up), K.UNAVAILABLE, 0, "early"),
    "closes on a block's edge": (
        fh.cut(BODY, BLOCK_BYTES, fh.hang_up), K.UNAVAILABLE, BLOCK_BYTES, "early"),
    "stalls mid-body": (fh.cut(BODY, HALF, fh.stall), K.UNAVAILABLE, BLOCK_BYTES, "progress"),
    "drips the body": (fh.cut(BODY, HALF, fh.drip), K.UNAVAILABLE, BLOCK_BYTES, "progress"),
    "drips the headers": (fh.drip_headers, K.UNAVAILABLE, 0, "progress"),
    "says nothing": (fh.stall, K.UNAVAILABLE, 0, "progress"),
    "closes without a word": (fh.hang_up, K.UNAVAILABLE, 0, "cut"),
    "speaks something else": (not_http, K.UNTRUSTED, 0, "not HTTP"),
    "compresses": (wrong_range(Content_Encoding="gzip"), K.UNTRUSTED, 0, "compressed"),
    "starts elsewhere": (
        wrong_range(Content_Range=f"bytes 1-{SIZE - 1}/{SIZE}"), K.UNTRUSTED, 0, "instead of"),
    "ends elsewhere": (
        wrong_range(Content_Range=f"bytes 0-{SIZE - 2}/{SIZE}"), K.UNTRUSTED, 0, "instead of"),
    "has another size": (
        wrong_range(Content_Range=f"bytes 0-{SIZE - 1}/{SIZE + 1}"), K.UNTRUSTED, 0, "expected"),
    "names no range": (wrong_range(Content_Range="all of it"), K.UNTRUSTED, 0, "which part"),
    "promises more": (longer, K.UNTRUSTED, 0, "for a range of"),
    "has a shorter whole": (
        fh.status(200, BODY[:-1]), K.UNTRUSTED, 0, f"{SIZE - 1} bytes, expected {SIZE}"),
    "has a longer whole": (fh.status(200, BODY + b"x"), K.UNTRUSTED, 0, "expected"),
    "400": (fh.status(400), K.DENIED, 0, "does not accept"),
    "401": (fh.status(401), K.DENIED, 0, "login"),
    "403": (fh.status(403), K.DENIED, 0, "refuses"),
    "404": (fh.status(404), K.NOT_FOUND, 0, "does not have"),
    "405": (fh.status(405), K.DENIED, 0, "does not accept"),
    "407": (fh.status(407), K.DENIED, 0, "proxy"),
    "408": (fh.status(408), K.UNAVAILABLE, 0, "timed out"),
    "410": (fh.status(410), K.NOT_FOUND, 0, "any more"),
    "414": (fh.status(414), K.DENIED, 0, "does not accept"),
    "416": (fh.status(416), K.UNTRUSTED, 0, "size changed"),
    "425": (fh.status(425), K.UNAVAILABLE, 0, "later"),
    "429": (fh.status(429), K.UNAVAILABLE, 0, "limiting"),
    "451": (fh.status(451), K.DENIED, 0, "legal"),
    "500": (fh.status(500), K.UNAVAILABLE, 0, "HTTP 500"),
    "503": (fh.status(503), K.UNAVAILABLE, 0, "HTTP 503"),
    "204": (fh.status(204), K.UNTRUSTED, 0, "unexpected"),
    "304 without a place": (fh.status(304), K.UNTRUSTED, 0, "unexpected"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_blames_the_right_party_and_keeps_what_was_verified(
    name: str, server: FaultyServer, partial: PartialFiles
) -> None:
    answer, kind, kept, words = FAULTS[name]
    slow = any(word in name for word in ("stalls", "drips", "nothing"))
    began = time.monotonic()
    report = fetch(partial.order(server.on("/f", answer), limits=QUICK if slow else PATIENT))
    assert time.monotonic() - began < 4
    assert report.fault is not None
    assert report.fault.kind is kind, report.fault
    assert words in report.fault.message
    assert f"127.0.0.1:{server.port}" in report.fault.message
    assert report.done == kept
    assert_kept(partial, kept, report.digests)
    if name.isdigit():
        assert report.fault.http_status == int(name)


def test_nobody_is_asked_twice_by_a_worker(server: FaultyServer, partial: PartialFiles) -> None:
    for code in (429, 500, 404, 403):
        fetch(partial.order(server.on(f"/{code}", fh.status(code))))
        assert len(server.headers_of(f"/{code}")) == 1


@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        ({"Retry_After": "7"}, 7.0),
        ({"Retry_After": "999999"}, 3600.0),
        ({"Retry_After": "Fri, 01 Jan 2010 00:00:00 GMT"}, 0.0),
        ({"Retry_After": "soon"}, None),
        ({"ratelimit": '"api";r=0;t=55'}, 55.0),
        ({}, None),
    ],
)
def test_retry_after_is_passed_on_within_bounds(
    headers: dict[str, object], wait_s: float | None, server: FaultyServer, partial: PartialFiles
) -> None:
    report = fetch(partial.order(server.on("/f", fh.status(429, **headers))))
    assert report.fault is not None
    assert report.fault.retry_after_s == wait_s


def test_the_hubs_own_words_are_shown_without_controls_or_credentials(
    server: FaultyServer, partial: PartialFiles
) -> None:
    said = "Access to model x is restricted \x1b[31m for hf_secret " + "y" * 5000
    url = server.on("/f", fh.status(403, X_Error_Message=said))
    location = Location(url + "?X-Amz-Signature=5ig", (("Authorization", "Bearer hf_secret"),))
    report = fetch(partial.order(location))
    assert report.fault is not None
    message = report.fault.message
    assert "Access to model x is restricted" in message
    assert "\x1b" not in message
    assert "hf_secret" not in message
    assert "5ig" not in message
    assert len(message) < 500
    assert "hf_secret" not in repr(location)


def test_a_server_that_ignores_ranges_is_told_apart_and_hung_up_on(
    server: FaultyServer, partial: PartialFiles
) -> None:
    hung_up = threading.Event()

    def endless(ask: fh.Exchange) -> bool:
        ask.head(200, Content_Length=1 << 40)
        try:
            while True:
                ask.send(bytes(1 << 16))
        except OSError:
            hung_up.set()
            raise

    url = server.on("/f", fh.first(1, endless, fh.status(200, BODY)))
    report = fetch(partial.order(url, start=BLOCK_BYTES, end=2 * BLOCK_BYTES))
    assert report.fault is not None
    assert report.fault.kind is K.RANGE_IGNORED
    assert_kept(partial, 0, report.digests[:0])
    assert report.wire_bytes == 0
    assert hung_up.wait(2), "the rest of the unwanted body must not be read"
    assert fetch(partial.order(url, whole=True)).fault is None


def test_a_200_is_fine_when_the_range_is_everything(
    server: FaultyServer, partial: PartialFiles
) -> None:
    report = fetch(partial.order(server.on("/f", fh.status(200, BODY))))
    assert report.fault is None
    assert_kept(partial, SIZE, report.digests)


def test_a_whole_order_sends_no_range_and_leaves_live_blocks_alone(
    server: FaultyServer, partial: PartialFiles
) -> None:
    partial.write("live", b"\0\x01\0\0")
    report = fetch(partial.order(server.on("/f", fh.ranged(BODY)), whole=True))
    assert report.fault is None
    assert report.digests == block_hashes(BODY)
    assert "range" not in server.seen[0][1]
    assert partial.read("live") == b"\x01" * 4
    assert not any(partial.read("data")[BLOCK_BYTES : 2 * BLOCK_BYTES])


@pytest.mark.parametrize("answer", [fh.chunked(BODY), fh.until_close(BODY)])
def test_a_body_without_a_length_is_taken_when_everything_was_asked(
    answer: fh.Answer, server: FaultyServer, partial: PartialFiles
) -> None:
    report = fetch(partial.order(server.on("/f", answer), whole=True))
    assert (report.fault, report.total_bytes) == (None, SIZE)
    assert_kept(partial, SIZE, report.digests)


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (fh.chunked(BODY + b"x"), K.UNTRUSTED, "longer"),
        (fh.until_close(BODY + b"x" * BLOCK_BYTES), K.UNTRUSTED, "longer"),
        (fh.chunked(BODY[:-1]), K.UNAVAILABLE, "early"),
        (fh.until_close(BODY[:-1]), K.UNAVAILABLE, "early"),
        (fh.chunked(BODY, cut_after=BLOCK_BYTES * 2), K.UNAVAILABLE, "cut"),
    ],
)
def test_a_body_without_a_length_is_held_to_the_blobs_size(
    answer: fh.Answer, kind: FaultKind, words: str, server: FaultyServer, partial: PartialFiles
) -> None:
    report = fetch(partial.order(server.on("/f", answer), whole=True))
    assert report.fault is not None
    assert report.fault.kind is kind
    assert words in report.fault.message
    assert report.done >= BLOCK_BYTES


def test_the_true_length_is_reported_when_only_the_answer_can_tell(
    server: FaultyServer, tmp_path: Path
) -> None:
    roomy = PartialFiles(tmp_path / "roomy", 16 * BLOCK_BYTES)
    for path, answer, changes in (
        ("/range", fh.ranged(BODY), {}),
        ("/whole", fh.status(200, BODY), {}),
        ("/chunked", fh.chunked(BODY), {"whole": True}),
        ("/close", fh.until_close(BODY), {"whole": True}),
    ):
        url = server.on(path, answer)
        report = fetch(roomy.order(url, total_known=False, **changes))
        assert (report.fault, report.total_bytes, report.done) == (None, SIZE, SIZE), path
        assert report.digests == block_hashes(BODY)


def test_an_empty_blob_of_unknown_length_is_no_fault(server: FaultyServer, tmp_path: Path) -> None:
    roomy = PartialFiles(tmp_path / "roomy", BLOCK_BYTES)
    for path, answer in (
        ("/200", fh.status(200)),
        ("/416", fh.status(416, Content_Range="bytes */0")),
    ):
        report = fetch(roomy.order(server.on(path, answer), total_known=False))
        assert (report.fault, report.total_bytes, report.done) == (None, 0, 0), path


def test_a_block_that_differs_from_the_map_is_not_written(
    server: FaultyServer, partial: PartialFiles
) -> None:
    bad = bytearray(BODY)
    bad[BLOCK_BYTES + 7] ^= 1
    url = server.on("/f", fh.ranged(bytes(bad)))
    report = fetch(partial.order(url, expected=block_hashes(BODY)))
    assert report.fault is not None
    assert report.fault.kind is K.UNTRUSTED
    assert block_hashes(BODY)[32:64].hex() in report.fault.message
    assert block_hashes(bytes(bad))[32:64].hex() in report.fault.message
    assert_kept(partial, BLOCK_BYTES, report.digests)
    assert not any(partial.read("data")[BLOCK_BYTES:])


def test_compare_rewrites_only_the_blocks_that_differ(
    server: FaultyServer, partial: PartialFiles
) -> None:
    url = server.on("/f", fh.ranged(BODY))
    assert fetch(partial.order(url)).fault is None
    wrong = some_bytes(BLOCK_BYTES, b"wrong")
    data, hashes = bytearray(BODY), bytearray(block_hashes(BODY))
    data[BLOCK_BYTES : 2 * BLOCK_BYTES] = wrong
    hashes[32:64] = block_hashes(wrong)
    partial.write("data", bytes(data))
    partial.write("map", bytes(hashes))
    report = fetch(partial.order(url, compare=True))
    assert (report.fault, report.changed) == (None, (1,))
    assert_kept(partial, SIZE, report.digests)


@pytest.mark.parametrize("headers", [{"ETag": '"e2"'}, {"ETag": 'W/"e1"'}, {}])
def test_nothing_of_another_version_counts(
    headers: dict[str, object], server: FaultyServer, partial: PartialFiles
) -> None:
    url = server.on("/f", fh.ranged(BODY, **headers))
    report = fetch(partial.order(url, validator="e1"))
    assert report.fault is not None
    assert report.fault.kind is K.UNTRUSTED
    assert "changed" in report.fault.message
    assert_kept(partial, 0, report.digests)
    assert report.done == 0
    assert server.seen[0][1]["if-range"] == '"e1"'
    assert fetch(partial.order(server.on("/f", fh.ranged(BODY, ETag='"e1"')), validator="e1")).done


def test_a_local_file_that_is_written_to_while_it_is_read_counts_for_nothing(
    tmp_path: Path, partial: PartialFiles
) -> None:
    source = tmp_path / "source"
    source.write_bytes(BODY)
    before = file_validator(source.stat())
    order = partial.order(source.as_uri(), validator=before)
    slow = replace(order, limits=replace(PATIENT, rate_bytes_per_s=8e6))
    writer = threading.Timer(0.1, source.write_bytes, (BODY,))
    writer.start()
    report = fetch(slow)
    writer.join()
    assert report.fault is not None
    assert report.fault.kind is K.UNTRUSTED
    assert (report.done, report.digests) == (0, b"")
    now = fetch(replace(order, validator=file_validator(source.stat())))
    assert (now.fault, now.done) == (None, SIZE)


def test_a_connection_that_died_while_idle_is_replaced_without_a_fault(
    server: FaultyServer, partial: PartialFiles
) -> None:
    def dies_at_the_next_request(ask: fh.Exchange) -> bool:
        fh.ranged(BODY)(ask)
        ask.sock.recv(1)  # swallow the beginning of the next request, then hang up on it
        return ask.reset()

    url = server.on("/f", fh.first(1, dies_at_the_next_request, fh.ranged(BODY)))
    assert fetch(partial.order(url)).fault is None
    assert fetch(partial.order(url)).fault is None
    assert server.connections == 2


def test_connections_are_kept_between_orders(server: FaultyServer, partial: PartialFiles) -> None:
    url = server.on("/f", fh.ranged(BODY))
    missing = server.on("/missing", fh.status(404, b"a short page"))
    for _ in range(3):
        assert fetch(partial.order(url)).fault is None
        assert fetch(partial.order(missing)).fault is not None
    assert server.connections == 1


def test_nobody_listening_is_unavailable(partial: PartialFiles) -> None:
    with FaultyServer() as gone:
        url = gone.url("/f")
    report = fetch(partial.order(url))
    assert report.fault is not None
    assert report.fault.kind is K.UNAVAILABLE
    assert "cannot connect" in report.fault.message


@pytest.mark.parametrize("rate", [2_000_000, 8_000_000])
def test_a_rate_limit_holds_within_a_tenth(
    rate: int, server: FaultyServer, partial: PartialFiles
) -> None:
    limits = replace(PATIENT, rate_bytes_per_s=float(rate))
    url = server.on("/f", fh.ranged(BODY))
    end = SIZE if rate > 4_000_000 else BLOCK_BYTES
    report = fetch(partial.order(url, end=end, limits=limits))
    assert report.fault is None
    assert report.done / report.seconds == pytest.approx(rate, rel=0.1)


def test_a_slow_limit_of_ours_is_not_a_slow_server(
    server: FaultyServer, partial: PartialFiles
) -> None:
    limits = FetchLimits(no_progress_s=0.2, floor_bytes_per_s=1e6, rate_bytes_per_s=2e6)
    report = fetch(partial.order(server.on("/f", fh.ranged(BODY)), end=BLOCK_BYTES, limits=limits))
    assert report.fault is None


def test_a_failed_write_is_ours_and_keeps_what_fitted(
    server: FaultyServer, partial: PartialFiles
) -> None:
    """EFBIG from a file size limit stands for any failed write but a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    url = server.on("/f", fh.ranged(BODY))
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * BLOCK_BYTES, hard))
    try:
        report = fetch(partial.order(url))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert report.fault is not None
    assert report.fault.kind is K.LOCAL
    assert os.strerror(errno.EFBIG) in report.fault.message
    assert_kept(partial, 2 * BLOCK_BYTES, report.digests)


def test_no_space_left_is_told_apart(server: FaultyServer, partial: PartialFiles) -> None:
    order = replace(partial.order(server.on("/f", fh.ranged(BODY))), data_path="/dev/full")
    report = fetch(order)
    assert report.fault is not None
    assert report.fault.kind is K.DISK_FULL
    assert partial.read("live") == b"\0" * 4


def test_a_discarded_partial_is_ours(server: FaultyServer, partial: PartialFiles) -> None:
    os.unlink(partial.path("map"))
    report = fetch(partial.order(server.on("/f", fh.ranged(BODY))))
    assert report.fault is not None
    assert report.fault.kind is K.LOCAL
    assert server.seen == []


def test_a_local_file_goes_the_same_way(partial: PartialFiles, tmp_path: Path) -> None:
    source = tmp_path / "with space %.bin"
    source.write_bytes(BODY)
    report = fetch(partial.order(source.as_uri()))
    assert report.fault is None
    assert_kept(partial, SIZE, report.digests)
    source.write_bytes(BODY + b"grown")
    changed = fetch(partial.order(source.as_uri()))
    assert changed.fault is not None
    assert changed.fault.kind is K.UNTRUSTED
    source.unlink()
    gone = fetch(partial.order(source.as_uri()))
    assert gone.fault is not None
    assert gone.fault.kind is K.NOT_FOUND
