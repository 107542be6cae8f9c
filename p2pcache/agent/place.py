"""Shows a finished pull where its caller wants it: the hub cache, a folder, or the store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from p2pcache.content import digests, refs
from p2pcache.store.folder import FolderFile, materialise_folder
from p2pcache.store.hfcache.write import HubFile, materialise

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from p2pcache.agent.get import GetRequest
    from p2pcache.sources.port import ListedFile
    from p2pcache.store.blobs import BlobInfo
    from p2pcache.transfer.resolve import Resolution


@dataclass(frozen=True, slots=True)
class Placed:
    """`path`: what the caller opens. `link_kind`: how files came there, None when nothing did."""

    path: Path | None
    link_kind: str | None
    notes: tuple[str, ...]


def place(
    request: GetRequest,
    resolution: Resolution,
    files: Sequence[ListedFile],
    blobs: Mapping[str, BlobInfo],
) -> Placed:
    """Blocking. Writes links where links work; never touches what is already right."""
    single = _single(request.ref, files)
    if request.to is not None:
        return _in_folder(request, request.to, files, blobs, single)
    if request.hf_cache is not None and isinstance(request.ref, refs.HfRef):
        return _in_hub_cache(request, request.ref, request.hf_cache, resolution, files, blobs)
    return Placed(blobs[single.path].path if single is not None else None, None, ())


def _single(ref: refs.Ref, files: Sequence[ListedFile]) -> ListedFile | None:
    """The file, when the ref means one file rather than a folder that has one."""
    if len(files) != 1:
        return None
    if isinstance(ref, refs.HfRef):
        return files[0] if ref.path == files[0].path else None
    return files[0]


def _in_folder(
    request: GetRequest,
    folder: Path,
    files: Sequence[ListedFile],
    blobs: Mapping[str, BlobInfo],
    single: ListedFile | None,
) -> Placed:
    wanted = [
        FolderFile(f.path, blobs[f.path].size, blobs[f.path].sha256, blobs[f.path].path)
        for f in files
    ]
    done = materialise_folder(folder, wanted, links=request.links)
    path = folder / single.path if single is not None else folder
    return Placed(path, done.link_kind, done.notes)


def _in_hub_cache(
    request: GetRequest,
    ref: refs.HfRef,
    cache: Path,
    resolution: Resolution,
    files: Sequence[ListedFile],
    blobs: Mapping[str, BlobInfo],
) -> Placed:
    commit = resolution.listing.immutable
    if commit is None:
        return Placed(None, None, ("the hub gave no commit: not put into its cache",))
    revision = ref.revision or refs.DEFAULT_REVISION
    whole = ref.path is None and len(files) == len(resolution.listing.files)
    done = materialise(
        cache,
        ref.repo_type,
        ref.repo_id,
        commit,
        [revision] if resolution.listing.mutable else [],
        [_hub_file(f, blobs[f.path]) for f in files],
        links=request.links,
        whole_tree=whole,
    )
    single = _single(ref, files)
    path = done.snapshot / single.path if single is not None else done.snapshot
    return Placed(path, done.link_kind, done.notes)


def _hub_file(file: ListedFile, blob: BlobInfo) -> HubFile:
    digest = file.digest or blob.digest
    etag = digests.raw(digest).hex()
    return HubFile(
        path=file.path,
        etag=etag,
        size=blob.size,
        source=blob.path,
        oid=file.oid,
        lfs_sha256=None if digests.is_git_sha1(digest) else etag,
    )
