"""The operations on what is public: publish, unpublish, and what is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

from p2pcache.agent.meant import manifest_named
from p2pcache.agent.unlisted import root_first
from p2pcache.config.ipfs import Public
from p2pcache.content import cid as cids
from p2pcache.content import refs
from p2pcache.content.blocks import MAX_BLOCK_BYTES
from p2pcache.errors import Denied, NotFound, Unavailable, UsageError
from p2pcache.store.blobs import BlobInfo
from p2pcache.transfer.folders import folder_root

if TYPE_CHECKING:
    from p2pcache.agent.args import Args
    from p2pcache.agent.parts import Emit, Parts
    from p2pcache.store.rooted import AnyBlob
    from p2pcache.store.store import Store

NOT_SHARED = "nobody gets it while `ipfs.public` is not `share`"


async def publish(parts: Parts, args: Args, emit: Emit) -> dict[str, Any]:
    """Give what a ref means here to the public network, from now on."""
    text = args.text("ref")
    await root_first(parts, text)
    root = await trio.to_thread.run_sync(_root_of, parts, text)
    publisher = parts.ipfs.publisher
    blocks = await trio.to_thread.run_sync(publisher.publish, root)
    if parts.ipfs.public is not None:
        parts.ipfs.public.published([root])
    notes = [] if _is_shared(parts) else [NOT_SHARED]
    return {"root": cids.format_cid(root), "blocks": blocks, "notes": notes}


async def unpublish(parts: Parts, args: Args, emit: Emit) -> dict[str, Any]:
    """Give it to no stranger any more."""
    text = args.text("ref")
    root = await trio.to_thread.run_sync(_published, parts, text)
    if root is None or not await trio.to_thread.run_sync(parts.ipfs.publisher.unpublish, root):
        raise NotFound(
            f"what `{text}` means now is not published",
            hint="what it meant before may still be: `p2pcache publish --list` shows all that is, "
            "and `p2pcache unpublish` takes the CIDs that it shows",
        )
    if parts.ipfs.public is not None:
        parts.ipfs.public.unpublished(root)
    return {"root": cids.format_cid(root)}


async def published(parts: Parts, args: Args, emit: Emit) -> dict[str, Any]:
    """Every published root, with the refs that mean it here."""
    for item in await trio.to_thread.run_sync(_listed, parts):
        await emit({"type": "item", "value": item})
    return {}


def _is_shared(parts: Parts) -> bool:
    return parts.config.ipfs.public is Public.SHARE


def _listed(parts: Parts) -> list[dict[str, Any]]:
    found = []
    for root in parts.ipfs.publisher.roots():
        manifest = parts.resolver.folders.manifest_of(root)
        rows = [] if manifest is None else parts.store.resolutions_of(manifest)
        refs_of = [row.canonical for row in rows]
        found.append({"root": cids.format_cid(root), "refs": refs_of, "shared": _is_shared(parts)})
    return found


def _published(parts: Parts, text: str) -> bytes | None:
    """The root that `publish` of it printed, also where it would be refused by now. In a thread."""
    ref = refs.parse_ref(text)
    roots = parts.ipfs.publisher.roots()
    if isinstance(ref, refs.CidRef) and ref.path is None and cids.as_v1(ref.cid) in roots:
        return cids.as_v1(ref.cid)
    try:
        return _root_of(parts, text, even_restricted=True)
    except NotFound:
        return None


def _root_of(parts: Parts, text: str, *, even_restricted: bool = False) -> bytes:
    """The CIDv1 of what a ref means here. Raises NotFound, Denied, UsageError. In a thread."""
    ref = refs.parse_ref(text)
    if isinstance(ref, refs.CidRef) and ref.path is not None:
        raise UsageError(
            f"`{text}` is a path below a CID", hint="publish the whole of it, or it by its own CID"
        )
    if isinstance(ref, refs.CidRef) and parts.store.get_manifest(ref.cid) is None:
        folder = parts.resolver.folders.manifest_of(cids.as_v1(ref.cid))
        if folder is not None and not even_restricted:
            _check_open(parts, text, folder)
        blob = parts.ipfs.blocks.local.file_of(ref.cid)
        return cids.as_v1(ref.cid) if blob is None else _root_of_file(blob, ref.cid)
    if isinstance(ref, refs.DigestRef):
        blob = parts.store.find_any(ref.digest)
        if blob is None:
            raise NotFound(f"`{text}` is not here", hint="get it first")
        return _root_of_file(blob, None)
    manifest = manifest_named(parts, text)
    if not even_restricted:
        _check_open(parts, text, manifest)
    return _root_of_manifest(parts.store, text, ref, manifest)


def _root_of_manifest(store: Store, text: str, ref: refs.Ref, manifest: bytes) -> bytes:
    body = store.get_manifest(manifest)
    files = () if body is None else body.files
    found = store.find_many([file.digest for file in files])
    blobs = {file.path: found[file.digest] for file in files if file.digest in found}
    if len(blobs) < len(files):
        missing = len(files) - len(blobs)
        raise NotFound(f"{missing} files of `{text}` are not here", hint="get all of it first")
    roots = {path: _root_of_file(blob, None) for path, blob in blobs.items()}
    if isinstance(ref, refs.FileRef | refs.HttpRef) and len(roots) == 1:
        (path, root), *_ = roots.items()
        place = ref.path if isinstance(ref, refs.FileRef) else ref.url.partition("?")[0]
        if place.rpartition("/")[2] == path:  # the file itself, not a folder with it
            return root
    return folder_root(blobs)


def _check_open(parts: Parts, text: str, manifest: bytes) -> None:
    """The names of its files are not for everybody either, if all of them were open elsewhere."""
    if parts.store.hidden_manifests([manifest]):
        raise Denied(
            f"`{text}` is gated or private where it came from: it is not published",
            hint="publish what everybody may read",
        )


def _root_of_file(blob: AnyBlob, asked: bytes | None) -> bytes:
    """What it is asked for by, unless nobody could fetch it so: a block has a limit."""
    if asked is not None and (cids.codec(asked) != cids.RAW or blob.size <= MAX_BLOCK_BYTES):
        return cids.as_v1(asked)
    if not isinstance(blob, BlobInfo):
        return blob.root_cid
    if blob.root_cid is None:
        raise Unavailable("its UnixFS root is not known yet", hint="try again in a moment")
    return blob.root_cid
