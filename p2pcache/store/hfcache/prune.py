"""Make room in a Hugging Face cache: which revisions go is decided here (pure), then done.

What goes is whole snapshots that no ref names, the one first that was used longest ago, then what
no other snapshot needs of their blobs. What another process may be at is left: every partial, and
what changed within `GRACE_S`.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from p2pcache.store import durable
from p2pcache.store.hfcache import layout, read
from p2pcache.store.hfcache.scan import shown_names

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from p2pcache.store.hfcache.layout import RepoFolder
    from p2pcache.store.hfcache.scan import Cached, CachedRevision, LooseBlob

GRACE_S = 3600.0  # between a blob's arrival and its link are seconds, in a large snapshot minutes


@dataclass(frozen=True, slots=True)
class PrunePlan:
    """What goes. `left_bytes`: what is there afterwards; more than the budget if that cannot be met
    with what may go. `named_bytes`, `recent_bytes`: why, of what stays: it has a ref, or is in use.
    """

    revisions: tuple[CachedRevision, ...]
    loose: tuple[LooseBlob, ...]
    total_bytes: int
    left_bytes: int
    named_bytes: int
    recent_bytes: int

    @property
    def freed_bytes(self) -> int:
        """Of payloads that nothing in this cache needs then."""
        return self.total_bytes - self.left_bytes


@dataclass(slots=True)
class Pruned:
    """What was done. `freed_bytes`: gone from the cache; `elsewhere_bytes` of them: still on the
    disk, under another name (in p2pcache's store, as a rule). `notes`: what could not be removed.
    """

    freed_bytes: int = 0
    elsewhere_bytes: int = 0
    notes: list[str] = field(default_factory=list)


def plan_prune(cached: Cached, budget_bytes: int, now: float) -> PrunePlan:
    """Choose until what is left fits the budget, or nothing more may go. Pure; `now`: unix s."""
    sizes = cached.payloads
    needed: dict[tuple[int, int], int] = {}
    for inode in _inodes(cached.revisions):
        needed[inode] = needed.get(inode, 0) + 1
    for blob in cached.loose:
        needed[blob.payload.inode] = needed.get(blob.payload.inode, 0) + 1
    left = total = sum(sizes.values())
    loose, gone = [], []

    def drop(inodes: Iterable[tuple[int, int]]) -> int:
        freed = 0
        for inode in inodes:
            needed[inode] -= 1
            freed += 0 if needed[inode] else sizes[inode]
        return freed

    for blob in sorted(cached.loose, key=lambda blob: blob.payload.used_at):
        if left > budget_bytes and not _is_recent(blob.payload.changed_at, now):
            loose.append(blob)
            left -= drop([blob.payload.inode])
    for one in sorted(cached.revisions, key=lambda one: (one.used_at, one.commit)):
        if left > budget_bytes and not one.refs and not _is_recent(one.changed_at, now):
            gone.append(one)
            left -= drop({file.payload.inode for file in one.files})
    stay = [one for one in cached.revisions if one not in gone]
    named = {inode for inode in _inodes(one for one in stay if one.refs)}
    recent = {inode for inode, count in needed.items() if count} - named
    return PrunePlan(
        tuple(gone), tuple(loose), total, left,
        sum(sizes[inode] for inode in named), sum(sizes[inode] for inode in recent),
    )  # fmt: skip


def _inodes(revisions: Iterable[CachedRevision]) -> list[tuple[int, int]]:
    """Each payload once a revision."""
    return [inode for one in revisions for inode in {file.payload.inode for file in one.files}]


def _is_recent(changed_at: float, now: float) -> bool:
    return changed_at > now - GRACE_S


def prune(
    cache_dir: Path, plan: PrunePlan, now: float, on_item: Callable[[], None] | None = None
) -> Pruned:
    """Do it. A snapshot is there as a whole or not at all; then its blobs go, unless one that was
    made meanwhile needs them. `on_item` is called before each; what it raises stops the work there,
    and the next run goes on. Blocking. Raises LocalFault.
    """
    done = Pruned()
    root = cache_dir.resolve()
    blobs: dict[RepoFolder, dict[str, int]] = {}
    for one in plan.revisions:
        if on_item is not None:
            on_item()
        folder = root / one.repo.name
        with durable.local_faults(f"removing {one.commit} of {one.repo.repo_id}"):
            _remove_snapshot(folder, one.commit)
        names = blobs.setdefault(one.repo, {})
        for file in one.files:
            if file.etag_hex is None:  # a copy, where links do not work: it went with the snapshot
                done.freed_bytes += file.payload.size
            else:
                names[file.etag_hex] = file.payload.size
    for blob in plan.loose:
        blobs.setdefault(blob.repo, {})[blob.name] = blob.payload.size
    for repo, names in blobs.items():
        if on_item is not None:
            on_item()
        with durable.local_faults(f"removing blobs of {repo.repo_id}"):
            _remove_blobs(root, repo, names, now, done)
            _tidy(root / repo.name)
    return done


def _remove_snapshot(folder: Path, commit: str) -> None:
    """By a rename first: a reader never sees a part of it."""
    aside = folder / f".p2pcache-{secrets.token_hex(8)}"
    with contextlib.suppress(FileNotFoundError):
        os.rename(folder / layout.snapshot_path(commit), aside)
        shutil.rmtree(aside)
    (folder / layout.tree_path(commit)).unlink(missing_ok=True)
    marks = folder / layout.no_exist_path(commit)
    if marks.is_dir() and not marks.is_symlink():
        shutil.rmtree(marks)


def _remove_blobs(
    root: Path, repo: RepoFolder, names: Iterable[str], now: float, done: Pruned
) -> None:
    """Those that no snapshot shows now; none where that cannot be told."""
    shown = shown_names(root / repo.name)
    if shown is None:
        done.notes.append(f"blobs of {repo.repo_id} stay: not all of its snapshots may be read")
        return
    for name in sorted(set(names) - shown):
        link = root / repo.name / layout.blob_path(name)
        payload = read.find_blob(root, repo.repo_type, repo.repo_id, name)
        try:
            found = link.lstat()
        except FileNotFoundError:
            continue
        if payload is None or _is_recent(max(found.st_mtime, found.st_ctime), now):
            continue  # no blob of ours, or one that somebody uses again
        before = payload.stat()
        shared = payload if payload != link else None
        link.unlink()
        if shared is not None and not _sweep(shared, root, done):
            continue
        done.freed_bytes += before.st_size
        done.elsewhere_bytes += before.st_size if before.st_nlink > 1 else 0


def _sweep(payload: Path, root: Path, done: Pruned) -> bool:
    """Remove a shared payload, if nothing else refers to it, by the rules and under the lock of its
    owner; whether it is gone. What they cannot tell stays: a leak is no loss.
    """
    try:
        from huggingface_hub.utils import _shared_blobs

        return bool(_shared_blobs.sweep_shared_blob(payload, cache_dir=root))
    except (ImportError, AttributeError):  # a version that does not know its own successors' store
        done.notes.append(f"{payload} stays: this huggingface_hub has no shared blobs")
        return False


def _tidy(folder: Path) -> None:
    """Remove folders that are empty now; somebody's partial keeps them."""
    for name in ("blobs", "snapshots", "trees", ".no_exist", "refs", ""):
        with contextlib.suppress(OSError):
            os.rmdir(folder / name)
