"""One seed is not crushed: what a byte server does when more is asked than its uplink carries.

Each test was seen to fail with its protection taken out.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import TYPE_CHECKING

from p2pcache.lanes.bundle_wire import pack_names
from p2pcache.lanes.fetch import fetch
from p2pcache.lanes.orders import BLOCK_BYTES, FaultKind
from p2pcache.lanes.serve.table import Entry
from p2pcache.lanes.tickets import Ticket, address_binding, issue_ticket
from tests.support.lane_server import NAME, READER, SCOPE, LaneServer, read_answer
from tests.support.partial_files import PartialFiles, some_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DATA = some_bytes(4 * BLOCK_BYTES)
OPTIONS = {"limit_up_bytes_per_s": 1.0 * BLOCK_BYTES}  # a second's worth is one block: three slots


def ask(
    stack: contextlib.ExitStack,
    server: LaneServer,
    reader: bytes,
    *headers: str,
    bundle: bytes = b"",
) -> socket.socket:
    ticket = Ticket(reader, SCOPE, time.monotonic() + 60)
    token = issue_ticket(server.made.secret, ticket, address_binding("127.0.0.1"))
    sock = stack.enter_context(socket.socket())
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    sock.settimeout(10)
    sock.connect(("127.0.0.1", server.port))
    headers = "Host: x", f"Authorization: Ticket {token}", *headers
    if bundle:
        headers = *headers, f"Content-Length: {len(bundle)}"
        server.ask(sock, "/bundle", *headers, method="POST")
        sock.sendall(bundle)
    else:
        server.ask(sock, f"/blob/{NAME.hex()}", *headers)
    return sock


@contextlib.contextmanager
def reading(*socks: socket.socket) -> Iterator[None]:
    """Somebody takes what comes."""

    def read(sock: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while sock.recv(1 << 16):
                pass

    threads = [threading.Thread(target=read, args=(sock,)) for sock in socks]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for sock in socks:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()


def test_what_is_too_much_is_refused_soon_and_told_whom_to_ask_and_small_parts_never(
    tmp_path: Path,
) -> None:
    (tmp_path / "blob").write_bytes(DATA)
    with LaneServer(options=OPTIONS) as server, contextlib.ExitStack() as stack:
        server.serve({NAME: Entry(str(tmp_path / "blob"), len(DATA))})
        socks = [ask(stack, server, READER) for _ in range(3)]
        for sock in socks:
            assert sock.recv(12).endswith(b"200")
        stack.enter_context(reading(*socks))
        began = time.monotonic()
        order = PartialFiles(tmp_path / "partial", len(DATA)).order(server.location())
        fault = fetch(order).fault
        assert fault is not None
        assert (fault.kind, fault.http_status) == (FaultKind.UNAVAILABLE, 503)
        assert fault.retry_after_s is not None
        assert 1 <= fault.retry_after_s <= 5
        assert fault.instead == (), "nothing is known yet"
        while not server.crowded:
            server.statistics()
            assert time.monotonic() < began + 5
            time.sleep(0.05)
        assert server.crowded == [SCOPE]
        server.tell("others", SCOPE, ["12D3KooWa", "12D3KooWb", "12D3KooWc", "12D3KooWd"])
        fault = fetch(order).fault
        assert fault is not None
        assert fault.instead == ("12D3KooWa", "12D3KooWb", "12D3KooWc")
        part = ask(stack, server, READER, "Range: bytes=0-99999")
        assert part.recv(12).endswith(b"206"), "what is small does not wait"
        other = ask(stack, server, b"another reader")
        assert other.recv(12).endswith(b"200"), "who has nothing yet begins"
        assert server.statistics()["refused"] == {"no slot": 2, "503": 2}


def test_answers_of_whom_little_is_taken_keep_nobody_out(tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(DATA)
    with LaneServer(options=OPTIONS) as server, contextlib.ExitStack() as stack:
        server.serve({NAME: Entry(str(tmp_path / "blob"), len(DATA))})
        for _ in range(3):
            assert ask(stack, server, READER).recv(12).endswith(b"200")
        time.sleep(1.0)  # none of them reads on
        for _ in range(2):
            assert ask(stack, server, READER).recv(12).endswith(b"200")
        assert server.statistics()["refused"] == {}


def test_a_large_bundle_takes_a_slot_and_a_small_one_does_not(tmp_path: Path) -> None:
    names = [b"name %d" % n for n in range(4)]
    for name in (NAME, *names):
        (tmp_path / name.hex()).write_bytes(DATA[:BLOCK_BYTES])
    (tmp_path / NAME.hex()).write_bytes(DATA)
    with LaneServer(options=OPTIONS) as server, contextlib.ExitStack() as stack:
        server.serve({NAME: Entry(str(tmp_path / NAME.hex()), len(DATA))})
        server.serve({n: Entry(str(tmp_path / n.hex()), BLOCK_BYTES) for n in names})
        socks = [ask(stack, server, READER, bundle=pack_names(names)) for _ in range(3)]
        for sock in socks:
            assert sock.recv(12).endswith(b"200")
        with reading(*socks):
            assert read_answer(ask(stack, server, READER)).status == 503
            assert read_answer(ask(stack, server, READER, bundle=pack_names(names))).status == 503
            small = ask(stack, server, READER, bundle=pack_names(names[:1]))
            assert small.recv(12).endswith(b"200")
