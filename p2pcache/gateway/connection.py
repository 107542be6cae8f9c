"""One connection of `gateway.http`: requests in turn, each under its own deadlines.

h11 knows the protocol and bounds the head; what is here is time, the Host check, and that neither a
slow nor a vanished client keeps anything for long.
"""

from __future__ import annotations

import logging
import socket
from contextlib import asynccontextmanager, suppress
from email.utils import formatdate
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

import h11
import trio

from p2pcache.errors import P2PCacheError, Unavailable, UsageError, bug, leaves, plain_errors
from p2pcache.gateway.messages import Request, Response, text

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable

    from p2pcache.gateway.http import Handler, HttpOptions

_log = logging.getLogger(__name__)

RECEIVE_BYTES = 64 << 10
SEND_BYTES = 256 << 10  # of one send: what has to go out within `stall_s`
DRAIN_BYTES = 1 << 20  # of a body that nobody read, so that the answer is not lost in a reset
DRAIN_S = 2.0
LEFT = "the client left in the middle of its request"
_REASONS = {one.value: one.phrase.encode() for one in HTTPStatus}
_FRAMING = (b"content-length", b"transfer-encoding")


class Connection:
    """`run` until the client, an error or a deadline ends it. The caller closes the stream."""

    def __init__(
        self,
        stream: trio.SocketStream,
        handler: Handler,
        options: HttpOptions,
        on_error: Callable[[Request, P2PCacheError], Response],
    ) -> None:
        self._stream = stream
        self._handler = handler
        self._options = options
        self._on_error = on_error
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=options.max_head_bytes)
        self._begun = False  # whether the head of an answer went out
        self._watch: Callable[[], None] = _nobody_watches

    async def run(self) -> None:
        """Answer requests in turn. Raises trio's resource errors when the client is gone."""
        while True:
            try:
                head = await self._head()
                if head is None:
                    return
                await self._answer(head)
                if self._h11.our_state is not h11.DONE or not await self._drained():
                    return
            except h11.RemoteProtocolError as exc:
                await self._refuse(exc)
                return
            self._h11.start_next_cycle()

    async def _head(self) -> h11.Request | None:
        """The next request; None when there is none in time."""
        waiting = True
        with trio.move_on_after(self._options.idle_s) as scope:
            while True:
                event = self._h11.next_event()
                if isinstance(event, h11.Request):
                    return event
                if event is not h11.NEED_DATA:
                    return None  # closed
                data = await self._stream.receive_some(RECEIVE_BYTES)
                self._h11.receive_data(data)
                if waiting and data:
                    waiting = False
                    scope.deadline = trio.current_time() + self._options.head_s
        return None

    async def _refuse(self, exc: h11.RemoteProtocolError) -> None:
        """What is not HTTP: say so, if nothing was said yet, and leave."""
        if self._begun or self._h11.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        status = exc.error_status_hint
        await self._send(text(status, f"this is no request: {exc}"), method="GET", close=True)

    # -- one request -----------------------------------------------------------------------------

    async def _answer(self, head: h11.Request) -> None:
        self._begun = False
        method = head.method.decode("ascii")
        try:
            request = self._request(head)
        except UsageError as exc:
            await self._send(text(400, exc.message), method=method, close=True)
            return
        if not _is_ours(request.header("host") or "", self._options.hosts):
            refused = text(403, "this gateway answers to the names of this machine alone")
            await self._send(refused, method=method)
            return
        async with self._while_connected(head):
            response = await self._handled(request)
            await self._send(response, method=method)

    def _request(self, head: h11.Request) -> Request:
        """Raises UsageError for a target that is none of ours, and for a body that others may see
        end elsewhere (RFC 9112 6.1: what follows it could be a request that nobody sent).
        """
        framing = [name for name, _ in head.headers if name in _FRAMING]
        if _FRAMING[1] in framing and (len(framing) > 1 or head.http_version != b"1.1"):
            raise UsageError("chunks in a request of HTTP/1.0, or that tells a length too")
        target = head.target.decode("ascii")  # h11 lets nothing else through
        if not target.startswith("/"):
            raise UsageError("the target of a request begins with a slash here")
        path, _, query = target.partition("?")
        try:
            arguments = parse_qsl(
                query, keep_blank_values=True, max_num_fields=self._options.max_arguments
            )
        except ValueError as exc:
            raise UsageError("a query with too many arguments") from exc
        headers = [(key.decode("ascii"), value.decode("latin-1")) for key, value in head.headers]
        return Request(
            head.method.decode("ascii"), path, arguments, headers, self._peer(), lambda: _Body(self)
        )

    def _peer(self) -> str:
        with suppress(OSError):
            name = self._stream.socket.getpeername()
            return f"{name[0]}:{name[1]}"
        return "?"

    async def _handled(self, request: Request) -> Response:
        try:
            return await self._handler(request)
        except P2PCacheError as exc:
            return self._on_error(request, exc)
        except BaseExceptionGroup as group:
            if not all(isinstance(exc, P2PCacheError) for exc in leaves(group)):
                raise
            first = next(exc for exc in leaves(group) if isinstance(exc, P2PCacheError))
            return self._on_error(request, first)
        except h11.RemoteProtocolError:
            raise
        except Exception as exc:  # noqa: BLE001 - the border: one request ends, and no gateway
            return self._on_error(request, bug(exc, _log))

    @asynccontextmanager
    async def _while_connected(self, head: h11.Request) -> AsyncGenerator[None, None]:
        """Cancels the block when the client goes away: nobody waits for the answer then.

        It only peeks, once the body is here: the next request that a client sends meanwhile is left
        for later, and ends the watching.
        """
        has_body = any(name in _FRAMING for name, _ in head.headers)
        with plain_errors():
            async with trio.open_nursery() as nursery:
                self._watch = lambda: nursery.start_soon(_cancel_when_gone, self._stream, nursery)
                if not has_body and isinstance(self._h11.next_event(), h11.EndOfMessage):
                    self._watch()
                try:
                    yield
                finally:
                    self._watch = _nobody_watches
                    nursery.cancel_scope.cancel()

    async def next_piece(self) -> bytes | None:
        """The next bytes of the request's body, None at its end. Raises Unavailable, UsageError."""
        if self._h11.they_are_waiting_for_100_continue:
            go_on = h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue")
            await self._write(self._h11.send(go_on) or b"")
        while self._h11.their_state is h11.SEND_BODY:
            try:
                event = self._h11.next_event()
            except h11.RemoteProtocolError as exc:
                raise UsageError(f"a body that is no HTTP: {exc}") from exc
            if event is h11.NEED_DATA:
                with trio.move_on_after(self._options.stall_s) as scope:
                    try:
                        data = await self._stream.receive_some(RECEIVE_BYTES)
                    except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
                        raise Unavailable(LEFT) from exc
                    self._h11.receive_data(data)
                if scope.cancelled_caught:
                    raise Unavailable("the client stopped in the middle of its request")
            elif isinstance(event, h11.Data):
                return bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                self._watch()
            else:
                raise Unavailable(LEFT)
        return None

    async def _drained(self) -> bool:
        """Take the rest of a body that nobody read, within limits; whether another may follow."""
        taken = 0
        with trio.move_on_after(DRAIN_S):
            while self._h11.their_state is h11.SEND_BODY and taken < DRAIN_BYTES:
                event = self._h11.next_event()
                if event is h11.NEED_DATA:
                    self._h11.receive_data(await self._stream.receive_some(RECEIVE_BYTES))
                elif isinstance(event, h11.Data):
                    taken += len(event.data)
        return self._h11.our_state is h11.DONE and self._h11.their_state is h11.DONE

    # -- the answer ------------------------------------------------------------------------------

    async def _send(self, response: Response, *, method: str, close: bool = False) -> None:
        body = response.body
        headers = {"Date": formatdate(usegmt=True), "Server": "p2pcache", **response.headers}
        length = len(body) if isinstance(body, bytes) else response.length
        if body is None and length is None:
            length = 0
        if response.status != 304:
            if length is not None:
                headers["Content-Length"] = str(length)
            else:
                headers["Transfer-Encoding"] = "chunked"
                if response.trailer is not None:
                    headers["Trailer"] = response.trailer
        if close:
            headers["Connection"] = "close"
        head = h11.Response(
            status_code=response.status,
            reason=_REASONS.get(response.status, b""),
            headers=[
                (key.encode(), value.encode("utf-8", "replace")) for key, value in headers.items()
            ],
        )
        self._begun = True
        await self._write(self._h11.send(head) or b"")
        if method == "HEAD" or response.status == 304 or body is None:
            await _close(body)
            await self._write(self._h11.send(h11.EndOfMessage()) or b"")
        elif isinstance(body, bytes):
            await self._data(body)
            await self._write(self._h11.send(h11.EndOfMessage()) or b"")
        else:
            await self._stream_out(body, response.trailer)

    async def _stream_out(self, body: AsyncIterator[bytes], trailer: str | None) -> None:
        try:
            async for piece in body:
                if piece:
                    await self._data(piece)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise
        except P2PCacheError as exc:
            _log.info("an answer was cut short: %s", exc.message)
            await self._cut(trailer, exc.message)
            return
        except h11.LocalProtocolError as exc:  # more or less than `length` said
            bug(exc, _log)
            await self._cut(None, "")
            return
        except Exception as exc:  # noqa: BLE001 - the border: one request ends, and no gateway
            await self._cut(trailer, bug(exc, _log).message)
            return
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + DRAIN_S):
                await _close(body)
        try:
            end = self._h11.send(h11.EndOfMessage())
        except h11.LocalProtocolError as exc:
            bug(exc, _log)
            await self._cut(None, "")
            return
        await self._write(end or b"")

    async def _cut(self, trailer: str | None, message: str) -> None:
        """End an answer so that the client knows that it is not whole."""
        if trailer is None or self._h11.our_state is not h11.SEND_BODY:
            raise trio.ClosedResourceError("cut short on purpose")
        plain = message.encode("ascii", "replace").replace(b"\n", b" ").replace(b"\r", b" ")
        with suppress(h11.LocalProtocolError):
            end = h11.EndOfMessage(headers=[(trailer.encode(), plain)])
            await self._write(self._h11.send(end) or b"")
        raise trio.ClosedResourceError("cut short on purpose")

    async def _data(self, data: bytes) -> None:
        """One piece; every SEND_BYTES of it must go out within `stall_s`."""
        view = memoryview(data)
        for start in range(0, len(view), SEND_BYTES):
            part = view[start : start + SEND_BYTES]
            # h11 passes what has a length on as it is
            piece = h11.Data(data=part)  # type: ignore[arg-type]
            for out in self._h11.send_with_data_passthrough(piece) or []:
                await self._write(out)

    async def _write(self, data: bytes | memoryview) -> None:
        if not data:
            return
        with trio.move_on_after(self._options.stall_s) as scope:
            await self._stream.send_all(data)
        if scope.cancelled_caught:
            raise trio.ClosedResourceError("the client does not read")


def _nobody_watches() -> None:
    """Between two requests."""


async def _cancel_when_gone(stream: trio.SocketStream, nursery: trio.Nursery) -> None:
    await trio.lowlevel.wait_readable(stream.socket.fileno())
    with suppress(OSError):
        if await stream.socket.recv(1, socket.MSG_PEEK):
            return
    nursery.cancel_scope.cancel()


class _Body:
    """The pieces of one request's body. (A generator that is not read to its end would be one that
    trio has to clean up.)
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def __aiter__(self) -> _Body:
        return self

    async def __anext__(self) -> bytes:
        piece = await self._connection.next_piece()
        if piece is None:
            raise StopAsyncIteration
        return piece


async def _close(body: object) -> None:
    """Bodies may hold files open: generators, and whatever else can be closed."""
    aclose = getattr(body, "aclose", None)
    if aclose is not None:
        await aclose()


def _is_ours(host: str, names: tuple[str, ...]) -> bool:
    """Whether `Host` is one of these names, whatever its port."""
    name = host.strip().lower()
    if not name.endswith("]"):
        head, colon, port = name.rpartition(":")
        if colon and port.isdecimal():
            name = head
    return name.rstrip(".") in names
