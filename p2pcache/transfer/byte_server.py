"""The byte server as trio sees it: a process that is told what to serve, and is told again when it
had to be started anew.

Everything that it was told is kept here too. A server that dies (out of memory, a bug) is started
again on the same port with the same certificate and secret and gets all of it at once, so that
the tickets and pins that readers hold stay good: they see one connection cut, and come back.
"""

from __future__ import annotations

import itertools
import logging
import math
import socket
import subprocess
import sys
import time
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import trio

from p2pcache.errors import LocalFault, plain_errors
from p2pcache.lanes.serve.control import MAX_ENTRIES, Message, Unpacker, pack
from p2pcache.lanes.serve.load import Load
from p2pcache.lanes.serve.mirror import Mirror
from p2pcache.lanes.tickets import Ticket, issue_ticket

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence

    from p2pcache.lanes.serve.options import ServeOptions
    from p2pcache.lanes.serve.table import Entry

log = logging.getLogger(__name__)

START_S = 20.0  # it takes 0.2; a machine that swaps takes longer
CALL_S = 30.0  # for any answer, a restart included
STOP_S = 2.0  # it leaves when its socket closes; then it is killed
STALE_KEPT = 64  # names that the agent did not look at yet; more are hints lost
FIRST_PAUSE_S, LAST_PAUSE_S = 0.05, 5.0  # before a restart; doubled while it keeps dying
GOOD_LIFE_S = 30.0  # then a death counts as the first again
RECEIVE_BYTES = 1 << 16
GREETING, RESTORED = -1, -2  # numbers of messages that nobody waits for by the usual way


class _Link:
    """One life of the process: its control socket, and the questions that are open."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.outbox, self.outgoing = trio.open_memory_channel[bytes](math.inf)  # see `begin`
        self.restored = trio.Event()  # it knows all that we know; also set when it died
        self.is_dead = False
        self._asked: dict[int, tuple[trio.Event, list[Message]]] = {}
        self._numbers = itertools.count(1)

    async def ask(self, kind: str, *fields: object) -> Message | None:
        """The answer, None when the process died first. Raises LocalFault when it says no."""
        return await self.answer(self.begin(kind, *fields))

    def begin(self, kind: str, *fields: object) -> int:
        """Queue a message, at once, so that no cancellation takes it back; gives its number."""
        number = next(self._numbers)
        self._asked[number] = trio.Event(), []
        try:
            self.outbox.send_nowait(pack(kind, number, *fields))
        except trio.BrokenResourceError:  # it is dead
            self._asked[number][0].set()
        return number

    async def answer(self, number: int) -> Message | None:
        """The same as `ask`, of a message that was begun."""
        event, answers = self._asked[number]
        try:
            await event.wait()
        finally:
            self.forget([number])
        if not answers:
            return None
        if answers[0][0] == "failed":
            raise LocalFault(f"the byte server: {answers[0][2]}")
        return answers[0]

    def forget(self, numbers: Iterable[int]) -> None:
        """Nobody waits for these answers."""
        for number in numbers:
            self._asked.pop(number, None)

    async def wait_answer(self, number: int) -> Message:
        """The answer to a message that was written past the outbox."""
        answered: tuple[trio.Event, list[Message]] = (trio.Event(), [])
        self._asked[number] = answered
        await answered[0].wait()
        return self._asked.pop(number)[1][0]

    def heard(self, message: Message) -> None:
        """An answer came."""
        waiting = self._asked.get(message[1])
        if waiting is not None:
            waiting[1].append(message)
            waiting[0].set()

    def died(self) -> None:
        """No answer will come any more."""
        self.is_dead = True
        self.outgoing.close()
        self.restored.set()
        for event, _ in self._asked.values():
            event.set()


class ByteServer:
    """Tells the byte server what to serve. Made by `open_byte_server`; ends with its scope.

    Each method returns when the running server has done it, across restarts, and raises LocalFault
    when that takes CALL_S or it refuses. If cancelled, it is done all the same, soon.
    """

    def __init__(self, options: ServeOptions, clock: Callable[[], float]) -> None:
        self._options = options
        self._clock = clock
        self._mirror = Mirror()
        self._link: _Link | None = None
        self._changed = trio.Event()  # `_link` is another one
        # names of blobs whose file is gone or is another one, for whoever announces them
        self._stale_in, self.stale = trio.open_memory_channel[bytes](STALE_KEPT)
        # How busy it is, when that changes; must not block.
        self.on_load: Callable[[Load], None] = lambda _: None
        # Readers of these scopes are refused now: whom else could they ask? See `others`.
        self.on_crowded: Callable[[list[bytes]], None] = lambda _: None
        self.port = options.port
        self.fingerprint: bytes | None = None
        self.restarts = 0
        self.pid = 0

    # -- what is served --------------------------------------------------------------------------

    def issue(self, reader: bytes, scope: bytes, binding: bytes, lifetime_s: float) -> str:
        """A token for a reader (binary peer id); `binding` as in lanes/tickets.

        Whoever hands it out has awaited `scope` first, or the reader may come too early.
        """
        ticket = Ticket(reader, scope, self._clock() + lifetime_s)
        return issue_ticket(self._options.secret, ticket, binding)

    async def scope(self, scope: bytes, entries: Mapping[bytes, Entry]) -> None:
        """Tickets for `scope` (manifest CID or blob name) read these blobs too, by name."""
        wires = [[name, entry.to_wire()] for name, entry in entries.items()]
        starts = range(0, max(len(wires), 1), MAX_ENTRIES)
        await self._tell_all([("add", scope, wires[at : at + MAX_ENTRIES]) for at in starts])

    async def drop_scope(self, scope: bytes) -> None:
        """Tickets for it are worth nothing now; readers of blobs of no other scope are cut."""
        await self._tell("drop-scope", scope)

    async def update(self, name: bytes, entry: Entry) -> None:
        """A blob is complete now, or lies elsewhere. Those who read it go on."""
        await self._tell("update", name, entry.to_wire())

    async def drop(self, names: Iterable[bytes]) -> None:
        """These blobs are gone (evicted, aborted, about to be rewritten): readers are cut."""
        await self._tell("drop", list(names))

    async def limit_up(self, bytes_per_s: float | None) -> None:
        """What all readers together get, from now on; None: no limit."""
        await self._tell("limit-up", bytes_per_s)

    async def others(self, scope: bytes, names: Iterable[str]) -> None:
        """Whom readers with tickets for `scope` may ask instead while this server is busy."""
        await self._tell("others", scope, list(names))

    # -- who is served ---------------------------------------------------------------------------

    async def trust(self, certificates: Iterable[bytes]) -> None:
        """Let the holders of these DER certificates in. LocalFault for what is none."""
        await self._tell_all([("trust", [der]) for der in certificates])

    async def distrust(self, fingerprints: Iterable[bytes]) -> None:
        """Let them in no more; their connections are cut."""
        await self._tell("distrust", list(fingerprints))

    async def ban(self, readers: Iterable[bytes]) -> None:
        """The whole list of peers whose tickets count no more; their connections are cut."""
        await self._tell("banned", list(readers))

    async def statistics(self) -> dict[str, Any]:
        """Counters since the process started: `readers` is {peer id: [bytes, answers, now]}."""
        with _in_time():
            while True:
                link = await self._wait_link(None)
                if answer := await link.ask("statistics"):
                    found: dict[str, Any] = answer[2]
                    return {**found, "restarts": self.restarts}
                await self._wait_link(link)

    async def _tell(self, kind: str, *fields: object) -> None:
        await self._tell_all([(kind, *fields)])

    async def _tell_all(self, messages: Sequence[tuple[Any, ...]]) -> None:
        link = self._link
        begun: list[int] = []
        for kind, *fields in messages:  # all of it before the first wait: nothing is half told
            self._mirror.note(kind, tuple(fields))  # whatever happens now, the next life knows it
            if link is not None:
                begun.append(link.begin(kind, *fields))
        with _in_time():
            if link is not None and await self._are_done(link, messages, begun):
                return
            while True:
                link = await self._wait_link(link)
                await link.restored.wait()
                if not link.is_dead:
                    return

    async def _are_done(
        self, link: _Link, messages: Sequence[tuple[Any, ...]], begun: Sequence[int]
    ) -> bool:
        """Whether this life did all of it. Raises the first LocalFault."""
        refusal: LocalFault | None = None
        done = True
        try:
            for (kind, *fields), number in zip(messages, begun, strict=True):
                try:
                    done &= await link.answer(number) is not None
                except LocalFault as exc:
                    self._mirror.refused(kind, tuple(fields))
                    refusal = refusal or exc
        finally:
            link.forget(begun)
        if refusal is not None:
            raise refusal
        return done

    async def _wait_link(self, old: _Link | None) -> _Link:
        """The link, once it is another than `old`."""
        while self._link is None or self._link is old:
            await self._changed.wait()
        return self._link

    def _set_link(self, link: _Link | None) -> None:
        self._link = link
        self._changed.set()
        self._changed = trio.Event()

    # -- the process -----------------------------------------------------------------------------

    async def _supervise(self, *, task_status: trio.TaskStatus[None]) -> None:
        pause_s = FIRST_PAUSE_S
        started: trio.TaskStatus[None] | None = task_status
        while True:
            began = trio.current_time()
            try:
                await self._live(started)
            except LocalFault as exc:
                if started is not None:
                    raise
                log.warning("the byte server does not start: %s", exc)
                if self._options.port == 0:
                    self.port = 0  # somebody else took it meanwhile: readers will be told another
            started = None
            if trio.current_time() - began > GOOD_LIFE_S:
                pause_s = FIRST_PAUSE_S
            self.restarts += 1
            log.warning("the byte server died; starting it again")
            await trio.sleep(pause_s)
            pause_s = min(2 * pause_s, LAST_PAUSE_S)

    async def _live(self, started: trio.TaskStatus[None] | None) -> None:
        """One life. Returns when the process is gone; raises LocalFault when it never served."""
        ours, theirs = socket.socketpair()
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
        link, process = _Link(stream), None
        try:
            with theirs:
                process = await _start_process(theirs.fileno())
            self.pid = process.pid
            with plain_errors():
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._read, link, nursery.cancel_scope)
                    await self._greet(link)
                    # from here on callers queue behind the replay, and change the mirror no more
                    # unseen: nothing is awaited between the copy and the new link
                    replay = [pack(kind, 0, *rest) for kind, *rest in self._mirror.messages()]
                    self._set_link(link)
                    nursery.start_soon(_write, link, replay)
                    if started is not None:
                        started.started()
            if self._link is not link:
                raise LocalFault("the byte server ended before it served")
        finally:
            link.died()
            if self._link is link:
                self._set_link(None)
                self.on_load(Load())
            with trio.CancelScope(shield=True):
                await _end(process, stream)

    async def _greet(self, link: _Link) -> None:
        """Tell it how to serve. Raises LocalFault when it cannot (the port is taken, say)."""
        options = replace(self._options, port=self.port)
        with _in_time(START_S):
            await link.stream.send_all(pack("options", GREETING, options.to_wire()))
            answer = await link.wait_answer(GREETING)
        if answer[0] != "ready":
            raise LocalFault(f"the byte server cannot serve: {answer[2]}")
        self.port, self.fingerprint = answer[2], answer[3]

    async def _read(self, link: _Link, life: trio.CancelScope) -> None:
        unpacker = Unpacker()
        try:
            while data := await link.stream.receive_some(RECEIVE_BYTES):
                for message in unpacker.feed(bytes(data)):
                    self._hear(link, message)
        except trio.BrokenResourceError:
            pass
        life.cancel()

    def _hear(self, link: _Link, message: Message) -> None:
        match message:
            case ["stale", name]:
                with suppress(trio.WouldBlock):
                    self._stale_in.send_nowait(name)
            case ["load", queue_s, bytes_per_s]:
                self.on_load(Load(queue_s, bytes_per_s))
            case ["crowded", scopes]:
                self.on_crowded(scopes)
            case [_, number, *_] if number == RESTORED:
                link.restored.set()
            case ["failed", 0, text]:
                log.error("the byte server did not take back what it served: %s", text)
            case _:
                link.heard(message)


async def _write(link: _Link, replay: list[bytes]) -> None:
    try:
        for frame in replay:
            await link.stream.send_all(frame)
        await link.stream.send_all(pack("statistics", RESTORED))
        async for frame in link.outgoing:
            await link.stream.send_all(frame)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass  # the reader sees the end as well, and ends this life


async def _start_process(control_fd: int) -> trio.Process:
    command = [sys.executable, "-P", "-m", "p2pcache.lanes.serve", "--control-fd", str(control_fd)]
    try:
        return await trio.lowlevel.open_process(
            command, pass_fds=[control_fd], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
    except OSError as exc:
        raise LocalFault(f"cannot start the byte server: {exc.strerror}") from exc


async def _end(process: trio.Process | None, stream: trio.SocketStream) -> None:
    """It leaves when its socket closes; a frozen one is killed."""
    await trio.aclose_forcefully(stream)
    if process is not None:
        with trio.move_on_after(STOP_S):
            await process.wait()
        if process.returncode is None:
            process.kill()
            await process.wait()


@contextmanager
def _in_time(seconds: float = CALL_S) -> Iterator[None]:
    try:
        with trio.fail_after(seconds):
            yield
    except trio.TooSlowError as exc:
        raise LocalFault("the byte server does not answer") from exc


@asynccontextmanager
async def open_byte_server(
    options: ServeOptions, clock: Callable[[], float] = time.monotonic
) -> AsyncIterator[ByteServer]:
    """A byte server for the time of the scope. Raises LocalFault when it cannot serve at all.

    Inside, `port` and `fingerprint` are known. They stay over restarts, except for a port that was
    not asked for and that somebody else took meanwhile.
    """
    server = ByteServer(options, clock)
    with plain_errors():
        async with trio.open_nursery() as nursery:
            await nursery.start(server._supervise)
            yield server
            nursery.cancel_scope.cancel()
