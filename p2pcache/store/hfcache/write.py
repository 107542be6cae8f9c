"""Show verified files in a Hugging Face cache, so that unmodified tools load them offline.

The order is what makes a crash harmless: the tree first (from then on huggingface_hub knows that
the snapshot is incomplete), then blobs, then the snapshot's links, and the refs last. Every step
looks before it writes: done twice, the second time changes nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from p2pcache.content.names import safe_path
from p2pcache.errors import LocalFault, UsageError
from p2pcache.store import durable
from p2pcache.store.hfcache import layout
from p2pcache.store.hfcache.layout import RepoFolder
from p2pcache.store.hfcache.read import MAX_TREE_BYTES, TreeFile, parse_tree
from p2pcache.store.links import ANY_KIND, LinkKind, is_stamped, source_state
from p2pcache.store.placing import Placed, Tree

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

COMPARED_BYTES = 1 << 20  # read twice in 1 ms; of a large file it would cost more than placing it
_TREE_MODE = 0o600  # as huggingface_hub makes it: names of a private repository's files


@dataclass(frozen=True, slots=True)
class LinkedFile:
    """One file of a commit. `path` as the Hub names it; `size` in bytes.

    `etag_hex`: sha256 for LFS files, git sha1 for others: the blob's name in the cache.
    `source`: a verified file with these bytes; None for a file that is known to exist but was not
    selected (it is then listed in the tree and nothing else).
    `oid`: git's id; for LFS files of the pointer text, and computed when it is None.
    """

    path: str
    etag_hex: str
    size: int
    source: Path | None
    oid: str | None = None
    lfs_sha256: str | None = None


def materialise(
    cache_dir: Path,
    repo_type: str,
    repo_id: str,
    commit: str,
    files: Sequence[LinkedFile],
    *,
    revisions: Sequence[str] = (),
    whole_tree: bool = False,
    kinds: Sequence[LinkKind] = ANY_KIND,
    on_file: Callable[[str], None] | None = None,
) -> Placed:
    """Make `snapshots/<commit>` show `files`; gives the snapshot's directory and what was done.

    `revisions`: names that mean this commit now (`main`, `refs/pr/1`). `whole_tree`: `files` is
    everything that the commit has, so the tree is written and a missing file is noticed. `on_file`
    is called with each path before it is placed; what it raises stops the work between two files.

    Nothing is written before every name was checked. Raises Untrusted (a name), UsageError (two
    files of one path), DiskFull, LocalFault (also when a folder of the cache is a symbolic link).
    """
    folder = RepoFolder(repo_type, repo_id)
    shown = _checked(commit, files, revisions)
    with Tree(cache_dir, folder.name) as tree:
        placed = Placed(tree.path / layout.snapshot_path(commit))
        placed.collisions = tree.check_case([entry.file.path for entry in shown])
        _write_tag(tree.path.parent)
        if whole_tree:
            _write_tree(tree, commit, files)
        for entry in shown:
            if on_file is not None:
                on_file(entry.file.path)
            _place_blob(tree, entry, kinds, placed)
        for entry in shown:
            if tree.link_text(entry.pointer) != entry.text:
                tree.symlink(entry.text, entry.pointer)
        _unmark(tree, commit, shown)
        if not shown:
            tree.make(layout.snapshot_path(commit))  # an empty repository has a snapshot too
        for revision in revisions:
            _write_ref(tree, revision, commit)
    return placed


@dataclass(frozen=True, slots=True)
class _Entry:
    """A file to show: `blob` and `pointer` are where it lies, `text` what the link there says."""

    file: LinkedFile
    blob: str
    pointer: str
    text: str


def _checked(commit: str, files: Sequence[LinkedFile], revisions: Sequence[str]) -> list[_Entry]:
    """Those to show, by path. Every name of every argument has passed its check."""
    layout.check_commit(commit)
    for revision in revisions:
        layout.ref_path(revision)
    found: dict[str, _Entry] = {}
    for file in files:
        pointer = layout.snapshot_path(commit, safe_path(file.path))
        entry = _Entry(
            file, layout.blob_path(file.etag_hex), pointer,
            layout.pointer_text(file.path, file.etag_hex),
        )  # fmt: skip
        if file.path in found:
            raise UsageError(f"{file.path!r} is listed twice")
        found[file.path] = entry
    return [found[path] for path in sorted(found) if found[path].file.source is not None]


def _place_blob(tree: Tree, entry: _Entry, kinds: Sequence[LinkKind], placed: Placed) -> None:
    """Show the bytes as `blobs/<etag>`, unless they are there already.

    They are if it is the same inode (linked by us, or adopted from this very cache, shared payload
    or not), our own copy, or a small file with the same bytes: another agent put it there. Anything
    else of that name is replaced, whatever its size: its bytes are unknown, those of `source` are
    verified.
    """
    file, blob = entry.file, entry.blob
    assert file.source is not None
    source = source_state(file.source, file.size)
    found = tree.target(blob)
    if found is not None and (os.path.samestat(found, source) or is_stamped(found, source)):
        placed.kept += 1
        return
    if file.size <= COMPARED_BYTES:
        there = _read(tree, blob, file.size)
        if there is not None and there == file.source.read_bytes():
            placed.kept += 1
            return
    if tree.state(blob) is not None:
        placed.replaced.append(file.path)
    placed.made[tree.place(file.source, blob, kinds)] += 1


def _unmark(tree: Tree, commit: str, shown: Sequence[_Entry]) -> None:
    """Remove marks that say that a file does not exist: huggingface_hub looks at them first."""
    if tree.state(layout.no_exist_path(commit)) is not None:
        for entry in shown:
            tree.remove(layout.no_exist_path(commit, entry.file.path))


def _write_tree(tree: Tree, commit: str, files: Sequence[LinkedFile]) -> None:
    """`trees/<commit>.json`, unless a list that says the same is there.

    One that huggingface_hub wrote may also have xet hashes: it is left. Ours have none, because
    with one huggingface_hub asks for a Xet token and never for the file (no fallback to HTTP).
    """
    wanted = sorted((_listed(file) for file in files), key=lambda file: file.path)
    path = layout.tree_path(commit)
    text = _tree_text(wanted)
    there = _read(tree, path, MAX_TREE_BYTES)
    if there is not None:
        if there == text:
            return  # the usual case, without parsing thousands of entries
        known = parse_tree(there.decode(errors="replace"))
        if known is not None and [_claim(f) for f in known] == [_claim(f) for f in wanted]:
            return
    tree.write(text, path, mode=_TREE_MODE)


def _claim(file: TreeFile) -> tuple[str, int, str]:
    return file.path, file.size, file.etag_hex


def _listed(file: LinkedFile) -> TreeFile:
    sha256 = file.lfs_sha256 or (file.etag_hex if layout.is_sha256(file.etag_hex) else None)
    if sha256 is None:
        return TreeFile(file.path, file.size, file.oid or file.etag_hex)
    return TreeFile(file.path, file.size, file.oid or _pointer_id(sha256, file.size), sha256)


def _pointer_id(sha256: str, size: int) -> str:
    """Git's id of the pointer that stands for an LFS file (git-lfs specification, v1)."""
    text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n"
    return hashlib.sha1(f"blob {len(text)}\0{text}".encode(), usedforsecurity=False).hexdigest()


def _tree_text(files: Sequence[TreeFile]) -> bytes:
    entries: dict[str, dict[str, str | int]] = {}
    for file in files:
        entry: dict[str, str | int] = {"size": file.size, "blob_id": file.blob_id}
        if file.lfs_sha256 is not None:
            entry |= {"lfs_sha256": file.lfs_sha256, "lfs_size": file.size}
        entries[file.path] = entry
    document = {"format_version": layout.TREE_FORMAT_VERSION, "files": entries}
    return json.dumps(document).encode()


def _write_ref(tree: Tree, revision: str, commit: str) -> None:
    if revision == commit:
        return  # huggingface_hub looks for a commit among the snapshots
    path = layout.ref_path(revision)
    if _read(tree, path, len(commit)) != commit.encode():
        tree.write(commit.encode(), path)


def _write_tag(cache_dir: Path) -> None:
    """Let backup programs skip the cache, as huggingface_hub does. A convenience: may fail."""
    with contextlib.suppress(OSError):
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        descriptor = os.open(cache_dir / layout.CACHEDIR_TAG, flags, 0o666)
        try:
            durable.write_all(descriptor, layout.CACHEDIR_TAG_TEXT)
        finally:
            os.close(descriptor)


def _read(tree: Tree, path: str, limit_bytes: int) -> bytes | None:
    """The bytes of a small file; None if there is none, it is longer, or not ours to read."""
    found = tree.state(path)
    if found is None or not stat.S_ISREG(found.st_mode) or found.st_size > limit_bytes:
        return None
    try:
        descriptor = tree.open(path)
    except LocalFault:  # mode 0600 of another user, or gone: writing it tells
        return None
    with os.fdopen(descriptor, "rb") as file:
        return file.read(limit_bytes)
