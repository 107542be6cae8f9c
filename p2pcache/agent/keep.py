"""The operations on what is here: pin, unpin, rm and gc."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, assert_never

import trio

from p2pcache.agent.meant import (
    Meant,
    OfBlob,
    OfDag,
    OfManifest,
    blobs_named,
    meant,
    root_typed,
    row_of,
    single_manifests,
)
from p2pcache.content import cid as cids
from p2pcache.content import refs
from p2pcache.content.last_copy import Copy
from p2pcache.errors import NotFound, UsageError
from p2pcache.store.blobs import BlobInfo
from p2pcache.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from p2pcache.agent.args import Args
    from p2pcache.agent.parts import Emit, Parts
    from p2pcache.store.rooted import AnyBlob
    from p2pcache.store.store import Store


async def pin(parts: Parts, args: Args, emit: Emit) -> dict[str, Any]:
    """Keep what a ref means through every gc."""
    text, store = args.text("ref"), parts.store
    found = await trio.to_thread.run_sync(meant, parts, text)
    match found:
        case OfManifest(cid):
            await trio.to_thread.run_sync(store.pin, cid, text)
            return _pin_answer(cid, None, None)
        case OfBlob(blob):
            named = await _with_sha256(parts, blob, text)
            await trio.to_thread.run_sync(store.pin, named.sha256, text)
            return _pin_answer(None, named.sha256, named.root_cid)
        case OfDag(root):
            await parts.ipfs.pins.pin(root)
            return _pin_answer(None, None, root)
        case _:
            assert_never(found)


async def _with_sha256(parts: Parts, blob: AnyBlob, text: str) -> BlobInfo:
    """Hashed as a whole where that is still to be done. Raises NotFound where it is damaged."""
    if isinstance(blob, BlobInfo):
        return blob
    named = await parts.naming.name(blob.root_cid)
    if not isinstance(named, BlobInfo):
        raise NotFound(f"`{text}` was damaged on this disk", hint="get it again")
    return named


def _pin_answer(manifest: bytes | None, sha256: bytes | None, root: bytes | None) -> dict[str, Any]:
    """`manifest` None: a blob, or a DAG of no manifest."""
    return {
        "manifest": None if manifest is None else cids.format_cid(manifest),
        "sha256": None if sha256 is None else sha256.hex(),
        "root": None if root is None else cids.format_cid(root),
    }


async def unpin(parts: Parts, args: Args, emit: Emit) -> dict[str, Any]:
    """Let gc decide again, whoever pinned it: `pin`, or a program through Kubo's RPC."""
    text = args.text("ref")
    found = await trio.to_thread.run_sync(meant, parts, text)
    if not await trio.to_thread.run_sync(_unpin, parts, found, root_typed(refs.parse_ref(text))):
        raise NotFound(f"`{text}` is not pinned", hint="see `p2pcache ls`")
    match found:
        case OfManifest(cid):
            return _pin_answer(cid, None, None)
        case OfBlob(blob):
            sha256 = blob.sha256 if isinstance(blob, BlobInfo) else None
            return _pin_answer(None, sha256, blob.root_cid)
        case OfDag(root):
            return _pin_answer(None, None, root)
        case _:
            assert_never(found)


def _unpin(parts: Parts, found: Meant, typed: bytes | None) -> bool:
    """Whether it was pinned. Of a blob, the pins of manifests that list nothing else go, too."""
    store, targets, roots = parts.store, set[bytes](), {typed}
    match found:
        case OfManifest(cid):
            targets = {cid}
            roots |= _roots_of(parts, cid)
        case OfBlob(blob):
            targets = {blob.key, *single_manifests(parts, blob)[0]}
            roots.add(blob.root_cid)
        case OfDag():
            pass
        case _:
            assert_never(found)
    files = [store.unpin(target) for target in targets & {pin.target for pin in store.pins()}]
    dags = [store.dag_pins.drop(root) for root in roots & store.dag_pins.roots().keys() if root]
    return bool(files or dags)


async def rm(parts: Parts, args: Args, emit: Emit) -> dict[str, Any]:
    """Forget a ref; with the last one its manifest, and the blobs that nothing else refers to."""
    text, force = args.text("ref"), args.flag("force")
    found = await trio.to_thread.run_sync(meant, parts, text)
    match found:
        case OfManifest(cid):
            return await _rm_ref(parts, text, cid, force)
        case OfBlob(blob):
            return await _rm_blob(parts, text, blob, force)
        case OfDag(root):
            _check_unpinned(text, force, pinned=root in parts.store.dag_pins.roots())
            freed = await _rm_dag(parts, root)
            return {"manifest": None, "freed_bytes": freed, "notes": []}
        case _:
            assert_never(found)


def _check_unpinned(text: str, force: bool, *, pinned: bool) -> None:
    if pinned and not force:
        raise UsageError(f"`{text}` is pinned", hint="`p2pcache unpin` it first, or use --force")


async def _rm_blob(parts: Parts, text: str, blob: AnyBlob, force: bool) -> dict[str, Any]:
    """Remove a blob by its own name, with the manifests that list nothing else."""
    store = parts.store
    alone, others = await trio.to_thread.run_sync(single_manifests, parts, blob)
    if others:
        rows = [row.canonical for cid in others for row in store.resolutions_of(cid)]
        name = min(rows, default=cids.format_cid(min(others)))
        raise UsageError(f"`{text}` is a file of `{name}`", hint=f"`p2pcache rm {name}`")
    pinned = blob.key in {pin.target for pin in store.pins()}
    dag = blob.root_cid if blob.root_cid in store.dag_pins.roots() else None
    _check_unpinned(text, force, pinned=pinned or dag is not None)
    freed, notes = 0, list[str]()
    for cid in sorted(alone):
        answer = await _rm_ref(parts, text, cid, force)
        freed += answer["freed_bytes"]
        notes += answer["notes"]
    if pinned:
        store.unpin(blob.key)
    if dag is not None:
        store.dag_pins.drop(dag)
    freed += await trio.to_thread.run_sync(store.remove_blob, blob)
    if await trio.to_thread.run_sync(_is_here, store, blob):
        notes.append("nothing was freed: a pinned DAG or a running pull needs it")
    return {"manifest": None, "freed_bytes": freed, "notes": notes}


def _is_here(store: Store, blob: AnyBlob) -> bool:
    name = blob.digest if isinstance(blob, BlobInfo) else blob.root_cid
    return store.find_any(name) is not None


async def _rm_dag(parts: Parts, root: bytes) -> int:
    """Take a DAG's pin, and all that it alone kept; bytes freed."""
    blobs = parts.store.dag_pins.kept_by(root)[1]
    freed = await parts.ipfs.pins.forget(root)
    return freed + await trio.to_thread.run_sync(_rm_alone, parts.store, blobs)


def _rm_alone(store: Store, names: Iterable[bytes]) -> int:
    """Remove those of these blobs that nothing else refers to; bytes freed."""
    alone = {blob.key: blob for blob in store.alone()}
    pinned = {pin.target for pin in store.pins()}
    gone = [alone[blob.key] for blob in blobs_named(store, names) if blob.key in alone]
    return sum(store.remove_blob(blob) for blob in gone if blob.key not in pinned)


def _roots_of(parts: Parts, manifest: bytes) -> set[bytes | None]:
    """What IPFS calls a manifest's files (CIDv1): their folder, and the DAGs that they came as."""
    rows = parts.store.resolutions_of(manifest)
    named = {root_typed(refs.parse_ref(row.canonical)) for row in rows}
    return named | {parts.resolver.folders.root_of(manifest)}


async def _rm_ref(parts: Parts, text: str, manifest: bytes, force: bool) -> dict[str, Any]:
    """What `rm` does for what is a manifest's."""
    store = parts.store
    ref = refs.parse_ref(text)
    row = row_of(parts, ref)
    roots = _roots_of(parts, manifest) | {root_typed(ref)}
    dags = roots & store.dag_pins.roots().keys()
    published = roots & set(parts.ipfs.publisher.roots())
    if published and not force:
        raise UsageError(
            f"`{text}` is published", hint="`p2pcache unpublish` it first, or use --force"
        )
    canonical = None if row is None else row.canonical
    others = [r.canonical for r in store.resolutions_of(manifest) if r.canonical != canonical]
    pinned = bool(dags) or any(p.target == manifest for p in store.pins())
    if canonical is not None and others:
        store.forget_ref(canonical)
        same = ", ".join(f"`{other}`" for other in others)
        notes = [f"nothing was freed: {same} means the same"]
        if pinned:
            notes.append(f"it stays pinned: `p2pcache unpin {others[0]}`")
        return {"manifest": cids.format_cid(manifest), "freed_bytes": 0, "notes": notes}
    _check_unpinned(text, force, pinned=pinned)
    if pinned:
        store.unpin(manifest)
    for dag in filter(None, dags):
        store.dag_pins.drop(dag)
    for root in filter(None, published):
        parts.ipfs.publisher.unpublish(root)
        if parts.ipfs.public is not None:
            parts.ipfs.public.unpublished(root)
    if manifest in store.replica_manifests and not force:
        raise UsageError(
            f"`{text}` is one of the copies that a preload keeps",
            hint="`p2pcache preload list` shows it; --force removes it all the same",
        )
    if not force:
        await _check_not_last(parts, text, manifest)
    linked = await trio.to_thread.run_sync(store.linked_bytes, manifest)
    freed = await trio.to_thread.run_sync(store.rm, manifest)
    for root in filter(None, roots):  # its own nodes, where they lay as blocks
        freed += await parts.ipfs.pins.forget(root)
    notes = []
    if linked:
        notes.append(
            f"{format_bytes(linked)} stay on the disk: they are linked into the Hugging Face cache "
            "or a folder, too"
        )
    return {"manifest": cids.format_cid(manifest), "freed_bytes": freed, "notes": notes}


async def _check_not_last(parts: Parts, text: str, manifest: bytes) -> None:
    """Raises UsageError when nobody else is known to have what would be removed."""

    def copies() -> list[Copy]:
        return list(parts.last_copies.copies(parts.store.only_in(manifest)).values())

    if Copy.LAST in await trio.to_thread.run_sync(copies):
        raise UsageError(
            f"`{text}` is the last known copy: no origin of it can be asked, and no other agent "
            "that is here says that it has it",
            hint="`p2pcache preload` it, or `p2pcache export` it, to keep it elsewhere; --force "
            "removes it all the same",
        )


async def gc(parts: Parts, args: Args, emit: Emit) -> dict[str, Any]:
    """Evict by last use, down to `target_bytes` or (when above the high) to the low watermark."""
    target, dry_run = args.size("target_bytes"), args.flag("dry_run")
    report = await trio.to_thread.run_sync(
        lambda: parts.store.gc(target_bytes=target, dry_run=dry_run)
    )
    return {
        "freed_bytes": report.freed_bytes,
        "evicted": report.evicted,
        "kept": dict(report.kept_because),
        "dry_run": dry_run,
    }
