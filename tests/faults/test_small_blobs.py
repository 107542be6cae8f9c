"""A batch of small blobs: each verified, each blamed on its own, no file without verified bytes."""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from p2pcache.lanes.odometer import open_odometer
from p2pcache.lanes.orders import BLOCK_BYTES, FaultKind, Location, SmallOrder
from p2pcache.lanes.small import fetch_small
from tests.support import faulty_http as fh
from tests.support.faulty_http import FaultyServer
from tests.support.partial_files import PATIENT, QUICK, some_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BODY = some_bytes(5000)
K = FaultKind


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with FaultyServer() as running:
        yield running


def git_sha1(data: bytes) -> bytes:
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).digest()


def order(url: str, folder: Path, name: str = "out", **changes: object) -> SmallOrder:
    options: dict[str, object] = {"size": len(BODY), **changes}
    return SmallOrder(Location(url), str(folder / name), **options)  # type: ignore[arg-type]


def test_a_batch_uses_several_connections_and_keeps_its_order(
    server: FaultyServer, tmp_path: Path
) -> None:
    orders = []
    for number in range(40):
        data = some_bytes(number * 100, b"%d" % number)

        def slow(ask: fh.Exchange, data: bytes = data) -> bool:
            ask.wait(0.01)
            return fh.ranged(data)(ask)

        url = server.on(f"/{number}", slow)
        digest = git_sha1(data)
        orders.append(order(url, tmp_path, str(number), size=len(data), git_sha1=digest))
    batch = fetch_small(tuple(orders), PATIENT, threads=4)
    for number, report in enumerate(batch.reports):
        data = some_bytes(number * 100, b"%d" % number)
        assert report.fault is None
        assert report.size == report.wire_bytes == len(data)
        assert report.sha256 == hashlib.sha256(data).digest()
        assert report.git_sha1 == git_sha1(data)
        assert (tmp_path / str(number)).read_bytes() == data
        assert (tmp_path / str(number)).stat().st_mode & 0o777 == 0o444, "synced as it stays"
    assert server.connections == 4
    assert batch.cpu_s > 0


def interim_without_end(pause_s: float) -> fh.Answer:
    def answer(ask: fh.Exchange) -> bool:
        while not ask.stopping.is_set():
            ask.send(b"HTTP/1.1 100 Continue\r\n\r\n" * 400)
            ask.wait(pause_s)
        return False

    return answer


def trailers_without_end(ask: fh.Exchange) -> bool:
    ask.head(200, Transfer_Encoding="chunked")
    ask.send(b"%x\r\n%s\r\n0\r\n" % (len(BODY), BODY))
    while not ask.stopping.is_set():
        ask.send(b"A: " + b"b" * 600 + b"\r\n")
        ask.wait(0.05)
    return False


def interim_then(answer: fh.Answer) -> fh.Answer:
    def both(ask: fh.Exchange) -> bool:
        ask.send(b"HTTP/1.1 100 Continue\r\n\r\n" * 3)
        return answer(ask)

    return both


FAULTS: dict[str, tuple[fh.Answer, FaultKind, str]] = {
    "flips a bit": (fh.ranged(bytes([BODY[0] ^ 1]) + BODY[1:]), K.UNTRUSTED, "sha2-256"),
    "is longer": (fh.ranged(BODY + b"x"), K.UNTRUSTED, "5001 bytes, expected 5000"),
    "is shorter": (fh.ranged(BODY[:-1]), K.UNTRUSTED, "4999 bytes, expected 5000"),
    "is longer, chunked": (fh.chunked(BODY + b"x"), K.UNTRUSTED, "5001"),
    "is cut": (fh.cut(BODY, 100, fh.hang_up), K.UNAVAILABLE, "4900 bytes early"),
    "is cut, chunked": (fh.chunked(BODY, cut_after=0), K.UNAVAILABLE, "cut"),
    "is reset": (fh.cut(BODY, 100, fh.reset), K.UNAVAILABLE, "cut"),
    "stalls": (fh.cut(BODY, 100, fh.stall), K.UNAVAILABLE, "progress"),
    "drips": (fh.cut(BODY, 100, fh.drip), K.UNAVAILABLE, "progress"),
    "is compressed": (fh.ranged(BODY, Content_Encoding="br"), K.UNTRUSTED, "compressed"),
    "is a part": (lambda ask: fh.status(206, BODY)(ask), K.UNTRUSTED, "HTTP 206"),
    "goes on with headers": (interim_without_end(0.1), K.UNTRUSTED, "without end"),
    "is all headers": (interim_without_end(0.0), K.UNTRUSTED, "without end"),
    "goes on with trailers": (trailers_without_end, K.UNTRUSTED, "without end"),
    "is missing": (fh.status(404), K.NOT_FOUND, "does not have"),
    "is limited": (fh.status(429, Retry_After=3), K.UNAVAILABLE, "limiting"),
}


def test_each_order_of_a_batch_is_judged_alone(server: FaultyServer, tmp_path: Path) -> None:
    digest = hashlib.sha256(BODY).digest()
    orders = [
        order(server.on(f"/{number}", answer), tmp_path, str(number), sha256=digest)
        for number, (answer, _, _) in enumerate(FAULTS.values())
    ]
    orders.append(order(server.on("/good", fh.ranged(BODY)), tmp_path, "good", sha256=digest))
    batch = fetch_small(tuple(orders), QUICK, threads=8)
    for report, (name, (_, kind, words)) in zip(batch.reports, FAULTS.items(), strict=False):
        assert report.fault is not None, name
        assert report.fault.kind is kind, (name, report.fault)
        assert words in report.fault.message, (name, report.fault)
        assert (report.sha256, report.git_sha1) == (None, None)
    assert batch.reports[-1].fault is None
    assert os.listdir(tmp_path) == ["good"]


def test_an_interim_answer_is_no_fault(server: FaultyServer, tmp_path: Path) -> None:
    url = server.on("/f", interim_then(fh.chunked(BODY)))
    (report,) = fetch_small((order(url, tmp_path),), PATIENT, 1).reports
    assert (report.fault, report.size) == (None, len(BODY))


def test_a_blob_without_a_name_is_named_by_what_arrives(
    server: FaultyServer, tmp_path: Path
) -> None:
    url = server.on("/f", fh.chunked(BODY))
    (report,) = fetch_small((order(url, tmp_path, size=None),), PATIENT, 1).reports
    assert (report.fault, report.size) == (None, len(BODY))
    assert report.sha256 == hashlib.sha256(BODY).digest()


@pytest.mark.parametrize("answer", [fh.chunked, fh.ranged])
def test_a_blob_of_unknown_size_is_at_most_one_block(
    answer: fh.Answer, server: FaultyServer, tmp_path: Path
) -> None:
    big = answer(bytes(BLOCK_BYTES + 1))
    url = server.on("/f", big)
    (report,) = fetch_small((order(url, tmp_path, size=None),), PATIENT, 1).reports
    assert report.fault is not None
    assert report.fault.kind is K.UNTRUSTED
    url = server.on("/g", answer(bytes(BLOCK_BYTES)))
    (fits,) = fetch_small((order(url, tmp_path, size=None),), PATIENT, 1).reports
    assert (fits.fault, fits.size) == (None, BLOCK_BYTES)


def test_a_file_that_is_there_already_is_never_touched(
    server: FaultyServer, tmp_path: Path
) -> None:
    (tmp_path / "out").write_bytes(b"mine")
    url = server.on("/f", fh.ranged(BODY))
    (report,) = fetch_small((order(url, tmp_path),), PATIENT, 1).reports
    assert report.fault is not None
    assert report.fault.kind is K.LOCAL
    assert (tmp_path / "out").read_bytes() == b"mine"


def test_a_batch_may_be_told_to_ask_for_one_file_at_a_time_and_what_it_brings_is_counted(
    server: FaultyServer, tmp_path: Path
) -> None:
    running, most = [0], [0]

    def slow(ask: fh.Exchange) -> bool:
        running[0] += 1
        most[0] = max(most[0], running[0])
        ask.wait(0.05)
        running[0] -= 1
        return fh.ranged(BODY)(ask)

    url = server.on("/f", slow)
    orders = tuple(order(url, tmp_path, str(number)) for number in range(6))
    with open_odometer(tmp_path / "count") as odometer:
        slot = odometer.begin()
        assert slot is not None
        batch = fetch_small(orders, replace(PATIENT, at_once=1, counted=slot), threads=4)
        assert odometer.read(slot) == 6 * len(BODY)
    assert all(report.fault is None for report in batch.reports)
    assert most == [1]


def test_threads_share_one_rate(server: FaultyServer, tmp_path: Path) -> None:
    url = server.on("/f", fh.ranged(BODY))
    orders = tuple(order(url, tmp_path, str(number)) for number in range(20))
    began = time.monotonic()
    batch = fetch_small(orders, replace(PATIENT, rate_bytes_per_s=200_000.0), threads=4)
    assert all(report.fault is None for report in batch.reports)
    assert 0.35 < time.monotonic() - began < 1.5, "0.5 s together, 0.125 s with a rate for each"


def test_local_files_go_the_same_way(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(BODY)
    good = order(source.as_uri(), tmp_path, "a", sha256=hashlib.sha256(BODY).digest())
    bad = order(source.as_uri(), tmp_path, "b", git_sha1=bytes(20))
    long = order(source.as_uri(), tmp_path, "c", size=10)
    reports = fetch_small((good, bad, long), PATIENT, 2).reports
    assert [report.fault and report.fault.kind for report in reports] == [
        None, K.UNTRUSTED, K.UNTRUSTED,
    ]  # fmt: skip
    assert sorted(os.listdir(tmp_path)) == ["a", "source"]
