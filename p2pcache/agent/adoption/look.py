"""Which files of a folder are read in place. Blocking; opens folders, and no file.

Nothing is followed: a link, to a file or to a folder, is left out. What it points to is taken by
its own name if it lies in the folder, and else is none of ours. Each folder is opened below the one
that it was found in, so that one that somebody replaces by a link meanwhile leads nowhere.
"""

from __future__ import annotations

import os
import re
import stat
from collections import Counter
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from p2pcache.content.names import safe_path
from p2pcache.errors import LocalFault, NotFound, Untrusted, UsageError
from p2pcache.store.adoptions import HUB, FileState

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

FOLDER, OLLAMA = "folder", "ollama"
MAX_FILES = 1_000_000  # as a manifest; more are left out
MAX_DEPTH = 64  # folders in folders: each is an open descriptor while we are below it
MAX_NUMBER = (1 << 63) - 1  # of a device or inode: what SQLite holds

# What is still being written, by the names that downloaders and editors give it.
_PARTIAL = (
    "*.incomplete", "*-partial*", "*.tmp", ".tmp*", "*.part", "*.partial", "*.crdownload",
    "*.aria2", "*.download", "*.swp", "*.lock", "*~",
)  # fmt: skip
_REPO = re.compile(r"(models|datasets|spaces)--.+")
_HUB_NAME = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_OLLAMA_BLOB = re.compile(r"sha256-[0-9a-f]{64}")


@dataclass(slots=True)
class Found:
    """`files`: by the path below the folder. `left_out`: how many were not taken, by reason."""

    files: dict[str, FileState] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)


def known_kind(path: str) -> tuple[str, str]:
    """The folder that is meant, real and absolute, and what it is: a Hugging Face cache, Ollama's
    store, or any folder. Of HF_HOME the cache in it is meant, of `~/.ollama` the store in it.

    Raises NotFound, UsageError (no folder, or all of the machine), LocalFault.
    """
    real = os.path.realpath(path)
    try:
        if not stat.S_ISDIR(os.stat(real).st_mode):
            raise UsageError(
                f"{path} is a file", hint="`p2pcache adopt` takes folders, `p2pcache push` files"
            )
        for inner, kind in (("", None), ("hub", HUB), ("models", OLLAMA)):
            folder = os.path.join(real, inner) if inner else real
            found = _kind(folder)
            if found is not None and kind in (None, found):
                return os.path.realpath(folder), found
    except FileNotFoundError as exc:
        raise NotFound(f"there is no folder {path}") from exc
    except OSError as exc:
        raise LocalFault(f"cannot look into {path}: {exc.strerror}") from exc
    if os.path.dirname(real) == real:
        raise UsageError(
            f"{path} is the whole machine, and its files would be offered to other agents",
            hint="name the folder that the models are in",
        )
    return real, FOLDER


def _kind(folder: str) -> str | None:
    try:
        with os.scandir(folder) as entries:
            names = {entry.name for entry in entries if entry.is_dir(follow_symlinks=False)}
    except (FileNotFoundError, NotADirectoryError):
        return None
    if {"blobs", "manifests"} <= names:
        with os.scandir(os.path.join(folder, "blobs")) as entries:
            if any(entry.name.startswith("sha256-") for entry in entries):
                return OLLAMA
    return HUB if any(_REPO.fullmatch(name) for name in names) else None


def look(folder: str, kind: str, ours: Collection[tuple[int, int]] = ()) -> Found:
    """Every file to be taken. `ours`: (device, inode) of folders of this agent: nothing in them.

    Raises NotFound when the folder is not there, LocalFault when it cannot be read.
    """
    found = Found()
    try:
        top = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError) as exc:
        raise NotFound(f"there is no folder {folder}") from exc
    except OSError as exc:
        raise LocalFault(f"cannot look into {folder}: {exc.strerror}") from exc
    try:
        for path, state in _walk(top, "", 0, frozenset(ours), found.left_out):
            if not _is_of_kind(kind, path):
                continue
            if len(found.files) >= MAX_FILES:
                found.left_out["too many"] += 1
                break
            found.files[path] = state
    finally:
        os.close(top)
    return found


def _is_of_kind(kind: str, path: str) -> bool:
    """Whether it is content, and no bookkeeping of the program whose cache this is."""
    parts = path.split("/")
    if kind == OLLAMA:
        is_blob = len(parts) == 2 and _OLLAMA_BLOB.fullmatch(parts[1]) is not None
        return (parts[0] == "blobs" and is_blob) or (parts[0] == "manifests" and len(parts) > 1)
    if kind == HUB:
        if parts[0] == "blobs":  # shared by repositories, since huggingface_hub 1.33
            return len(parts) == 3 and _HUB_NAME.fullmatch(parts[2]) is not None
        inside = _REPO.fullmatch(parts[0]) is not None and len(parts) > 2
        if inside and parts[1] == "blobs":
            return len(parts) == 3 and _HUB_NAME.fullmatch(parts[2]) is not None
        return inside and parts[1] == "snapshots"  # where links do not work, files lie there
    return True


def _walk(
    parent: int, prefix: str, depth: int, ours: frozenset[tuple[int, int]], left_out: Counter[str]
) -> Iterator[tuple[str, FileState]]:
    with os.scandir(parent) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        try:
            path = safe_path(prefix + entry.name)
        except Untrusted:
            left_out["name"] += 1
            continue
        try:
            status = entry.stat(follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                if (status.st_dev, status.st_ino) in ours:
                    continue
                if depth >= MAX_DEPTH:
                    left_out["too deep"] += 1
                    continue
                yield from _below(parent, entry.name, path, depth, ours, left_out)
                continue
        except OSError:
            left_out["unreadable"] += 1
            continue
        reason = _why_not(parent, entry.name, status)
        if reason is None:
            yield path, FileState.of(status)
        else:
            left_out[reason] += 1


def _below(
    parent: int,
    name: str,
    path: str,
    depth: int,
    ours: frozenset[tuple[int, int]],
    left_out: Counter[str],
) -> Iterator[tuple[str, FileState]]:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    child = os.open(name, flags, dir_fd=parent)
    try:
        yield from _walk(child, path + "/", depth + 1, ours, left_out)
    finally:
        os.close(child)


def _why_not(parent: int, name: str, status: os.stat_result) -> str | None:
    if stat.S_ISLNK(status.st_mode):
        return "link"
    if not stat.S_ISREG(status.st_mode):
        return "special file"
    if any(fnmatchcase(name, pattern) for pattern in _PARTIAL):
        return "partial"
    if max(status.st_dev, status.st_ino) > MAX_NUMBER:
        return "unreadable"
    if not os.access(name, os.R_OK, dir_fd=parent, follow_symlinks=True):
        return "unreadable"
    return None
