"""Keys on disk: created whole or not at all, for the owner alone, read with a bound."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from typing import TYPE_CHECKING

from p2pcache.errors import DiskFull, LocalFault

if TYPE_CHECKING:
    from pathlib import Path

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


def read_secret(path: Path, max_bytes: int) -> bytes:
    """The content of a key file.

    Raises FileNotFoundError if there is none, LocalFault when others can read it, when it is longer
    than `max_bytes`, or when it cannot be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _check_mode(path, os.fstat(descriptor))
            data = os.read(descriptor, max_bytes + 1)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        raise
    except OSError as exc:
        raise LocalFault(
            f"cannot read `{path}`: {exc.strerror}", hint="make it readable for this user"
        ) from exc
    if len(data) > max_bytes:
        raise LocalFault(
            f"`{path}` is too long for a key file",
            hint="restore it, or move it away; then start the agent anew",
        )
    return data


def create_secret(path: Path, data: bytes) -> bool:
    """Write a key file with mode 0600; False, and nothing done, if there is one already.

    Whole or not at all, also if two processes do it at once or the machine stops. Raises
    LocalFault.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        descriptor = os.open(temporary, flags, 0o600)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        try:
            os.link(temporary, path)  # unlike rename it never replaces a key
        except FileExistsError:
            return False
        directory = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
        return True
    except OSError as exc:
        kind = DiskFull if exc.errno in _FULL else LocalFault
        raise kind(f"cannot write `{path}`: {exc.strerror}") from exc
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _check_mode(path: Path, found: os.stat_result) -> None:
    """Nobody else may read a key; of a file that is not ours (a mounted secret) the group may."""
    if not stat.S_ISREG(found.st_mode):
        raise LocalFault(f"`{path}` is not a file")
    ours = found.st_uid == os.geteuid()
    if found.st_mode & (0o077 if ours else 0o007):
        raise LocalFault(
            f"others can read the key `{path}` (mode {stat.S_IMODE(found.st_mode):04o})",
            hint=f"run `chmod 600 {path}`; if others may have copied it, make a new key",
        )
