"""A Kubo with a fault: everything goes to a real one, and what comes back may be changed."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import re
import threading
from collections.abc import Callable  # noqa: TC003 - a dataclass field
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.kubo_daemon import KuboDaemon


@dataclass
class KuboProxy:
    """RPC and gateway under one address. `change(path, start, body)` gives the body that is sent:
    shorter than it was, the connection ends there. `hold(path)` may wait before an answer.
    """

    url: str
    change: Callable[[str, int, bytes], bytes] = lambda path, start, body: body
    hold: Callable[[str], None] = lambda path: None
    seen: list[str] = field(default_factory=list)
    closing: threading.Event = field(default_factory=threading.Event)


def flips(at: int) -> Callable[[str, int, bytes], bytes]:
    """One bit of the byte at this place of a file is wrong, whenever it is served."""

    def change(path: str, start: int, body: bytes) -> bytes:
        if "format=raw" in path or "/api/" in path or not start <= at < start + len(body):
            return body
        wrong = bytearray(body)
        wrong[at - start] ^= 1
        return bytes(wrong)

    return change


@contextlib.contextmanager
def kubo_proxy(kubo: KuboDaemon) -> Iterator[KuboProxy]:
    """Serves while the context is open."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _forward(self) -> None:
            proxy.seen.append(self.path)
            proxy.hold(self.path)
            target = kubo.api if self.path.startswith("/api/") else kubo.gateway
            upstream = http.client.HTTPConnection(target, timeout=60)
            passed = ("range", "cache-control", "accept")
            headers = {k: v for k, v in self.headers.items() if k.lower() in passed}
            upstream.request(self.command, self.path, headers=headers)
            answer = upstream.getresponse()
            body = answer.read()
            upstream.close()
            found = re.fullmatch(r"bytes=(\d+)-\d+", self.headers.get("Range") or "")
            sent = proxy.change(self.path, int(found[1]) if found else 0, body)
            self.send_response(answer.status)
            for name in ("Content-Type", "Content-Range", "Etag"):
                if value := answer.headers.get(name):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(sent)
            self.close_connection = len(sent) < len(body)

        def do_GET(self) -> None:
            with contextlib.suppress(OSError):
                self._forward()

        do_POST = do_HEAD = do_GET

        def log_message(self, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    proxy = KuboProxy(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield proxy
    finally:
        proxy.closing.set()
        server.shutdown()
        thread.join(5)
        server.server_close()
