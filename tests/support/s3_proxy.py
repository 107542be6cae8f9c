"""A bucket with a fault: everything goes to a real store, and some answers are another's.

Requests pass as they are, with the proxy's own host, which is what was signed.
"""

from __future__ import annotations

import contextlib
import http.client
import http.server
import socket
import threading
import time
from collections.abc import Callable  # noqa: TC003 - a dataclass field
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.azurite import Azurite
    from tests.support.fake_gcs import FakeGcs
    from tests.support.s3_server import S3Server

_XML = "<?xml version='1.0'?><Error><Code>{}</Code><Message>scripted</Message></Error>"
_CHUNK_BYTES = 1 << 16


@dataclass(frozen=True)
class Ask:
    """One request. `lists`: it is about the bucket, not about an object."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]

    @property
    def lists(self) -> bool:
        return self.path.count("/") == 1 or self.path.endswith("/") or "prefix" in self.query

    @property
    def writes(self) -> bool:
        """It has bytes of an object or of a part."""
        return self.method == "PUT"

    @property
    def reads(self) -> bool:
        return self.method == "GET" and not self.lists


@dataclass(frozen=True)
class Reply:
    """In place of the store's answer; with `cut_after` or `wait_s`, its own, cut or late.
    `cut_body`: so many bytes of what the client sends are read, then it is cut. `lost`: the store
    does what it is asked, and nobody hears of it. `mute_s`: all of what is sent is read, and for so
    long nothing is answered, or (`drips`) some bytes of a header that has no end; then it is cut.
    """

    status: int = 0
    code: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes | None = None
    cut_after: int | None = None
    wait_s: float = 0.0
    cut_body: int | None = None
    mute_s: float = 0.0
    drips: bool = False
    lost: bool = False


@dataclass
class S3Proxy:
    """`fault` says what to do with a request; None: nothing."""

    url: str
    fault: Callable[[Ask], Reply | None] = lambda ask: None
    seen: list[Ask] = field(default_factory=list)
    closing: threading.Event = field(default_factory=threading.Event)
    taken_bytes: int = 0  # of objects and parts, as they came

    def reads(self) -> list[Ask]:
        return [ask for ask in self.seen if ask.reads]


@contextlib.contextmanager
def s3_proxy(server: S3Server | FakeGcs | Azurite) -> Iterator[S3Proxy]:
    """Serves while the context is open."""

    counting = threading.Lock()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            parts = urlsplit(self.path)
            headers = {name.lower(): value for name, value in self.headers.items()}
            ask = Ask(self.command, parts.path, parse_qs(parts.query, True), headers)
            proxy.seen.append(ask)
            reply = proxy.fault(ask) or Reply()
            proxy.closing.wait(reply.wait_s)
            if reply.cut_body is not None:
                self.rfile.read(reply.cut_body)
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True
                return
            if reply.mute_s:
                self._mute(ask, reply)
            elif reply.status:
                for _ in self._body(ask):
                    pass
                self._say(reply)
            else:
                self._forward(ask, reply)

        def _mute(self, ask: Ask, reply: Reply) -> None:
            for _ in self._body(ask):
                pass
            until = time.monotonic() + reply.mute_s
            self.wfile.write(b"HTTP/1.1 200 OK\r\nSlow: " if reply.drips else b"")
            while not proxy.closing.wait(0.1) and time.monotonic() < until:
                self.wfile.write(b"y" if reply.drips else b"")
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True

        def _body(self, ask: Ask) -> Iterator[bytes]:
            left = int(ask.headers.get("content-length", "0"))
            while left and (chunk := self.rfile.read(min(left, _CHUNK_BYTES))):
                left -= len(chunk)
                if ask.writes:
                    with counting:
                        proxy.taken_bytes += len(chunk)
                yield chunk

        def _say(self, reply: Reply) -> None:
            body = reply.body
            if body is None:
                body = b"" if reply.code is None else _XML.format(reply.code).encode()
            self.send_response(reply.status)
            for name, value in reply.headers:
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            if reply.code is not None:
                self.send_header("Content-Type", "application/xml")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def _forward(self, ask: Ask, reply: Reply) -> None:
            upstream = http.client.HTTPConnection(f"127.0.0.1:{server.port}", timeout=60)
            with contextlib.closing(upstream):
                upstream.putrequest(self.command, self.path, True, True)
                for name, value in self.headers.items():
                    upstream.putheader(name, value)
                upstream.endheaders()
                for chunk in self._body(ask):
                    upstream.send(chunk)
                with upstream.getresponse() as answer:
                    if reply.lost:
                        answer.read()
                        self.connection.shutdown(socket.SHUT_RDWR)
                        self.close_connection = True
                    else:
                        self._pass_on(answer, reply.cut_after)

        def _pass_on(self, answer: http.client.HTTPResponse, left: int | None) -> None:
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                if name.lower() not in ("server", "date", "connection"):
                    self.send_header(name, value)
            self.end_headers()
            while chunk := answer.read(_CHUNK_BYTES if left is None else min(left, _CHUNK_BYTES)):
                self.wfile.write(b"%x\r\n%b\r\n" % (len(chunk), chunk) if answer.chunked else chunk)
                left = None if left is None else left - len(chunk)
            if answer.chunked and left is None and self.command != "HEAD":
                self.wfile.write(b"0\r\n\r\n")
            self.close_connection = left is not None

        def do_GET(self) -> None:
            with contextlib.suppress(OSError, http.client.HTTPException):
                self._answer()
                return
            self.close_connection = True

        do_HEAD = do_PUT = do_POST = do_DELETE = do_GET

        def log_message(self, *args: object) -> None:
            pass

    listening = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listening.daemon_threads = True
    proxy = S3Proxy(f"http://127.0.0.1:{listening.server_port}")
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield proxy
    finally:
        proxy.closing.set()
        listening.shutdown()
        thread.join(5)
        listening.server_close()
