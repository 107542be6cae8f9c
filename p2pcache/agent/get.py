"""The operations that bring bytes in: resolve and get."""

from __future__ import annotations

import logging
import os
import uuid
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from p2pcache.agent.bptr_logins import caller_login
from p2pcache.agent.dags import keep_nodes
from p2pcache.agent.keep_receipt import keep_receipt
from p2pcache.agent.kubo_beside import kubo_helper
from p2pcache.agent.kubos import KuboBlocks
from p2pcache.agent.meant import both_names
from p2pcache.agent.ollama import check_names
from p2pcache.agent.peering import (
    bring_named,
    count_received,
    maybe_peers,
    tell_complete,
    told_by_peers,
)
from p2pcache.agent.place import Placed, place
from p2pcache.agent.select import chosen_files, shown, summary
from p2pcache.config.network import trust
from p2pcache.content import refs
from p2pcache.errors import (
    Interrupted,
    LocalFault,
    NotFound,
    P2PCacheError,
    Unavailable,
    UsageError,
)
from p2pcache.sources.port import BLOCKS, FETCHED, KUBO, Credentials
from p2pcache.store.blobs import BlobInfo
from p2pcache.store.rooted import RootedBlob, is_root
from p2pcache.transfer.both_names import roots_of
from p2pcache.transfer.names import OTHERS, NameOptions
from p2pcache.transfer.progress import Progress
from p2pcache.transfer.pull import find_here, pull, report_of, wanted_of
from p2pcache.transfer.receipts import receipt, resumed_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from p2pcache.agent.args import Args
    from p2pcache.agent.kubos import OpenKubo
    from p2pcache.agent.parts import Emit, Parts
    from p2pcache.agent.pulls import Watch
    from p2pcache.sources.port import ListedFile, Source
    from p2pcache.store.store import Hold, Store
    from p2pcache.transfer.resolve import Resolution
    from p2pcache.transfer.want import PullReport

_log = logging.getLogger(__name__)
MAX_NOTES = 50  # of one answer; what is said first matters most


@dataclass(frozen=True, slots=True)
class GetRequest:
    """A checked `get`."""

    ref: refs.Ref
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    to: Path | None
    hf_cache: Path | None
    ollama: Path | None  # Ollama's store, where the model is to be shown there
    ollama_name: str | None  # of a model that is made of GGUF files
    links: bool
    dry_run: bool
    offline: bool
    refresh: bool
    names: NameOptions | None  # whose word counts; None: the configured ones'
    rate_bytes_per_s: float | None
    credentials: Credentials
    kubo: str | None  # another one than the configured


def get_request(args: Args, links: bool, names: NameOptions | None = None) -> GetRequest:
    """Parse a call. Raises UsageError."""
    to, hf_cache = args.optional_text("to"), args.optional_text("hf_cache")
    ollama = args.optional_text("ollama")
    for name, path in (("to", to), ("hf_cache", hf_cache), ("ollama", ollama)):
        if path is not None and not os.path.isabs(path):
            raise UsageError(f"`{name}` must be an absolute path, not `{path}`")
    ref = refs.parse_ref(args.text("ref"), revision=args.optional_text("revision"))
    is_hub = isinstance(ref, refs.HfRef)
    return GetRequest(
        ref=ref,
        include=args.texts("include"),
        exclude=args.texts("exclude"),
        to=None if to is None else Path(to),
        hf_cache=Path(hf_cache) if hf_cache is not None and is_hub else None,
        ollama=None if ollama is None else Path(ollama),
        ollama_name=args.optional_text("ollama_name"),
        links=args.flag("links", links),
        dry_run=args.flag("dry_run"),
        offline=args.flag("offline"),
        refresh=args.flag("refresh"),
        names=name_options(args, names or NameOptions()),
        rate_bytes_per_s=args.positive("limit_rate"),
        credentials=caller_login(args, ref),
        kubo=args.optional_text("kubo"),
    )


def name_options(args: Args, configured: NameOptions) -> NameOptions | None:
    """`trust` and `max_age` of a call in place of the configured ones; None: neither is given."""
    said, max_age_s = args.optional_text("trust"), args.positive("max_age")
    if said is None and max_age_s is None:
        return None
    try:
        trusted = configured.trust if said is None else trust(said)
    except ValueError as exc:
        raise UsageError(
            f"`trust`: {exc}", hint="`any`, `none`, or peer ids as `p2pcache peers` shows them"
        ) from exc
    return NameOptions(configured.max_age_s if max_age_s is None else max_age_s, trusted)


async def resolve(parts: Parts, args: Args, emit: Emit) -> dict[str, Any]:
    """What a ref means now; its files are sent as items."""
    ref = refs.parse_ref(args.text("ref"), revision=args.optional_text("revision"))
    kubo = await parts.kubos.find(args.optional_text("kubo"), patient=True)
    ask = partial(
        parts.resolver.resolve,
        ref,
        caller_login(args, ref),
        offline=args.flag("offline"),
        refresh=args.flag("refresh"),
    )
    try:
        resolution = await ask(kubo=kubo)
    except NotFound:
        absent = await trio.to_thread.run_sync(parts.resolver.remembered, ref)
        if absent is None and isinstance(ref, refs.DigestRef):
            absent = await told_by_peers(parts, ref)
        if absent is None and not args.flag("offline") and _may_fetch(parts, ref):
            absent = await ask(kubo=parts.fetched)
        if absent is None:
            raise
        resolution = absent
    files = resolution.listing.files
    root = _root_of(ref)
    names = [name for f in files if (name := f.name or root) is not None]
    have = await trio.to_thread.run_sync(parts.store.find_any_of, names)
    named = await trio.to_thread.run_sync(roots_of, parts.store.pairs, files)
    for file in files:
        blob = have.get(file.name or root or b"")
        await emit({"type": "item", "value": shown(file, blob, named.get(file.digest or b""))})
    return {"ref": refs.shown_ref(args.text("ref")), **summary(resolution)}


async def get(parts: Parts, args: Args, emit: Emit) -> dict[str, Any]:
    """Bring what a ref means into the store, and show it where the caller wants it."""
    request = get_request(args, parts.config.links, parts.config.resolve.names)
    started_at, started = parts.now(), trio.current_time()
    said = refs.shown_ref(args.text("ref"))
    run = _Run(parts, request, said, emit, uuid.uuid4().hex[:12])
    try:
        resolution, report, placed = await run.all()
    except P2PCacheError as exc:
        await run.save(started_at, trio.current_time() - started, exc)
        raise
    except trio.Cancelled:
        gone = Interrupted("the caller went away")
        await run.save(started_at, trio.current_time() - started, gone)
        raise
    seconds = trio.current_time() - started
    unsaved = None if request.dry_run else await run.save(started_at, seconds, None)
    return {
        "ref": said,
        **summary(resolution),
        "path": None if placed.path is None else str(placed.path),
        "files": len(run.files),
        "total_bytes": run.total_bytes,
        "fetched_bytes": report.statistics.fetched_bytes,
        "reused_bytes": report.reused_bytes
        + report.adopted_bytes
        + (0 if request.dry_run else resumed_bytes(report, run.total_bytes)),
        **_names(report),
        "seconds": seconds,
        "link_kind": placed.link_kind,
        "made": dict(placed.made),
        "pull": None if request.dry_run else run.id,
        "notes": _shown_notes([*([unsaved] if unsaved else []), *resolution.notes, *placed.notes]),
        "dry_run": run.dry,
    }


def _names(report: PullReport) -> dict[str, str | None]:
    """Both names of a single file, as far as they are known."""
    if len(report.blobs) != 1:
        return {"sha256": None, "root": None}
    (blob,) = report.blobs.values()
    return dict(zip(("sha256", "root"), both_names(blob), strict=True))


def _shown_notes(notes: list[str]) -> list[str]:
    """A screenful: a folder of 100,000 files may have as many to replace."""
    more = len(notes) - MAX_NOTES
    return notes if more <= 0 else [*notes[:MAX_NOTES], f"and {more} more notes like these"]


def pull_key(
    request: GetRequest, resolution: Resolution, files: Sequence[ListedFile]
) -> tuple[object, ...]:
    """Calls with one key share one pull: they want the same, of the same origin, as the same user.

    Another user's token may open what this one's does not, and the other way round.
    """
    manifest = resolution.manifest
    return (
        resolution.canonical if manifest is None else manifest.cid(),
        frozenset((f.path, f.validator) for f in files),
        request.offline,
        resolution.listing.endpoint,
        request.credentials,
    )


def _root_of(ref: refs.Ref) -> bytes | None:
    """The root that a ref is, of a blob that may have no other name, or get one meanwhile."""
    if isinstance(ref, refs.CidRef) and ref.path is None and is_root(ref.cid):
        return ref.cid
    return None


def _stop_if_cancelled(path: str) -> None:
    """Between two files, in the thread that places them."""
    trio.from_thread.check_cancelled()


def _restrict(store: Store, resolution: Resolution) -> None:
    """Of restricted blocks here: no new blob of them is for everybody, not even for a moment."""
    listing, manifest = resolution.listing, resolution.manifest
    if listing.gated and listing.source in (BLOCKS, FETCHED) and manifest is not None:
        store.restrict(manifest)


def _may_fetch(parts: Parts, ref: refs.Ref) -> bool:
    """Whether somebody may bring its blocks one by one; a Kubo was asked for all of it before."""
    others = any(not isinstance(one, KuboBlocks) for one in parts.ipfs.fetchers)
    return others and parts.fetched.accepts(ref)


def _word_of(error: NotFound) -> P2PCacheError | None:
    """What Kubo said of a name that is not here, where one was asked."""
    return error.__cause__ if isinstance(error.__cause__, P2PCacheError) else None


def _with_note(resolution: Resolution, note: str) -> Resolution:
    listing = resolution.listing
    return replace(resolution, listing=replace(listing, notes=(*listing.notes, note)))


class _Run:
    """One `get`, step by step, so that a failure leaves a receipt of the steps before it."""

    def __init__(self, parts: Parts, request: GetRequest, ref: str, emit: Emit, id_: str) -> None:
        self.id = id_
        self.files: list[ListedFile] = []
        self.dry: dict[str, int] | None = None  # of a dry run; the files were sent as items
        self._parts = parts
        self._request = request
        self._ref = ref
        self._emit = emit
        self._times: dict[str, float] = {}
        self._resolution: Resolution | None = None
        self._report: PullReport | None = None
        self._kubo: OpenKubo | None = None
        self._fetched: Source | None = None  # who lists it, when nobody else does

    @property
    def total_bytes(self) -> int:
        """Of the files that were chosen."""
        return sum(f.size or 0 for f in self.files)

    async def all(self) -> tuple[Resolution, PullReport, Placed]:
        """Resolve, bring, place."""
        request, parts = self._request, self._parts
        await self._tell(Progress("resolving"))
        started = trio.current_time()
        with parts.store.running() as hold:  # until it is placed: `place` reads the blobs
            resolution = self._resolution = await self._resolve(hold)
            self._times["resolve_s"] = trio.current_time() - started
            self.files = chosen_files(resolution, request.include, request.exclude)
            check_names(request, self.files)
            if request.dry_run:
                dry = await self._dry()
                return resolution, dry, Placed(None, None, ())
            result = await self._bring(resolution, hold)
            if result[1].statistics.fetched_bytes:
                await trim(parts)
        return result

    async def _bring(
        self, resolution: Resolution, hold: Hold
    ) -> tuple[Resolution, PullReport, Placed]:
        request, parts = self._request, self._parts
        await trio.to_thread.run_sync(_restrict, parts.store, resolution)
        report = self._report or await trio.to_thread.run_sync(self._complete, resolution, hold)
        if report is None:
            report = await parts.pulls.wait_pulled(
                pull_key(request, resolution, self.files), self._ref, self._start, self._tell, hold
            )
        report = self._report = await self._named(report)
        self._times |= {
            "adopt_s": report.adopt_s,
            "fetch_s": report.fetch_s,
            "verify_s": report.verify_s,
        }
        if resolution.manifest is None or resolution.listing.source in (KUBO, BLOCKS, FETCHED):
            resolution = self._resolution = await trio.to_thread.run_sync(
                parts.resolver.named_by_arrival, resolution, report.blobs
            )
        if any(isinstance(b, RootedBlob) or b.root_cid is None for b in report.blobs.values()):
            parts.naming.wake()
        if self._is_whole(resolution):
            await keep_nodes(parts, resolution)
        await tell_complete(parts, resolution)
        await self._tell(Progress("materialising", None, self.total_bytes, self.total_bytes))
        started = trio.current_time()
        placed = await trio.to_thread.run_sync(self._place, resolution, report)
        self._times["materialise_s"] = trio.current_time() - started
        return resolution, report, placed

    def _is_whole(self, resolution: Resolution) -> bool:
        return len(self.files) == len(resolution.listing.files)

    async def _named(self, report: PullReport) -> PullReport:
        """With the sha2-256 of each file, where a part of a folder is shown: a manifest lists those
        that are here. One file, or a whole folder, goes by its root and is named when there is
        time.
        """
        rooted = {path: b for path, b in report.blobs.items() if isinstance(b, RootedBlob)}
        assert self._resolution is not None
        if not rooted or len(self.files) == 1 or self._is_whole(self._resolution):
            return report
        named = {path: await self._parts.naming.name(b.root_cid) for path, b in rooted.items()}
        good = {path: b for path, b in named.items() if isinstance(b, BlobInfo)}
        if len(good) < len(rooted):
            path = next(path for path in rooted if path not in good)
            raise LocalFault(f"`{path}` was damaged on this disk", hint="run it again")
        return replace(report, blobs={**report.blobs, **good})

    def _complete(self, resolution: Resolution, hold: Hold) -> PullReport | None:
        """The report when all of it is here: there is no pull then, nor anybody to share it with.
        Blocking.
        """
        store, manifest = self._parts.store, resolution.manifest
        root = _root_of(resolution.ref) if manifest is None else None
        if root is not None and (blob := store.find_any_held(root, hold)) is not None:
            return report_of({file.path: blob for file in self.files}, self.total_bytes)
        if manifest is None or not store.is_complete(manifest.cid()):
            return None
        have = find_here(store, wanted_of(self.files), hold)
        return report_of(have, self.total_bytes) if len(have) == len(self.files) else None

    def _place(self, resolution: Resolution, report: PullReport) -> Placed:
        """Blocking; one call: each way to a thread and back is 0.2 ms of a warm `get`."""
        placed = place(self._request, resolution, self.files, report.blobs, _stop_if_cancelled)
        self._parts.store.touch([b.key for b in report.blobs.values()], self._parts.now())
        return placed

    async def _resolve(self, hold: Hold) -> Resolution:
        """What the ref means; content that is only a name may have to come from peers first.

        A Kubo is asked first, for it tells at once; one that does not is asked again, with
        patience, after the peers.
        """
        request, parts = self._request, self._parts
        self._kubo = await parts.kubos.find(request.kubo)
        try:
            return await self._resolved()
        except NotFound as exc:
            missing, of_kubo = exc, _word_of(exc)
        if not isinstance(request.ref, refs.DigestRef | refs.CidRef):
            raise missing
        if parts.network.wanted and not request.dry_run:
            try:
                self._report = await bring_named(
                    parts, request.ref, self._tell, request.rate_bytes_per_s, hold, self._note
                )
                resolution = await parts.resolver.resolve(request.ref, request.credentials)
                return resolution if of_kubo is None else _with_note(resolution, of_kubo.message)
            except NotFound as exc:
                missing = exc
        if isinstance(of_kubo, Unavailable):
            self._kubo = await parts.kubos.find(request.kubo, patient=True)
            try:
                return _with_note(await self._resolved(), f"{of_kubo.message}, and was asked again")
            except NotFound as exc:
                of_kubo = _word_of(exc)
        if not request.offline and _may_fetch(parts, request.ref):
            self._fetched = parts.fetched
            try:
                return await self._resolved()
            except NotFound as exc:
                of_kubo = of_kubo or _word_of(exc)
        if of_kubo is None:
            raise missing
        hint = of_kubo.hint or missing.hint
        raise NotFound(f"{missing.message}; {of_kubo.message}", hint=hint) from of_kubo

    async def _resolved(self) -> Resolution:
        request = self._request
        return await self._parts.resolver.resolve(
            request.ref,
            request.credentials,
            offline=request.offline,
            refresh=request.refresh,
            trust=request.names,
            kubo=self._fetched or self._kubo,
            beside=self._prepare,
        )

    def _prepare(self) -> None:
        if not self._request.dry_run:
            self._parts.context.workers.prepare(1)  # the pull knows how many it wants

    async def _start(self, watch: Watch, hold: Hold) -> PullReport:
        request, parts = self._request, self._parts
        assert self._resolution is not None
        local = isinstance(request.ref, refs.DigestRef | refs.CidRef)
        listed_by = self._resolution.listing.source
        by_nodes = listed_by in (KUBO, BLOCKS, FETCHED)
        source: Source | None
        if listed_by == KUBO:
            source = self._kubo
        elif listed_by == FETCHED:
            source = self._fetched
        elif listed_by == BLOCKS:
            source = parts.here
        elif request.offline or local or listed_by == OTHERS:
            source = None
        else:
            source = parts.resolver.source_for(request.ref)
        return await pull(
            parts.context,
            self._resolution,
            self.files,
            source,
            request.credentials,
            rate_bytes_per_s=request.rate_bytes_per_s,
            watch=watch,
            note=self._note,
            hold=hold,
            peers=maybe_peers(parts, self._resolution, self.files, request.credentials),
            helper=None if by_nodes else kubo_helper(parts, self._kubo),
            hash_once=len(self._resolution.listing.files) == 1,  # a folder's root needs them all
        )

    def _note(self, report: PullReport) -> None:
        self._report = report
        count_received(self._parts, report)

    async def _dry(self) -> PullReport:
        from p2pcache.transfer.pull import NOTHING
        from p2pcache.transfer.want import PullReport

        root = _root_of(self._request.ref)
        names = {f.path: f.name or root for f in self.files}
        asked = [name for name in names.values() if name is not None]
        have = await trio.to_thread.run_sync(self._parts.store.find_any_of, asked)
        missing = [f for f in self.files if names[f.path] not in have]
        present = [f for f in self.files if names[f.path] in have]
        self.dry = {"missing_bytes": sum(f.size or 0 for f in missing)}
        for file in missing:
            await self._emit({"type": "item", "value": {"path": file.path, "size": file.size}})
        reused = sum(f.size or 0 for f in present)
        return PullReport({}, NOTHING, reused, 0, 0.0, 0.0, 0.0, 0.0)

    async def _tell(self, progress: Progress) -> None:
        await self._emit({"type": "progress", **progress.to_wire()})

    async def save(
        self, started_at: float, seconds: float, error: P2PCacheError | None
    ) -> str | None:
        """Write the receipt; `why` shows it. Returns why it could not be written, if so."""
        made = receipt(
            pull=self.id,
            ref=self._ref,
            started_at=started_at,
            seconds=seconds,
            times=self._times,
            resolution=self._resolution,
            total_bytes=self.total_bytes,
            report=self._report,
            error=error,
        )
        return await keep_receipt(self._parts.store, made)


async def trim(parts: Parts) -> None:
    """Room for the next pull, out of what nobody holds; this one is done and must not fail."""
    try:
        await trio.to_thread.run_sync(parts.store.trim)
    except LocalFault as exc:
        _log.warning("no room is made for the next pull: %s", exc.message)
