"""TCP on loopback to another address, until so much was sent there: then it stops."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Self


class CutProxy:
    """Serves while the context is open. `address`: of the target, `host:port`. `after_bytes`: what
    may be sent in all; then who sends is cut off, or with `stall` held and nothing more is passed
    on. `reached`: that this happened.
    """

    def __init__(self, address: str, after_bytes: int, *, stall: bool = False) -> None:
        host, _, port = address.rpartition(":")
        self._target = (host, int(port))
        self._left = after_bytes
        self._stall = stall
        self._open: list[socket.socket] = []
        self._closing = threading.Event()
        self.reached = threading.Event()

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._closing.set()
        for one in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(self._target)
                self._open += [near, far]
                threading.Thread(target=self._up, args=(near, far), daemon=True).start()
                threading.Thread(target=self._down, args=(far, near), daemon=True).start()

    def _up(self, near: socket.socket, far: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while self._left > 0 and (data := near.recv(1 << 16)):
                far.sendall(data)
                self._left -= len(data)
            if self._left <= 0:
                self.reached.set()
                if self._stall:
                    self._closing.wait()
                near.close()
            far.shutdown(socket.SHUT_WR)

    def _down(self, far: socket.socket, near: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := far.recv(1 << 16):
                near.sendall(data)
            near.shutdown(socket.SHUT_WR)
