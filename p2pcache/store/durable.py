"""What every write to the store is made of: fsync, atomic replacement, one table of errors.

The kernel may write pages back in any order, so "A is on disk before B" is always an explicit
fsync between the two. Errors of the operating system and of SQLite leave here as `DiskFull` or
`LocalFault`, never raw: they are ours to solve and must not be blamed on a source.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shutil
import sqlite3
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from p2pcache.errors import DiskFull, LocalFault

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_HINTS = {
    errno.EROFS: "the store is on a read-only file system: mount it read-write, "
    "or set P2PCACHE_HOME to a place that can be written",
    errno.EACCES: "make the store's directory writable for this user, or set P2PCACHE_HOME",
    errno.EPERM: "make the store's directory writable for this user, or set P2PCACHE_HOME",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.EIO: "the disk reports errors: check it before trusting it with more",
}
_SQLITE_HINTS = {
    sqlite3.SQLITE_READONLY: _HINTS[errno.EROFS],
    sqlite3.SQLITE_CANTOPEN: _HINTS[errno.EACCES],
    sqlite3.SQLITE_BUSY: "another process holds the index: try again",
    sqlite3.SQLITE_CORRUPT: "the index is damaged: it is rebuilt when the store is opened again",
    sqlite3.SQLITE_NOTADB: "the index is damaged: it is rebuilt when the store is opened again",
}
_FREE_SPACE = (
    "free some space or raise the quota, then run the same command again: what was verified is kept"
)
_FICLONE = 0x40049409  # linux/fs.h: share the extents of another file (btrfs, xfs, bcachefs)
_COPY_STEP_BYTES = (
    1 << 26
)  # one copy_file_range call: large enough to be cheap, still interruptible


def as_local_fault(exc: OSError | sqlite3.Error, doing: str) -> LocalFault:
    """The table: our error for what the operating system or SQLite said while `doing`."""
    if isinstance(exc, OSError):
        named = exc.filename and str(exc.filename) not in doing
        where = f" ({exc.filename})" if named else ""
        if exc.errno in _FULL:
            return DiskFull(f"no space left while {doing}{where}", hint=_FREE_SPACE)
        return LocalFault(
            f"{exc.strerror or exc} while {doing}{where}", hint=_HINTS.get(exc.errno or 0)
        )
    primary = getattr(exc, "sqlite_errorcode", 0) & 0xFF  # extended codes keep the kind below
    if primary == sqlite3.SQLITE_FULL:
        return DiskFull(f"no space left in the index while {doing}", hint=_FREE_SPACE)
    return LocalFault(f"index: {exc} while {doing}", hint=_SQLITE_HINTS.get(primary))


@contextmanager
def local_faults(doing: str) -> Iterator[None]:
    """Turn disk and index errors of the block into ours, naming what was being done."""
    try:
        yield
    except (OSError, sqlite3.Error) as exc:
        raise as_local_fault(exc, doing) from exc


def fsync_path(path: Path) -> None:
    """Wait until the file's (or directory's) content is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_file(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Write a new or existing file and wait until its content is on disk (not its name)."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        write_all(descriptor, data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_all(descriptor: int, data: bytes) -> None:
    """Write every byte: `os.write` may take fewer than it was given."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def pwrite_all(descriptor: int, data: bytes, offset: int) -> None:
    """Write every byte at `offset`."""
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view = view[written:]
        offset += written


def replace_file(path: Path, data: bytes) -> None:
    """Replace a file so that a reader, or a crash, sees the old content or the new, never a mix."""
    temporary = path.with_name(path.name + ".new")
    write_file(temporary, data)
    temporary.replace(path)
    fsync_path(path.parent)


def make_dir(path: Path) -> bool:
    """Make one directory durably; False if it was there."""
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        return False
    fsync_path(path.parent)
    return True


def discard_dir(directory: Path, trash: Path) -> None:
    """Remove a directory in one step for everybody else; the caller holds its lease.

    Renaming first means that nobody can lease, or continue, a directory that is half deleted.
    """
    empty_grave(bury(directory, trash))


def bury(path: Path, trash: Path) -> Path:
    """Take a file or directory out of sight, quickly; where it is, for `empty_grave`."""
    grave = trash / secrets.token_hex(8)
    path.rename(grave)
    return grave


def empty_grave(grave: Path) -> None:
    """Free the space of what was buried. What is left, the next sweep of the trash takes."""
    if grave.is_dir():
        shutil.rmtree(grave, ignore_errors=True)
    else:
        with suppress(OSError):
            grave.unlink()


def reflink(source_fd: int, target_fd: int) -> bool:
    """Share the source's extents with the (empty) target; False where the file system cannot."""
    try:
        fcntl.ioctl(target_fd, _FICLONE, source_fd)
    except OSError as exc:
        if exc.errno in _FULL:
            raise
        return False
    return True


def copy_range(source_fd: int, target_fd: int, start: int, end: int) -> int:
    """Copy bytes [start, end) inside the kernel; gives the end reached (short if the source is)."""
    offset = start
    while offset < end:
        step = min(_COPY_STEP_BYTES, end - offset)
        try:
            copied = os.copy_file_range(source_fd, target_fd, step, offset, offset)
        except OSError as exc:
            if exc.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
            chunk = os.pread(source_fd, min(step, 1 << 20), offset)
            pwrite_all(target_fd, chunk, offset)
            copied = len(chunk)
        if copied == 0:
            break
        offset += copied
    return offset
