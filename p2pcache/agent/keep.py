"""The operations on what is here: ls, pin, unpin, rm and gc."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import trio

from p2pcache.agent.dags import is_dag_here, rm_dag, unpin_dag
from p2pcache.agent.last_copies import HOLDS, hubs_of
from p2pcache.content import cid as cids
from p2pcache.content import refs
from p2pcache.content.last_copy import Copy
from p2pcache.errors import NotFound, UsageError
from p2pcache.store.policy import Hold
from p2pcache.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from p2pcache.agent.args import Args
    from p2pcache.agent.parts import Emit, Parts
    from p2pcache.store.records import Listed, Resolution


def manifest_named(parts: Parts, text: str) -> bytes:
    """The manifest that a ref, as typed, means here. Raises NotFound; never asks an origin."""
    ref = refs.parse_ref(text)
    if isinstance(ref, refs.CidRef) and cids.codec(ref.cid) == cids.DAG_CBOR:
        if parts.store.get_manifest(ref.cid) is None:
            raise NotFound(f"no manifest `{text}` is here", hint="see `p2pcache ls`")
        return ref.cid
    if isinstance(ref, refs.CidRef) and cids.codec(ref.cid) == cids.DAG_PB:
        of_folder = parts.resolver.folders.manifest_of(ref.cid)
        if of_folder is not None:
            return of_folder
    row = _known(parts, ref)
    if row is None:
        raise NotFound(f"`{text}` is not here", hint="see `p2pcache ls`, or get it first")
    return row.manifest


def _known(parts: Parts, ref: refs.Ref) -> Resolution | None:
    """What the ref means here; a commit that `ls` shows is what its branch or tag means."""
    row = parts.store.resolution(refs.canonical(ref))
    if row is not None:
        return row
    if not isinstance(ref, refs.HfRef) or ref.revision is None:
        return None
    for row in parts.store.resolutions():
        if row.immutable != ref.revision:
            continue
        known = refs.parse_ref(row.canonical)
        if isinstance(known, refs.HfRef) and replace(known, revision=ref.revision) == ref:
            return row
    return None


async def ls(parts: Parts, args: Args, emit: Emit) -> dict[str, Any]:
    """What is here, by manifest, newest use first."""
    listed, hubs = await trio.to_thread.run_sync(_listed, parts)
    for entry in listed:
        named = entry.resolutions or (None,)
        kept = _why_kept(parts, entry, hubs)
        for row in named:
            value = {
                "ref": None if row is None else row.canonical,
                "manifest": cids.format_cid(entry.manifest),
                "immutable": None if row is None else row.immutable,
                "files": entry.files,
                "total_bytes": entry.total_bytes,
                "present_bytes": entry.present_bytes,
                "pinned": entry.pinned,
                "kept": kept,
                "last_used": entry.last_used,
                "resolved_at": None if row is None else row.resolved_at,
                "source": None if row is None else row.source,
            }
            await emit({"type": "item", "value": value})
    return {"count": len(listed)}


def _listed(parts: Parts) -> tuple[list[Listed], dict[str, str]]:
    listed = parts.store.ls()
    return listed, hubs_of(row for entry in listed for row in entry.resolutions)


def _why_kept(parts: Parts, entry: Listed, hubs: Mapping[str, str]) -> str | None:
    """Why no eviction takes it, as far as that is known without asking anybody."""
    if entry.pinned:
        return Hold.PINNED.value
    if not entry.present_bytes:
        return None
    if entry.manifest in parts.store.replica_manifests:
        return Hold.REPLICA.value
    hold = HOLDS.get(parts.last_copies.known(entry.manifest, entry.resolutions, hubs))
    return None if hold is None else hold.value


async def pin(parts: Parts, args: Args, emit: Emit) -> dict[str, Any]:
    """Keep what a ref means through every gc."""
    manifest = manifest_named(parts, args.text("ref"))
    await trio.to_thread.run_sync(parts.store.pin, manifest, args.text("ref"))
    return {"manifest": cids.format_cid(manifest)}


async def unpin(parts: Parts, args: Args, emit: Emit) -> dict[str, Any]:
    """Let gc decide again."""
    was_dag = await unpin_dag(parts, args.text("ref"))
    if was_dag and await is_dag_here(parts, args.text("ref")):
        return {"manifest": None}
    manifest = manifest_named(parts, args.text("ref"))
    if not await trio.to_thread.run_sync(parts.store.unpin, manifest) and not was_dag:
        raise NotFound(f"`{args.text('ref')}` is not pinned", hint="see `p2pcache ls`")
    return {"manifest": cids.format_cid(manifest)}


async def rm(parts: Parts, args: Args, emit: Emit) -> dict[str, Any]:
    """Forget a ref; with the last one its manifest, and the blobs that nothing else refers to."""
    text, store = args.text("ref"), parts.store
    if await is_dag_here(parts, text):
        return await rm_dag(parts, text, args.flag("force"))
    manifest = manifest_named(parts, text)
    ref = refs.parse_ref(text)
    row = _known(parts, ref)
    canonical = None if row is None else row.canonical
    others = [r.canonical for r in store.resolutions_of(manifest) if r.canonical != canonical]
    pinned = any(p.target == manifest for p in store.pins()) or await _is_pinned_dag(parts, ref)
    if canonical is not None and others:
        store.forget_ref(canonical)
        same = ", ".join(f"`{other}`" for other in others)
        notes = [f"nothing was freed: {same} means the same"]
        if pinned:
            notes.append(f"it stays pinned: `p2pcache unpin {others[0]}`")
        return {"manifest": cids.format_cid(manifest), "freed_bytes": 0, "notes": notes}
    if pinned:
        if not args.flag("force"):
            raise UsageError(
                f"`{text}` is pinned", hint="`p2pcache unpin` it first, or use --force"
            )
        store.unpin(manifest)
        await unpin_dag(parts, text)
    if manifest in store.replica_manifests and not args.flag("force"):
        raise UsageError(
            f"`{text}` is one of the copies that a preload keeps",
            hint="`p2pcache preload list` shows it; --force removes it all the same",
        )
    if not args.flag("force"):
        await _check_not_last(parts, text, manifest)
    linked = await trio.to_thread.run_sync(store.linked_bytes, manifest)
    freed = await trio.to_thread.run_sync(store.rm, manifest)
    notes = []
    if linked:
        notes.append(
            f"{format_bytes(linked)} stay on the disk: they are linked into the Hugging Face cache "
            "or a folder, too"
        )
    return {"manifest": cids.format_cid(manifest), "freed_bytes": freed, "notes": notes}


async def _is_pinned_dag(parts: Parts, ref: refs.Ref) -> bool:
    return isinstance(ref, refs.CidRef) and ref.cid in await parts.ipfs.pins.pins()


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
