"""A small HTTP/1.1 server for loopback: h11 over trio, bounded in everything that a client chooses.

    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(serve, handler, HttpOptions(port=0)))
        print(server.port)

A handler gets a `Request` and gives a `Response`; one of our errors that leaves it becomes an
answer (`on_error`). The body of a response is bytes, or an async iterator of pieces: with a
`length` it goes as it is, without one it is chunked. When the iterator raises after the head went
out, the connection is cut, so that no client takes a part for the whole; with `trailer`, that names
the error first. A client that goes away cancels its request.

Every `Host` other than a loopback name is refused (403), so that a web page cannot reach us under
its own name (DNS rebinding).
"""

from __future__ import annotations

import errno
import ipaddress
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import trio

from p2pcache.errors import LocalFault, UsageError, bug, plain_errors
from p2pcache.gateway.connection import Connection
from p2pcache.gateway.messages import Request, Response, text_error

if TYPE_CHECKING:
    from p2pcache.errors import P2PCacheError

__all__ = ["Handler", "HttpOptions", "Request", "Response", "Server", "serve"]

_log = logging.getLogger(__name__)

Handler = Callable[[Request], Awaitable[Response]]
_NO_ROOM = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_NO_ROOM_S = 0.1  # before the next try to accept, as trio's own server does
_GONE = frozenset({errno.ECONNABORTED, errno.EPROTO, errno.EINTR})


@dataclass(frozen=True, slots=True)
class HttpOptions:
    """Bounds of one server. Times in seconds, sizes in bytes."""

    host: str = "127.0.0.1"
    port: int = 0  # any
    hosts: tuple[str, ...] = ("localhost", "127.0.0.1", "[::1]")  # names that we answer to
    max_connections: int = 128  # a browser opens 6; more wait in the kernel's backlog
    max_head_bytes: int = 32 << 10  # request line and headers; Go takes 1 MiB, browsers send 2 KiB
    max_arguments: int = 1024  # of one query
    head_s: float = 10.0  # from the first byte of a request to the end of its headers
    idle_s: float = 60.0  # between two requests of a connection
    stall_s: float = 60.0  # without any progress of a body, either way


@dataclass(frozen=True, slots=True)
class Server:
    """A server that listens. `port`: the real one."""

    host: str
    port: int

    @property
    def url(self) -> str:
        """`http://127.0.0.1:8080`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"


async def serve(
    handler: Handler,
    options: HttpOptions,
    *,
    on_error: Callable[[Request, P2PCacheError], Response] = text_error,
    task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled; connections end with it. Raises LocalFault: cannot listen there,
    UsageError: not a loopback address.
    """
    if not _is_loopback(options.host):
        raise UsageError(
            f"`{options.host}` is not a loopback address",
            hint="a gateway shows what this machine holds to whoever can connect: 127.0.0.1 or ::1",
        )
    try:
        listener = (await trio.open_tcp_listeners(options.port, host=options.host))[0]
    except OSError as exc:
        raise LocalFault(
            f"cannot listen on {options.host} port {options.port}: {exc.strerror}",
            hint="another program has it: choose another port, or 0 for any",
        ) from exc
    port = listener.socket.getsockname()[1]
    slots = trio.Semaphore(options.max_connections)
    async with listener:
        with plain_errors():
            async with trio.open_nursery() as nursery:
                task_status.started(Server(options.host, port))
                while True:
                    await slots.acquire()
                    stream = await _accept(listener)
                    run = partial(_run, slots, stream, handler, options, on_error)
                    nursery.start_soon(run)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


async def _accept(listener: trio.SocketListener) -> trio.SocketStream:
    while True:
        try:
            return await listener.accept()
        except OSError as exc:
            if exc.errno in _NO_ROOM:
                _log.warning("a connection waits: %s", exc.strerror)
                await trio.sleep(_NO_ROOM_S)
            elif exc.errno not in _GONE:
                raise LocalFault(f"the gateway cannot accept connections: {exc}") from exc


async def _run(
    slots: trio.Semaphore,
    stream: trio.SocketStream,
    handler: Handler,
    options: HttpOptions,
    on_error: Callable[[Request, P2PCacheError], Response],
) -> None:
    try:
        async with stream:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await Connection(stream, handler, options, on_error).run()
    except Exception as exc:  # noqa: BLE001 - the border: one connection ends, and no other
        bug(exc, _log)
    finally:
        slots.release()
