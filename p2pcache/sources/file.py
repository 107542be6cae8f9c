"""Files and folders of this machine as a source.

A folder is listed without leaving it: a symbolic link is followed only when what it points to lies
inside the same folder, and nothing but regular files is taken. What cannot be taken is named, all
of it together, and nothing is: a folder's names say what is in it, and a link that points nowhere
is most often a file that was not fetched. Nothing is hashed here: the driver has the bytes read
(and named by what arrived) like those of any origin.
"""

from __future__ import annotations

import os
import stat
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from p2pcache.content.names import safe_path
from p2pcache.content.refs import FileRef
from p2pcache.errors import LocalFault, NotFound, Untrusted, UsageError
from p2pcache.lanes.orders import Location, file_validator
from p2pcache.sources.port import ListedFile, Listing, SourceKind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from p2pcache.content.refs import Ref
    from p2pcache.sources.port import Credentials

ENDPOINT = "file://"
MOST_NAMED = 10  # of what cannot be taken; the others are counted
RECENT_S = 2.0  # the coarsest file times (FAT, some NFS): two writes within it may look like one

# The old stubs that libp2p's dependency trio-typing installs do not know `abandon_on_cancel`.
_run_in_thread: Any = trio.to_thread.run_sync


@dataclass(frozen=True, slots=True)
class FileOptions:
    """Bounds of one folder."""

    max_files: int = 1_000_000  # as a manifest
    max_depth: int = 256  # paths end at 4096 bytes anyway; this keeps the walk's stack small


class FileSource:
    """The local file system adapter."""

    name = "file"
    kind = SourceKind.ORIGIN

    def __init__(self, options: FileOptions = FileOptions()) -> None:
        self._options = options

    def accepts(self, ref: Ref) -> bool:
        """Whether the ref names a path of this machine."""
        return isinstance(ref, FileRef)

    def endpoint(self, ref: Ref, credentials: Credentials) -> str:
        """This machine."""
        return ENDPOINT

    async def list(self, ref: Ref, credentials: Credentials) -> Listing:
        """Every regular file below the path, or the one file. Runs in a thread.

        Raises NotFound (no such path), UsageError (pipes, devices, links that lead out or nowhere:
        and names that no manifest holds: all that there are), LocalFault (not readable).
        If cancelled, the walk ends in its thread and its result is dropped.
        """
        if not isinstance(ref, FileRef):
            raise UsageError(f"not a path: {ref}")
        if not os.path.isabs(ref.path):
            raise UsageError(
                f"{ref.path!r} is not absolute: the agent's working directory is not the caller's"
            )
        listing: Listing = await _run_in_thread(
            list_path, ref.path, self._options, abandon_on_cancel=True
        )
        return listing

    async def gives(self, ref: Ref, immutable: str | None, credentials: Credentials) -> bool:
        """Whether it lists the same; see `Source`."""
        return (await self.list(ref, credentials)).immutable == immutable

    async def locate(self, listing: Listing, key: str, credentials: Credentials) -> Location:
        """`file:///absolute/path`, percent-encoded. Pure."""
        return Location(Path(key).as_uri())

    async def aclose(self) -> None:
        """Nothing is open."""


def list_path(path: str, options: FileOptions = FileOptions()) -> Listing:
    """What `FileSource.list` returns, without trio."""
    try:
        # Only here are links followed anywhere: the user named this path.
        root = os.path.realpath(path, strict=True)
        status = os.stat(root)
        if stat.S_ISDIR(status.st_mode):
            walk = _Walk(root, options)
            files = sorted(walk.files(root, ""), key=lambda file: file.path)
            walk.check()
        else:
            files = [_file(os.path.basename(path), root, status)]
    except FileNotFoundError as exc:
        raise NotFound(f"no such file or folder: {exc.filename or path}") from exc
    except OSError as exc:
        raise LocalFault(f"cannot read {exc.filename or path}: {exc.strerror}") from exc
    return Listing("file", ENDPOINT, immutable=None, mutable=True, files=tuple(files))


class _Walk:
    """One walk of one folder; `_within` are the real folders from the root down to here."""

    def __init__(self, root: str, options: FileOptions) -> None:
        self._root = root
        self._options = options
        self._within: list[str] = []
        self._count = 0
        self._refused: list[UsageError] = []
        self._refused_count = 0

    def check(self) -> None:
        """After the walk: raises UsageError for what could not be taken."""
        if self._refused_count == 1:
            raise self._refused[0]
        if self._refused:
            lines = [error.message for error in self._refused]
            if more := self._refused_count - len(lines):
                lines.append(f"and {more} more")
            raise UsageError(
                "\n  ".join([f"{self._root} has what cannot be taken:", *lines]),
                hint="remove these, or put in their place what is meant; nothing was taken yet",
            )

    def _refuse(self, error: UsageError) -> None:
        self._refused_count += 1
        if len(self._refused) < MOST_NAMED:
            self._refused.append(error)

    def files(self, folder: str, prefix: str) -> Iterator[ListedFile]:
        if folder in self._within:
            raise UsageError(f"{prefix!r} is a link to a folder that holds it: it would never end")
        if len(self._within) >= self._options.max_depth:
            raise UsageError(f"{folder} is deeper than {self._options.max_depth} folders")
        self._within.append(folder)
        with os.scandir(folder) as entries:
            found = list(entries)
        for entry in found:
            yield from self._entry(entry, prefix + entry.name)
        self._within.pop()

    def _entry(self, entry: os.DirEntry[str], name: str) -> Iterator[ListedFile]:
        try:
            real = self._inside(entry.path, name) if entry.is_symlink() else entry.path
        except UsageError as exc:
            self._refuse(exc)
            return
        status = os.stat(real, follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode):
            yield from self.files(real, name + "/")
            return
        self._count += 1
        if self._count > self._options.max_files:
            raise UsageError(f"{self._root} holds more than {self._options.max_files} files")
        try:
            file = _file(name, real, status)
        except UsageError as exc:
            self._refuse(exc)
        else:
            yield file

    def _inside(self, link: str, name: str) -> str:
        try:
            real = os.path.realpath(link, strict=True)
        except (FileNotFoundError, NotADirectoryError) as exc:
            raise UsageError(
                f"{name!r} is a link to something that is not there",
                hint="remove it, or put in its place what it is to point to",
            ) from exc
        if real == self._root:
            raise UsageError(f"{name!r} is a link to the folder that holds it: it would never end")
        if not real.startswith(self._root.rstrip("/") + "/"):
            raise UsageError(
                f"{name!r} is a link that leads out of {self._root}",
                hint="name what it points to, or put a copy in its place",
            )
        return real


def _file(name: str, real: str, status: os.stat_result) -> ListedFile:
    if not stat.S_ISREG(status.st_mode):
        raise UsageError(f"{name!r} is no regular file: only files and folders can be taken")
    try:
        path = safe_path(name)
    except Untrusted as exc:
        raise UsageError(exc.message, hint="rename the file") from exc
    return ListedFile(
        path,
        status.st_size,
        None,
        key=real,
        validator=file_validator(status),
        is_recent=time.time() - status.st_mtime < RECENT_S,
    )
