"""Files and folders of this machine: what is added, as it is read, and what is written, at once."""

from __future__ import annotations

import os
import posixpath
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from p2pcache.content import cid as cids
from p2pcache.content.dag import build, files, folders
from p2pcache.content.dag.walk import run, stream
from p2pcache.errors import LocalFault, Untrusted, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from p2pcache.content.dag.build import Profile, Root

    Get = Callable[[bytes], bytes]

READ_BYTES = 1 << 18
MAX_DEPTH = 200
MAX_CHUNK_BYTES = 2 * 1024 * 1024 - 256  # a block has its framing too
PROFILE = build.PROFILES["unixfs-v1-2025"]


def profile(chunker: str | None) -> Profile:
    """How content is cut: `size-<bytes>`. Raises UsageError."""
    if chunker is None:
        return PROFILE
    word, _, number = chunker.partition("-")
    if word != "size" or not number.isdecimal() or not 0 < int(number[:9]) <= MAX_CHUNK_BYTES:
        raise UsageError(f"`{chunker[:80]}` is no chunker of ours", hint="write it as size-<bytes>")
    return replace(PROFILE, chunk_bytes=int(number))


@dataclass(frozen=True, slots=True)
class Item:
    """One thing to add. `path`: begins with the name of what is added. `kind`: "folder", "file",
    "link".
    """

    path: str
    kind: str
    place: Path


def items(top: Path, *, recursive: bool) -> Iterator[Item]:
    """What is at `top`, a folder before what is in it, names in order; links are not followed.
    Raises UsageError: a folder without `recursive`, or something that is neither.
    """
    todo = [Item(top.name or "folder", "", top)]
    while todo:
        item = todo.pop()
        if item.place.is_symlink() and item.place != top:
            yield replace(item, kind="link")
        elif item.place.is_dir():
            if not recursive:
                raise UsageError(f"`{top}` is a folder", hint="add it with `recursive=True`")
            if item.path.count("/") > MAX_DEPTH:
                raise UsageError(f"`{top}` has more than {MAX_DEPTH} folders in each other")
            yield replace(item, kind="folder")
            names = sorted(os.listdir(item.place), reverse=True)
            todo.extend(Item(f"{item.path}/{name}", "", item.place / name) for name in names)
        elif item.place.is_file():
            yield replace(item, kind="file")
        elif not os.path.lexists(item.place):
            raise LocalFault(f"there is no `{item.place}`")
        else:
            raise UsageError(f"`{item.place}` is neither a file nor a folder")


class Expected:
    """The root of what is added, computed here as it is read: what a backend says is held against
    it. Folders over 256 KiB may be cut as Kubo's older profiles do.
    """

    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        self._roots: dict[str, Root | None] = {}

    def folder(self, path: str) -> None:
        """A folder."""
        self._roots[path] = None

    def link(self, path: str, target: str) -> None:
        """A symlink."""
        self._roots[path] = build.symlink(self._profile, target)

    def file(self, path: str, pieces: Iterator[bytes]) -> Iterator[bytes]:
        """A file: its pieces, as they pass."""
        builder = build.FileBuilder(self._profile)
        for piece in pieces:
            builder.write(piece)
            yield piece
        self._roots[path] = builder.finish()

    def check(self, top: str, said: str) -> bytes:
        """The root of `top`, which is what the backend said. Raises Untrusted."""
        found = self._roots[top]
        if found is not None:
            possible = [found]
        else:
            by_links = replace(self._profile, shard_by="links")
            possible = [self._folder(top, profile) for profile in (self._profile, by_links)]
        told = cids.parse_cid_as_written(said)
        if all(told != root.cid for root in possible):
            own = cids.format_cid(possible[0].cid)
            raise Untrusted(f"the backend says that `{top}` is {said}: it is {own}")
        return told

    def _folder(self, top: str, profile: Profile) -> Root:
        """Children before parents: longer paths first."""
        entries: dict[str, dict[str, Root]] = {
            path: {} for path, root in self._roots.items() if root is None
        }
        made = dict(self._roots)
        for path in sorted(made, key=lambda path: path.count("/"), reverse=True):
            root = made[path]
            if root is None:
                root = build.directory(profile, entries[path])
            if path == top:
                return root
            above, name = posixpath.split(path)
            entries[above][name] = root
        raise AssertionError(top)


def pieces_of(place: Path) -> Iterator[bytes]:
    """A file, as it is read."""
    with place.open("rb") as file:
        while piece := file.read(READ_BYTES):
            yield piece


def write(cid: bytes, target: Path, get: Get) -> None:
    """Write what a CID names to `target`, which appears when all of it is on disk. Raises
    LocalFault: a folder is there already.
    """
    if target.is_dir() and not target.is_symlink():
        raise LocalFault(f"`{target}` is a folder that is there already", hint="name a new one")
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{target.name[:40]}.", dir=target.parent))
    try:
        made = draft / "made"
        _write(cid, made, "", get)
        made.replace(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _write(cid: bytes, place: Path, below: str, get: Get) -> None:
    """`below`: its path in what is written, for links that must not lead out of it."""
    stat = run(files.stat(cid), get)
    if below.count("/") > MAX_DEPTH:
        raise Untrusted(f"a folder of more than {MAX_DEPTH} folders in each other")
    if stat.kind == "directory":
        place.mkdir()
        for entry in stream(folders.entries(cid), get):
            _write(entry.cid, place / entry.name, posixpath.join(below, entry.name), get)
    elif stat.kind == "symlink":
        target = stat.target or ""
        leads = posixpath.normpath(posixpath.join(posixpath.dirname(below), target))
        if not below or target.startswith("/") or leads.split("/")[0] == "..":
            raise Untrusted(f"the link `{below}` leads out of its folder, to `{target[:200]}`")
        place.symlink_to(target)
    elif stat.kind == "block" and cids.codec(cid) != cids.RAW:
        raise UsageError(f"`{below or cids.format_cid(cid)}` is no file")
    else:
        with place.open("xb") as file:
            for piece in stream(files.read(cid), get):
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
