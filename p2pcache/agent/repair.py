"""`verify`: hash what is here again, take out what is damaged, fetch only the bad blocks again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

from p2pcache.agent.keep import manifest_named
from p2pcache.content import refs
from p2pcache.errors import P2PCacheError
from p2pcache.lanes.orders import FollowOrder
from p2pcache.transfer.progress import Progress
from p2pcache.transfer.pull import pull

if TYPE_CHECKING:
    from p2pcache.agent.args import Args
    from p2pcache.agent.parts import Emit, Parts
    from p2pcache.sources.port import Credentials
    from p2pcache.store.blobs import BlobInfo
    from p2pcache.store.store import Store


async def verify(parts: Parts, args: Args, emit: Emit) -> dict[str, Any]:
    """Re-hash every blob, or those of one ref. With `repair`, bring back what is damaged."""
    ref = args.optional_text("ref")
    blobs = await trio.to_thread.run_sync(_chosen, parts, ref)
    total = sum(blob.size for blob in blobs)
    done = 0
    bad: list[dict[str, Any]] = []
    for number, blob in enumerate(blobs):
        await emit(
            {
                "type": "progress",
                **Progress(
                    "verifying", blob.sha256.hex(), done, total, number, len(blobs)
                ).to_wire(),
            }
        )
        problem = await _problem(parts, blob)
        if problem is not None:
            bad.append(
                {
                    "sha256": blob.sha256.hex(),
                    "path": str(blob.path),
                    "problem": problem,
                    **await _mend(parts, blob, args.credentials(), args.flag("repair")),
                }
            )
        done += blob.size
    return {
        "checked": len(blobs),
        "checked_bytes": total,
        "bad": bad,
        "repaired": sum(1 for row in bad if row["repaired"]),
    }


def _chosen(parts: Parts, ref: str | None) -> list[BlobInfo]:
    if ref is None:
        return parts.store.every_blob()
    manifest = parts.store.get_manifest(manifest_named(parts, ref))
    assert manifest is not None
    found = parts.store.find_many([f.digest for f in manifest.files])
    return list({blob.sha256: blob for blob in found.values()}.values())


async def _problem(parts: Parts, blob: BlobInfo) -> str | None:
    """What is wrong with a blob, or None."""
    report = await parts.workers.follow(FollowOrder(str(blob.path), None, blob.size))
    if report.fault is not None:
        return report.fault.message
    if report.sha256 != blob.sha256:
        return f"its bytes hash to sha256:{report.sha256.hex()}"
    return None


async def _mend(
    parts: Parts, blob: BlobInfo, credentials: Credentials, repair: bool
) -> dict[str, Any]:
    """Take a damaged blob out; when asked to, fetch its bad blocks from where it came from."""
    bad_blocks = await trio.to_thread.run_sync(_take_out, parts.store, blob)
    row: dict[str, Any] = {"bad_blocks": bad_blocks, "repaired": False, "reason": None}
    if not repair:
        row["reason"] = "run `p2pcache verify --repair`, or get it again"
        return row
    for canonical in await trio.to_thread.run_sync(_where_from, parts.store, blob):
        try:
            await _fetch_again(parts, canonical, blob, credentials)
        except P2PCacheError as exc:
            row["reason"] = exc.message
            continue
        row |= {"repaired": True, "reason": None}
        return row
    row["reason"] = row["reason"] or "where it came from is not known here"
    return row


def _take_out(store: Store, blob: BlobInfo) -> int:
    """Out of sight; its good blocks stay in a partial. Returns how many were bad."""
    partial = store.quarantine(blob.sha256)
    try:
        return partial.blocks - partial.have_count()
    finally:
        partial.close()


def _where_from(store: Store, blob: BlobInfo) -> list[str]:
    """The refs, newest first, whose manifests list this blob."""
    found = []
    for record in store.resolutions():
        manifest = store.get_manifest(record.manifest)
        if manifest is not None and any(f.digest in blob.names for f in manifest.files):
            found.append(record.canonical)
    return found


async def _fetch_again(
    parts: Parts, canonical: str, blob: BlobInfo, credentials: Credentials
) -> None:
    ref = refs.parse_ref(canonical)
    resolution = await parts.resolver.resolve(ref, credentials, offline=True)
    files = [f for f in resolution.listing.files if f.digest in blob.names]
    with parts.store.running() as hold:
        await pull(
            parts.context,
            resolution,
            files[:1],
            parts.resolver.source_for(ref),
            credentials,
            rate_bytes_per_s=None,
            watch=lambda _: None,
            note=lambda _: None,
            hold=hold,
        )
