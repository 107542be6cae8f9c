"""One agent for each home, whatever socket it listens on: it alone is that identity and store.

The lock is `agent.lock` in the home. It also says who holds it and where that one listens: the
socket of a home with a long path depends on XDG_RUNTIME_DIR, which another shell may not have.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from p2pcache.agent.localapi.listener import is_listening
from p2pcache.errors import LocalFault

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NAME = "agent.lock"
WAIT_S = 20.0  # for one that starts or ends: it drains 5 s, and a command waits 30 s for its agent
POLL_S = 0.02
MAX_BYTES = 4096  # of the record: one path and some words
_WITHOUT = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)  # no locks on this mount


@dataclass(frozen=True, slots=True)
class Holder:
    """Who has a home. `socket`: where it listens or will; `embedded`: it ends with its command."""

    pid: int
    host: str
    socket: str
    embedded: bool

    @property
    def listens(self) -> bool:
        """Whether it answers there now. Never waits."""
        try:
            return is_listening(Path(self.socket))
        except (OSError, ValueError):
            return False


@contextlib.contextmanager
def held(
    home: Path,
    socket_path: Path,
    *,
    embedded: bool,
    say: Callable[[str], None],
    wait_s: float = WAIT_S,
) -> Iterator[None]:
    """Have the home for the block. Waits, `wait_s` at most, for an agent that starts or ends;
    one that is not `embedded` also for an embedded one, which ends with its command, and says so.

    Raises LocalFault when another agent has it. Where the file system has no locks, nobody waits.
    """
    lock = os.open(home / NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _take(lock, home, embedded, say, time.monotonic() + wait_s)
        mine = Holder(os.getpid(), socket.gethostname(), str(socket_path), embedded)
        with contextlib.suppress(OSError):  # a full disk: the lock holds without its record
            os.ftruncate(lock, 0)
            os.pwrite(lock, json.dumps(asdict(mine)).encode(), 0)
        yield
    finally:
        os.close(lock)


def elsewhere(home: Path, usual: Path) -> Path | None:
    """Where the agent of `home` listens now if that is not the `usual` socket; None: nowhere."""
    try:
        found = _parsed((home / NAME).read_bytes()[:MAX_BYTES])
    except OSError:
        return None
    if found is None or found.socket == str(usual) or not found.listens:
        return None
    return Path(found.socket)


def _take(
    lock: int, home: Path, embedded: bool, say: Callable[[str], None], give_up: float
) -> None:
    told = False
    while not _locked(lock):
        holder = _parsed(os.pread(lock, MAX_BYTES, 0))
        if holder is not None and holder.listens:
            if embedded or not holder.embedded:
                raise _running(home, holder)
            if not told:
                say(f"waiting for the agent of a command (pid {holder.pid}) to end")
                told = True
        if time.monotonic() > give_up:
            raise _in_the_way(home, holder)
        time.sleep(POLL_S)


def _locked(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as exc:
        if exc.errno not in _WITHOUT:
            raise
    return True


def _running(home: Path, holder: Holder) -> LocalFault:
    return LocalFault(
        f"an agent is already running on {holder.socket} (home {home})",
        hint="`p2pcache status` shows it, `p2pcache agent stop` stops it",
    )


def _in_the_way(home: Path, holder: Holder | None) -> LocalFault:
    if holder is None:
        return LocalFault(f"another process holds {home / NAME}", hint="`fuser` tells which")
    if holder.listens:
        return LocalFault(
            f"a command's agent (pid {holder.pid}) has the home {home} and is still in use",
            hint="start this again when the command has ended, or `p2pcache agent stop` ends both",
        )
    return LocalFault(
        f"another agent (pid {holder.pid} on {holder.host}) has the home {home} and does not "
        "answer",
        hint="wait until it has ended, or end it; on another machine use another P2PCACHE_HOME",
    )


def _parsed(record: bytes) -> Holder | None:
    """What the holder wrote; None while it has not, or when it is not to be understood."""
    try:
        plain = json.loads(record)
        pid, host, path, embedded = (
            plain["pid"], plain["host"], plain["socket"], plain["embedded"],
        )  # fmt: skip
    except (ValueError, KeyError, TypeError):
        return None
    if not (isinstance(pid, int) and isinstance(host, str) and isinstance(path, str)):
        return None
    return Holder(pid, host, path, embedded is True)
