"""Write into a directory that belongs to somebody else: the Hugging Face cache, a user's folder.

`Tree` walks from the root with `openat` and never follows a symbolic link below it, so no name and
no link planted there can make it write elsewhere. Every file is made under a temporary name at the
root and then renamed: a reader, or a crash, sees the old content or the new one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from p2pcache.content.names import case_collisions
from p2pcache.errors import LocalFault
from p2pcache.store import durable, links
from p2pcache.store.links import ANY_KIND, LinkKind

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from types import TracebackType
    from typing import Self

_STAGED = ".p2pcache-"  # start of every temporary name: short, so that any legal name has room
_IS_STAGED = re.compile(r"\.p2pcache-[0-9a-f]{16}")  # anything else is the user's
ORPHAN_AGE_S = 86_400.0  # a temporary file untouched for a day: its maker is dead, not slow
_NOT_WRITABLE = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})
_NO_FOLDER = frozenset({errno.EEXIST, errno.ENOTDIR})
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(slots=True)
class Placed:
    """What was done. Paths are relative to the tree and as they were asked for.

    `kept` counts the files that already showed this very content, `replaced` names those that
    were there with something else, `collisions` the pairs that case alone keeps apart.
    """

    directory: Path
    made: Counter[LinkKind] = field(default_factory=Counter)
    kept: int = 0
    replaced: list[str] = field(default_factory=list)
    collisions: tuple[tuple[str, str], ...] = ()

    @property
    def link_kind(self) -> LinkKind | None:
        """The least preferred kind that had to be used; None when nothing had to be made."""
        return max(self.made, key=ANY_KIND.index, default=None)


@contextlib.contextmanager
def target_faults(doing: str, root: Path, below: str = "") -> Iterator[None]:
    """The store's table of disk errors, with a hint that fits a directory that is not the store."""
    try:
        yield
    except OSError as exc:
        fault = durable.as_local_fault(exc, f"{doing} {root / below}")
        if exc.errno in _NO_FOLDER:
            fault = LocalFault(
                f"{exc.filename} is a file, and a folder is needed",
                hint="choose a name that is free, or a folder",
            )
        elif exc.errno in _NOT_WRITABLE:
            hint = "make that directory writable for this user, or choose another one"
            fault = LocalFault(fault.message, hint=hint)
        elif exc.errno == errno.ENOENT:
            hint = "it cannot be made there, or was removed meanwhile: choose another folder"
            fault = LocalFault(fault.message, hint=hint)
        raise fault from exc


class Tree:
    """A directory that files are placed into. Made when missing; use as a context manager.

    `root` may be, or lie behind, a symbolic link: the user chose it. `below` is walked like every
    relative path: no component may be a link. Not thread-safe; several processes may work on the
    same tree at once. Errors: DiskFull, LocalFault.
    """

    def __init__(self, root: Path, below: str = "", *, orphan_age_s: float = ORPHAN_AGE_S) -> None:
        self._top = root
        self.path = root
        self._below = below
        self._orphan_age_s = orphan_age_s
        self._root = -1
        self._last = ("", -1)  # the directory that was used last: files come sorted by path

    def __enter__(self) -> Self:
        with target_faults("opening", self._top):
            self._top.mkdir(parents=True, exist_ok=True)
            self._top = self.path = self._top.resolve()
            self._root = os.open(self._top, _DIRECTORY)
            try:
                if self._below:
                    top, self._root = self._root, self._walk(self._root, self._below, make=True)
                    os.close(top)
                    self.path = self._top / self._below
                self._sweep()
            except BaseException:
                self.close()
                raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close what is open; may be called twice."""
        for descriptor in (self._last[1], self._root):
            if descriptor >= 0:
                os.close(descriptor)
        self._last, self._root = ("", -1), -1

    def state(self, relative: str) -> os.stat_result | None:
        """What is there, a symbolic link not followed; None if nothing is."""
        with target_faults("looking at", self.path, relative):
            try:
                parent, name = self._parent(relative, make=False)
                return os.stat(name, dir_fd=parent, follow_symlinks=False)
            except FileNotFoundError:
                return None

    def target(self, relative: str) -> os.stat_result | None:
        """What is there, a symbolic link followed: only to compare it, never to write to it."""
        with target_faults("looking at", self.path, relative):
            try:
                parent, name = self._parent(relative, make=False)
                return os.stat(name, dir_fd=parent)
            except OSError as exc:
                if exc.errno in (errno.ENOENT, errno.ELOOP, errno.ENOTDIR, errno.EACCES):
                    return None
                raise

    def link_text(self, relative: str) -> str | None:
        """Where the symbolic link points, as written; None if there is none."""
        with target_faults("reading the link", self.path, relative):
            try:
                parent, name = self._parent(relative, make=False)
                return os.readlink(name, dir_fd=parent)
            except OSError as exc:
                if exc.errno in (errno.ENOENT, errno.EINVAL):  # EINVAL: something, but no link
                    return None
                raise

    def open(self, relative: str) -> int:
        """A descriptor for reading a regular file; the caller closes it."""
        with target_faults("reading", self.path, relative):
            parent, name = self._parent(relative, make=False)
            # O_NONBLOCK: a pipe planted under that name must not hang us
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            descriptor = os.open(name, flags, dir_fd=parent)
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                os.close(descriptor)
                raise LocalFault(f"{self.path / relative} is not a regular file")
            return descriptor

    def place(self, source: Path, relative: str, kinds: Sequence[LinkKind] = ANY_KIND) -> LinkKind:
        """Show `source` at `relative` by the first of `kinds` that works here.

        Replaces a file or a link, never a directory. A reflink or a copy is on disk when this
        returns and carries the source's mtime (see `links.is_stamped`).
        """
        with target_faults("placing", self.path, relative):
            parent, name = self._parent(relative, make=True)
            with self._staged() as temporary:
                for kind in kinds:
                    if links.make(kind, source, self._root, temporary):
                        self._rename(temporary, parent, name)
                        return kind
        tried = ", ".join(kinds)
        raise LocalFault(
            f"cannot show {source} at {self.path / relative}: this file system refuses {tried}"
        )

    def symlink(self, text: str, relative: str) -> None:
        """Put a symbolic link that says `text` there."""
        with target_faults("linking", self.path, relative):
            parent, name = self._parent(relative, make=True)
            with self._staged() as temporary:
                os.symlink(text, temporary, dir_fd=self._root)
                self._rename(temporary, parent, name)

    def write(self, data: bytes, relative: str, *, mode: int = 0o666) -> None:
        """Put a small file there, durably: a crash never leaves an empty one. `mode` & ~umask."""
        with target_faults("writing", self.path, relative):
            parent, name = self._parent(relative, make=True)
            with self._staged() as temporary:
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
                descriptor = os.open(temporary, flags, mode, dir_fd=self._root)
                try:
                    durable.write_all(descriptor, data)
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
                self._rename(temporary, parent, name)

    def make(self, relative: str) -> None:
        """Make a directory, and those above it."""
        with target_faults("making", self.path, relative):
            os.close(self._walk(self._root, relative, make=True))

    def remove(self, relative: str) -> None:
        """Remove a file or a link, if it is there."""
        with target_faults("removing", self.path, relative), contextlib.suppress(FileNotFoundError):
            parent, name = self._parent(relative, make=False)
            os.unlink(name, dir_fd=parent)

    def check_case(self, paths: Sequence[str]) -> tuple[tuple[str, str], ...]:
        """The pairs of `paths` that case alone keeps apart; LocalFault if this tree ignores case.

        To be asked before the first file is placed: afterwards one would have replaced the other.
        """
        pairs = tuple(case_collisions(paths))
        if pairs and self._ignores_case():
            first, second = pairs[0]
            raise LocalFault(
                f"{first!r} and {second!r} cannot both be in {self.path}: its file system "
                "ignores case",
                hint="choose a directory on a case-sensitive file system, or exclude one of them",
            )
        return pairs

    def _ignores_case(self) -> bool:
        with target_faults("probing", self.path), self._staged() as temporary:
            os.mkdir(temporary, dir_fd=self._root)
            try:
                os.stat(temporary.upper(), dir_fd=self._root)
            except FileNotFoundError:
                return False
            finally:
                os.rmdir(temporary, dir_fd=self._root)
        return True

    def _parent(self, relative: str, *, make: bool) -> tuple[int, str]:
        """The directory that holds `relative`, open, and the name in it."""
        directory, _, name = relative.rpartition("/")
        if not directory:
            return self._root, name
        if self._last[0] != directory:
            descriptor = self._walk(self._root, directory, make=make)
            if self._last[1] >= 0:
                os.close(self._last[1])
            self._last = (directory, descriptor)
        return self._last[1], name

    def _walk(self, start: int, relative: str, *, make: bool) -> int:
        """Open a directory below `start`, component by component, following no link."""
        current = os.dup(start)
        try:
            for part in relative.split("/"):
                if part in ("", ".", ".."):
                    raise LocalFault(f"{relative!r} is not a path inside {self._top}")
                below = self._step(current, part, make=make)
                os.close(current)
                current = below
        except BaseException:
            os.close(current)
            raise
        return current

    def _step(self, current: int, part: str, *, make: bool) -> int:
        if make:
            with contextlib.suppress(FileExistsError):
                os.mkdir(part, dir_fd=current)
        try:
            return os.open(part, _DIRECTORY, dir_fd=current)
        except OSError as exc:
            if exc.errno not in (errno.ENOTDIR, errno.ELOOP):
                raise
            found = os.stat(part, dir_fd=current, follow_symlinks=False)
            what = "a symbolic link" if stat.S_ISLNK(found.st_mode) else "not a directory"
            raise LocalFault(
                f"{part!r} below {self.path} is {what}: nothing is read or written through it",
                hint="move it away, or choose another directory",
            ) from exc

    @contextlib.contextmanager
    def _staged(self) -> Iterator[str]:
        """A temporary name at the root, gone afterwards."""
        name = f"{_STAGED}{secrets.token_hex(8)}"
        try:
            yield name
        finally:
            # Also after success: renaming a hard link onto the same inode does nothing.
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=self._root)

    def _rename(self, temporary: str, parent: int, name: str) -> None:
        os.replace(temporary, name, src_dir_fd=self._root, dst_dir_fd=parent)

    def _sweep(self) -> None:
        """Remove what dead processes left. Ages are by the file system's own clock, not ours."""
        names = [name for name in os.listdir(self._root) if _IS_STAGED.fullmatch(name)]
        if not names:
            return
        with self._staged() as probe:
            os.close(os.open(probe, os.O_CREAT | os.O_EXCL, 0o600, dir_fd=self._root))
            now = os.stat(probe, dir_fd=self._root).st_ctime
        for name in names:
            with contextlib.suppress(OSError):  # gone, or not ours to remove
                found = os.stat(name, dir_fd=self._root, follow_symlinks=False)
                if now - found.st_ctime <= self._orphan_age_s:
                    continue
                if stat.S_ISDIR(found.st_mode):  # of `_ignores_case`: empty
                    os.rmdir(name, dir_fd=self._root)
                else:
                    os.unlink(name, dir_fd=self._root)
