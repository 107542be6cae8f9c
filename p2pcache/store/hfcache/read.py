"""What a Hugging Face cache holds. Reads only, and only inside the cache.

Everything here is a claim of whoever wrote the cache: names say what a file should be. What cannot
be used (a dangling or escaping link, an unreadable tree, a misnamed file) counts as not there; a
name that the caller brings and that no Hub could have given is refused with `Untrusted`.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from p2pcache.content.names import safe_path
from p2pcache.errors import Untrusted, UsageError
from p2pcache.store import durable
from p2pcache.store.hfcache import layout
from p2pcache.store.hfcache.layout import RepoFolder

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_HOPS = 2  # snapshot -> repository blob -> shared payload: huggingface_hub makes no longer chain
MAX_TREE_BYTES = 256 << 20  # a million files of 256 bytes each: as many as a manifest may have
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.ELOOP, errno.ENAMETOOLONG)


@dataclass(frozen=True, slots=True)
class SnapshotFile:
    """A file of a snapshot. `etag_hex`: what its blob's name claims, None without a link.

    `source`: the regular file with the bytes. `size`: of that file now.
    """

    path: str
    etag_hex: str | None
    size: int
    source: Path


@dataclass(frozen=True, slots=True)
class TreeFile:
    """One file as the Hub listed it. `blob_id`: git's id, of the pointer text for LFS files."""

    path: str
    size: int
    blob_id: str
    lfs_sha256: str | None = None
    xet_hash: str | None = None

    @property
    def etag_hex(self) -> str:
        """The name of its blob in the cache."""
        return self.lfs_sha256 or self.blob_id


def repos(cache_dir: Path) -> list[tuple[str, str]]:
    """(repo type, repo id) of every repository here, sorted; shared blobs and the like left out."""
    found = []
    for name in _names(cache_dir.resolve()):
        with suppress(UsageError):
            folder = repo_of_folder(name)
            found.append((folder.repo_type, folder.repo_id))
    return sorted(found)


def repo_of_folder(name: str) -> RepoFolder:
    """Whose folder `models--org--name` is. Raises UsageError for what is no repository's."""
    kind, _, rest = name.partition("--")
    folder = RepoFolder(kind.removesuffix("s"), rest.replace("--", "/"))
    if folder.name != name:
        raise UsageError(f"`{name[:100]}` is no folder of a repository")
    return folder


def resolve_revision(cache_dir: Path, repo_type: str, repo_id: str, revision: str) -> str | None:
    """The commit that the revision meant when it was last fetched; None if unknown here."""
    root, folder = _open(cache_dir, repo_type, repo_id)
    path = _confined(root, folder / layout.ref_path(revision), hops=0)
    text = None if path is None else _read_text(path, 41)  # 40 digits, perhaps a newline
    return text.strip() if text is not None and layout.is_git_sha1(text.strip()) else None


def refs(cache_dir: Path, repo_type: str, repo_id: str) -> dict[str, str]:
    """Every revision name that is known here, and its commit."""
    root, folder = _open(cache_dir, repo_type, repo_id)
    names = [name for name, _ in _walk(root, folder / "refs")]
    known = {name: resolve_revision(cache_dir, repo_type, repo_id, name) for name in names}
    return {name: commit for name, commit in known.items() if commit is not None}


def find_blob(cache_dir: Path, repo_type: str, repo_id: str, etag_hex: str) -> Path | None:
    """The regular file that this repository calls `etag_hex`, behind at most MAX_HOPS links.

    None when it is not here, not finished, or leads out of the cache. Hash it before use.
    """
    root, folder = _open(cache_dir, repo_type, repo_id)
    return _confined(root, folder / layout.blob_path(etag_hex), hops=MAX_HOPS)


def snapshot_files(
    cache_dir: Path, repo_type: str, repo_id: str, commit: str
) -> tuple[SnapshotFile, ...]:
    """The usable files of a snapshot, sorted by path; empty if there is none.

    It may be partial: compare with `tree`. The etag is the name after one hop: after two it would
    be the xet hash of a shared payload.
    """
    root, folder = _open(cache_dir, repo_type, repo_id)
    found = []
    for path, entry in _walk(root, folder / layout.snapshot_path(commit)):
        source = _confined(root, entry, hops=MAX_HOPS)
        if source is None:
            continue
        with durable.local_faults(f"looking at {source}"):
            size = source.stat().st_size
        found.append(SnapshotFile(path, _etag_of(entry, folder / "blobs"), size, source))
    return tuple(sorted(found, key=lambda file: file.path))


def tree(cache_dir: Path, repo_type: str, repo_id: str, commit: str) -> tuple[TreeFile, ...] | None:
    """Every file that the commit has, sorted by path; None when this cache does not know.

    Also None when the list is not readable (huggingface_hub makes it 0600), of another format, or
    holds a name or a size that no Hub gives.
    """
    root, folder = _open(cache_dir, repo_type, repo_id)
    path = _confined(root, folder / layout.tree_path(commit), hops=0)
    text = None if path is None else _read_text(path, MAX_TREE_BYTES)
    return None if text is None else parse_tree(text)


def no_exist(cache_dir: Path, repo_type: str, repo_id: str, commit: str) -> frozenset[str]:
    """Paths of which the Hub said that the commit does not have them."""
    root, folder = _open(cache_dir, repo_type, repo_id)
    marks = folder / layout.no_exist_path(commit)
    return frozenset(path for path, _ in _walk(root, marks))


def parse_tree(text: str) -> tuple[TreeFile, ...] | None:
    """The content of a `trees/` file; None unless all of it is as huggingface_hub writes it."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, dict) or not isinstance(document.get("files"), dict):
        return None
    if document.get("format_version") != layout.TREE_FORMAT_VERSION:
        return None
    files = [_tree_file(path, entry) for path, entry in document["files"].items()]
    good = [file for file in files if file is not None]
    return tuple(sorted(good, key=lambda f: f.path)) if len(good) == len(files) else None


def _tree_file(path: str, entry: object) -> TreeFile | None:
    if not isinstance(entry, dict):
        return None
    size, blob_id, sha256 = entry.get("size"), entry.get("blob_id"), entry.get("lfs_sha256")
    xet_hash = entry.get("xet_hash")
    if type(size) is not int or size < 0 or not isinstance(blob_id, str):
        return None
    if not layout.is_git_sha1(blob_id) or not isinstance(xet_hash, str | None):
        return None
    if sha256 is not None and not (isinstance(sha256, str) and layout.is_sha256(sha256)):
        return None
    try:
        return TreeFile(safe_path(path), size, blob_id, sha256, xet_hash)
    except Untrusted:
        return None


def _open(cache_dir: Path, repo_type: str, repo_id: str) -> tuple[Path, Path]:
    """The cache's real root and the repository's folder. The root itself may be behind a link."""
    root = Path(os.path.realpath(cache_dir))
    return root, root / RepoFolder(repo_type, repo_id).name


def _confined(root: Path, path: Path, *, hops: int) -> Path | None:
    """The regular file at the end of at most `hops` links, none of which leaves `root`."""
    for _ in range(hops + 1):
        # With a parent that is real, normpath below is exact: no link can hide before a `..`.
        if not path.is_relative_to(root) or os.path.realpath(path.parent) != str(path.parent):
            return None
        with durable.local_faults(f"looking at {path}"):
            try:
                found = path.lstat()
                if stat.S_ISREG(found.st_mode):
                    return path
                if not stat.S_ISLNK(found.st_mode):
                    return None
                path = Path(os.path.normpath(path.parent / os.readlink(path)))
            except OSError as exc:
                if exc.errno in _ABSENT or exc.errno == errno.EINVAL:  # EINVAL: no longer a link
                    return None
                raise
    return None


def _etag_of(entry: Path, blobs: Path) -> str | None:
    """The blob's name that a snapshot link points to, after one hop."""
    try:
        target = Path(os.path.normpath(entry.parent / os.readlink(entry)))
    except OSError:  # a regular file: written where links do not work
        return None
    return target.name if target.parent == blobs and layout.is_etag(target.name) else None


def _walk(root: Path, top: Path) -> Iterator[tuple[str, Path]]:
    """(relative path, entry) of everything below `top` but directories. Follows no link."""
    if os.path.realpath(top) != str(top) or not top.is_relative_to(root):
        return
    stack = [""]
    while stack:
        prefix = stack.pop()
        for name in _names(top / prefix):
            try:
                relative = safe_path(f"{prefix}{name}")
            except Untrusted:
                continue
            entry = top / relative
            if entry.is_dir() and not entry.is_symlink():
                stack.append(f"{relative}/")
            else:
                yield relative, entry


def _names(directory: Path) -> list[str]:
    with durable.local_faults(f"listing {directory}"):
        try:
            return os.listdir(directory)
        except OSError as exc:
            if exc.errno in _ABSENT:
                return []
            raise


def _read_text(path: Path, limit_bytes: int) -> str | None:
    """The file's text; None if it is longer, not UTF-8, or not for us to read."""
    with durable.local_faults(f"reading {path}"):
        try:
            with path.open("rb") as file:
                data = file.read(limit_bytes + 1)
        except OSError as exc:
            if exc.errno in _ABSENT:
                return None
            raise
    try:
        return data.decode() if len(data) <= limit_bytes else None
    except UnicodeDecodeError:
        return None
