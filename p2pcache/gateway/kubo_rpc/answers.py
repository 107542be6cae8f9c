"""Answers in Kubo's shape: JSON, lines of JSON, bytes, and errors.

An error before the first byte is a 500 with its message as JSON; one after it is the trailer
`X-Stream-Error`, and the connection is cut: so the first piece of every stream is made before the
head is sent.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any, TypeVar

import trio

from p2pcache.content.cid import format_cid
from p2pcache.errors import P2PCacheError
from p2pcache.gateway.kubo_rpc.query import BadRequest
from p2pcache.gateway.kubo_rpc.steps import BATCH_COUNT, in_thread
from p2pcache.gateway.messages import Request, Response, text

T = TypeVar("T")

TRAILER = "X-Stream-Error"
Rows = AsyncGenerator[Any, None]
Pieces = AsyncGenerator[bytes, None]


def encode(value: object) -> bytes:
    """One line of JSON, as Go writes it."""
    plain = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for char, escaped in (("<", "\\u003c"), (">", "\\u003e"), ("&", "\\u0026")):
        plain = plain.replace(char, escaped)
    return plain.encode("utf-8", "surrogatepass") + b"\n"


def link(cid: bytes) -> dict[str, str]:
    """A CID as dag-json has it."""
    return {"/": format_cid(cid)}


def answer(value: object) -> Response:
    """One JSON document."""
    return Response(200, {"Content-Type": "application/json"}, encode(value))


async def large(value: object) -> Response:
    """One JSON document of any size, written in a thread."""
    return Response(200, {"Content-Type": "application/json"}, await in_thread(encode, value))


async def gathered(rows: AsyncGenerator[T, None]) -> list[T]:
    """All of them. Others have the loop meanwhile, whether or not the rows wait for anything."""
    found: list[T] = []
    async with aclosing(rows):
        async for row in rows:
            found.append(row)
            if len(found) % BATCH_COUNT == 0:
                await trio.lowlevel.checkpoint()
    return found


async def lines(rows: Rows) -> Response:
    """Lines of JSON, each as it comes."""
    headers = {"Content-Type": "application/json", "X-Chunked-Output": "1"}
    return await _streamed(headers, _encoded(rows))


async def stream(pieces: Pieces, kind: str = "text/plain", length: int | None = None) -> Response:
    """Bytes. `length`: told beforehand (X-Content-Length), and the body must have it."""
    headers = {"Content-Type": kind, "X-Stream-Output": "1"}
    if length is not None:
        headers["X-Content-Length"] = str(length)
    return await _streamed(headers, pieces)


async def _encoded(rows: Rows) -> Pieces:
    try:
        async for row in rows:
            yield encode(row)
    finally:
        await rows.aclose()


async def _streamed(headers: dict[str, str], pieces: Pieces) -> Response:
    try:
        first = await anext(pieces, b"")
    except BaseException:
        await pieces.aclose()
        raise
    return Response(200, headers, _Resumed(first, pieces), trailer=TRAILER)


class _Resumed(AsyncIterator[bytes]):
    """A stream whose first piece was made already. (A generator that is never begun would not close
    what it got.)
    """

    def __init__(self, first: bytes, rest: Pieces) -> None:
        self._first: bytes | None = first
        self._rest = rest

    async def __anext__(self) -> bytes:
        if self._first is not None:
            first, self._first = self._first, None
            return first
        return await anext(self._rest)

    async def aclose(self) -> None:
        await self._rest.aclose()


def failed(request: Request, error: P2PCacheError) -> Response:
    """An error in Kubo's shape."""
    if isinstance(error, BadRequest):
        return text(400, error.message)
    return Response(500, {"Content-Type": "application/json"}, encode(_shape(error)))


def unsupported(call: str) -> Response:
    """What Kubo could and we cannot."""
    error = P2PCacheError(f"p2pcache does not support `{call}`; see docs/ipfs.md for what it does")
    return Response(501, {"Content-Type": "application/json"}, encode(_shape(error)))


def _shape(error: P2PCacheError) -> dict[str, Any]:
    return {"Message": error.message, "Code": 0, "Type": "error"}
