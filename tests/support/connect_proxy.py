"""A forward proxy on loopback that knows CONNECT: copies both ways, asks for a login if told."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Self


class ConnectProxy:
    """Serves while the context is open. `tunnels`: the targets that were connected to."""

    def __init__(self, login: str | None = None) -> None:
        self.tunnels: list[str] = []
        self._login = login

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_exc: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError):
            head = b""
            while b"\r\n\r\n" not in head:
                head += sock.recv(4096)
            method, target = head.decode("latin-1").split(" ")[:2]
            if self._login and f"proxy-authorization: basic {self._login}" not in head.decode(
                "latin-1"
            ).lower().replace(self._login.lower(), self._login):
                sock.sendall(b"HTTP/1.1 407 login\r\nContent-Length: 0\r\n\r\n")
                return
            assert method == "CONNECT"
            self.tunnels.append(target)
            host, _, port = target.rpartition(":")
            with socket.create_connection((host, int(port))) as there:
                sock.sendall(b"HTTP/1.1 200 connected\r\n\r\n")
                back = threading.Thread(target=_copy, args=(there, sock), daemon=True)
                back.start()
                _copy(sock, there)
                back.join(5)


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
