"""The process: listeners, a thread a connection, and the agent's messages put into effect."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import resource
import socket
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from p2pcache.errors import LocalFault, P2PCacheError
from p2pcache.lanes.certificate import fingerprint
from p2pcache.lanes.serve.connection import Connection
from p2pcache.lanes.serve.control import Message, Unpacker, pack
from p2pcache.lanes.serve.crowd import Crowd
from p2pcache.lanes.serve.options import ServeOptions
from p2pcache.lanes.serve.send import UploadLimit
from p2pcache.lanes.serve.table import Entry, Table
from p2pcache.lanes.serve.trust import Trust

if TYPE_CHECKING:
    from collections.abc import Callable

    from p2pcache.lanes.serve.load import Load

log = logging.getLogger(__name__)

BACKLOG = 128
DESCRIPTORS = 4096  # 512 connections with three files each, and room; many systems start at 1024
SHORT_OF_DESCRIPTORS_S = 0.05
STALE_AGAIN_S = 1.0  # the agent hears of one stale blob at most this often
MAX_STALE = 1024
RECEIVE_BYTES = 1 << 18
HINT_S = 0.01  # that a hint waits for an answer to be sent


class House:
    """What all connections share."""

    def __init__(
        self,
        options: ServeOptions,
        tell: Callable[[bytes], None],
        tell_load: Callable[[Load], None],
        tell_crowded: Callable[[list[bytes]], None],
    ) -> None:
        self.options = options
        self.table = Table()
        self.crowd = Crowd(options, tell_load, tell_crowded)
        self.limit = UploadLimit(options.limit_up_bytes_per_s)
        self.banned: frozenset[bytes] = frozenset()
        self.trust: Trust | None = None
        if options.certificate_pem is not None:
            self.trust = Trust(options.certificate_pem, options.key_pem or b"")
        self._tell = tell
        self._told: dict[bytes, float] = {}

    def tell_stale(self, name: bytes) -> None:
        """Let the agent know that a blob's file is not what it was. Never blocks."""
        now = time.monotonic()
        if now - self._told.get(name, -STALE_AGAIN_S) >= STALE_AGAIN_S:
            if len(self._told) >= MAX_STALE:
                self._told.clear()
            self._told[name] = now
            self._tell(name)


class Server:
    """A byte server on one control socket. `run` returns when that closes."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._send_lock = threading.Lock()
        self._unsent = b""  # the rest of a hint that was sent in part
        self._house: House | None = None

    def run(self) -> None:
        """Do what the agent says until it hangs up."""
        unpacker = Unpacker()
        while data := self._control.recv(RECEIVE_BYTES):
            for message in unpacker.feed(data):
                self._send(*self._handle(message))

    def _send(self, *message: object) -> None:
        with self._send_lock:
            unsent, self._unsent = self._unsent, b""
            self._control.sendall(unsent + pack(*message))

    def _tell_stale(self, name: bytes) -> None:
        self._hint("stale", name)

    def _tell_load(self, load: Load) -> None:
        self._hint("load", load.queue_s, load.bytes_per_s)

    def _tell_crowded(self, scopes: list[bytes]) -> None:
        self._hint("crowded", scopes)

    def _hint(self, *message: object) -> None:
        """An agent that does not read just now does without it. Nearly never blocks: who calls
        keeps the deadlines of all connections.
        """
        if not self._send_lock.acquire(timeout=HINT_S):
            return  # an answer waits for the agent to read
        try:
            with contextlib.suppress(OSError):
                if self._unsent:
                    self._unsent = self._send_some(self._unsent)
                if not self._unsent:
                    self._unsent = self._send_some(pack(*message))
        finally:
            self._send_lock.release()

    def _send_some(self, data: bytes) -> bytes:
        """What the agent has no room for. Raises OSError when that is all."""
        return data[self._control.send(data, socket.MSG_DONTWAIT) :]

    def _handle(self, message: Message) -> Message:
        kind, number, *fields = message
        try:
            if kind == "options":
                return ["ready", number, *self._open(ServeOptions.from_wire(fields[0]))]
            if self._house is None:
                raise LocalFault("options come first")
            if kind == "statistics":
                return ["statistics", number, _statistics(self._house)]
            _obey(self._house, kind, fields)
        except P2PCacheError as exc:
            return ["failed", number, exc.message]
        except (OSError, ValueError, TypeError, IndexError) as exc:
            return ["failed", number, f"{kind}: {exc}"]
        return ["done", number]

    def _open(self, options: ServeOptions) -> tuple[int, bytes | None]:
        _allow_descriptors()
        house = House(options, self._tell_stale, self._tell_load, self._tell_crowded)
        listeners: list[socket.socket] = []
        port = options.port
        for host in options.hosts:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
            listeners.append(listener)
            port = listener.getsockname()[1]
        self._house = house
        for listener in listeners:
            _start(partial(_accept, listener, house), "accept")
        _start(house.crowd.watch, "watch")
        return port, _own_fingerprint(options)


def _own_fingerprint(options: ServeOptions) -> bytes | None:
    if options.certificate_pem is None:
        return None
    import ssl

    return fingerprint(ssl.PEM_cert_to_DER_cert(options.certificate_pem.decode()))


def _obey(house: House, kind: str, fields: list[Any]) -> None:
    """One message that only changes something. Raises LocalFault for an unknown one."""
    match kind, fields:
        case "add", [scope, entries]:
            house.table.add(scope, {name: Entry.from_wire(entry) for name, entry in entries})
        case "update", [name, entry]:
            house.table.update(name, Entry.from_wire(entry))
        case "drop", [names]:
            house.table.drop(names)
        case "drop-scope", [scope]:
            house.table.drop_scope(scope)
        case "trust", [certificates] if house.trust is not None:
            house.trust.add(certificates)
        case "distrust", [fingerprints] if house.trust is not None:
            house.trust.remove(fingerprints)
            house.crowd.cut(identities=fingerprints)
        case "trust" | "distrust", [_]:
            pass  # nobody shows a certificate without TLS
        case "limit-up", [bytes_per_s]:
            house.limit.set(bytes_per_s)
            house.crowd.limit_up(bytes_per_s)
        case "others", [scope, names]:
            house.crowd.others(scope, names)
        case "banned", [readers]:
            house.banned = frozenset(readers)
            house.crowd.cut(readers=readers)
        case _:
            raise LocalFault(f"an unknown control message {kind!r}")


def _statistics(house: House) -> dict[str, Any]:
    scopes, names = house.table.counts()
    return {"scopes": scopes, "names": names, **house.crowd.statistics()}


def _accept(listener: socket.socket, house: House) -> None:
    while True:
        try:
            sock, _ = listener.accept()
        except OSError as exc:
            if exc.errno not in (errno.ECONNABORTED, errno.EINTR):
                time.sleep(SHORT_OF_DESCRIPTORS_S)  # or of memory: the deadlines make room
            continue
        try:
            one = Connection(sock, house)
            if house.crowd.enter(one):
                try:
                    _start(one.run, "lane")
                except RuntimeError:  # no more threads
                    house.crowd.leave(one)
                    sock.close()
            else:
                sock.close()
        except OSError:  # gone before we looked
            sock.close()


def _start(run: Callable[[], None], name: str) -> None:
    threading.Thread(target=run, name=name, daemon=True).start()


def _allow_descriptors() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def serve(control_fd: int) -> None:
    """Run a byte server until the agent at the other end of the control socket is gone."""
    with socket.socket(fileno=control_fd) as control, contextlib.suppress(ConnectionError):
        Server(control).run()
    os._exit(0)  # at once: connections have nothing to say that a closed socket does not
