"""Which files of a resolution a call means, and how they are shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from p2pcache.content import cid as cids
from p2pcache.content import digests
from p2pcache.content.patterns import Selection
from p2pcache.errors import NotFound
from p2pcache.store.blobs import BlobInfo

if TYPE_CHECKING:
    from collections.abc import Sequence

    from p2pcache.sources.port import ListedFile
    from p2pcache.store.rooted import AnyBlob
    from p2pcache.transfer.resolve import Resolution


def chosen_files(
    resolution: Resolution, include: Sequence[str], exclude: Sequence[str]
) -> list[ListedFile]:
    """The files that the patterns leave. Raises NotFound when that is none of several."""
    files = resolution.listing.files
    selection = Selection(include, exclude)
    kept = [f for f in files if selection.takes(f.path)]
    if files and not kept:
        raise NotFound(
            f"no file of `{resolution.canonical}` matches",
            hint="see the names with `p2pcache resolve`; `*` also crosses `/`",
        )
    return kept


def summary(resolution: Resolution) -> dict[str, Any]:
    """The head of a `resolve` answer."""
    manifest = resolution.manifest
    return {
        "canonical": resolution.canonical,
        "manifest": None if manifest is None else cids.format_cid(manifest.cid()),
        "immutable": resolution.listing.immutable,
        "mutable": resolution.listing.mutable,
        "source": resolution.listing.source,
        "endpoint": resolution.listing.endpoint,
        "resolved_at": resolution.resolved_at,
        "from_record": resolution.from_record,
        "gated": resolution.listing.gated,
        "total_bytes": resolution.total_bytes,
        "file_count": len(resolution.listing.files),
        "notes": list(resolution.notes),
    }


def shown(file: ListedFile, blob: AnyBlob | None, root: bytes | None = None) -> dict[str, Any]:
    """One file of a `resolve` answer: every name that is known for it. `root`: which was proven for
    its digest when it was here.
    """
    sha256 = blob.sha256.hex() if isinstance(blob, BlobInfo) else None
    git_sha1 = None
    if file.digest is not None:
        raw = digests.raw(file.digest).hex()
        if digests.is_git_sha1(file.digest):
            git_sha1 = raw
        else:
            sha256 = raw
    root = root or file.root if blob is None else blob.root_cid
    return {
        "path": file.path,
        "size": file.size,
        "sha256": sha256,
        "git_sha1": git_sha1,
        "root": None if root is None else cids.format_cid(root),
        "present": blob is not None,
    }
