"""A small HTTP/1.1 server for loopback: h11 over trio, bounded in everything that a client chooses.

    async with open_nursery() as nursery:
        server = await nursery.start(serve, handler, HttpOptions(host="127.0.0.1", port=0))
        print(server.port)

A handler gets a `Request` and gives a `Response`; one of our errors that leaves it becomes an
answer (`on_error`). The body of a response is bytes, or an async iterator of pieces: with a
`length` it goes as it is, without one it is chunked. When the iterator raises after the head went
out, the connection is cut, so that no client takes a part for the whole; `trailer` names it then.

Every `Host` other than a loopback name is refused (403), so that a web page cannot reach us under
its own name (DNS rebinding).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

    import trio

Handler = "Callable[[Request], Awaitable[Response]]"


@dataclass(frozen=True, slots=True)
class HttpOptions:
    """Bounds of one server. Times in seconds, sizes in bytes."""

    host: str = "127.0.0.1"
    port: int = 0  # any
    hosts: tuple[str, ...] = ("localhost", "127.0.0.1", "[::1]")  # names that we answer to
    max_connections: int = 128  # more wait in the backlog of the kernel
    max_head_bytes: int = 32 << 10  # request line and headers
    head_s: float = 10.0  # from the first byte of a request to its end
    idle_s: float = 60.0  # between two requests of a connection
    stall_s: float = 60.0  # without any progress of a body, either way


@dataclass(slots=True)
class Request:
    """One request. `path`: percent-encoded, as it came, without the query."""

    method: str
    path: str
    query: Sequence[tuple[str, str]]
    headers: Sequence[tuple[str, str]]  # names in lower case
    peer: str

    def header(self, name: str) -> str | None:
        """The first header of this (lower case) name."""
        raise NotImplementedError

    def arg(self, name: str) -> str | None:
        """The first query argument of this name."""
        raise NotImplementedError

    def body(self) -> AsyncIterator[bytes]:
        """The body in pieces as they arrive (chunked or not); once. Raises Unavailable when the
        client stalls or leaves.
        """
        raise NotImplementedError

    async def read(self, max_bytes: int) -> bytes:
        """The whole body. Raises UsageError when it is longer."""
        raise NotImplementedError


@dataclass(slots=True)
class Response:
    """`body` None: there is none (HEAD and 304 never send one, their headers stay)."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | AsyncIterator[bytes] | None = None
    length: int | None = None  # of an iterator's bytes, where it is known
    trailer: str | None = None  # the trailer that tells the error of an iterator ("X-Stream-Error")


@dataclass(frozen=True, slots=True)
class Server:
    """A server that listens. `port`: the real one."""

    host: str
    port: int


async def serve(
    handler: Callable[[Request], Awaitable[Response]],
    options: HttpOptions,
    *,
    on_error: Callable[[Request, Exception], Response] | None = None,
    task_status: trio.TaskStatus[Server],
) -> None:
    """Serve until cancelled; connections end with it. Raises LocalFault: cannot listen there."""
    raise NotImplementedError
