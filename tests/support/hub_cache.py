"""Hugging Face caches as huggingface_hub leaves them, in both of its layouts, without a hub."""

from __future__ import annotations

import hashlib
import os
import time
from typing import TYPE_CHECKING

from huggingface_hub.utils import _shared_blobs

from p2pcache.store.hfcache.layout import RepoFolder
from p2pcache.store.hfcache.write import LinkedFile, materialise
from p2pcache.store.links import LinkKind

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from tests.support.hub_repo import HubRepo

LAYOUTS = ("old", "shared")  # blobs in each repository; or large ones in a store of all of them


def fill_cache(
    cache: Path, repo: HubRepo, *, layout: str = "old", refs: Iterable[str] = ("main",)
) -> Path:
    """What a download of all of it leaves; gives the snapshot."""
    files = [
        LinkedFile(
            f.path, f.etag, f.size, f.on_disk, oid=f.oid, lfs_sha256=f.sha256 if f.lfs else None
        )
        for f in repo.files.values()
    ]
    cache.mkdir(parents=True, exist_ok=True)
    shown = materialise(
        cache, repo.repo_type, repo.repo_id, repo.commit, files,
        revisions=list(refs), whole_tree=True, kinds=[LinkKind.COPY],
    )  # fmt: skip
    if layout == "shared":
        for file in (f for f in repo.files.values() if f.lfs):
            share(cache, repo, file.etag)
    return shown.directory


def folder_of(cache: Path, repo: HubRepo) -> Path:
    return cache / RepoFolder(repo.repo_type, repo.repo_id).name


def share(cache: Path, repo: HubRepo, etag: str) -> Path:
    """Huggingface_hub's own step: a blob into the shared store, as a download by Xet ends."""
    blob = folder_of(cache, repo) / "blobs" / etag
    xet_hash = hashlib.sha256(b"xet" + bytes.fromhex(etag)).hexdigest()
    assert _shared_blobs.publish_blob_to_shared_store(
        blob_path=str(blob), xet_hash=xet_hash, cache_dir=cache, expected_size=blob.stat().st_size
    )
    assert blob.is_symlink()
    return cache / "blobs" / xet_hash[:2] / xet_hash


def age(cache: Path, days: float = 1.0) -> None:
    """As if nothing of it had been touched for so long. Times of change cannot be set: tests of
    pruning say what time it is.
    """
    then = time.time() - days * 86400
    for folder, _, names in os.walk(cache):
        for name in names:
            os.utime(os.path.join(folder, name), (then, then), follow_symlinks=False)


def same(snapshot: Path, repo: HubRepo) -> None:
    """The snapshot has every file of the repository, to the last byte."""
    for path, file in repo.files.items():
        assert hashlib.sha256((snapshot / path).read_bytes()).hexdigest() == file.sha256, path
