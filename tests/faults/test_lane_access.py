"""Who may read over a lane: real byte server processes, real readers, and those who are neither.

Each test was seen to fail with its protection taken out of the byte server (or the reader).
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from p2pcache.lanes.fetch import fetch
from p2pcache.lanes.orders import BLOCK_BYTES, FaultKind, FetchLimits
from p2pcache.lanes.serve.table import Entry, Guard
from p2pcache.lanes.tickets import Ticket, address_binding, issue_ticket
from tests.support.lane_server import NAME, SCOPE, LaneServer, Reader, is_cut, read_answer
from tests.support.partial_files import PartialFiles, some_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from p2pcache.lanes.orders import FetchReport, Location

DATA = some_bytes(3 * BLOCK_BYTES + 12345)
K = FaultKind


@pytest.fixture(scope="module")
def blob(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("blobs") / "blob"
    path.write_bytes(DATA)
    return path


@pytest.fixture
def tls(blob: Path, reader: Reader) -> Iterator[LaneServer]:
    with LaneServer(tls=True) as server:
        server.tell("trust", [reader.certificate.der])
        server.serve({NAME: Entry(str(blob), len(DATA))})
        yield server


@pytest.fixture
def plain(blob: Path) -> Iterator[LaneServer]:
    with LaneServer() as server:
        server.serve({NAME: Entry(str(blob), len(DATA))})
        yield server


@pytest.fixture
def reader(tmp_path: Path) -> Reader:
    return Reader(tmp_path / "reader")


def pull(location: Location, folder: Path, **changes: object) -> FetchReport:
    files = PartialFiles(folder, len(DATA))
    report = fetch(files.order(location, **changes))
    if report.fault is None:
        assert files.read("data")[report.start : report.done] == DATA[report.start : report.done]
    return report


def refusal(report: FetchReport) -> tuple[FaultKind, str]:
    assert report.fault is not None
    assert report.wire_bytes == report.done == 0
    return report.fault.kind, report.fault.message


def wait_until(true: Callable[[], bool], within_s: float = 5.0) -> None:
    give_up = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < give_up
        time.sleep(0.02)


def test_a_reader_with_a_ticket_reads_over_tls_with_both_ends_pinned(
    tls: LaneServer, reader: Reader, tmp_path: Path
) -> None:
    report = pull(tls.location(reader), tmp_path / "partial")
    assert (report.fault, report.done) == (None, len(DATA))
    part = pull(tls.location(reader), tmp_path / "part", start=BLOCK_BYTES, end=2 * BLOCK_BYTES)
    assert part.fault is None
    sent, answers, _ = tls.statistics()["readers"][reader.name]
    assert sent >= len(DATA) + BLOCK_BYTES
    assert answers == 2


def test_a_reader_with_a_ticket_reads_a_plain_lane(plain: LaneServer, tmp_path: Path) -> None:
    report = pull(plain.location(), tmp_path / "partial")
    assert (report.fault, report.done) == (None, len(DATA))


def test_no_ticket_no_bytes(plain: LaneServer, tmp_path: Path) -> None:
    location = replace(plain.location(), headers=())
    assert refusal(pull(location, tmp_path / "a")) == (
        K.DENIED, f"127.0.0.1:{plain.port} wants a login (HTTP 401): a ticket is needed"
    )  # fmt: skip
    forged = plain.location(token=plain.token()[:-4] + "AAAA")
    assert refusal(pull(forged, tmp_path / "b"))[0] is K.DENIED


def test_an_expired_ticket_says_so(plain: LaneServer, tmp_path: Path) -> None:
    location = plain.location(token=plain.token(lifetime_s=-1))
    kind, message = refusal(pull(location, tmp_path / "a"))
    assert kind is K.DENIED
    assert "expired" in message


def test_a_ticket_for_another_scope_finds_nothing(
    plain: LaneServer, blob: Path, tmp_path: Path
) -> None:
    plain.serve({b"other": Entry(str(blob), len(DATA))}, scope=b"another scope")
    for location in (
        plain.location(token=plain.token(scope=b"another scope")),  # this name is not in it
        plain.location(name=b"other"),  # nor that one in this
        plain.location(token=plain.token(scope=b"no scope at all")),
    ):
        assert refusal(pull(location, tmp_path / "a"))[0] is K.NOT_FOUND


def test_a_ticket_that_another_reader_presents_is_refused(
    tls: LaneServer, reader: Reader, tmp_path: Path
) -> None:
    thief = Reader(tmp_path / "thief", b"thief")
    tls.tell("trust", [thief.certificate.der])
    location = tls.location(thief, token=tls.token(reader))
    kind, message = refusal(pull(location, tmp_path / "a"))
    assert kind is K.DENIED
    assert "not valid here" in message
    assert pull(tls.location(thief), tmp_path / "b").fault is None  # its own is good


def test_a_plain_ticket_is_worth_nothing_at_another_address(plain: LaneServer) -> None:
    with plain.connect(source="127.0.0.2") as sock:
        plain.ask(sock, f"/blob/{NAME.hex()}", "Host: x", f"Authorization: Ticket {plain.token()}")
        assert read_answer(sock).status == 401


def test_an_unknown_client_certificate_ends_the_handshake(tls: LaneServer, tmp_path: Path) -> None:
    stranger = Reader(tmp_path / "stranger", b"stranger")
    location = tls.location(stranger)  # even with a ticket
    kind, message = refusal(pull(location, tmp_path / "a"))
    assert (kind, "TLS failed" in message) == (K.UNAVAILABLE, True)
    bare = replace(location, tls=replace(location.tls, client_cert=None, client_key=None))
    assert refusal(pull(bare, tmp_path / "b"))[0] is K.UNAVAILABLE
    assert tls.statistics()["refused"] == {"handshake": 2}


def test_a_certificate_of_the_same_name_is_still_unknown(
    tls: LaneServer, reader: Reader, tmp_path: Path
) -> None:
    """Trust is in the certificate, not in what it says: one signed by a trusted key is not it."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization

    mine = Reader(tmp_path / "impostor", b"impostor")
    known = x509.load_der_x509_certificate(reader.certificate.der)
    key = serialization.load_pem_private_key(mine.certificate.key_pem, None)
    copy = x509.CertificateBuilder().subject_name(known.subject).issuer_name(known.subject)
    copy = copy.not_valid_before(known.not_valid_before_utc)
    copy = copy.not_valid_after(known.not_valid_after_utc).serial_number(known.serial_number)
    signer = serialization.load_pem_private_key(reader.certificate.key_pem, None)
    made = copy.public_key(key.public_key()).sign(signer, hashes.SHA256())  # type: ignore[arg-type, union-attr]
    mine.cert_path.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    assert refusal(pull(tls.location(mine), tmp_path / "a"))[0] is K.UNAVAILABLE


def test_a_swapped_server_certificate_gets_neither_ticket_nor_trust(
    tls: LaneServer, blob: Path, reader: Reader, tmp_path: Path
) -> None:
    with LaneServer(tls=True) as middle:  # has the blob, trusts the reader, has its own key
        middle.tell("trust", [reader.certificate.der])
        middle.serve({NAME: Entry(str(blob), len(DATA))})
        url = middle.location(reader).url
        kind, message = refusal(pull(replace(tls.location(reader), url=url), tmp_path / "a"))
        assert kind is K.UNTRUSTED
        assert "not the pinned one" in message
        assert middle.statistics()["refused"] == {}  # no request came


def test_a_reader_that_is_trusted_no_more_is_cut_and_stays_out(
    tls: LaneServer, reader: Reader, tmp_path: Path
) -> None:
    with tls.connect() as bare, reader.context().wrap_socket(bare) as sock:
        ticket = f"Authorization: Ticket {tls.token(reader)}"
        tls.ask(sock, f"/blob/{NAME.hex()}", "Host: x", ticket)
        assert read_answer(sock).body == DATA
        tls.tell("distrust", [reader.certificate.fingerprint])
        assert is_cut(sock, 2)
    assert refusal(pull(tls.location(reader), tmp_path / "a"))[0] is K.UNAVAILABLE


def test_a_banned_readers_tickets_count_no_more(plain: LaneServer, tmp_path: Path) -> None:
    assert pull(plain.location(), tmp_path / "a").fault is None
    plain.tell("banned", [b"reader of the tests"])
    assert refusal(pull(plain.location(), tmp_path / "b"))[0] is K.DENIED
    plain.tell("banned", [])
    assert pull(plain.location(), tmp_path / "c").fault is None


def test_nothing_older_than_tls_1_3_is_spoken(tls: LaneServer, reader: Reader) -> None:
    context = reader.context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with tls.connect() as bare, pytest.raises(ssl.SSLError), context.wrap_socket(bare):
        pass


def test_a_file_replaced_under_its_guard_is_refused_and_the_agent_hears_of_it(
    plain: LaneServer, tmp_path: Path
) -> None:
    path = tmp_path / "adopted"
    path.write_bytes(DATA)
    stat = path.stat()
    guard = Guard(stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)
    plain.serve({b"adopted": Entry(str(path), len(DATA), guard)})
    assert plain.get(name=b"adopted").body == DATA
    other = tmp_path / "other"
    other.write_bytes(bytes(len(DATA)))  # of the same length
    other.rename(path)
    answer = plain.get(name=b"adopted")
    assert (answer.status, answer.body) == (404, b"")
    plain.statistics()
    assert plain.stale == [b"adopted"]


def test_a_file_rewritten_in_place_while_it_is_sent_ends_the_answer(tmp_path: Path) -> None:
    size = 24 << 20
    path = tmp_path / "adopted"
    path.write_bytes(bytes(size))
    stat = path.stat()
    guard = Guard(stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)
    with LaneServer(options={"limit_up_bytes_per_s": 8e6}) as server:
        server.serve({NAME: Entry(str(path), size, guard)})
        with server.connect() as sock:
            ticket = f"Authorization: Ticket {server.token()}"
            server.ask(sock, f"/blob/{NAME.hex()}", "Host: x", ticket)
            sock.recv(1 << 16)
            os.utime(path)
            began = time.monotonic()
            assert is_cut(sock, 5)
            assert time.monotonic() - began < 1.5


@pytest.mark.parametrize("target", ["/../../etc/passwd", "/blob/../../etc/passwd", "/blob/%2e%2e"])
def test_a_path_leads_nowhere(plain: LaneServer, target: str) -> None:
    with plain.connect() as sock:
        plain.ask(sock, target, "Host: x", f"Authorization: Ticket {plain.token()}")
        answer = read_answer(sock)
    assert (answer.status, answer.body) == (404, b"")


def test_range_games_are_answered_and_harm_nobody(plain: LaneServer) -> None:
    many = "bytes=" + ",".join(f"{n}-{n}" for n in range(0, 2000, 2))  # what fits a head
    for text, status in {
        "bytes=-0": 416, "bytes=5-1": 416, "bytes=0-5,3-9": 416, f"bytes={len(DATA)}-": 416,
        many: 416, "bytes=--1": 400, "bytes=-1-5": 400, "bytes=a-b": 400, "lines=1-2": 200,
    }.items():  # fmt: skip
        answer = plain.get(f"Range: {text}")
        assert answer.status == status, text
        if status == 416:
            assert answer.headers["content-range"] == f"bytes */{len(DATA)}"
    ten_thousand = "bytes=" + ",".join(f"{n}-{n}" for n in range(10_000))
    assert plain.get(f"Range: {ten_thousand}").status == 431
    whole = plain.get("Range: bytes=-7")
    assert (whole.status, whole.body) == (206, DATA[-7:])
    assert whole.headers["content-range"] == f"bytes {len(DATA) - 7}-{len(DATA) - 1}/{len(DATA)}"


def test_head_tells_the_size_and_sends_nothing(plain: LaneServer) -> None:
    answer = plain.get(method="HEAD")
    assert (answer.status, answer.headers["content-length"]) == (200, str(len(DATA)))
    assert answer.body == b""


@pytest.mark.parametrize("junk", [
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500), b"GET / HTTP/1.1\n" * 99,
    b"GET /" + b"a" * 20_000, b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 5000, b"\0" * 20_000,
    b"GET / HTTP/9.9\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    b"GET / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
])  # fmt: skip
def test_what_is_no_request_is_cut_in_time(blob: Path, junk: bytes) -> None:
    with LaneServer(options={"unknown_s": 1.0}) as server:
        server.serve({NAME: Entry(str(blob), len(DATA))})
        with server.connect() as sock:
            with contextlib.suppress(OSError):
                sock.sendall(junk)
            assert is_cut(sock, 4)
        assert server.get("Range: bytes=0-0").body == DATA[:1]


def test_one_connection_answers_many_requests_also_after_a_refusal(plain: LaneServer) -> None:
    ticket = f"Authorization: Ticket {plain.token()}"
    with plain.connect() as sock:
        for target, byte_range, status in (
            (NAME, "0-9", 206), (b"unknown", "0-9", 404), (NAME, "9-", 206), (NAME, "9-1", 416),
            (NAME, "0-0", 206),
        ):  # fmt: skip
            plain.ask(
                sock, f"/blob/{target.hex()}", "Host: x", ticket, f"Range: bytes={byte_range}"
            )
            assert read_answer(sock).status == status
        for _ in range(3):  # and several that came at once
            plain.ask(sock, f"/blob/{NAME.hex()}", "Host: x", ticket, "Range: bytes=1-1")
        body = b""
        while body.count(b"HTTP/1.1 206") < 3:
            body += sock.recv(65536)


def drip(sock: socket.socket, data: bytes) -> bool:
    """Send a byte every 50 ms; whether the other end put an end to it."""
    try:
        for byte in data:
            sock.sendall(bytes([byte]))
            time.sleep(0.05)
    except OSError:
        return True
    return False


def test_a_slowloris_is_cut_although_it_never_stops_sending() -> None:
    options = {"unknown_s": 1.0, "head_s": 1.0, "idle_s": 30.0}
    with LaneServer(options=options) as server, server.connect() as sock:
        began = time.monotonic()
        assert drip(sock, f"GET /blob/{NAME.hex()} HTTP/1.1\r\nX: ".encode() + b"y" * 200)
        assert 0.9 < time.monotonic() - began < 4


def test_a_slowloris_that_has_a_ticket_is_cut_too(plain: LaneServer) -> None:
    with LaneServer(options={"head_s": 1.0}) as server, server.connect() as sock:
        server.ask(
            sock, f"/blob/{NAME.hex()}", "Host: x", f"Authorization: Ticket {server.token()}"
        )
        assert read_answer(sock).status == 404
        sock.sendall(b"GET /blob")
        assert is_cut(sock, 4)


def test_a_handshake_that_drips_is_cut() -> None:
    with LaneServer(tls=True, options={"unknown_s": 1.0}) as server, server.connect() as sock:
        began = time.monotonic()
        assert drip(sock, b"\x16\x03\x01\x02\x00" + bytes(200))
        assert 0.9 < time.monotonic() - began < 4


def test_two_hundred_idle_strangers_harm_nobody(
    tls: LaneServer, reader: Reader, tmp_path: Path
) -> None:
    """From the reader's own address, which is the worst case: they share its allowance."""
    strangers: list[socket.socket] = []
    pulls: list[FetchReport] = []
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            pulls.append(pull(tls.location(reader), tmp_path / "work"))

    thread = threading.Thread(target=work)
    thread.start()
    try:
        strangers += [tls.connect() for _ in range(200)]
        before = len(pulls)
        newcomer = Reader(tmp_path / "newcomer", b"newcomer")
        tls.tell("trust", [newcomer.certificate.der])
        began = time.monotonic()
        assert pull(tls.location(newcomer), tmp_path / "a").fault is None
        assert time.monotonic() - began < 3
        while len(pulls) < before + 3 and time.monotonic() - began < 20:
            time.sleep(0.02)
        stop.set()
        thread.join(20)
        assert [each.fault for each in pulls if each.fault] == []
        assert len(pulls) >= before + 3
        found = tls.statistics()
        assert found["unknown"] <= 64
        assert all(is_cut(sock, 10) for sock in strangers)
        wait_until(lambda: tls.statistics()["unknown"] == 0)
    finally:
        stop.set()
        for sock in strangers:
            sock.close()
        thread.join(20)


def test_a_reader_cannot_take_every_connection_or_every_answer(blob: Path) -> None:
    options = {"max_per_reader": 4, "max_sending_per_reader": 2, "limit_up_bytes_per_s": 1e6}
    with LaneServer(options=options) as server, contextlib.ExitStack() as stack:
        server.serve({NAME: Entry(str(blob), len(DATA))})
        ticket = f"Authorization: Ticket {server.token()}"
        answers = []
        for _ in range(3):
            sock = stack.enter_context(server.connect())
            server.ask(sock, f"/blob/{NAME.hex()}", "Host: x", ticket)
            data = sock.recv(20)
            answers.append(int(data.split()[1]))
        assert answers == [200, 200, 503]
        idle = [stack.enter_context(server.connect()) for _ in range(6)]
        for sock in idle:
            server.ask(sock, f"/blob/{NAME.hex()}", "Host: x", ticket, "Range: bytes=9-1")
            assert read_answer(sock).status == 416
            time.sleep(0.5)  # until it counts as idle again, also on a machine that is busy
        assert server.statistics()["connections"] <= 5
        assert is_cut(idle[0], 1)  # the one that was idle for the longest time made room


def test_a_reader_that_takes_nothing_is_cut_and_a_slow_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(64 << 20)
    with LaneServer(options={"stall_s": 1.5}) as server:
        server.serve({NAME: Entry(str(path), 64 << 20)})
        ticket = f"Authorization: Ticket {server.token()}"
        with server.connect() as frozen, server.connect() as slow:
            for sock in (frozen, slow):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
                server.ask(sock, f"/blob/{NAME.hex()}", "Host: x", ticket)
            wait_until(lambda: server.statistics()["sending"] == 2)
            give_up = time.monotonic() + 10
            while server.statistics()["sending"] > 1:
                assert len(slow.recv(32 << 10)) > 0
                time.sleep(0.1)
                assert time.monotonic() < give_up
            assert len(slow.recv(1 << 16)) > 0
            assert server.statistics()["refused"] == {"too slow": 1}


def test_readers_who_take_little_for_long_keep_no_other_from_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(64 << 20)
    options = {
        "max_sending": 4, "max_sending_per_reader": 2, "kept_sending": 1, "slow_s": 2.0
    }  # fmt: skip
    with LaneServer(options=options) as server, contextlib.ExitStack() as stack:
        server.serve({NAME: Entry(str(path), 64 << 20)})

        def asked(name: bytes, *headers: str) -> tuple[int, socket.socket]:
            ticket = Ticket(name, SCOPE, time.monotonic() + 60)
            token = issue_ticket(server.made.secret, ticket, address_binding("127.0.0.1"))
            sock = stack.enter_context(socket.socket())
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
            sock.connect(("127.0.0.1", server.port))
            ask = (f"Authorization: Ticket {token}", *headers)
            server.ask(sock, f"/blob/{NAME.hex()}", "Host: x", *ask)
            return int(sock.recv(20).split()[1]), sock

        slow = [asked(name) for name in (b"one", b"one", b"two", b"two")]
        assert [status for status, _ in slow] == [200, 200, 200, 503], "one is kept"
        few = "Range: bytes=0-9"
        assert asked(b"honest", few)[0] == 206
        while (three := asked(b"three"))[0] != 200:
            time.sleep(0.1)  # the honest one's place may not be free yet
        slow = [*slow[:3], three]
        give_up = time.monotonic() + 30
        while asked(b"honest", few)[0] != 206:
            for _, sock in slow:
                sock.recv(1000)
            time.sleep(0.1)
            assert time.monotonic() < give_up
        assert server.statistics()["refused"]["made room"] == 1
        with ThreadPoolExecutor(len(slow)) as pool:  # each reads what its machine still holds
            assert any(pool.map(lambda one: is_cut(one[1], 5), slow))


def test_a_reader_that_is_fast_makes_no_room(tmp_path: Path) -> None:
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(1 << 30)
    options = {"max_sending": 1, "kept_sending": 0, "slow_s": 0.5}
    with LaneServer(options=options) as server, server.connect() as sock:
        server.serve({NAME: Entry(str(path), 1 << 30)})
        server.ask(
            sock, f"/blob/{NAME.hex()}", "Host: x", f"Authorization: Ticket {server.token()}"
        )
        give_up = time.monotonic() + 2
        while time.monotonic() < give_up:
            assert sock.recv(1 << 16)
            time.sleep(0.02)  # 3 MB/s
        other = Ticket(b"other", SCOPE, time.monotonic() + 60)
        token = issue_ticket(server.made.secret, other, address_binding("127.0.0.1"))
        with server.connect() as late:
            server.ask(late, f"/blob/{NAME.hex()}", "Host: x", f"Authorization: Ticket {token}")
            assert late.recv(20).split()[1] == b"503"


def test_the_upload_limit_holds_for_all_readers_together(blob: Path, tmp_path: Path) -> None:
    def timed(server: LaneServer, count: int) -> float:
        began = time.monotonic()
        threads = [
            threading.Thread(target=lambda n=n: done.append(pull(server.location(), tmp_path / n)))
            for n in map(str, range(count))
        ]
        done: list[FetchReport] = []
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert [each.fault for each in done] == [None] * count
        return time.monotonic() - began

    expected_s = 2 * len(DATA) / 4e6
    with LaneServer(options={"limit_up_bytes_per_s": 4e6}) as limited, LaneServer() as free:
        for server in (limited, free):
            server.serve({NAME: Entry(str(blob), len(DATA))})
        assert expected_s * 0.8 < timed(limited, 2) < expected_s * 1.5
        assert timed(free, 2) < expected_s / 2


def test_a_reader_gives_up_on_redirects_it_did_not_ask_for(
    plain: LaneServer, tmp_path: Path
) -> None:
    """A peer must not send its readers to other machines: their orders allow no redirect."""
    from tests.support import faulty_http as fh

    with fh.FaultyServer() as liar:
        url = liar.on("/blob/00", fh.redirect(plain.location().url))
        report = pull(
            replace(plain.location(), url=url), tmp_path / "a", limits=FetchLimits(max_redirects=0)
        )
        assert refusal(report)[0] is K.UNTRUSTED


def test_a_lane_goes_past_the_proxy_of_the_environment(
    plain: LaneServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    assert pull(plain.location(), tmp_path / "a").fault is None
    there = replace(plain.location(), direct=False)
    assert refusal(pull(there, tmp_path / "b"))[0] is K.UNAVAILABLE


def test_a_busy_server_tells_how_long_its_queue_is_and_an_idle_one_nothing(
    tmp_path: Path,
) -> None:
    data = some_bytes(8 * BLOCK_BYTES)
    path = tmp_path / "blob"
    path.write_bytes(data)
    with LaneServer(options={"limit_up_bytes_per_s": float(4 * BLOCK_BYTES)}) as server:
        server.serve({NAME: Entry(str(path), len(data))})
        time.sleep(0.6)
        server.statistics()
        assert not server.loads, "nobody asked for anything"
        files = PartialFiles(tmp_path / "partial", len(data))
        thread = threading.Thread(target=fetch, args=(files.order(server.location()),))
        thread.start()
        wait_until(lambda: server.statistics() and server.loads)
        queue_s, _ = server.loads[0]
        assert 1.0 < queue_s < 2.1, "8 MiB at 4 MiB/s"
        thread.join(10)
        wait_until(lambda: server.statistics() and server.loads[-1] == (0.0, 0.0))
        count = len(server.loads)
        assert count <= 8, "a queue that gets shorter as time passes is no news"
        time.sleep(1.2)
        server.statistics()
        assert len(server.loads) == count
