"""A real HTTP(S) server on loopback whose answers are scripted per path, faults included.

`server.on("/path", answer)`: an answer is a function of one `Exchange`, called in the thread of
the connection. It returns True to keep the connection, False to close it.
"""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    import ssl


@dataclass
class Exchange:
    """One request, and the socket to answer it on."""

    sock: socket.socket
    path: str
    headers: dict[str, str]
    number: int  # of this path, from 0
    stopping: threading.Event
    body: bytes = b""

    @property
    def range(self) -> tuple[int, int] | None:
        """The half-open range that was asked for."""
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("range", ""))
        return (int(found[1]), int(found[2]) + 1) if found else None

    def head(self, status: int, **headers: object) -> None:
        lines = [f"HTTP/1.1 {status} scripted"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.send("\r\n".join([*lines, "", ""]).encode("latin-1"))

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def reset(self) -> bool:
        """Cut the connection with a RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return False

    def wait(self, seconds: float) -> None:
        self.stopping.wait(seconds)


Answer = Callable[[Exchange], bool]


@dataclass
class FaultyServer:
    """Serves while the context is open. `seen`: every request, in order, as (path, headers)."""

    tls: ssl.SSLContext | None = None
    seen: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    connections: int = 0

    def __post_init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._open: set[socket.socket] = set()

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stopping.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join(5)

    def on(self, path: str, answer: Answer) -> str:
        """Script a path; its URL."""
        self.answers[path] = answer
        return self.url(path)

    def cut(self) -> None:
        """End every connection at once; new ones are answered as scripted."""
        with self._lock:
            for sock in list(self._open):
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    def url(self, path: str) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}{path}"

    def headers_of(self, path: str) -> list[dict[str, str]]:
        """Headers of every request of a path."""
        return [headers for seen, headers in self.seen if seen == path]

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            thread = threading.Thread(target=self._serve, args=(sock,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            stack.callback(sock.close)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.tls:
                sock = self.tls.wrap_socket(sock, server_side=True)
                stack.callback(sock.close)
            with self._lock:
                self._open.add(sock)
            stack.callback(self._open.discard, sock)
            while self._exchange(sock):
                pass

    def _exchange(self, sock: socket.socket) -> bool:
        data = b""
        while b"\r\n\r\n" not in data:
            more = sock.recv(65536)
            if not more:
                return False
            data += more
        head, _, body = data.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        target = lines[0].split(" ")[1]
        path = target if target.startswith("/") else "/" + target.split("/", 3)[-1]
        headers = {
            name.lower(): value.strip()
            for name, _, value in (line.partition(":") for line in lines[1:] if line)
        }
        length = int(headers.get("content-length", 0))
        while len(body) < length:
            more = sock.recv(65536)
            if not more:
                return False
            body += more
        with self._lock:
            number = sum(1 for seen, _ in self.seen if seen == path)
            self.seen.append((path, headers))
        answer = self.answers.get(path.partition("?")[0], status(404))
        return answer(Exchange(sock, path, headers, number, self._stopping, body))


def ranged(body: bytes, **headers: object) -> Answer:
    """A correct server of one blob."""

    def answer(ask: Exchange) -> bool:
        start, end = ask.range or (0, len(body))
        end = min(end, len(body))
        extra = dict(headers)
        if ask.range:
            extra = {"Content_Range": f"bytes {start}-{end - 1}/{len(body)}", **extra}
        extra = {"Content_Length": end - start, **extra}
        ask.head(206 if ask.range else 200, **extra)
        ask.send(body[start:end])
        return True

    return answer


def status(code: int, text: bytes = b"", **headers: object) -> Answer:
    """A fixed answer."""

    def answer(ask: Exchange) -> bool:
        ask.head(code, **{"Content_Length": len(text), **headers})
        ask.send(text)
        return True

    return answer


def redirect(to: str, code: int = 302) -> Answer:
    """A redirect to a URL, absolute or relative."""
    return status(code, b"moved", Location=to)


def cut(body: bytes, after: int, then: Callable[[Exchange], bool]) -> Answer:
    """Promise the whole range, send `after` bytes of it, then do something else."""

    def answer(ask: Exchange) -> bool:
        start, end = ask.range or (0, len(body))
        extra = {"Content_Range": f"bytes {start}-{end - 1}/{len(body)}"} if ask.range else {}
        ask.head(206 if ask.range else 200, Content_Length=end - start, **extra)
        ask.send(body[start:end][:after])
        return then(ask)

    return answer


def hang_up(_ask: Exchange) -> bool:
    return False


def reset(ask: Exchange) -> bool:
    time.sleep(0.05)  # or the bytes sent before are thrown away with the connection
    return ask.reset()


def stall(ask: Exchange) -> bool:
    ask.wait(20)
    return False


def drip(ask: Exchange) -> bool:
    """A byte every 20 ms: never silent for long enough to trip a socket timeout."""
    while not ask.stopping.is_set():
        ask.send(b"x")
        ask.wait(0.02)
    return False


def drip_headers(ask: Exchange) -> bool:
    ask.send(b"HTTP/1.1 206 scripted\r\nX-Padding: ")
    return drip(ask)


def chunked(body: bytes, cut_after: int | None = None) -> Answer:
    """The whole body, chunked, without a length."""

    def answer(ask: Exchange) -> bool:
        ask.head(200, Transfer_Encoding="chunked")
        for at in range(0, len(body), 100_000):
            if cut_after is not None and at >= cut_after:
                return False
            part = body[at : at + 100_000]
            ask.send(b"%x\r\n%s\r\n" % (len(part), part))
        ask.send(b"0\r\n\r\n")
        return True

    return answer


def until_close(body: bytes) -> Answer:
    """The whole body, ended by closing the connection."""

    def answer(ask: Exchange) -> bool:
        ask.head(200, Connection="close")
        ask.send(body)
        return False

    return answer


def first(count: int, answer: Answer, then: Answer) -> Answer:
    """`answer` for the first requests of a path, `then` for the others."""
    return lambda ask: (answer if ask.number < count else then)(ask)
