"""A registry with a fault: everything goes to a real one, and some requests go wrong on the way.

Requests pass as they are, with the proxy's own host, so that uploads come back through it.
"""

from __future__ import annotations

import contextlib
import http.client
import http.server
import threading
from collections.abc import Callable  # noqa: TC003 - a dataclass field
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.registry import Registry


@dataclass(frozen=True)
class Ask:
    """One request. `number`: of its method and kind of path, from 0."""

    method: str
    path: str
    kind: str  # "blob", "uploads" (where they begin), "upload", "manifest", "other"
    number: int
    headers: dict[str, str] = field(repr=False)

    def is_(self, method: str, kind: str) -> bool:
        return (self.method, self.kind) == (method, kind)


@dataclass(frozen=True)
class Fault:
    """An answer in place of the registry's (`status`), or what happens to the registry's own:
    `instead` replaces headers of it, `cut_after` bytes of the request the connection is cut,
    `mute`: the registry gets all of it, and its answer is lost.
    """

    status: int = 0
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    instead: tuple[tuple[str, str], ...] = ()
    cut_after: int | None = None
    mute: bool = False
    wait_s: float = 0.0


@dataclass
class RegistryProxy:
    """`fault` says what to do with a request; None: nothing."""

    host: str
    fault: Callable[[Ask], Fault | None] = lambda ask: None
    seen: list[Ask] = field(default_factory=list)
    closing: threading.Event = field(default_factory=threading.Event)

    def count(self, method: str, kind: str) -> int:
        return sum(ask.is_(method, kind) for ask in self.seen)


def _kind(path: str) -> str:
    path = path.partition("?")[0]
    if "/blobs/uploads/" in path:
        return "uploads" if path.endswith("/uploads/") else "upload"
    return "blob" if "/blobs/" in path else "manifest" if "/manifests/" in path else "other"


@contextlib.contextmanager
def registry_proxy(there: Registry) -> Iterator[RegistryProxy]:
    """Serves while the context is open."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            kind = _kind(self.path)
            headers = {name.lower(): value for name, value in self.headers.items()}
            ask = Ask(self.command, self.path, kind, proxy.count(self.command, kind), headers)
            proxy.seen.append(ask)
            fault = proxy.fault(ask) or Fault()
            proxy.closing.wait(fault.wait_s)
            length = int(headers.get("content-length", 0))
            if fault.status:
                while length > 0:
                    length -= len(self.rfile.read(min(length, 1 << 20)))
                self._say(fault.status, dict(fault.headers), fault.body)
                return
            self._forward(headers, length, fault)

        def _forward(self, headers: dict[str, str], length: int, fault: Fault) -> None:
            to = http.client.HTTPConnection(there.host, timeout=60)
            with contextlib.closing(to):
                to.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in headers.items():
                    to.putheader(name, value)
                to.endheaders()
                most = length if fault.cut_after is None else min(length, fault.cut_after)
                while most > 0:
                    data = self.rfile.read(min(most, 1 << 16))
                    to.send(data)
                    most -= len(data)
                if fault.cut_after is not None:
                    self.close_connection = True
                    return
                answer = to.getresponse()
                body = answer.read()
                if fault.mute:
                    self.close_connection = True
                    return
                self._say(answer.status, dict(answer.getheaders()) | dict(fault.instead), body)

        def _say(self, status: int, headers: dict[str, str], body: bytes) -> None:
            self.send_response_only(status)
            for name, value in headers.items():
                if name.lower() not in ("content-length", "transfer-encoding") and value:
                    self.send_header(name, value)
            size = headers.get("Content-Length") if self.command == "HEAD" else str(len(body))
            if size is not None and status != 204:
                self.send_header("Content-Length", size)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = _answer

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    proxy = RegistryProxy(f"127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.closing.set()
        server.shutdown()
        server.server_close()
        thread.join(5)
