"""`verify`: hash what is here again, take out what is damaged, fetch only the bad blocks again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, assert_never

import trio

from p2pcache.agent.meant import OfBlob, OfDag, OfManifest, blobs_named, meant
from p2pcache.agent.naming import Damaged
from p2pcache.content import refs
from p2pcache.content.cid import RAW, format_cid, make_cid
from p2pcache.errors import LocalFault, NotFound, P2PCacheError
from p2pcache.lanes.orders import FollowOrder
from p2pcache.store.blobs import BlobInfo
from p2pcache.store.durable import local_faults
from p2pcache.store.layout import block_count
from p2pcache.store.rooted import RootedBlob
from p2pcache.transfer.faults import local_error
from p2pcache.transfer.names import OTHERS
from p2pcache.transfer.progress import Progress
from p2pcache.transfer.pull import pull

if TYPE_CHECKING:
    from collections.abc import Sequence

    from p2pcache.agent.args import Args
    from p2pcache.agent.localapi.answers import BadBlob, UnreadBlob
    from p2pcache.agent.parts import Emit, Parts
    from p2pcache.sources.port import Credentials
    from p2pcache.store.rooted import AnyBlob
    from p2pcache.store.store import Store


async def verify(parts: Parts, args: Args, emit: Emit) -> dict[str, Any]:
    """Re-hash every blob, or those of one ref. With `repair`, bring back what is damaged.

    Each blob that is bad or cannot be read is sent as an item; so is one that was bad before, for
    as long as it is not back.
    """
    ref = args.optional_text("ref")
    chosen = await trio.to_thread.run_sync(_chosen, parts, ref)
    named = await _verify_rooted(parts, [b for b in chosen if isinstance(b, RootedBlob)], emit)
    fresh = {blob.sha256 for blob in named}
    blobs = [b for b in chosen if isinstance(b, BlobInfo) and b.sha256 not in fresh]
    checked, done = len(named), sum(blob.size for blob in named)
    total = done + sum(blob.size for blob in blobs)
    repaired = 0
    damaged: set[bytes] = set()
    for number, blob in enumerate(blobs):
        await emit(
            {
                "type": "progress",
                **Progress(
                    "verifying", blob.sha256.hex(), done, total, number, len(blobs)
                ).to_wire(),
            }
        )
        try:
            here = await trio.to_thread.run_sync(_still_here, parts.store, blob)
            problem = await _problem(parts, blob) if here else None
        except LocalFault as exc:  # ours: says nothing about the blob, so nothing is moved
            if not await trio.to_thread.run_sync(_still_here, parts.store, blob):
                continue  # evicted while it was hashed
            unread: UnreadBlob = {
                "sha256": blob.sha256.hex(), "root": _root_text(blob), "path": str(blob.path),
                "problem": exc.message,
            }  # fmt: skip
            await emit({"type": "item", "value": {"unread": unread}})
            continue
        if problem is not None:
            damaged.add(blob.sha256)
            bad = await _mend(parts, blob, problem, args.credentials(), args.flag("repair"))
            repaired += bad["repaired"]
            await emit({"type": "item", "value": {"bad": bad}})
        if here:
            checked += 1
            done += blob.size
    for blob in await trio.to_thread.run_sync(_taken_out, parts, ref):
        if blob.sha256 not in damaged:
            bad = await _missing(parts, blob, args.credentials(), args.flag("repair"))
            repaired += bad["repaired"]
            await emit({"type": "item", "value": {"bad": bad}})
    incomplete = await trio.to_thread.run_sync(_incomplete, parts, ref)
    return {
        "checked": checked,
        "checked_bytes": done,
        "repaired": repaired,
        "incomplete": incomplete,
    }


async def _verify_rooted(parts: Parts, blobs: Sequence[RootedBlob], emit: Emit) -> list[BlobInfo]:
    """Those that have a root and no sha2-256 yet: to name them is to verify them."""
    named = []
    for blob in blobs:
        linked = await trio.to_thread.run_sync(_other_names, blob)
        try:
            found = await parts.naming.name(blob.root_cid)
        except LocalFault as exc:
            unread: UnreadBlob = {
                "sha256": None, "root": format_cid(blob.root_cid), "path": str(blob.path),
                "problem": exc.message,
            }  # fmt: skip
            await emit({"type": "item", "value": {"unread": unread}})
            continue
        if isinstance(found, Damaged):
            bad: BadBlob = {
                "sha256": None,
                "root": format_cid(blob.root_cid),
                "path": str(blob.path),
                "problem": "its blocks do not make its root",
                "bad_blocks": found.bad_blocks,
                "linked": linked,
                "repaired": False,
                "reason": "get it again by its CID: only the bad blocks are fetched",
            }
            await emit({"type": "item", "value": {"bad": bad}})
        elif found is not None:
            named.append(found)
    return named


def _chosen(parts: Parts, text: str | None) -> list[AnyBlob]:
    store = parts.store
    if text is None:
        return [*store.rooted.every(), *store.every_blob()]
    match meant(parts, text):
        case OfManifest(cid):
            manifest = store.get_manifest(cid)
            assert manifest is not None
            found = store.find_many([f.digest for f in manifest.files])
            return list({blob.sha256: blob for blob in found.values()}.values())
        case OfBlob(blob):
            return [blob]
        case OfDag(root):
            return blobs_named(store, store.dag_pins.kept_by(root)[1])
        case _ as never:
            assert_never(never)


def _taken_out(parts: Parts, text: str | None) -> list[BlobInfo]:
    """Blobs that an earlier `verify`, or whoever else read them, found damaged."""
    found = parts.store.damaged()
    if text is None or not found:
        return found
    what = _meant(parts, text)
    manifest = parts.store.get_manifest(what.cid) if isinstance(what, OfManifest) else None
    wanted = set() if manifest is None else {file.digest for file in manifest.files}
    return [blob for blob in found if not wanted.isdisjoint(blob.names)]


def _incomplete(parts: Parts, text: str | None) -> list[str]:
    """The refs of which only a part is here, and those that lack what is pinned or was damaged."""
    names = [name for blob in parts.store.damaged() for name in blob.names]
    hurt: set[bytes] = set().union(*parts.store.manifests_with(names).values())
    only: bytes | None = None
    if text is not None:
        match _meant(parts, text):
            case OfManifest(cid):
                only = cid
            case OfDag(root):
                return [] if _reads(parts, root) else [text]
            case _:  # a blob is here, or it is not found
                return []
    found = []
    for entry in parts.store.ls():
        begun = entry.pinned or entry.present_bytes > 0 or entry.manifest in hurt
        if begun and entry.present_bytes < entry.total_bytes and only in (None, entry.manifest):
            found.extend(
                [row.canonical for row in entry.resolutions] or [format_cid(entry.manifest)]
            )
    return sorted(found)


def _meant(parts: Parts, text: str) -> OfManifest | OfBlob | OfDag | None:
    """None for a blob that was just taken out."""
    try:
        return meant(parts, text)
    except NotFound:
        return None


def _reads(parts: Parts, root: bytes) -> bool:
    """Whether all loose blocks of a pinned DAG are good; a damaged one goes, and can come again."""
    blocks, _ = parts.store.dag_pins.kept_by(root)
    return all([parts.store.loose.read(make_cid(RAW, block)) is not None for block in blocks])


def _still_here(store: Store, blob: BlobInfo) -> bool:
    """Whether there is a file to look at. What is gone, and a changed adopted one, is forgotten."""
    return store.find(blob.digest) is not None or (not blob.adopted and blob.path.exists())


async def _problem(parts: Parts, blob: BlobInfo) -> str | None:
    """What is wrong with a blob, or None. Raises LocalFault when it cannot be read now."""
    with local_faults("looking at a blob"):
        found = (await trio.Path(blob.path).stat()).st_size
    if found != blob.size:
        return f"its length is {found} bytes instead of {blob.size}"
    report = await parts.workers.follow(FollowOrder(str(blob.path), None, blob.size))
    if report.fault is not None:
        raise local_error(report.fault)
    if report.sha256 != blob.sha256:
        return f"its bytes hash to sha256:{report.sha256.hex()}"
    return None


async def _mend(
    parts: Parts, blob: BlobInfo, problem: str, credentials: Credentials, repair: bool
) -> BadBlob:
    """Take a damaged blob out; when asked to, fetch its bad blocks from where it came from."""
    row: BadBlob = {
        "sha256": blob.sha256.hex(),
        "root": _root_text(blob),
        "path": str(blob.path),
        "problem": problem,
        "bad_blocks": None,
        "linked": await trio.to_thread.run_sync(_other_names, blob),
        "repaired": False,
        "reason": None,
    }
    try:
        row["bad_blocks"] = await trio.to_thread.run_sync(_take_out, parts.store, blob)
        origins = await trio.to_thread.run_sync(_where_from, parts.store, blob)
    except P2PCacheError as exc:
        row["reason"] = f"it could not be taken out: {exc.message}"
        return row
    return await _repaired(parts, row, blob, origins, credentials, repair)


async def _missing(parts: Parts, blob: BlobInfo, credentials: Credentials, repair: bool) -> BadBlob:
    """Fetch what a blob lacks that was taken out before."""
    kept = await trio.to_thread.run_sync(parts.store.others_progress, blob.digest)
    row: BadBlob = {
        "sha256": blob.sha256.hex(),
        "root": _root_text(blob),
        "path": str(blob.path),
        "problem": "it was damaged, and is not back",
        "bad_blocks": block_count(blob.size) - kept,
        "linked": 0,
        "repaired": False,
        "reason": None,
    }
    origins = await trio.to_thread.run_sync(_where_from, parts.store, blob)
    return await _repaired(parts, row, blob, origins, credentials, repair)


async def _repaired(
    parts: Parts,
    row: BadBlob,
    blob: BlobInfo,
    origins: Sequence[str],
    credentials: Credentials,
    repair: bool,
) -> BadBlob:
    """The row, with what came of it; `repair`: fetch the bad blocks from one of the `origins`."""
    if not repair:
        row["reason"] = "run `p2pcache verify --repair`, or get it again"
        return row
    for canonical in origins:
        try:
            await _fetch_again(parts, canonical, blob, credentials)
        except P2PCacheError as exc:
            row["reason"] = exc.message
            continue
        row["repaired"], row["reason"] = True, None
        return row
    row["reason"] = row["reason"] or "where it came from is not known here"
    return row


def _other_names(blob: AnyBlob) -> int:
    """Hard links to our file: the repaired blob is another file."""
    try:
        return 0 if blob.adopted else blob.path.stat().st_nlink - 1
    except OSError:
        return 0


def _root_text(blob: BlobInfo) -> str | None:
    return None if blob.root_cid is None else format_cid(blob.root_cid)


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
    resolution = await trio.to_thread.run_sync(parts.resolver.recorded, ref)
    if resolution is None or resolution.listing.source == OTHERS:  # a word names no file's place
        resolution = await parts.resolver.resolve(ref, credentials)
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
