"""One connection of the synchronous client: a socket, past its hello, one request at a time."""

from __future__ import annotations

import math
import os
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

from p2pcache.agent.localapi.exchange import Answer, Exchange
from p2pcache.agent.localapi.listener import HasOptions, peer_uid
from p2pcache.errors import AgentNotRunning, Denied, LocalFault, P2PCacheError, Unavailable
from p2pcache.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from p2pcache.agent.localapi import answers
    from p2pcache.agent.localapi.wire import Hello

    OnProgress = Callable[[answers.Progress], None]
    OnItem = Callable[[dict[str, Any]], None]

CONNECT_S = 5.0  # a local socket answers in microseconds unless the agent is stuck
SILENCE_S = 60.0  # the agent says something at least every 10 s while it works
CANCEL_S = 2.0  # how long an interrupted user waits for the agent to confirm
READ_BYTES = 65536
PROGRAM = f"p2pcache/{__version__}"

START_HINT = "start one with `p2pcache agent run`"


class TooLong(Exception):
    """The caller's time is over."""


class Connection:
    """One socket to the agent, past its hello. One request at a time."""

    def __init__(self, path: Path) -> None:
        self._exchange = Exchange()
        self._sending = threading.Lock()  # a request's first byte, and another thread's `stop`
        self._socket = _connect(path)
        try:
            self.hello = self._greet()
        except BaseException:
            self._socket.close()
            raise

    def close(self) -> None:
        """Close the socket: what still runs on it is cancelled by the agent."""
        self._socket.close()

    @property
    def in_request(self) -> bool:
        """Whether the agent still works for this connection."""
        return self._exchange.in_request

    def alive(self) -> bool:
        """Whether an idle connection still has an agent at the other end. Never waits."""
        return not closed_by_peer(self._socket.fileno())

    def run(
        self,
        op: str,
        args: dict[str, Any],
        on_progress: OnProgress | None,
        on_item: OnItem | None = None,
        until: float | None = None,
    ) -> Answer:
        """One request from its first byte to its answer. Raises TooLong at `until` (monotonic)."""
        with self._sending:
            self._send(self._exchange.ask(op, args))
        while self._exchange.answer is None:
            for progress in self._exchange.feed(self._receive(SILENCE_S, until)):
                if on_progress is not None:
                    on_progress(progress)
            if on_item is not None:
                for item in self._exchange.take_items():
                    on_item(item)
        return self._exchange.answer

    def cancel(self) -> None:
        """Stop the request that runs and wait a moment for its end, so that it is settled."""
        if not self.stop():
            return
        give_up = time.monotonic() + CANCEL_S
        while self.in_request and (left_s := give_up - time.monotonic()) > 0:
            self._exchange.feed(self._receive(left_s))

    def stop(self) -> bool:
        """Tell the agent to end the request that runs, which gets its answer all the same. For any
        thread. False: none runs.
        """
        with self._sending:
            if not self.in_request:
                return False
            self._send(self._exchange.stop())
            return True

    def _greet(self) -> Hello:
        self._send(self._exchange.greet(PROGRAM, os.getpid()))
        while self._exchange.hello is None:
            self._exchange.feed(self._receive(CONNECT_S))
        return self._exchange.hello

    def _send(self, frame: bytes) -> None:
        self._socket.settimeout(SILENCE_S)
        try:
            self._socket.sendall(frame)
        except TimeoutError as exc:
            raise Unavailable(f"the agent took nothing for {SILENCE_S:g} s") from exc
        except (BrokenPipeError, ConnectionResetError):
            return  # the agent closed; why it did is still to be read

    def _receive(self, patience_s: float, until: float | None = None) -> bytes:
        left_s = math.inf if until is None else until - time.monotonic()
        if left_s <= 0:
            raise TooLong
        self._socket.settimeout(min(patience_s, left_s))
        try:
            return self._socket.recv(READ_BYTES)
        except TimeoutError as exc:
            if left_s < patience_s:
                raise TooLong from None
            raise silent(patience_s) from exc
        except ConnectionResetError:
            return b""


def closed_by_peer(fileno: int) -> bool:
    """Whether the other end of an idle connection is closed. Never waits."""
    with socket.socket(fileno=os.dup(fileno)) as peeked:
        try:
            return not peeked.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True


def silent(patience_s: float) -> Unavailable:
    """The error for an agent that accepts, and then says nothing."""
    return Unavailable(
        f"the agent has said nothing for {patience_s:.3g} s",
        hint="its log may tell why; `p2pcache agent stop` stops it",
    )


def not_connected(path: Path, exc: OSError) -> P2PCacheError:
    """What it means that a connection to the agent's socket failed."""
    if isinstance(exc, FileNotFoundError | ConnectionRefusedError):
        return AgentNotRunning(f"no agent is running on {path}", hint=START_HINT)
    return LocalFault(
        f"cannot reach the agent on {path}: {exc.strerror or exc}",
        hint="set P2PCACHE_HOME to a folder that this user can write to",
    )


def check_owner(connected: HasOptions, path: Path) -> None:
    """Raise Denied unless our own user (or root) listens: it will be given the user's token."""
    uid = peer_uid(connected)
    if uid is not None and uid not in (os.getuid(), 0):
        raise Denied(f"the agent on {path} belongs to another user (uid {uid})")


def _connect(path: Path) -> socket.socket:
    connecting = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connecting.settimeout(CONNECT_S)
        connecting.connect(os.fspath(path))
        check_owner(connecting, path)
    except OSError as exc:
        connecting.close()
        raise not_connected(path, exc) from exc
    except BaseException:
        connecting.close()
        raise
    return connecting
