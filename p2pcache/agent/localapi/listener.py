"""The socket file: one live agent per path, a dead one's file replaced, nobody else let in."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import stat
import struct
import sys
from typing import TYPE_CHECKING, Protocol

from p2pcache.errors import LocalFault

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_BACKLOG = 128  # connections that wait while the agent is busy; the kernel refuses more
_ELSEWHERE = "make its folder writable for this user, or set P2PCACHE_HOME to one that is"
_HINTS = {
    errno.EROFS: _ELSEWHERE,
    errno.EACCES: _ELSEWHERE,
    errno.EPERM: _ELSEWHERE,
    errno.ENOSPC: "free some space, or set P2PCACHE_HOME to a place that has some",
}


class HasOptions(Protocol):
    """A socket of the standard library's or of trio's."""

    def getsockopt(self, level: int, option: int, buffer_bytes: int, /) -> bytes:
        """As `socket.getsockopt`."""
        ...


_UCRED = struct.Struct("3i")  # struct ucred: pid, uid, gid


def bind_local(path: Path) -> tuple[socket.socket, os.stat_result]:
    """A listening, non-blocking unix socket at `path`, mode 0600, and what identifies its file.

    Raises LocalFault when a live agent has the path, when something that is not a socket is
    there, or when the folder is not ours alone.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_folder(path.parent)
        with _one_starter_at_a_time(path):
            _remove_stale(path)
            listening = _listen(path)
            return listening, path.lstat()
    except OSError as exc:
        raise LocalFault(
            f"cannot listen on {path}: {exc.strerror or exc}", hint=_HINTS.get(exc.errno or 0)
        ) from exc


def unbind(path: Path, bound: os.stat_result) -> None:
    """Remove the socket file if it is still the one that was bound."""
    with contextlib.suppress(OSError):
        now = path.lstat()
        if (now.st_dev, now.st_ino) == (bound.st_dev, bound.st_ino):
            path.unlink()


def is_listening(path: Path) -> bool:
    """Whether a process accepts connections at `path` now. Never waits."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(os.fspath(path))
        except BlockingIOError:
            return True  # its backlog is full: busy, not dead
        except OSError as exc:
            if exc.errno in (errno.ECONNREFUSED, errno.ENOENT):
                return False
            raise
    return True


def peer_uid(connected: HasOptions) -> int | None:
    """The user at the other end, None where the system cannot say (then the modes must do)."""
    if sys.platform != "linux":
        return None
    raw = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    return int(_UCRED.unpack(raw)[1])


def _check_folder(folder: Path) -> None:
    """A folder that others may write to would let them put their own socket in our place."""
    found = folder.stat()
    if found.st_uid not in (os.getuid(), 0) or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise LocalFault(
            f"the folder of the socket, {folder}, can be changed by other users",
            hint=f"`chmod go-w {folder}`, or set P2PCACHE_HOME to a folder of your own",
        )


@contextlib.contextmanager
def _one_starter_at_a_time(path: Path) -> Iterator[None]:
    """Two agents that both find a stale file must not remove each other's fresh one.

    Held for the milliseconds of a start. Correctness of the store does not depend on it.
    """
    lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _remove_stale(path: Path) -> None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise LocalFault(f"{path} is in the way: it is not a socket")
    if is_listening(path):
        raise LocalFault(
            f"an agent is already running on {path}",
            hint="`p2pcache status` shows it, `p2pcache agent stop` stops it",
        )
    path.unlink()


def _listen(path: Path) -> socket.socket:
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # On Linux the file gets the socket's own mode, so there is no moment with a wider one.
        os.fchmod(listening.fileno(), 0o600)
        listening.bind(os.fspath(path))
        path.chmod(0o600)
        listening.listen(_BACKLOG)
        listening.setblocking(False)
    except BaseException:
        listening.close()
        raise
    return listening
