"""Ways to show a stored file under another name: hard link, reflink, symlink, copy.

Each is made under a fresh name that nobody looks at; `placing.Tree.place` renames it to where it is
wanted, so that a reader sees the old content or the new.
"""

from __future__ import annotations

import enum
import errno
import os
import stat
from typing import TYPE_CHECKING

from p2pcache.errors import LocalFault
from p2pcache.store import durable

if TYPE_CHECKING:
    from pathlib import Path

_CANNOT = frozenset(
    {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS}
)  # this kind of link is not possible here: try the next
_SECOND_NS = 1_000_000_000


class LinkKind(enum.StrEnum):
    """How a file came to be where it is, in order of preference."""

    HARD_LINK = "hard link"  # the same inode
    REFLINK = "reflink"  # its own inode, shared extents
    SYMLINK = "symlink"  # a pointer: dangles when the store lets the blob go
    COPY = "copy"


ANY_KIND = tuple(LinkKind)


def is_stamped(found: os.stat_result, source: os.stat_result) -> bool:
    """Whether `found` is a copy that `place` made of `source`, by size and mtime.

    Whole-second times prove nothing: tar, git and image builders set the same one on every file.
    """
    return (
        stat.S_ISREG(found.st_mode)
        and found.st_size == source.st_size
        and found.st_mtime_ns == source.st_mtime_ns
        and source.st_mtime_ns % _SECOND_NS != 0
    )


def source_state(source: Path, size: int) -> os.stat_result:
    """The source's stat; LocalFault if it is gone or has another size than it should."""
    with durable.local_faults(f"looking at {source}"):
        found = source.stat()
    if not stat.S_ISREG(found.st_mode) or found.st_size != size:
        raise LocalFault(f"{source} has {found.st_size} bytes, not {size}: it changed on disk")
    return found


def make(kind: LinkKind, source: Path, root: int, name: str) -> bool:
    """Make `name` in the directory open as `root`; False if this kind is not possible there.

    The name must be free. A reflink or a copy is on disk when this returns, has mode
    0666 & ~umask and the source's mtime (see `is_stamped`). OSError is the caller's to translate.
    """
    if kind in (LinkKind.REFLINK, LinkKind.COPY):
        return _duplicate(source, root, name, share=kind is LinkKind.REFLINK)
    try:
        if kind is LinkKind.HARD_LINK:
            os.link(source.resolve(), name, dst_dir_fd=root)
        else:
            os.symlink(source.absolute(), name, dir_fd=root)
    except OSError as exc:
        if exc.errno in _CANNOT:
            return False
        raise
    return True


def _duplicate(source: Path, root: int, name: str, *, share: bool) -> bool:
    with source.open("rb") as reading:
        before = os.fstat(reading.fileno())
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        writing = os.open(name, flags, 0o666, dir_fd=root)
        try:
            if share:
                if not durable.reflink(reading.fileno(), writing):
                    os.unlink(name, dir_fd=root)
                    return False
                copied = os.fstat(writing).st_size
            else:
                copied = durable.copy_range(reading.fileno(), writing, 0, before.st_size)
            after = os.fstat(reading.fileno())
            if copied != before.st_size or after.st_mtime_ns != before.st_mtime_ns:
                raise LocalFault(f"{source} changed while it was copied")
            os.utime(writing, ns=(before.st_atime_ns, before.st_mtime_ns))
            os.fsync(writing)
        finally:
            os.close(writing)
    return True
