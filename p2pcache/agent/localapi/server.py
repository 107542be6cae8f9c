"""The agent's end of the local socket: connections, requests and limits; it knows no operation.

The operations are a `Service`'s. What one client does (garbage, silence, floods, death) ends at
most that client's connection.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import trio

from p2pcache import errors
from p2pcache.agent.localapi.listener import bind_local, peer_uid, unbind
from p2pcache.agent.localapi.outbox import Outbox
from p2pcache.agent.localapi.wire import (
    CONNECTION,
    Cancel,
    Failed,
    FrameReader,
    FromClient,
    Hello,
    Item,
    Progress,
    Request,
    Result,
    parse_from_client,
)
from p2pcache.version import __version__

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    Emit = Callable[[dict[str, Any]], Awaitable[None]]


class Service(Protocol):
    """What the agent can do. Called by many requests at once."""

    async def call(self, op: str, args: dict[str, Any], emit: Emit) -> dict[str, Any]:
        """Do `op` and return its result. Raises P2PCacheError types only.

        `emit({"type": "progress", ...})` never waits and may be replaced by a newer one;
        `emit({"type": "item", "value": {...}})` waits while the client is slow and is never
        dropped. `args` come from outside and are unchecked. If cancelled, the client asked for it
        or is gone: work that others wait for is the service's to keep alive.
        """
        ...


_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """Limits of the local socket."""

    max_clients: int = 128  # a terminal or a program each; each may cost 2 MiB of queue
    max_requests: int = 32  # at once on one connection; AsyncClient uses one at a time
    max_queued_bytes: int = 1 << 20  # a connection's unsent answers; one whole frame
    read_bytes: int = 65536
    hello_s: float = 5.0  # a local program that has not said hello by then will not
    heartbeat_s: float = 10.0  # well inside the client's patience of 60 s
    stalled_client_s: float = 3600.0  # a client stopped with Ctrl-Z may come back within the hour
    goodbye_s: float = 1.0  # to send the reason before a connection is closed
    uid: int = field(default_factory=os.getuid)  # whom to serve


class Clients:
    """Who is connected now, and how many of their requests are not answered yet."""

    def __init__(self) -> None:
        self.connected = 0
        self.requests = 0
        self._changed = trio.Event()

    async def wait_none(self) -> None:
        """Until nobody is connected (at once when nobody is)."""
        while self.connected:
            await self._changed.wait()

    async def wait_answered(self) -> None:
        """Until every request has its answer; who is connected and asks nothing does not count."""
        while self.requests:
            await self._changed.wait()

    def _count(self, step: int, requests: int = 0) -> None:
        self.connected += step
        self.requests += requests
        self._changed.set()
        self._changed = trio.Event()


async def serve(
    path: Path,
    service: Service,
    *,
    options: ServerOptions | None = None,
    task_status: trio.TaskStatus[Clients] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve `service` on a unix socket at `path` until cancelled; use with `nursery.start`.

    Raises LocalFault if the path cannot be had. An exception of the service that is not a
    P2PCacheError is a bug: it is logged with its traceback, the client is told, and the agent
    goes on for everybody else. If cancelled, requests in progress are cancelled and the socket
    file is removed.
    """
    options = options or ServerOptions()
    listening, bound = bind_local(path)
    clients = Clients()
    try:
        async with (
            trio.SocketListener(trio.socket.from_stdlib_socket(listening)) as listener,
            trio.open_nursery() as connections,
        ):
            task_status.started(clients)
            await trio.serve_listeners(
                partial(_serve_client, service, options, clients),
                [listener],
                handler_nursery=connections,
            )
    finally:
        unbind(path, bound)


async def _serve_client(
    service: Service, options: ServerOptions, clients: Clients, stream: trio.SocketStream
) -> None:
    clients._count(+1)
    try:
        async with stream:
            refusal = _refusal(stream, options, clients)
            await _Connection(stream, service, options, clients).run(refusal)
    finally:
        clients._count(-1)


def _refusal(
    stream: trio.SocketStream, options: ServerOptions, clients: Clients
) -> errors.P2PCacheError | None:
    uid = peer_uid(stream.socket)
    if uid is not None and uid != options.uid:
        return errors.Denied("this agent belongs to another user")
    if clients.connected > options.max_clients:
        return errors.Unavailable(f"the agent already has {options.max_clients} clients")
    return None


class _Connection:
    """One client: a task that sends, a task that reads, and a task for each request."""

    def __init__(
        self, stream: trio.SocketStream, service: Service, options: ServerOptions, clients: Clients
    ) -> None:
        self._clients = clients
        self._stream = stream
        self._service = service
        self._options = options
        self._outbox = Outbox(options.max_queued_bytes)
        self._running: dict[int, trio.CancelScope] = {}
        self._reader = FrameReader()
        self._received: deque[bytes] = deque()

    async def run(self, refusal: errors.P2PCacheError | None) -> None:
        """Until the client leaves, breaks the rules, or was refused."""
        async with trio.open_nursery() as sending:
            sending.start_soon(self._send, sending.cancel_scope)
            await self._outbox.put(Hello(f"p2pcache/{__version__}", os.getpid()))
            fault = refusal or await self._converse()
            if fault is not None:
                await self._outbox.put(Failed(CONNECTION, fault.to_wire()))
                await self._flush()
            sending.cancel_scope.cancel()

    async def _converse(self) -> errors.P2PCacheError | None:
        """Answer requests until the client closes (None) or breaks the rules (why)."""
        fault = await self._greet()
        if fault is not None:
            return fault
        async with trio.open_nursery() as requests:
            requests.start_soon(self._beat)
            fault = await self._begin_requests(requests)
            requests.cancel_scope.cancel()
        return fault

    async def _greet(self) -> errors.P2PCacheError | None:
        try:
            with trio.fail_after(self._options.hello_s):
                message = await self._next_message()
            if message is not None and not isinstance(message, Hello):
                raise errors.Untrusted("the first frame must be a hello")
            if message is not None:
                message.check()
        except trio.TooSlowError:
            return errors.Untrusted(f"no hello within {self._options.hello_s:g} s")
        except errors.P2PCacheError as exc:
            return exc
        return None

    async def _begin_requests(self, requests: trio.Nursery) -> errors.P2PCacheError | None:
        try:
            while (message := await self._next_message()) is not None:
                match message:
                    case Hello():
                        raise errors.Untrusted("a second hello")
                    case Cancel(target=target):
                        known = self._running.get(target)
                        if known is not None:
                            known.cancel()
                        await self._outbox.put(Result(message.id, {"found": known is not None}))
                    case Request(id=number) if number in self._running:
                        raise errors.Untrusted(f"request {number} is already running")
                    case Request() if len(self._running) >= self._options.max_requests:
                        full = errors.Unavailable(
                            f"{self._options.max_requests} requests are running on this connection"
                        )
                        await self._outbox.put(Failed(message.id, full.to_wire()))
                    case Request():
                        # Known before its task runs, so that a cancel right behind it finds it.
                        self._running[message.id] = trio.CancelScope()
                        requests.start_soon(self._answer, message)
        except errors.P2PCacheError as exc:
            return exc
        return None

    async def _next_message(self) -> FromClient | None:
        """The client's next message, None when it has closed. Raises Untrusted."""
        while not self._received:
            try:
                data = await self._stream.receive_some(self._options.read_bytes)
            except trio.BrokenResourceError:
                return None
            if not data:
                return None
            self._received.extend(self._reader.feed(bytes(data)))
        return parse_from_client(self._received.popleft())

    async def _answer(self, request: Request) -> None:
        self._clients._count(0, requests=+1)
        try:
            await self._answer_counted(request)
            await self._outbox.wait_sent()
        finally:
            self._clients._count(0, requests=-1)

    async def _answer_counted(self, request: Request) -> None:
        try:
            with self._running[request.id] as scope:
                answer: Result | Failed = await self._ask_service(request)
            if scope.cancelled_caught:
                stopped = errors.Interrupted("stopped; what was verified is kept")
                answer = Failed(request.id, stopped.to_wire())
        finally:
            del self._running[request.id]
        try:
            await self._outbox.put(answer)
        except errors.LocalFault as exc:  # the answer does not fit a frame: say that instead
            await self._outbox.put(Failed(request.id, exc.to_wire()))

    async def _ask_service(self, request: Request) -> Result | Failed:
        async def emit(fields: dict[str, Any]) -> None:
            match fields:
                case {"type": "item", "value": dict(value)}:
                    await self._outbox.put(Item(request.id, value))
                case _:
                    await self._outbox.put(Progress(request.id, fields))

        try:
            return Result(request.id, await self._service.call(request.op, request.args, emit))
        except errors.P2PCacheError as exc:
            return Failed(request.id, exc.to_wire())
        except BaseExceptionGroup as group:
            one = errors.one_error(group)
            if isinstance(one, errors.P2PCacheError):
                return Failed(request.id, one.to_wire())
            if not isinstance(group, ExceptionGroup):  # cancelled, or the process is ending
                raise
            return Failed(request.id, errors.bug(one, _log).to_wire())
        except Exception as exc:  # noqa: BLE001  (the border: one request's bug is not everybody's)
            return Failed(request.id, errors.bug(exc, _log).to_wire())

    async def _beat(self) -> None:
        """While requests run silently, let the client know that the agent is alive."""
        while True:
            await trio.sleep(self._options.heartbeat_s)
            if self._running:
                await self._outbox.put(Progress(CONNECTION, {}))

    async def _send(self, connection: trio.CancelScope) -> None:
        try:
            while True:
                frame = await self._outbox.take()
                with trio.fail_after(self._options.stalled_client_s):
                    await self._stream.send_all(frame)
        except (trio.BrokenResourceError, trio.TooSlowError):
            connection.cancel()  # it is gone: so are its requests

    async def _flush(self) -> None:
        with trio.move_on_after(self._options.goodbye_s):
            await self._outbox.wait_sent()
