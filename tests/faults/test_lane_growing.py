"""Blobs served while they arrive: identical, block by block, and cut at once when aborted."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from typing import TYPE_CHECKING

import pytest

from p2pcache.lanes.fetch import fetch
from p2pcache.lanes.orders import BLOCK_BYTES, FaultKind
from p2pcache.lanes.serve.table import Entry
from tests.support.lane_server import NAME, LaneServer, Reader, is_cut, read_answer
from tests.support.partial_files import PATIENT, PartialFiles, some_bytes

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator
    from pathlib import Path

    from p2pcache.lanes.orders import FetchReport

BLOCKS = 6
DATA = some_bytes((BLOCKS - 1) * BLOCK_BYTES + 777, b"growing")
K = FaultKind


class Growing(PartialFiles):
    """A partial whose blocks the test brings, as a fetch worker would."""

    def bring(self, number: int) -> None:
        start = number * BLOCK_BYTES
        with open(self.path("data"), "r+b") as file:
            os.pwrite(file.fileno(), DATA[start : start + BLOCK_BYTES], start)
        with open(self.path("live"), "r+b") as file:
            os.pwrite(file.fileno(), b"\x01", number)

    def entry(self) -> Entry:
        return Entry(self.path("data"), self.size, live_path=self.path("live"))


@pytest.fixture
def growing(tmp_path: Path) -> Growing:
    return Growing(tmp_path / "growing", len(DATA))


@pytest.fixture(params=["tls", "plain"])
def lane(
    request: pytest.FixtureRequest, growing: Growing, tmp_path: Path
) -> Iterator[tuple[LaneServer, Reader | None]]:
    reader = Reader(tmp_path / "reader") if request.param == "tls" else None
    with LaneServer(tls=reader is not None, options={"block_wait_s": 1.5}) as server:
        if reader is not None:
            server.tell("trust", [reader.certificate.der])
        server.serve({NAME: growing.entry()})
        yield server, reader


@pytest.fixture
def plain(growing: Growing) -> Iterator[LaneServer]:
    with LaneServer(options={"block_wait_s": 1.5}) as server:
        server.serve({NAME: growing.entry()})
        yield server


def asked(server: LaneServer, *headers: str) -> socket.socket:
    sock = server.connect()
    server.ask(
        sock, f"/blob/{NAME.hex()}", "Host: x", f"Authorization: Ticket {server.token()}", *headers
    )
    return sock


def receive(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count and (more := sock.recv(count - len(data))):
        data += more
    return data


def head_of(sock: socket.socket) -> bytes:
    data = b""
    while not data.endswith(b"\r\n\r\n"):
        data += sock.recv(1)
    return data


def test_it_is_served_while_it_grows_and_is_identical(
    lane: tuple[LaneServer, Reader | None], growing: Growing, tmp_path: Path
) -> None:
    server, reader = lane
    files = PartialFiles(tmp_path / "here", len(DATA))
    reports: list[FetchReport] = []
    thread = threading.Thread(
        target=lambda: reports.append(fetch(files.order(server.location(reader))))
    )
    thread.start()
    for number in range(BLOCKS):
        time.sleep(0.1)
        growing.bring(number)
    thread.join(20)
    assert reports[0].fault is None
    assert files.read("data") == DATA
    assert reports[0].digests[:32] == hashlib.sha256(DATA[:BLOCK_BYTES]).digest()


def test_a_block_is_there_before_the_next_one_exists(plain: LaneServer, growing: Growing) -> None:
    growing.bring(0)
    with asked(plain) as sock:
        sock.settimeout(5)
        assert head_of(sock).startswith(b"HTTP/1.1 200")
        for number in range(BLOCKS):
            if number:
                growing.bring(number)
            block = DATA[number * BLOCK_BYTES : (number + 1) * BLOCK_BYTES]
            began = time.monotonic()
            assert receive(sock, len(block)) == block
            assert time.monotonic() - began < 0.5


def test_blocks_in_any_order_and_a_range_inside(plain: LaneServer, growing: Growing) -> None:
    """Only the blocks that a range needs are waited for."""
    for number in (4, 2, 3):
        growing.bring(number)
    start, end = 2 * BLOCK_BYTES + 5, 4 * BLOCK_BYTES + 9
    with asked(plain, f"Range: bytes={start}-{end - 1}") as sock:
        answer = read_answer(sock)
    assert (answer.status, answer.body) == (206, DATA[start:end])


def test_a_block_that_is_absent_is_not_sent_as_zeros(plain: LaneServer, growing: Growing) -> None:
    growing.bring(0)
    with asked(plain) as sock:
        answer = read_answer(sock)  # ends after block_wait_s
    assert answer.body == DATA[:BLOCK_BYTES]


def test_a_range_whose_first_block_does_not_come_is_refused_with_a_503(
    plain: LaneServer, growing: Growing, tmp_path: Path
) -> None:
    growing.bring(0)
    files = PartialFiles(tmp_path / "here", len(DATA))
    began = time.monotonic()
    order = files.order(plain.location(), start=BLOCK_BYTES, end=2 * BLOCK_BYTES)
    report = fetch(order)
    assert report.fault is not None
    assert (report.fault.kind, report.fault.http_status) == (K.UNAVAILABLE, 503)
    assert report.fault.retry_after_s == 1.0
    assert 1.4 < time.monotonic() - began < 4
    growing.bring(1)
    assert fetch(order).fault is None  # over the same connection
    assert plain.statistics()["connections"] == 1


def test_an_aborted_blob_drops_its_readers_at_once(
    lane: tuple[LaneServer, Reader | None], growing: Growing, tmp_path: Path
) -> None:
    """They must look elsewhere now, not after a wait: they are relays of others."""
    server, reader = lane
    growing.bring(0)
    growing.bring(1)
    files = [PartialFiles(tmp_path / str(number), len(DATA)) for number in range(3)]
    ended: list[tuple[float, FetchReport]] = []

    def read(mine: PartialFiles) -> None:
        report = fetch(mine.order(server.location(reader), limits=PATIENT))
        ended.append((time.monotonic(), report))

    threads = [threading.Thread(target=read, args=(mine,)) for mine in files]
    for thread in threads:
        thread.start()
    give_up = time.monotonic() + 5
    while any(mine.read("live")[:2] != b"\x01\x01" for mine in files):
        assert time.monotonic() < give_up
        time.sleep(0.01)
    began = time.monotonic()
    server.tell("drop", [NAME])
    for thread in threads:
        thread.join(10)
    assert max(at for at, _ in ended) - began < 0.5  # block_wait_s is 1.5
    for _, report in ended:
        assert report.fault is not None
        assert report.fault.kind is K.UNAVAILABLE
        assert report.done == 2 * BLOCK_BYTES  # what was verified is kept
    late = fetch(files[0].order(server.location(reader)))
    assert late.fault is not None
    assert late.fault.kind is K.NOT_FOUND


def test_a_scope_that_is_dropped_cuts_its_readers(plain: LaneServer, growing: Growing) -> None:
    plain.serve({b"other": growing.entry()}, scope=b"other scope")
    growing.bring(0)
    with asked(plain) as sock:
        head_of(sock)
        plain.tell("drop-scope", b"other scope")
        assert receive(sock, BLOCK_BYTES) == DATA[:BLOCK_BYTES]
        plain.tell("drop-scope", b"scope of the tests")
        assert is_cut(sock, 0.5)


def test_a_partial_whose_files_are_gone_ends_the_answer(
    plain: LaneServer, growing: Growing
) -> None:
    growing.bring(0)
    with asked(plain) as sock:
        head_of(sock)
        assert receive(sock, BLOCK_BYTES) == DATA[:BLOCK_BYTES]
        for name in ("data", "map", "live"):
            os.unlink(growing.path(name))
        assert is_cut(sock, 0.5)


def test_a_blob_that_is_published_meanwhile_goes_on(
    plain: LaneServer, growing: Growing, tmp_path: Path
) -> None:
    for number in range(3):
        growing.bring(number)
    final = tmp_path / "blob"
    with asked(plain) as sock:
        head_of(sock)
        for number in range(3, BLOCKS):
            growing.bring(number)
        os.rename(growing.path("data"), final)
        late = asked(plain)  # between the rename and the agent's word
        time.sleep(0.1)
        os.unlink(growing.path("live"))
        plain.tell("update", NAME, Entry(str(final), len(DATA)).to_wire())
        assert receive(sock, len(DATA)) == DATA
    with late:
        answer = read_answer(late)
    assert (answer.status, answer.body) == (200, DATA)


def test_a_hole_is_waited_for_whatever_is_behind_it(plain: LaneServer, growing: Growing) -> None:
    growing.bring(0)
    growing.bring(1)
    with asked(plain) as sock:
        head_of(sock)
        assert receive(sock, 2 * BLOCK_BYTES) == DATA[: 2 * BLOCK_BYTES]
        growing.bring(3)
        time.sleep(0.1)
        sock.settimeout(0.2)
        with pytest.raises(TimeoutError):
            sock.recv(1)
        growing.bring(2)
        sock.settimeout(5)
        assert receive(sock, 2 * BLOCK_BYTES) == DATA[2 * BLOCK_BYTES : 4 * BLOCK_BYTES]
