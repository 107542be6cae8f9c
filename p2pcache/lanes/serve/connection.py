"""One connection, one thread: handshake, then request after request until either side ends it.

The thread blocks in the socket without timeouts; its deadlines are kept by `crowd`, which cuts the
connection under it. That costs no poll before each send, and bounds a handshake or a head that
drips a byte a second just as well as one that is silent.
"""

from __future__ import annotations

import contextlib
import math
import socket
import ssl
import threading
import time
from http import HTTPStatus
from typing import TYPE_CHECKING

import h11

from p2pcache.errors import Denied, Untrusted
from p2pcache.lanes.bundle_wire import parse_names
from p2pcache.lanes.certificate import fingerprint
from p2pcache.lanes.orders import BLOCK_BYTES
from p2pcache.lanes.serve.bundle import gather, send_bundle
from p2pcache.lanes.serve.crowd import acknowledged, tcp_info
from p2pcache.lanes.serve.growing import LiveBlocks, NotHere, send_growing
from p2pcache.lanes.serve.http import (
    MAX_HEAD_BYTES,
    Ask,
    Refusal,
    etag,
    parse_request,
    span_of,
    unauthorized,
)
from p2pcache.lanes.serve.send import OpenBlob, Outlet, Stale
from p2pcache.lanes.tickets import address_binding, certificate_binding, check_ticket

if TYPE_CHECKING:
    from p2pcache.lanes.serve.server import House
    from p2pcache.lanes.serve.table import Entry
    from p2pcache.lanes.tickets import Ticket

RECEIVE_BYTES = 16 << 10
MAX_TICKETS = 64  # readers remembered by one connection; it has one, or a few behind one address
LINGER_S = 1.0  # for a refusal to reach whoever is still sending, before the connection is reset
MAX_LINGER_RECEIVES = 64  # and no more than that is read for it
MOVED_WAIT_S = 1.0  # between a file's rename and the agent's word about it
MOVED_LOOK_S = 0.02


class Connection:
    """Serves one accepted socket. `run` is its thread; everything else may be called by others."""

    def __init__(self, sock: socket.socket, house: House) -> None:
        self.address: str = sock.getpeername()[0]
        self.identity: bytes | None = None  # certificate's fingerprint, or a ticket's reader
        self.is_known = False
        self.reader: bytes | None = None  # of the answer that is being sent
        self.is_slow = False  # its reader takes less than the least rate, as was seen last
        self.readers: frozenset[bytes] = frozenset()  # of all tickets shown here
        self.due_bytes = 0  # its answers have arrived when so much is acknowledged
        self.idle_since = math.inf
        self.deadline = time.monotonic() + house.options.unknown_s
        self._house = house
        self._sock = sock
        self._lock = threading.Lock()  # a descriptor that is closed is never shut down
        self._cut = threading.Event()
        self._before = 0
        self._outlet = Outlet(sock, house.limit, self._cut)
        self._binding = b""

    @property
    def sent_bytes(self) -> int:
        """Bodies and heads, before encryption."""
        return self._outlet.sent_bytes

    @property
    def answer_bytes(self) -> int:
        """Of the current answer."""
        return self._outlet.sent_bytes - self._before

    @property
    def is_sending(self) -> bool:
        """Inside a send that waits for the reader."""
        return self._outlet.busy

    def answering(self, reader: bytes | None, length: int = 0) -> None:
        """An answer to this reader begins; None: it ended."""
        if reader is not None:
            self.due_bytes = max(self.due_bytes, acknowledged(self)) + length
        elif not self.answer_bytes:  # it was refused after all
            self.due_bytes = 0
        self._before = self._outlet.sent_bytes
        self.is_slow = False
        self.reader = reader

    def tcp_info(self) -> bytes:
        """See `crowd`."""
        return tcp_info(self._sock)

    def cut(self) -> None:
        """End it now, whatever it is doing. Never blocks, may be called more than once."""
        self._cut.set()
        with self._lock, contextlib.suppress(OSError):
            # the plain socket's: SSLSocket.shutdown takes the TLS state from under its thread
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR)

    def run(self) -> None:
        """Serve until it ends."""
        try:
            if self._secure():
                self._serve()
        except (OSError, ssl.SSLError):
            pass  # the reader is gone, was cut, or never belonged here
        finally:
            with self._lock:
                self._sock.close()
            self._house.crowd.leave(self)

    def _secure(self) -> bool:
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        house = self._house
        if house.trust is None:
            self._binding = address_binding(self.address)
            return True
        with self._lock:
            self._sock = secured = house.trust.context.wrap_socket(
                self._sock, server_side=True, do_handshake_on_connect=False
            )
        self._outlet = Outlet(secured, house.limit, self._cut)
        try:
            secured.do_handshake()
        except (OSError, ssl.SSLError):
            house.crowd.refused("handshake")
            raise
        self.identity = fingerprint(secured.getpeercert(binary_form=True) or b"")
        self._binding = certificate_binding(self.identity)
        if not house.trust.is_trusted(self.identity):
            house.crowd.refused("handshake")
            return False
        return house.crowd.recognise(self)

    # -- requests --------------------------------------------------------------------------------

    def _serve(self) -> None:
        http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
        while True:
            try:
                found = self._next_ask(http)
                if found is None:
                    return
                self._answer(http, *found)
            except Refusal as refusal:
                self._refuse(http, refusal)  # in the middle of a body: then it just ends
            except Stale:
                return
            except h11.RemoteProtocolError as exc:
                text = f"not a request: {exc}"[:100]
                self._refuse(http, Refusal(exc.error_status_hint, text, close=True))
            if http.our_state is not h11.DONE or http.their_state is not h11.DONE:
                self._linger()
                return
            http.start_next_cycle()

    def _next_ask(self, http: h11.Connection) -> tuple[Ask, bytes] | None:
        """The next request and its body, None at the end. Raises `Refusal` and h11's errors."""
        options = self._house.options
        if self.is_known:
            self.idle_since = time.monotonic()
            self.deadline = self.idle_since + options.idle_s
        ask, refusal, body = None, None, b""
        while True:
            event = http.next_event()
            if event is h11.NEED_DATA:
                data = self._sock.recv(RECEIVE_BYTES)
                if self.idle_since < math.inf:
                    self.idle_since = math.inf
                    self.deadline = time.monotonic() + options.head_s
                http.receive_data(data)
            elif isinstance(event, h11.Request):
                try:
                    ask = parse_request(event)
                except Refusal as exc:
                    if exc.close:
                        raise
                    refusal = exc
            elif isinstance(event, h11.Data):
                body += event.data  # no longer than its content-length, which was checked
            elif isinstance(event, h11.EndOfMessage):
                self.idle_since = math.inf
                if refusal is not None:
                    raise refusal
                assert ask is not None
                return ask, body
            else:  # the end of the connection
                return None

    def _refuse(self, http: h11.Connection, refusal: Refusal) -> None:
        """An answer without a body, if one can still be given."""
        self._house.crowd.refused(str(int(refusal.status)))
        if http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        text = "".join(char if " " <= char <= "~" else "?" for char in refusal.text)
        headers = [("X-Error-Message", text), ("Content-Length", "0"), *refusal.headers]
        if refusal.close or not self.is_known:
            headers.append(("Connection", "close"))
        self._head(http, refusal.status, headers)
        self._end(http)

    def _head(self, http: h11.Connection, status: int, headers: list[tuple[str, str]]) -> None:
        data = http.send(h11.Response(status_code=int(status), headers=headers))
        self._outlet.send(data or b"")

    def _end(self, http: h11.Connection) -> None:
        if data := http.send(h11.EndOfMessage()):
            self._outlet.send(data)

    def _linger(self) -> None:
        """Let a last answer arrive: closing on unread input would reset it away."""
        self.deadline = time.monotonic() + LINGER_S
        socket.socket.shutdown(self._sock, socket.SHUT_WR)
        for _ in range(MAX_LINGER_RECEIVES):
            if not self._sock.recv(RECEIVE_BYTES):
                return

    # -- answers ---------------------------------------------------------------------------------

    def _admit(self, ask: Ask) -> Ticket:
        """Whose request it is. Raises `Refusal`."""
        house = self._house
        if house.trust is not None and not house.trust.is_trusted(self.identity or b""):
            raise unauthorized("this certificate is not trusted any more")
        now = time.monotonic()
        try:
            ticket = check_ticket(house.options.secret, ask.token, self._binding, now)
        except Denied as exc:
            raise unauthorized(exc.message) from exc
        if ticket.reader in house.banned:
            raise unauthorized("you are not served here")
        if ticket.reader not in self.readers and len(self.readers) < MAX_TICKETS:
            self.readers |= {ticket.reader}
        if not self.is_known:
            self.identity = ticket.reader
            if not house.crowd.recognise(self):
                raise Refusal(HTTPStatus.SERVICE_UNAVAILABLE, "too many connections", close=True)
        self.deadline = math.inf
        return ticket

    def _answer(self, http: h11.Connection, ask: Ask, body: bytes) -> None:
        ticket = self._admit(ask)
        if ask.name is None:
            self._bundle(http, ticket, body)
            return
        table = self._house.table
        try:
            with table.reading(ticket.scope, ask.name, self.cut) as entry:
                if entry is None:
                    raise Refusal(HTTPStatus.NOT_FOUND, "this ticket is not for such a blob")
                with self._open(ticket.scope, ask.name, entry) as blob:
                    self._blob(http, ask, ticket, blob)
        except Stale as exc:
            self._house.tell_stale(ask.name)
            raise Refusal(HTTPStatus.NOT_FOUND, f"it is not here any more: {exc}") from exc
        except NotHere as exc:
            raise Refusal(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "it is on its way, but slow",
                (("Retry-After", "1"),),
            ) from exc

    def _open(self, scope: bytes, name: bytes, entry: Entry) -> OpenBlob:
        """Open it. A partial that was published a moment ago lies elsewhere: wait for the word."""
        give_up = time.monotonic() + (MOVED_WAIT_S if entry.live_path is not None else 0)
        while True:
            try:
                return OpenBlob(entry)
            except Stale:
                found = self._house.table.find(scope, name)
                if found is None or time.monotonic() >= give_up:
                    raise
                if found is entry:
                    self._cut.wait(MOVED_LOOK_S)
                entry = found

    def _blob(self, http: h11.Connection, ask: Ask, ticket: Ticket, blob: OpenBlob) -> None:
        size = blob.entry.size
        assert ask.name is not None
        span = span_of(ask, size)
        start, end = span or (0, size)
        headers = [
            ("Content-Length", str(end - start)),
            ("Content-Type", "application/octet-stream"),
            ("Accept-Ranges", "bytes"),
            ("ETag", etag(ask.name)),
        ]
        if span is not None:
            headers.append(("Content-Range", f"bytes {start}-{end - 1}/{size}"))
        status = HTTPStatus.OK if span is None else HTTPStatus.PARTIAL_CONTENT
        if not ask.wants_body:
            self._head(http, status, headers)
            self._end(http)
            return
        crowd = self._house.crowd
        is_large = end - start > self._house.options.small_bytes
        with contextlib.ExitStack() as places:
            # what still grows comes as it comes, and holds up nobody
            if is_large and blob.live_fd is None:
                places.enter_context(crowd.slot(self, ticket.reader, ticket.scope, end - start))
            places.enter_context(crowd.sending(self, ticket.reader, end - start))
            live = None
            if blob.live_fd is not None and start < end:
                live = LiveBlocks(blob, self._house.options.block_wait_s, self._cut)
                block = start // BLOCK_BYTES
                live.wait(block, block + 1)  # before the head: a refusal keeps the connection
            self._head(http, status, headers)
            if live is None:
                self._outlet.send_span(blob, start, end)
            else:
                send_growing(self._outlet, blob, live, start, end)
            self._sent(http, end - start)

    def _sent(self, http: h11.Connection, count: int) -> None:
        """Tell h11 about a body that did not pass through it."""
        if count:
            http.send_with_data_passthrough(h11.Data(data=_Passed(count)))  # type: ignore[arg-type]
        self._end(http)

    def _bundle(self, http: h11.Connection, ticket: Ticket, body: bytes) -> None:
        try:
            names = parse_names(body)
        except Untrusted as exc:
            raise Refusal(HTTPStatus.BAD_REQUEST, exc.message) from exc
        house = self._house
        bundle = gather(house.table, ticket.scope, names, house.options.bundle_bytes)
        length = bundle.body_bytes
        for name in bundle.stale:
            house.tell_stale(name)
        with contextlib.ExitStack() as places:
            if length > house.options.small_bundle_bytes:
                places.enter_context(house.crowd.slot(self, ticket.reader, ticket.scope, length))
            places.enter_context(house.crowd.sending(self, ticket.reader, length))
            self._head(
                http, HTTPStatus.OK,
                [
                    ("Content-Length", str(length)),
                    ("Content-Type", "application/octet-stream"),
                ],
            )  # fmt: skip
            send_bundle(self._outlet, bundle)
            self._sent(http, length)


class _Passed:
    """Stands for bytes that were sent already, where h11 only asks for their number."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count
