"""The operation push: content of this machine into the store, and from the store to other places.

Where it goes to a destination, what is here under a ref goes, or what is brought first. Restricted
content leaves only when the user says so.
"""

from __future__ import annotations

import os
import uuid
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from p2pcache.agent.airgap.plan import is_restricted
from p2pcache.agent.airgap.write import block_map
from p2pcache.agent.get import get, trim
from p2pcache.agent.give import give, opened
from p2pcache.agent.meant import manifest_named
from p2pcache.agent.peering import tell_complete
from p2pcache.agent.unlisted import list_first
from p2pcache.content import cid as cids
from p2pcache.content import refs, unixfs
from p2pcache.content.registry_refs import OciRef
from p2pcache.destinations.port import Content, ContentFile
from p2pcache.errors import Denied, NotFound, UsageError
from p2pcache.sources.port import Credentials
from p2pcache.store.blobs import BlobInfo
from p2pcache.store.rooted import is_root
from p2pcache.transfer.folders import folder_root
from p2pcache.transfer.pull import pull

if TYPE_CHECKING:
    from p2pcache.agent.args import Args
    from p2pcache.agent.parts import Emit, Parts
    from p2pcache.agent.pulls import Watch
    from p2pcache.content.manifest import Manifest
    from p2pcache.destinations.port import Destination
    from p2pcache.store.store import Hold, Store
    from p2pcache.transfer.progress import Progress
    from p2pcache.transfer.want import PullReport


async def push(parts: Parts, args: Args, emit: Emit) -> dict[str, Any]:
    """Take a file or a folder of this machine into the store, under its content's names; with `to`,
    give it, or what a ref means, to another place.
    """
    to = args.optional_text("to")
    if to is None:
        return await _take_in(parts, args.text("path"), emit)
    async with opened(parts, to, args) as destination:
        return await _push_to(parts, destination, args, emit)


async def _push_to(
    parts: Parts, destination: Destination[Any], args: Args, emit: Emit
) -> dict[str, Any]:
    path = args.optional_text("path")
    text = _whole(args.text("ref"), destination) if path is None else path
    args = args.having(ref=text)
    if path is not None:
        await _take_in(parts, path, emit)
    dry_run = args.flag("dry_run")
    with parts.store.running() as hold:
        chosen = await _chosen(parts, text, args, emit, bring=path is None and not dry_run)
        if not chosen.manifest.files and destination.name != "ipfs":
            raise UsageError(f"`{text}` has no files, and {destination.where} keeps nothing else")
        blobs = await trio.to_thread.run_sync(_held, parts.store, chosen.manifest, text, hold)
        if not args.flag("allow_gated") and await trio.to_thread.run_sync(
            partial(is_restricted, of_files=path is not None), parts.store, chosen.manifest, blobs
        ):
            raise Denied(
                f"`{text}` is gated or private where it came from, and others could read it at "
                f"{destination.where}",
                hint="if its licence lets you pass it on so, use --allow-gated",
            )
        content = await trio.to_thread.run_sync(_content, parts.store, chosen, blobs)
        given = await give(destination, content, emit, dry_run=dry_run)
        if given["sent_bytes"] and destination.endpoint is not None:
            sent = given["sent_bytes"], given["sent_objects"]
            parts.origins.spending.sent(destination.endpoint, *sent)
        return {
            "ref": chosen.ref,
            "manifest": cids.format_cid(chosen.manifest.cid()),
            "root": cids.format_cid(content.root),
            "sha256": _only_sha256(chosen, blobs),
            "files": len(chosen.manifest.files),
            "total_bytes": sum(file.size for file in chosen.manifest.files),
            "to": given,
        }


def _whole(text: str, destination: Destination[Any]) -> str:
    """The ref that has all of what `text` means, where that is more: what came from a registry goes
    to one with its own manifest, which only an image layout has.
    """
    if destination.name in ("oci", "ollama"):
        ref = refs.parse_ref(text)
        if isinstance(ref, OciRef) and ref.layout != "oci":
            return refs.canonical(replace(ref, layout="oci"))
    return text


@dataclass(frozen=True, slots=True)
class _Chosen:
    """What is to be given. `single`: it is one file, without a folder around it."""

    ref: str
    manifest: Manifest
    single: bool


async def _chosen(parts: Parts, text: str, args: Args, emit: Emit, *, bring: bool) -> _Chosen:
    """The manifest of what is here under a ref or a path; with `bring`, it is brought first."""
    ref = refs.parse_ref(text, revision=args.optional_text("revision"))
    canonical = refs.canonical(ref)
    if bring:
        await get(parts, args.only("ref", "revision", "credentials", "secret", "secrets"), emit)
    await list_first(parts, text)
    if isinstance(ref, refs.CidRef) and is_root(ref.cid):
        await parts.naming.name(ref.cid)
    if isinstance(ref, refs.DigestRef | refs.CidRef):
        found = (await trio.to_thread.run_sync(parts.resolver.held, ref)).manifest
    else:
        found = parts.store.get_manifest(manifest_named(parts, canonical))
    if found is None:
        raise NotFound(f"`{text}` is not here", hint=f"`p2pcache get {text}` brings it")
    return _Chosen(canonical, found, await trio.to_thread.run_sync(_is_single, ref, found))


def _is_single(ref: refs.Ref, manifest: Manifest) -> bool:
    """Whether a ref means a file, and not a folder with one file."""
    if len(manifest.files) != 1:
        return False
    (file,) = manifest.files
    match ref:
        case refs.DigestRef():
            return True
        case refs.HttpRef():
            return not ref.is_folder
        case refs.FileRef(path):
            return os.path.isfile(path)
        case refs.CidRef(cid, below):
            if below is not None:
                return below == file.path
            return file.path in (cids.format_cid(cid), cids.multihash(cid)[2:].hex())
        case _:
            return False


def _held(store: Store, manifest: Manifest, text: str, hold: Hold) -> dict[str, BlobInfo]:
    """The blob of each file, held. Blocking. Raises NotFound."""
    found = store.find_held([file.digest for file in manifest.files], hold)
    missing = next((file for file in manifest.files if file.digest not in found), None)
    if missing is not None:
        raise NotFound(
            f"`{missing.path}` of `{text}` is not here", hint=f"`p2pcache get {text}` brings it"
        )
    return {file.path: found[file.digest] for file in manifest.files}


def _content(store: Store, chosen: _Chosen, blobs: dict[str, BlobInfo]) -> Content:
    """Its blocks by their hashes, with the nodes of folders. Blocking: a blob without a kept map is
    read. Raises LocalFault.
    """
    roots: dict[bytes, unixfs.Root] = {}
    files: dict[bytes, ContentFile] = {}
    for blob in {blob.sha256: blob for blob in blobs.values()}.values():
        hashes = block_map(store, blob, lambda: None) or unixfs.EMPTY_SHA256
        each = (hashes[at : at + 32] for at in range(0, len(hashes), 32))
        root = unixfs.file_root(each if blob.size else (), blob.size)
        roots[blob.sha256] = root
        files[blob.sha256] = ContentFile(str(blob.path), blob.size, blob.sha256, root.cid, hashes)
    places = {path: files[blob.sha256] for path, blob in blobs.items()}
    given = partial(
        Content, chosen.ref, chosen.manifest, chosen.single, files=tuple(files.values()),
        places=places,
    )  # fmt: skip
    if chosen.single:
        (only,) = files.values()
        return given(root=only.root, nodes=())
    nodes: dict[bytes, bytes] = {}
    tree = {path: roots[blob.sha256] for path, blob in blobs.items()}
    folder = unixfs.tree(tree, keep=nodes.__setitem__)
    return given(root=folder.cid, nodes=tuple(nodes.items()))


def _only_sha256(chosen: _Chosen, blobs: dict[str, BlobInfo]) -> str | None:
    return next(iter(blobs.values())).sha256.hex() if chosen.single else None


async def _take_in(parts: Parts, path: str, emit: Emit) -> dict[str, Any]:
    """A file or a folder of this machine, into the store."""
    if not os.path.isabs(path):
        raise UsageError(f"`path` must be absolute, not `{path}`")
    ref = refs.FileRef(path)
    resolution = await parts.resolver.resolve(ref, Credentials(), refresh=True)
    source = parts.resolver.source_for(ref)
    files = list(resolution.listing.files)

    async def start(watch: Watch, hold: Hold) -> PullReport:
        return await pull(
            parts.context,
            resolution,
            files,
            source,
            Credentials(),
            rate_bytes_per_s=None,
            watch=watch,
            note=lambda _: None,
            hold=hold,
        )

    async def tell(progress: Progress) -> None:
        await emit({"type": "progress", **progress.to_wire()})

    key = ("push", path, uuid.uuid4().hex)
    with parts.store.running() as hold:
        report = await parts.pulls.wait_pulled(key, path, start, tell, hold)
        await trim(parts)
    named = await trio.to_thread.run_sync(parts.resolver.named_by_arrival, resolution, report.blobs)
    assert named.manifest is not None
    blobs = {path: blob for path, blob in report.blobs.items() if isinstance(blob, BlobInfo)}
    await tell_complete(parts, named)
    single = files[0] if await trio.Path(path).is_file() else None
    root = blobs[single.path].root_cid if single is not None else folder_root(blobs)
    return {
        "ref": named.canonical,
        "manifest": cids.format_cid(named.manifest.cid()),
        "root": None if root is None else cids.format_cid(root),
        "sha256": None if single is None else blobs[single.path].sha256.hex(),
        "files": len(files),
        "total_bytes": named.total_bytes,
        "to": None,
    }
