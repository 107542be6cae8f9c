"""One TCP connection below libp2p: ours to cut at any moment, and never a wait without end."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
import struct
from typing import TYPE_CHECKING

import trio
from libp2p.io.abc import ReadWriteCloser
from libp2p.io.exceptions import ConnectionClosedError

from p2pcache.net.address import Address, ip_address

if TYPE_CHECKING:
    from collections.abc import Callable

WRITE_STALL_S = 10.0  # a peer whose kernel takes no byte for so long is cut
USER_TIMEOUT_MS = 20_000  # the kernel's own limit for bytes that nobody acknowledges
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 10), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 3))
_READ_BYTES = 1 << 18  # at once; a busy peer has that much under way
_LOG = logging.getLogger(__name__)


class TcpConnection(ReadWriteCloser):
    """A TCP connection as libp2p's transport.

    Reads ahead, so that a message costs one system call instead of two. The end of the stream or
    an error closes it: half a connection is of no use to a muxer. `on_close` is called once, at
    the very moment, from whatever task it happens in.
    """

    def __init__(self, stream: trio.SocketStream, *, stall_s: float = WRITE_STALL_S) -> None:
        self._stall_s = stall_s
        self._socket = stream.socket
        self._ahead = b""  # what was read ahead; taken up to `_taken`
        self._taken = 0
        self._closed = False
        self._writing = False
        self._poll = select.poll()
        self._poll.register(self._socket.fileno(), select.POLLOUT)
        self._on_close: list[Callable[[], None]] = []
        for option, value in _KEEPALIVE:
            self._socket.setsockopt(socket.IPPROTO_TCP, option, value)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)
        host, port = self._socket.getpeername()[:2]
        self.remote: Address = ip_address(host, port)

    @property
    def closed(self) -> bool:
        """Whether nothing can be sent or received any more."""
        return self._closed

    def when_closed(self, callback: Callable[[], None]) -> None:
        """Call it at the end; at once if this is the end already."""
        if self._closed:
            callback()
        else:
            self._on_close.append(callback)

    def cut(self, *, reset: bool = True) -> None:
        """Close the socket now; whoever reads or writes gets ConnectionClosedError.

        `reset`: tell the peer by RST and drop what it did not take yet.
        """
        if self._closed:
            return
        self._closed = True
        if reset:
            with contextlib.suppress(OSError):
                self._socket.setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                )
        self._socket.close()
        callbacks, self._on_close = self._on_close, []
        for callback in callbacks:
            callback()

    def takes_some(self) -> bool:
        """Whether a small write ends at once: nobody writes, and the kernel has room."""
        return not self._closed and not self._writing and bool(self._poll.poll(0))

    async def read(self, n: int | None = None) -> bytes:
        """Up to `n` bytes; b"" at the end. Raises ConnectionClosedError."""
        if n == 0:
            return b""
        if self._taken == len(self._ahead):
            self._taken = 0
            self._ahead = b""
            self._ahead = await self._receive()
            if not self._ahead:
                self.cut(reset=False)
                return b""
        start = self._taken
        self._taken = len(self._ahead) if n is None else min(start + n, len(self._ahead))
        return bytes(self._ahead[start : self._taken])

    async def _receive(self) -> bytes:
        """What came; b"" at the end. trio's own would try before it waits, mostly in vain, which
        costs more than the message that comes then.
        """
        while not self._closed:
            try:
                await trio.lowlevel.wait_readable(self._socket)
                return os.read(self._socket.fileno(), _READ_BYTES)
            except BlockingIOError:
                continue
            except (OSError, trio.ClosedResourceError) as exc:
                self.cut()
                raise ConnectionClosedError(f"{self.remote} is gone", transport="tcp") from exc
        raise ConnectionClosedError(f"{self.remote} is gone", transport="tcp")

    async def write(self, data: bytes) -> None:
        """Send; cuts itself after `stall_s` without progress. Raises ConnectionClosedError.

        No checkpoint while the kernel has room: who writes on and on gives way by its own locks.
        """
        sent = 0 if self._writing else self._send_at_once(data)
        if sent == len(data):
            return
        self._writing = True
        try:
            await self._write(memoryview(data)[sent:])
        finally:
            self._writing = False

    def _send_at_once(self, data: bytes | memoryview) -> int:
        """How many bytes the kernel took."""
        try:
            return 0 if self._closed else os.write(self._socket.fileno(), data)
        except BlockingIOError:
            return 0
        except OSError as exc:
            self.cut()
            raise ConnectionClosedError(f"{self.remote} is gone", transport="tcp") from exc

    async def _write(self, view: memoryview) -> None:
        while view:
            if self._closed:
                raise ConnectionClosedError(f"{self.remote} is gone", transport="tcp")
            with trio.move_on_after(self._stall_s) as scope:
                try:
                    await trio.lowlevel.wait_writable(self._socket)
                except (OSError, trio.ClosedResourceError) as exc:
                    self.cut()
                    raise ConnectionClosedError(f"{self.remote} is gone", transport="tcp") from exc
            if scope.cancelled_caught:
                _LOG.info("cut %s: it took no byte for %.0f s", self.remote, self._stall_s)
                self.cut()
                raise ConnectionClosedError(f"{self.remote} takes no bytes", transport="tcp")
            view = view[self._send_at_once(view) :]

    async def close(self) -> None:
        """Close the socket; what the kernel has is still sent."""
        self.cut(reset=False)
        await trio.lowlevel.checkpoint()

    def get_remote_address(self) -> tuple[str, int] | None:
        """Host and port of the other end."""
        return self.remote.host, self.remote.port
