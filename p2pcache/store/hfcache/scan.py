"""What revisions a Hugging Face cache holds, and which bytes on the disk each of them needs.

Reads only. A payload is the regular file at the end of the links, by its inode: one that several
repositories share, through the shared store or through hard links, counts once.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from p2pcache.store import durable
from p2pcache.store.hfcache import layout, read
from p2pcache.store.hfcache.layout import RepoFolder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_GONE = (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.ELOOP)


@dataclass(frozen=True, slots=True)
class Payload:
    """Bytes on the disk. `used_at`, `changed_at`: unix seconds, by the file system's clock; where
    it keeps no times of access, `used_at` is that of the last write. `links`: names of the inode.
    """

    inode: tuple[int, int]
    size: int
    used_at: float
    changed_at: float
    links: int


@dataclass(frozen=True, slots=True)
class CachedFile:
    """One file of a snapshot. `etag_hex` None: there is no link, and so no name for its bytes."""

    path: str
    etag_hex: str | None
    source: Path
    payload: Payload


@dataclass(frozen=True, slots=True)
class CachedRevision:
    """A snapshot. `refs`: the names that mean it here. `unusable`: paths whose bytes are not here,
    or that lead out of the cache. `changed_at`: of the newest of its files and folders.
    """

    repo: RepoFolder
    commit: str
    refs: tuple[str, ...]
    files: tuple[CachedFile, ...]
    unusable: tuple[str, ...]
    used_at: float
    changed_at: float

    @property
    def size(self) -> int:
        """Bytes of its files, each payload once."""
        return sum({f.payload.inode: f.payload.size for f in self.files}.values())


@dataclass(frozen=True, slots=True)
class LooseBlob:
    """A finished blob of a repository that no snapshot shows. `name`: in its `blobs/`."""

    repo: RepoFolder
    name: str
    payload: Payload


@dataclass(frozen=True, slots=True)
class Cached:
    """All of a cache. `partial_bytes`: of what others are downloading; never counted elsewhere."""

    revisions: tuple[CachedRevision, ...]
    loose: tuple[LooseBlob, ...]
    partial_bytes: int

    @property
    def total_bytes(self) -> int:
        """Of all payloads, each once."""
        return sum(self.payloads.values())

    @property
    def payloads(self) -> dict[tuple[int, int], int]:
        """The size of each payload, by its inode."""
        files = {f.payload.inode: f.payload.size for one in self.revisions for f in one.files}
        return files | {blob.payload.inode: blob.payload.size for blob in self.loose}


def scan(cache_dir: Path) -> Cached:
    """Look at all of it; what goes away meanwhile is left out. Blocking. Raises LocalFault."""
    revisions: list[CachedRevision] = []
    loose: list[LooseBlob] = []
    partial_bytes = 0
    for repo_type, repo_id in read.repos(cache_dir):
        repo = RepoFolder(repo_type, repo_id)
        of_repo = list(repo_revisions(cache_dir, repo))
        revisions += of_repo
        shown = shown_names(cache_dir.resolve() / repo.name)
        for name in _names(cache_dir.resolve() / repo.name / "blobs"):
            path = cache_dir.resolve() / repo.name / "blobs" / name
            if not layout.is_etag(name):
                partial_bytes += _size(path)
            elif shown is not None and name not in shown:
                source = read.find_blob(cache_dir, repo_type, repo_id, name)
                payload = None if source is None else _payload(source)
                if payload is not None:
                    loose.append(LooseBlob(repo, name, payload))
    return Cached(tuple(revisions), tuple(loose), partial_bytes)


def repo_revisions(cache_dir: Path, repo: RepoFolder) -> Iterator[CachedRevision]:
    """The snapshots of one repository, by commit. Blocking. Raises LocalFault."""
    named: dict[str, list[str]] = {}
    for ref, commit in sorted(read.refs(cache_dir, repo.repo_type, repo.repo_id).items()):
        named.setdefault(commit, []).append(ref)
    folder = cache_dir.resolve() / repo.name
    for commit in sorted(_names(folder / "snapshots")):
        top = folder / "snapshots" / commit
        if not layout.is_git_sha1(commit) or not _is_folder(top):
            continue
        files, changed_at = [], _changed_at(top)
        found = read.snapshot_files(cache_dir, repo.repo_type, repo.repo_id, commit)
        for file in found:
            payload = _payload(file.source)
            if payload is None:
                continue
            changed_at = max(changed_at, payload.changed_at, _changed_at(top / file.path))
            files.append(CachedFile(file.path, file.etag_hex, file.source, payload))
        usable = {file.path for file in files}
        unusable = [path for path in _entries(top) if path not in usable]
        yield CachedRevision(
            repo, commit, tuple(named.get(commit, ())), tuple(files), tuple(sorted(unusable)),
            max((f.payload.used_at for f in files), default=changed_at), changed_at,
        )  # fmt: skip


def shown_names(folder: Path) -> set[str] | None:
    """The last part of what each link of a repository's snapshots points to, also of those that are
    no commit's: not every hub has git. None: not all of it may be read. Blocking. Raises
    LocalFault.
    """
    found = set()
    with durable.local_faults(f"looking for what {folder} shows"):
        try:
            for top, folders, names in os.walk(folder / "snapshots", onerror=_unless_gone):
                for name in (*folders, *names):
                    path = os.path.join(top, name)
                    if os.path.islink(path):
                        found.add(os.path.basename(os.readlink(path)))
        except PermissionError:
            return None
    return found


def _unless_gone(exc: OSError) -> None:
    if not isinstance(exc, FileNotFoundError | NotADirectoryError):
        raise exc


def _entries(top: Path) -> Iterator[str]:
    """Everything below a snapshot but folders; no link is followed."""
    for folder, _, names in os.walk(top):
        below = os.path.relpath(folder, top)
        for name in names:
            yield name if below == "." else f"{below}/{name}"


def _payload(path: Path) -> Payload | None:
    try:
        found = path.lstat()
    except OSError:
        return None
    if not stat.S_ISREG(found.st_mode):
        return None
    return Payload(
        (found.st_dev, found.st_ino), found.st_size, max(found.st_atime, found.st_mtime),
        max(found.st_mtime, found.st_ctime), found.st_nlink,
    )  # fmt: skip


def _changed_at(path: Path) -> float:
    try:
        found = path.lstat()
    except OSError:
        return 0.0
    return max(found.st_mtime, found.st_ctime)


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:
        return 0


def _names(folder: Path) -> list[str]:
    with durable.local_faults(f"listing {folder}"):
        try:
            return sorted(os.listdir(folder))
        except OSError as exc:
            if exc.errno in _GONE:
                return []
            raise
