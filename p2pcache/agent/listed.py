"""The operation ls: what is here, and what of it stays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

from p2pcache.agent.last_copies import HOLDS, hubs_of
from p2pcache.agent.meant import blobs_named, both_names, name_of
from p2pcache.content import cid as cids
from p2pcache.content import refs
from p2pcache.store.policy import Hold

if TYPE_CHECKING:
    from collections.abc import Mapping

    from p2pcache.agent.args import Args
    from p2pcache.agent.parts import Emit, Parts
    from p2pcache.store.records import Listed


async def ls(parts: Parts, args: Args, emit: Emit) -> dict[str, Any]:
    """What is here, by manifest, newest use first; then blobs and pinned DAGs of no manifest."""
    listed, hubs, dags = await trio.to_thread.run_sync(_listed, parts)
    for entry in listed:
        named = entry.resolutions or (None,)
        kept = _why_kept(parts, entry, hubs, dags)
        for row in named:
            value = {
                "ref": None if row is None else row.canonical,
                "manifest": cids.format_cid(entry.manifest),
                "immutable": None if row is None else row.immutable,
                "files": entry.files,
                "total_bytes": entry.total_bytes,
                "present_bytes": entry.present_bytes,
                "pinned": kept == Hold.PINNED.value,
                "kept": kept,
                "last_used": entry.last_used,
                "resolved_at": None if row is None else row.resolved_at,
                "source": None if row is None else row.source,
            }
            await emit({"type": "item", "value": value})
    others = await trio.to_thread.run_sync(_unlisted, parts, dags)
    for value in others:
        await emit({"type": "item", "value": value})
    return {"count": len(listed) + len(others)}


def _listed(parts: Parts) -> tuple[list[Listed], dict[str, str], set[bytes]]:
    """The manifests, their hubs, and the roots of pinned DAGs."""
    listed = parts.store.ls()
    hubs = hubs_of(row for entry in listed for row in entry.resolutions)
    return listed, hubs, set(parts.store.dag_pins.roots())


def _unlisted(parts: Parts, dags: set[bytes]) -> list[dict[str, Any]]:
    """Blobs that no manifest lists, and DAGs that are pinned and no folder of a manifest; a blob
    that only is a part of such a DAG is not told by itself.
    """
    store, rows = parts.store, []
    pinned = {pin.target for pin in store.pins()}
    parts_of_dags: set[bytes] = set()
    # files of adopted folders are not ours to list: there may be thousands (`adopt --list`)
    blobs = {b.key: b for b in store.alone() if not b.adopted or b.key in pinned}
    for root in sorted(dags - set(parts.resolver.folders.roots().values()) if dags else dags):
        blocks, names = store.dag_pins.kept_by(root)
        kept = blobs_named(store, names)
        if [blob.root_cid for blob in kept] == [root]:  # a file, maybe of some manifest
            blobs[kept[0].key] = kept[0]
            continue
        parts_of_dags |= {blob.key for blob in kept}
        size_bytes = sum(store.loose.length(block) or 0 for block in blocks)
        size_bytes += sum(blob.size for blob in kept)
        name = refs.canonical(refs.CidRef(root))
        rows.append(_unlisted_row(name, len(kept), size_bytes, True, None, cids.format_cid(root)))
    for blob in blobs.values():
        keeps = blob.key in pinned or blob.root_cid in dags
        if keeps or blob.key not in parts_of_dags:
            rows.append(_unlisted_row(name_of(blob), 1, blob.size, keeps, *both_names(blob)))
    return rows


def _unlisted_row(
    ref: str, files: int, size_bytes: int, pinned: bool, sha256: str | None, root: str | None
) -> dict[str, Any]:
    return {
        "ref": ref,
        "manifest": None,
        "immutable": None,
        "files": files,
        "total_bytes": size_bytes,
        "present_bytes": size_bytes,
        "pinned": pinned,
        "kept": Hold.PINNED.value if pinned else None,
        "last_used": None,
        "resolved_at": None,
        "source": None,
        "sha256": sha256,
        "root": root,
    }


def _why_kept(parts: Parts, entry: Listed, hubs: Mapping[str, str], dags: set[bytes]) -> str | None:
    """Why no eviction takes it, as far as that is known without asking anybody."""
    if entry.pinned or (dags and parts.resolver.folders.root_of(entry.manifest) in dags):
        return Hold.PINNED.value
    if not entry.present_bytes:
        return None
    if entry.manifest in parts.store.replica_manifests:
        return Hold.REPLICA.value
    hold = HOLDS.get(parts.last_copies.known(entry.manifest, entry.resolutions, hubs))
    return None if hold is None else hold.value
