"""Many small blobs of a peer with one request; each verified and blamed on its own."""

from __future__ import annotations

import hashlib
import struct
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import trio

from p2pcache.lanes.bundle import fetch_bundle
from p2pcache.lanes.bundle_wire import MAX_BUNDLE, pack_frame, pack_names
from p2pcache.lanes.orders import BLOCK_BYTES, BundleOrder, FaultKind, Location, SmallOrder
from p2pcache.lanes.serve.table import Entry, Guard
from p2pcache.transfer.workers import WorkerOptions, open_workers
from tests.support import faulty_http as fh
from tests.support.faulty_http import FaultyServer
from tests.support.lane_server import LaneServer, Reader, read_answer
from tests.support.partial_files import PATIENT, QUICK, some_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from p2pcache.lanes.orders import BatchReport

K = FaultKind
SIZES = [0, 1, 5000, 40_000, BLOCK_BYTES - 1, BLOCK_BYTES, 3, 600_000, 600_000, 17]


def git_sha1(data: bytes) -> bytes:
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).digest()


def blobs_of(sizes: list[int]) -> dict[bytes, bytes]:
    return {b"name %d" % n: some_bytes(size, b"%d" % n) for n, size in enumerate(sizes)}


def write(blobs: dict[bytes, bytes], folder: Path) -> dict[bytes, Entry]:
    folder.mkdir(exist_ok=True)
    entries = {}
    for name, data in blobs.items():
        path = folder / name.hex()
        path.write_bytes(data)
        entries[name] = Entry(str(path), len(data))
    return entries


def order_of(location: Location, blobs: dict[bytes, bytes], folder: Path) -> BundleOrder:
    folder.mkdir(exist_ok=True)
    orders = []
    for number, (name, data) in enumerate(blobs.items()):
        one = SmallOrder(location, str(folder / name.hex()), len(data))
        if number % 2:
            orders.append(replace(one, git_sha1=git_sha1(data)))
        else:
            orders.append(replace(one, sha256=hashlib.sha256(data).digest()))
    return BundleOrder(location, tuple(blobs), tuple(orders))


def faults(report: BatchReport) -> list[FaultKind | None]:
    return [each.fault and each.fault.kind for each in report.reports]


@pytest.fixture
def server() -> Iterator[LaneServer]:
    with LaneServer() as running:
        yield running


def test_every_size_arrives_over_tls_with_one_request(tmp_path: Path) -> None:
    blobs, reader = blobs_of(SIZES), Reader(tmp_path / "reader")
    with LaneServer(tls=True) as server:
        server.tell("trust", [reader.certificate.der])
        server.serve(write(blobs, tmp_path / "there"))
        location = server.bundle(reader)
        report = fetch_bundle(order_of(location, blobs, tmp_path / "here"), PATIENT)
        assert faults(report) == [None] * len(blobs)
        for (name, data), each in zip(blobs.items(), report.reports, strict=True):
            assert (tmp_path / "here" / name.hex()).read_bytes() == data
            assert (each.size, each.sha256) == (len(data), hashlib.sha256(data).digest())
            assert each.git_sha1 == git_sha1(data)
        assert server.statistics()["readers"][reader.name][1] == 1


def test_what_is_missing_or_changed_is_a_fault_of_its_own(
    server: LaneServer, tmp_path: Path
) -> None:
    blobs = blobs_of([100, 200, 300, 400, 500, 600, 700])
    names = list(blobs)
    entries = write(blobs, tmp_path / "there")
    del entries[names[1]]  # never heard of
    (tmp_path / "there" / names[2].hex()).unlink()
    (tmp_path / "there" / names[3].hex()).write_bytes(bytes(400))  # of the same length
    (tmp_path / "there" / names[4].hex()).write_bytes(b"longer" * 500)
    entries[names[5]] = replace(entries[names[5]], guard=Guard(1, 2, 600, 3))
    server.serve(entries)
    location = server.bundle()
    report = fetch_bundle(order_of(location, blobs, tmp_path / "here"), PATIENT)
    expected = [None, K.NOT_FOUND, K.NOT_FOUND, K.UNTRUSTED, K.NOT_FOUND, K.NOT_FOUND, None]
    assert faults(report) == expected
    kept = {path.name for path in (tmp_path / "here").iterdir()}
    assert kept == {names[0].hex(), names[6].hex()}
    server.statistics()
    assert set(server.stale) == {names[2], names[4], names[5]}


def test_a_ticket_reads_its_scope_and_nothing_else(server: LaneServer, tmp_path: Path) -> None:
    blobs = blobs_of([10, 20])
    entries = write(blobs, tmp_path / "there")
    server.serve({b"name 0": entries[b"name 0"]})
    server.serve({b"name 1": entries[b"name 1"]}, scope=b"another")
    location = server.bundle()
    order = order_of(location, blobs, tmp_path / "here")
    assert faults(fetch_bundle(order, PATIENT)) == [None, K.NOT_FOUND]
    bare = replace(order, location=replace(location, headers=()))
    assert faults(fetch_bundle(bare, PATIENT)) == [K.DENIED, K.DENIED]


def test_large_and_unfinished_blobs_are_not_small_blobs(server: LaneServer, tmp_path: Path) -> None:
    blobs = blobs_of([100, 100])
    entries = write(blobs, tmp_path / "there")
    large = tmp_path / "large"
    large.write_bytes(bytes(BLOCK_BYTES + 1))
    entries[b"name 0"] = Entry(str(large), BLOCK_BYTES + 1)
    live = tmp_path / "live"
    live.write_bytes(b"\0")
    entries[b"name 1"] = replace(entries[b"name 1"], live_path=str(live))
    server.serve(entries)
    order = order_of(server.bundle(), blobs, tmp_path / "here")
    assert faults(fetch_bundle(order, PATIENT)) == [K.UNAVAILABLE, K.UNAVAILABLE]
    live.write_bytes(b"\1")
    assert faults(fetch_bundle(order, PATIENT)) == [K.UNAVAILABLE, None]


def test_an_answer_is_bounded_and_says_what_to_ask_again(tmp_path: Path) -> None:
    blobs = blobs_of([1000] * 5)
    with LaneServer(options={"bundle_bytes": 3000}) as server:
        server.serve(write(blobs, tmp_path / "there"))
        order = order_of(server.bundle(), blobs, tmp_path / "here")
        report = fetch_bundle(order, PATIENT)
    assert faults(report) == [None, None, K.UNAVAILABLE, K.UNAVAILABLE, K.UNAVAILABLE]


def test_asks_that_are_none_are_refused(server: LaneServer) -> None:
    ticket = f"Authorization: Ticket {server.token()}"
    for body in (b"\x00", b"\x05abc", b"\xff" * 300, pack_names([b"x"] * (MAX_BUNDLE + 1))):
        with server.connect() as sock:
            length = f"Content-Length: {len(body)}"
            server.ask(sock, "/bundle", "Host: x", ticket, length, method="POST")
            sock.sendall(body)
            assert read_answer(sock).status == 400
    with server.connect() as sock:
        server.ask(sock, "/bundle", "Host: x", ticket, "Content-Length: 99999", method="POST")
        assert read_answer(sock).status == 413


GOOD = some_bytes(100)
LIES: dict[str, tuple[fh.Answer, list[FaultKind | None]]] = {
    "cut": (fh.cut(pack_frame(200, 100) + GOOD + pack_frame(200, 100), 150, fh.hang_up),
            [None, K.UNAVAILABLE]),
    "short": (fh.status(200, pack_frame(200, 100) + GOOD), [None, K.UNAVAILABLE]),
    "empty": (fh.status(200), [K.UNAVAILABLE, K.UNAVAILABLE]),
    "too long": (fh.status(200, pack_frame(200, BLOCK_BYTES + 1)), [K.UNTRUSTED, K.UNTRUSTED]),
    "other length": (fh.status(200, (pack_frame(200, 99) + GOOD[:99]) * 2), [K.UNTRUSTED] * 2),
    "other bytes": (fh.status(200, (pack_frame(200, 100) + bytes(100)) * 2), [K.UNTRUSTED] * 2),
    "bytes of a 404": (fh.status(200, pack_frame(404, 100) + GOOD), [K.UNTRUSTED] * 2),
    "strange status": (fh.status(200, pack_frame(999, 0) + pack_frame(200, 100) + GOOD),
                       [K.UNAVAILABLE, None]),
    "more than asked": (fh.status(200, (pack_frame(200, 100) + GOOD) * 3), [None, None]),
    "busy": (fh.status(503), [K.UNAVAILABLE, K.UNAVAILABLE]),
    "an old peer": (fh.status(404), [K.NOT_FOUND, K.NOT_FOUND]),
    "compressed": (fh.status(200, b"x", Content_Encoding="br"), [K.UNTRUSTED, K.UNTRUSTED]),
    "stalls": (fh.cut(bytes(1000), 3, fh.stall), [K.UNAVAILABLE, K.UNAVAILABLE]),
}  # fmt: skip


@pytest.mark.parametrize("what", LIES)
def test_a_body_that_lies_or_breaks_off_keeps_what_was_verified(what: str, tmp_path: Path) -> None:
    answer, expected = LIES[what]
    with FaultyServer() as liar:
        location = Location(liar.on("/bundle", answer))
        order = order_of(location, {b"a": GOOD, b"b": GOOD}, tmp_path / "here")
        report = fetch_bundle(order, QUICK)
    assert faults(report) == expected
    kept = sorted(path.name for path in (tmp_path / "here").iterdir())
    good = [name for name, kind in zip(("61", "62"), expected, strict=True) if kind is None]
    assert kept == good


def test_a_frame_is_six_bytes() -> None:
    assert pack_frame(200, 7) == struct.pack(">HI", 200, 7)


def test_two_thousand_small_blobs_in_eight_requests(server: LaneServer, tmp_path: Path) -> None:
    blobs = blobs_of([2000] * 2048)
    server.serve(write(blobs, tmp_path / "there"))
    location = server.bundle()
    names = list(blobs)
    began = time.monotonic()
    for at in range(0, len(names), MAX_BUNDLE):
        part = {name: blobs[name] for name in names[at : at + MAX_BUNDLE]}
        report = fetch_bundle(order_of(location, part, tmp_path / "here"), PATIENT)
        assert faults(report) == [None] * len(part)
    assert time.monotonic() - began < 20
    found = server.statistics()
    assert (found["connections"], next(iter(found["readers"].values()))[1]) == (1, 8)


async def test_a_worker_process_takes_the_order(tmp_path: Path) -> None:
    blobs = blobs_of(SIZES)
    with trio.fail_after(60), LaneServer() as server:
        server.serve(write(blobs, tmp_path / "there"))
        order = order_of(server.bundle(), blobs, tmp_path / "here")
        async with open_workers(WorkerOptions()) as workers:
            report = await workers.fetch_bundle(order, PATIENT)
    assert faults(report) == [None] * len(blobs)
