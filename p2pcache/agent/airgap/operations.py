"""The operations export and import: the threads that do the work, what they tell, and the names."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import trio

from p2pcache.agent.airgap.dag import write_dag
from p2pcache.agent.airgap.plan import plan
from p2pcache.agent.airgap.read import Brought, read_bundle
from p2pcache.agent.airgap.write import write_bundle
from p2pcache.agent.dags import is_dag_alone
from p2pcache.agent.unlisted import root_first
from p2pcache.content import cid as cids
from p2pcache.content import refs
from p2pcache.content.peerid import format_peer_id
from p2pcache.errors import Denied, NotFound, P2PCacheError, Untrusted, UsageError, plain_errors
from p2pcache.net.identity import load_or_create_identity
from p2pcache.sources.port import BLOCKS, ListedFile, Listing
from p2pcache.store.rooted import is_root
from p2pcache.transfer.names import OTHERS, choose_word, listing_of
from p2pcache.transfer.progress import Meter, Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from p2pcache.agent.args import Args
    from p2pcache.agent.parts import Emit, Parts
    from p2pcache.content.manifest import Manifest
    from p2pcache.content.signed import SignedResolution

    Tell = Callable[[Progress], None]

BEAT_S = 0.2  # between two looks at how far the thread is

T = TypeVar("T")


async def export(parts: Parts, args: Args, emit: Emit) -> dict[str, Any]:
    """Write what refs mean, all of it here, into one file."""
    texts, path = args.texts("refs"), _path(args)
    if not texts:
        raise UsageError("`refs` is missing")
    for text in texts:
        ref = refs.parse_ref(text)
        if isinstance(ref, refs.CidRef) and is_root(ref.cid):
            await parts.naming.name(ref.cid)  # a bundle has manifests, which name no roots
    plain = args.flag("plain")
    if plain and (len(texts) > 1 or args.flag("gated")):
        raise UsageError(
            "a plain CAR is one DAG that everybody may read",
            hint="one ref a file, and --gated without --plain: only a bundle keeps that mark",
        )
    if plain or (len(texts) == 1 and await trio.to_thread.run_sync(is_dag_alone, parts, texts[0])):
        await root_first(parts, texts[0])
        return await _export_dag(parts, texts[0], path, emit)
    with parts.store.running() as hold:
        planned = await trio.to_thread.run_sync(
            lambda: plan(
                parts,
                texts,
                args.flag("gated"),
                lambda: load_or_create_identity(parts.network.files.identity),
                hold,
            )
        )
        written = await _told(emit, lambda tell: write_bundle(parts.store, planned, path, tell))
    return {
        "format": "bundle",
        "path": str(written.path),
        "index": str(written.index),
        "size_bytes": written.size_bytes,
        "blocks": written.blocks,
        "total_bytes": written.content_bytes,
        "refs": [
            {
                "ref": one.ref,
                "manifest": cids.format_cid(one.manifest.cid()),
                "root": cids.format_cid(folder),
                "files": len(one.manifest.files),
                "names": [word.canonical for word in one.names]
                + [_cid_name(next(iter(listed.nodes))) for listed in one.roots],
                "restricted": one.restricted,
            }
            for one, folder in zip(planned, written.folders, strict=True)
        ],
    }


async def _export_dag(parts: Parts, text: str, path: Path, emit: Emit) -> dict[str, Any]:
    with parts.store.running():
        written = await _told(emit, lambda tell: write_dag(parts, text, path, tell))
    exported: dict[str, Any] = {
        "ref": text,
        "manifest": None,
        "root": cids.format_cid(written.root),
        "files": 0,
        "names": [],
        "restricted": False,
    }
    return {
        "format": "car",
        "path": str(path),
        "index": None,
        "size_bytes": written.size_bytes,
        "blocks": written.blocks,
        "total_bytes": written.content_bytes,
        "refs": [exported],
    }


async def import_(parts: Parts, args: Args, emit: Emit) -> dict[str, Any]:
    """Bring what a CAR holds into the store, learn its names, and tell the network."""
    path = _path(args)
    with parts.store.running() as hold:
        brought, new = await _told(emit, lambda tell: read_bundle(parts.store, path, tell, hold))
        rows, notes = await trio.to_thread.run_sync(_learn_all, parts, brought)
        for one, row in zip(brought, rows, strict=True):
            if one.dag is not None:
                row["pinned"], note = await _pinned(parts, one)
                notes.append(note)
    parts.ipfs.blocks.tell(None)
    opened = parts.network.current
    if opened is not None:
        opened.possess([one.manifest.cid() for one in brought if one.manifest is not None])
    return {
        "refs": rows,
        "total_bytes": sum(map(_size, brought)),
        "new_bytes": new.content_bytes,
        "new_block_bytes": new.block_bytes,
        "notes": notes,
    }


async def _pinned(parts: Parts, one: Brought) -> tuple[bool, str]:
    """Keep a DAG, if all of it is here; and what the user should know of that."""
    text = cids.format_cid(one.root)
    try:
        await parts.ipfs.pins.pin(one.root, local=True)
    except (NotFound, Untrusted) as exc:
        return False, f"{text} is not pinned, its blocks may be evicted: {exc.message}"
    return True, f"{text} is pinned: it is kept until `p2pcache unpin {text}`"


def _path(args: Args) -> Path:
    path = args.text("path")
    if not os.path.isabs(path):
        raise UsageError(f"`path` must be an absolute path, not `{path}`")
    return Path(path)


async def _told(emit: Emit, work: Callable[[Tell], T]) -> T:
    """Run the work in a thread and send its newest progress now and then.

    If cancelled, the work stops at its next word, and this waits for that.
    """
    newest: Progress | None = None
    meter = Meter()

    def tell(progress: Progress) -> None:
        nonlocal newest
        trio.from_thread.check_cancelled()
        newest = progress

    async def beat() -> None:
        while True:
            await trio.sleep(BEAT_S)
            if newest is not None:
                rate = meter.add(trio.current_time(), newest.done_bytes)
                await emit({"type": "progress", **replace(newest, bytes_per_s=rate).to_wire()})

    with plain_errors():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(beat)
            done = await trio.to_thread.run_sync(work, tell)
            nursery.cancel_scope.cancel()
    return done


def _size(one: Brought) -> int:
    if one.dag is not None:
        return sum(file.size for file in one.dag)
    return 0 if one.manifest is None else one.manifest.total_bytes


def _learn_all(parts: Parts, brought: list[Brought]) -> tuple[list[dict[str, Any]], list[str]]:
    """Keep the names; gives the rows of the answer, and what the user should know."""
    rows, notes = [], []
    for one in brought:
        names: list[dict[str, Any]] = []
        if one.manifest is not None:
            for canonical in dict.fromkeys(word.canonical for word in one.names):
                words = [word for word in one.names if word.canonical == canonical]
                try:
                    used = _learn(parts, canonical, words, one.manifest)
                except P2PCacheError as exc:
                    notes.append(f"the name `{canonical}` is not kept: {exc.message}")
                    continue
                if used is None:
                    who = ", ".join(format_peer_id(word.signer) for word in words)
                    notes.append(
                        f"the word of {who} on `{canonical}` does not count here "
                        "(`names.trust`, `names.max_age`); `get --trust` may let it"
                    )
                word = used or words[0]
                names.append(
                    {
                        "ref": canonical,
                        "signer": format_peer_id(word.signer),
                        "resolved_at": word.resolved_at,
                        "counts": used is not None,
                    }
                )
        if one.manifest is not None and one.dag is not None:
            _learn_roots(parts, one.manifest, [cids.as_v1(one.root)], one.notes)
        if one.manifest is not None and one.also:
            _learn_roots(parts, one.manifest, one.also)
            notes += [f"`{_cid_name(root)}` means it, too" for root in one.also]
        blob = one.blob
        rows.append(
            {
                "manifest": None if one.manifest is None else cids.format_cid(one.manifest.cid()),
                "root": cids.format_cid(one.root),
                "sha256": None if blob is None else blob.sha256.hex(),
                "files": len(one.manifest.files if one.manifest is not None else one.dag or ()),
                "total_bytes": _size(one),
                "names": names,
                "restricted": one.restricted,
                "pinned": False,
            }
        )
    return rows, notes


def _cid_name(root: bytes) -> str:
    return refs.canonical(refs.CidRef(root))


def _learn_roots(
    parts: Parts, manifest: Manifest, roots: Iterable[bytes], notes: tuple[str, ...] = ()
) -> None:
    """What their own nodes prove needs nobody's word."""
    files = tuple(ListedFile(f.path, f.size, f.digest, f.path) for f in manifest.files)
    for root in roots:
        name = _cid_name(root)
        listing = Listing(BLOCKS, "", name, False, files, notes=notes)
        parts.resolver.record(refs.CidRef(root), listing)


def _learn(
    parts: Parts, canonical: str, words: list[SignedResolution], manifest: Manifest
) -> SignedResolution | None:
    """Keep words on one name as if members of the network had said them; gives the one that counts.

    What an origin told us ourselves is never replaced. Raises UsageError (no name that travels),
    Denied (of banned agents).
    """
    ref = refs.parse_ref(canonical)
    if not isinstance(ref, refs.HfRef | refs.Address) or refs.canonical(ref) != canonical:
        raise UsageError("it is not the name of anything that has an origin")
    now = parts.now()
    banned = {ban.peer for ban in parts.store.others.bans()}
    words = [word for word in words if word.signer not in banned]
    if not words:
        raise Denied("its signer is banned here")
    for word in words:
        parts.store.others.put_word(word, now)
    used = choose_word(words, canonical, parts.config.resolve.names, now, words[0].endpoint)
    if used is None:
        return None
    known = parts.resolver.recorded(ref)
    if known is None or (known.listing.source == OTHERS and known.resolved_at < used.resolved_at):
        parts.resolver.record(ref, listing_of(used, manifest, now), used.resolved_at)
    return used
