"""Shows a finished pull where its caller wants it: the caches of others, a folder, or the store."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from p2pcache.agent.ollama import show_given, show_made
from p2pcache.content import digests, refs
from p2pcache.content.registry_refs import OllamaRef
from p2pcache.store.folder import FolderFile, materialise_folder
from p2pcache.store.hfcache.write import LinkedFile, materialise
from p2pcache.store.links import ANY_KIND, LinkKind

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from p2pcache.agent.get import GetRequest
    from p2pcache.sources.port import ListedFile
    from p2pcache.store.placing import Placed as Shown
    from p2pcache.store.rooted import AnyBlob
    from p2pcache.transfer.resolve import Resolution


@dataclass(frozen=True, slots=True)
class Placed:
    """`path`: what the caller opens. `link_kind`: the worst way a file came there, None: none did.

    `made`: how many files came there in which way.
    """

    path: Path | None
    link_kind: str | None
    notes: tuple[str, ...]
    made: Mapping[str, int] = field(default_factory=dict)


def place(
    request: GetRequest,
    resolution: Resolution,
    files: Sequence[ListedFile],
    blobs: Mapping[str, AnyBlob],
    on_file: Callable[[str], None] | None = None,
) -> Placed:
    """Blocking. Writes links where links work; never touches what is already right.

    Into the hub cache or Ollama's store, a folder, or both; then `path` and `link_kind` are the
    folder's. `on_file` is called before each file; what it raises stops the work between two files.
    """
    single = _single(request.ref, files)
    shown = Placed(blobs[single.path].path if single is not None else None, None, ())
    if request.hf_cache is not None and isinstance(request.ref, refs.HfRef):
        shown = _in_hub_cache(
            request, request.ref, request.hf_cache, resolution, files, blobs, on_file
        )
    if request.ollama is not None:
        shown = _in_ollama(request, request.ollama, resolution, files, blobs, shown, on_file)
    if request.to is not None:
        folder = _in_folder(request, request.to, files, blobs, single, on_file)
        shown = replace(folder, notes=(*shown.notes, *folder.notes))
    return shown


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
    blobs: Mapping[str, AnyBlob],
    single: ListedFile | None,
    on_file: Callable[[str], None] | None,
) -> Placed:
    wanted = [FolderFile(f.path, blobs[f.path].size, blobs[f.path].path) for f in files]
    done = materialise_folder(folder, wanted, links=request.links, on_file=on_file)
    return _placed(folder if single is None else folder / single.path, done)


def _in_hub_cache(
    request: GetRequest,
    ref: refs.HfRef,
    cache: Path,
    resolution: Resolution,
    files: Sequence[ListedFile],
    blobs: Mapping[str, AnyBlob],
    on_file: Callable[[str], None] | None,
) -> Placed:
    commit = resolution.listing.immutable
    if commit is None:
        return Placed(None, None, ("the hub gave no commit: not put into its cache",))
    listed = resolution.listing.files
    # one file of a repository is listed alone: only a whole listing is the commit's tree
    whole = ref.path is None
    shown = {f.path for f in files}
    done = materialise(
        cache,
        ref.repo_type,
        ref.repo_id,
        commit,
        [_linked(f, blobs[f.path] if f.path in shown else None) for f in listed],
        revisions=[ref.revision or refs.DEFAULT_REVISION] if resolution.listing.mutable else [],
        whole_tree=whole,
        kinds=ANY_KIND if request.links else (LinkKind.REFLINK, LinkKind.COPY),
        on_file=on_file,
    )
    single = _single(ref, files)
    return _placed(done.directory if single is None else done.directory / single.path, done)


def _in_ollama(
    request: GetRequest,
    models: Path,
    resolution: Resolution,
    files: Sequence[ListedFile],
    blobs: Mapping[str, AnyBlob],
    shown: Placed,
    on_file: Callable[[str], None] | None,
) -> Placed:
    """A model of Ollama's is opened there; anything else where it is `shown` already."""
    if not isinstance(request.ref, OllamaRef):
        made, notes = show_made(request, models, files, blobs, on_file)
        return replace(shown, notes=(*shown.notes, *_placed(None, made).notes, *notes))
    done = show_given(request, request.ref, models, resolution, blobs, on_file)
    if done is None:
        return Placed(None, None, ("not all of the model was chosen: it is not shown to Ollama",))
    return _placed(done.directory, done)


def _linked(file: ListedFile, blob: AnyBlob | None) -> LinkedFile:
    """`blob` None: the commit has the file, but it was not selected."""
    assert file.digest is not None, "a hub names every file by its content"
    etag = digests.raw(file.digest).hex()
    return LinkedFile(
        path=file.path,
        etag_hex=etag,
        size=file.size or 0,
        source=None if blob is None else blob.path,
        oid=file.oid,
        lfs_sha256=None if digests.is_git_sha1(file.digest) else etag,
    )


def _placed(path: Path | None, done: Shown) -> Placed:
    notes = [f"replaced `{name}`, which had other content" for name in done.replaced]
    notes += [
        f"`{a}` and `{b}` exclude each other where case is ignored" for a, b in done.collisions
    ]
    made = {str(kind): done.made[kind] for kind in ANY_KIND if done.made[kind]}
    worst = None if done.link_kind is None else str(done.link_kind)
    return Placed(path, worst, tuple(notes), made)
