"""Show verified files in a plain folder that belongs to the user (`get --to DIR`).

A folder is edited where a cache is not, and root ignores mode 0444: a hard link that somebody
writes through would damage the store. So reflinks come first (free, and private), hard links are
for large files only, and small files, the ones that people edit, are copied.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from p2pcache.content.names import safe_path
from p2pcache.errors import UsageError
from p2pcache.store.links import LinkKind, is_stamped, source_state
from p2pcache.store.placing import Placed, Tree, target_faults

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

COPIED_BELOW_BYTES = 1 << 20  # configs, tokenizers, READMEs; copying one costs under a millisecond
_ANY_WRITE = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH
_STEP_BYTES = 1 << 20  # of a comparison: fits the CPU's cache, few calls


@dataclass(frozen=True, slots=True)
class FolderFile:
    """One file to show: its path below the folder, its size in bytes, a verified file with them."""

    path: str
    size: int
    source: Path


def materialise_folder(
    directory: Path,
    files: Sequence[FolderFile],
    *,
    links: bool = True,
    on_file: Callable[[str], None] | None = None,
) -> Placed:
    """Make `directory` (made when missing) show `files`, and leave everything else in it alone.

    A file that is equal already is left, one that differs is replaced in one step and named in
    `replaced`. `links=False` never makes hard links: every file is then the user's own, mode
    0666 & ~umask; with them a large file may be a read-only hard link into the store (mode 0444).
    `on_file` is called with each path before it is placed; what it raises stops between two files.

    Nothing is written before every name was checked. Raises Untrusted (a name), UsageError (two
    files of one path), DiskFull, LocalFault (a symbolic link or a file where a folder has to be).
    """
    paths = [safe_path(file.path) for file in files]
    if len(set(paths)) != len(paths):
        raise UsageError("a path is listed twice")
    with Tree(directory) as tree:
        placed = Placed(tree.path)
        placed.collisions = tree.check_case(paths)
        for file in sorted(files, key=lambda file: file.path):
            if on_file is not None:
                on_file(file.path)
            _place(tree, file, links, placed)
    return placed


def _place(tree: Tree, file: FolderFile, links: bool, placed: Placed) -> None:
    source = source_state(file.source, file.size)
    found = tree.state(file.path)
    if found is not None:
        if _is_equal(tree, file, links, found, source):
            placed.kept += 1
            return
        placed.replaced.append(file.path)
    kinds = [LinkKind.REFLINK, LinkKind.COPY]
    sealed = not source.st_mode & _ANY_WRITE  # an adopted file may be written to by its owner
    if links and sealed and file.size >= COPIED_BELOW_BYTES:
        kinds.insert(1, LinkKind.HARD_LINK)
    placed.made[tree.place(file.source, file.path, kinds)] += 1


def _is_equal(
    tree: Tree, file: FolderFile, links: bool, found: os.stat_result, source: os.stat_result
) -> bool:
    if not stat.S_ISREG(found.st_mode) or found.st_size != source.st_size:
        return False
    if os.path.samestat(found, source):
        return links or found.st_nlink == 1  # one name: the adopted file itself, already theirs
    # Small ones are always read: two of them can be written within one tick of the clock.
    if file.size >= COPIED_BELOW_BYTES and is_stamped(found, source):
        return True
    with (
        target_faults("comparing", tree.path, file.path),
        file.source.open("rb") as ours,
        os.fdopen(tree.open(file.path), "rb") as theirs,
    ):
        while step := ours.read(_STEP_BYTES):
            if step != theirs.read(_STEP_BYTES):
                return False
        return not theirs.read(1)
