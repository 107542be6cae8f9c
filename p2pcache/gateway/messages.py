"""Requests and answers as handlers see them. The transport is in `gateway.connection`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from p2pcache.errors import (
    Denied,
    DiskFull,
    LocalFault,
    NotFound,
    P2PCacheError,
    Unavailable,
    Untrusted,
    UsageError,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence


@dataclass(slots=True)
class Request:
    """One request. `path`: percent-encoded, as it came, without the query. `peer`: host and port of
    the other end. `receive` gives the body's pieces, once.
    """

    method: str
    path: str
    query: Sequence[tuple[str, str]]
    headers: Sequence[tuple[str, str]]  # names in lower case
    peer: str
    receive: Callable[[], AsyncIterator[bytes]]

    def header(self, name: str) -> str | None:
        """The header of this (lower case) name; several are joined by commas (RFC 9110 5.3)."""
        found = [value for key, value in self.headers if key == name]
        return ", ".join(found) if found else None

    def arg(self, name: str) -> str | None:
        """The first query argument of this name."""
        return next((value for key, value in self.query if key == name), None)

    def args(self, name: str) -> list[str]:
        """All query arguments of this name."""
        return [value for key, value in self.query if key == name]

    def body(self) -> AsyncIterator[bytes]:
        """The body in pieces as they arrive (chunked or not); once. Raises Unavailable when the
        client stalls or leaves, UsageError when it is malformed.
        """
        return self.receive()

    async def read(self, max_bytes: int) -> bytes:
        """The whole body. Raises UsageError when it is longer."""
        found = bytearray()
        async for piece in self.receive():
            found += piece
            if len(found) > max_bytes:
                raise UsageError(f"a body of more than {max_bytes} bytes is refused here")
        return bytes(found)


@dataclass(slots=True)
class Response:
    """`body` None: there is none (answers to HEAD and 304 never send theirs; its length is told).

    `length`: of an iterator's bytes, where it is known; else it is chunked. `trailer`: the name of
    the trailer that tells the error of an iterator (`X-Stream-Error`).
    """

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | AsyncIterator[bytes] | None = None
    length: int | None = None
    trailer: str | None = None


_STATUS: tuple[tuple[type[P2PCacheError], int], ...] = (  # first match counts
    (UsageError, 400),
    (Denied, 403),
    (NotFound, 404),
    (Unavailable, 504),
    (Untrusted, 502),
    (DiskFull, 507),
    (LocalFault, 500),
)


def status_of(error: P2PCacheError) -> int:
    """The HTTP status that says who must act."""
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 500)


def text(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    """A line of plain text."""
    plain = {"Content-Type": "text/plain; charset=utf-8", "X-Content-Type-Options": "nosniff"}
    return Response(status, {**plain, **(headers or {})}, (message + "\n").encode())


def text_error(request: Request, error: P2PCacheError) -> Response:
    """Any error of ours, for people."""
    hint = f"\nhint: {error.hint}" if error.hint else ""
    return text(status_of(error), error.message + hint)
