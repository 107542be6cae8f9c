"""One pull from end to end: what is here, what can be adopted, what must be fetched."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from p2pcache.content.address_secrets import plain_key
from p2pcache.content.digests import WholeDigests, is_git_sha1
from p2pcache.content.unixfs import file_root
from p2pcache.content.verify import verify_whole
from p2pcache.errors import LocalFault, NotFound, Untrusted, UsageError, plain_errors
from p2pcache.lanes.orders import FetchLimits, FollowOrder
from p2pcache.sources.port import BlockReader, Joins, SourceKind
from p2pcache.store.blobs import BlobInfo
from p2pcache.transfer.by_blocks import ByBlocks, bring_by_blocks, together
from p2pcache.transfer.driver import Driver
from p2pcache.transfer.machine import Statistics
from p2pcache.transfer.progress import Progress
from p2pcache.transfer.spending import Spending, uncounted
from p2pcache.transfer.tracing import Traces
from p2pcache.transfer.want import Origin, PullReport, Wanted

if TYPE_CHECKING:
    from p2pcache.content.refs import Ref
    from p2pcache.lanes.orders import Location
    from p2pcache.sources.port import Credentials, ListedFile, Listing, Source
    from p2pcache.store.rooted import AnyBlob
    from p2pcache.store.store import Hold, Store
    from p2pcache.transfer.policy import TransferOptions
    from p2pcache.transfer.resolve import Resolution
    from p2pcache.transfer.sharing import Peers, PeersLater
    from p2pcache.transfer.want import Helper
    from p2pcache.transfer.workers import Workers

Adopter = Callable[["Ref", "ListedFile"], Iterable[Path]]
"""Where a file may lie already, in somebody else's cache. Only a look: its bytes are hashed."""

ORIGIN_STREAMS = 16  # requests that one origin gets from one agent at most
KUBO_STREAMS = 8  # it often runs on our own cores: two of ours already read 900 MB/s from it

NOTHING = Statistics(sources=(), fetched_bytes=0, duplicate_bytes=0, retries=0, complete_blobs=0)


@dataclass(frozen=True, slots=True)
class PullContext:
    """What every pull of an agent shares."""

    store: Store
    workers: Workers
    transfer: TransferOptions
    limits: FetchLimits
    cores: int
    chance: Callable[[], float]
    adopters: Sequence[Adopter]
    traces: Traces = field(default_factory=Traces)
    spending: Spending = field(default_factory=uncounted)


def wanted_of(files: Iterable[ListedFile]) -> list[Wanted]:
    """Listed files as the driver wants them. Raises UsageError for a file of unknown size."""
    wanted = []
    for file in files:
        if file.size is None:
            raise UsageError(
                f"the origin does not say how long `{file.path}` is",
                hint="pin it (`#sha256=...`) or serve it with a Content-Length",
            )
        # Where there is a digest it decides: the root may be another file's.
        by_root = file.root if file.digest is None else None
        wanted.append(
            Wanted(
                file.path, file.size, file.digest, file.key,
                root=by_root, block_map=None if by_root is None else file.block_map,
                validator=file.validator, dag=file.dag,
            )
        )  # fmt: skip
    return wanted


def report_of(have: Mapping[str, AnyBlob], reused_bytes: int) -> PullReport:
    """Of a pull that fetched nothing so far."""
    return PullReport(
        blobs=dict(have),
        statistics=NOTHING,
        reused_bytes=reused_bytes,
        adopted_bytes=0,
        adopt_s=0.0,
        fetch_s=0.0,
        verify_s=0.0,
        best_bytes_per_s=0.0,
    )


async def pull(
    context: PullContext,
    resolution: Resolution,
    files: Sequence[ListedFile],
    source: Source | None,
    credentials: Credentials,
    *,
    rate_bytes_per_s: float | None,
    watch: Callable[[Progress], None],
    note: Callable[[PullReport], None],
    hold: Hold,
    peers: AbstractAsyncContextManager[Peers | PeersLater | None] | None = None,
    helper: Helper | None = None,
    hash_once: bool = False,
) -> PullReport:
    """Bring `files` into the store. Cancel-safe: verified blocks stay. Raises one of our errors.

    `source` None means no origin: what neither is here nor with `peers` is NotFound. `peers` is
    entered only when something is missing: what is here is announced to nobody again. `helper` is
    asked for what is missing, too, and comes after peers and before the origin. `note` gets
    the report of what was done so far also when the pull fails or is cancelled. `hold` gets every
    blob that is found or arrives: it is not evicted for the rest, nor before the caller has placed
    it. `hash_once`: a large blob that nobody but an origin has may be without its root at first.
    """
    wanted = wanted_of(files)
    total = sum(w.size_bytes for w in wanted)
    have = await trio.to_thread.run_sync(find_here, context.store, wanted, hold)
    reused = sum(w.size_bytes for w in wanted if w.path in have)
    watch(Progress("adopting", None, reused, total, len(have), len(wanted)))
    started = trio.current_time()
    adopted = await adopt(context, resolution.ref, [f for f in files if f.path not in have], hold)
    have |= adopted
    adopt_s = trio.current_time() - started
    report = replace(
        report_of(have, reused),
        adopted_bytes=sum(blob.size for blob in adopted.values()),
        adopt_s=adopt_s,
    )
    note(report)
    missing = [w for w in wanted if w.path not in have]
    if not missing:
        return report
    origins = []
    if source is not None:
        origins = [_bound(context, source, resolution, credentials, missing)]
    here = sum(w.size_bytes for w in wanted if w.path in have)
    files_here = len(have)

    def above(progress: Progress) -> None:
        """The driver counts what it brings; the watcher wants the whole pull."""
        watch(
            replace(
                progress,
                done_bytes=here + progress.done_bytes,
                total_bytes=total,
                files_done=files_here + progress.files_done,
                files_total=len(wanted),
            )
        )

    if foreign := [w for w in missing if w.dag is not None]:
        report = await _by_blocks(
            context, foreign, origins, report,
            rate_bytes_per_s=rate_bytes_per_s, watch=above, note=note, hold=hold,
        )  # fmt: skip
        missing = [w for w in missing if w.dag is None]
        here += sum(w.size_bytes for w in foreign)
        files_here += len(foreign)
        if not missing:
            return report
    async with AsyncExitStack() as open_:
        helped = None
        if helper is not None:
            helped = await open_.enter_async_context(helper(missing, source is not None))
        met = None if peers is None else await open_.enter_async_context(peers)
        report = await fetch(
            context,
            resolution.canonical,
            missing,
            origins if helped is None else [helped, *origins],
            report,
            rate_bytes_per_s=rate_bytes_per_s,
            watch=above,
            note=note,
            hold=hold,
            peers=met,
            hash_once=hash_once,
        )
    if source is not None and source.kind is SourceKind.ORIGIN:
        if resolution.manifest is not None and came_whole(resolution.listing, missing, report):
            digests = [w.digest for w in missing if w.digest is not None]
            give = context.store.rights.give
            await trio.to_thread.run_sync(give, resolution.manifest.cid(), digests)
        came = (report.blobs[w.path] for w in missing)
        named = ((b.sha256, b.size) for b in came if isinstance(b, BlobInfo))
        context.spending.arrived(resolution.listing.endpoint, named)
    return report


def came_whole(listing: Listing, missing: Sequence[Wanted], report: PullReport) -> bool:
    """Whether an origin gave every byte of what was missing, as it gives it to everybody: nothing
    came from others, or was here of an earlier pull. An address that is signed is a login.
    """
    if listing.gated or any(plain_key(w.key) != w.key for w in missing):
        return False
    used = [s for s in report.statistics.sources if s.kept_bytes]
    sizes = {_identity(w): w.size_bytes for w in missing}
    kept = sum(s.kept_bytes for s in used)
    return all(s.kind is SourceKind.ORIGIN for s in used) and kept >= sum(sizes.values())


async def _by_blocks(
    context: PullContext,
    foreign: list[Wanted],
    origins: Sequence[Origin],
    report: PullReport,
    *,
    rate_bytes_per_s: float | None,
    watch: Callable[[Progress], None],
    note: Callable[[PullReport], None],
    hold: Hold,
) -> PullReport:
    """Bring files that no map of ours can prove; whoever listed them has them."""
    source = next((o for o in origins if o.kind is SourceKind.KUBO), None)
    if source is None:
        raise NotFound(f"nobody is there who could bring the blocks of `{foreign[0].path}`")
    so_far, started = ByBlocks(source), trio.current_time()
    total = sum(w.size_bytes for w in foreign)

    def tell(done_bytes: int) -> None:
        watch(Progress("fetching", source.name, done_bytes, total, len(so_far.blobs), len(foreign)))

    try:
        await bring_by_blocks(
            foreign, so_far, context.store, context.workers.share(),
            limits=_limits(context, rate_bytes_per_s), at_once=max(1, context.cores),
            hold=hold, watch=tell,
        )  # fmt: skip
    finally:
        took_s = trio.current_time() - started
        report = replace(report, blobs={**report.blobs, **so_far.blobs})
        if source.blocks is not None and source.blocks.is_here:
            adopted = report.adopted_bytes + so_far.kept_bytes
            report = replace(report, adopted_bytes=adopted, adopt_s=report.adopt_s + took_s)
        else:
            total_of = together(report.statistics, so_far.statistics())
            report = replace(report, statistics=total_of, fetch_s=report.fetch_s + took_s)
        note(report)
    return report


def _limits(context: PullContext, rate_bytes_per_s: float | None) -> FetchLimits:
    rates = [r for r in (rate_bytes_per_s, context.limits.rate_bytes_per_s) if r is not None]
    return replace(context.limits, rate_bytes_per_s=min(rates, default=None))


async def fetch(
    context: PullContext,
    ref: str,
    missing: list[Wanted],
    origins: list[Origin],
    report: PullReport,
    *,
    rate_bytes_per_s: float | None,
    watch: Callable[[Progress], None],
    note: Callable[[PullReport], None],
    hold: Hold,
    peers: Peers | PeersLater | None,
    hash_once: bool = False,
) -> PullReport:
    """Bring what is known to be missing. Raises and ends as `pull`, whose last step it is. `ref`
    is what those who listen to `context.traces` are told.
    """
    unique = list({_identity(w): w for w in missing}.values())
    limits, before = _limits(context, rate_bytes_per_s), report
    with context.traces.pull(ref) as trace:
        driver = Driver(
            unique,
            origins,
            context.store,
            context.workers.share(),
            options=context.transfer,
            limits=limits,
            cores=context.cores,
            chance=context.chance,
            watch=watch,
            hold=hold,
            peers=peers,
            spending=context.spending,
            trace=trace,
            hash_once=hash_once,
        )
        try:
            await driver.run()
        finally:
            report = replace(
                report,
                statistics=together(before.statistics, driver.statistics()),
                fetch_s=before.fetch_s + driver.fetch_s,
                verify_s=driver.verify_s,
                best_bytes_per_s=driver.best_bytes_per_s,
                hosts=driver.hosts,
                tally=driver.tally(),
            )
            note(report)
    by_name = {_identity(unique[i]): blob for i, blob in driver.blobs.items()}
    brought = {w.path: by_name[_identity(w)] for w in missing}
    return replace(report, blobs=report.blobs | brought)


def _identity(wanted: Wanted) -> bytes | str:
    """Files with one digest are one blob; without a digest, where it lies is all there is."""
    return wanted.digest if wanted.digest is not None else wanted.key


def find_here(store: Store, wanted: list[Wanted], hold: Hold) -> dict[str, AnyBlob]:
    """The stored blob of each path that is here already, held. Blocking."""
    found: dict[bytes, AnyBlob] = {}
    found |= store.find_held([w.digest for w in wanted if w.digest is not None], hold)
    for root in {w.root for w in wanted if w.digest is None and w.root is not None}:
        if (blob := store.find_any_held(root, hold)) is not None:
            found[root] = blob
    return {w.path: found[w.name] for w in wanted if w.name is not None and w.name in found}


def _bound(
    context: PullContext,
    source: Source,
    resolution: Resolution,
    credentials: Credentials,
    missing: Sequence[Wanted],
) -> Origin:
    """A source as this pull sees it."""
    locate = partial(_locate, source, resolution, credentials)
    if source.kind is SourceKind.KUBO:  # it may lose what it told, as a peer may
        holds = frozenset(w.key for w in missing)
        maps = {f.key: f.block_map for f in resolution.listing.files if f.digest and f.block_map}
        join = source.join if isinstance(source, Joins) else None
        blocks = source if isinstance(source, BlockReader) else None
        return Origin(
            source.name, source.kind, KUBO_STREAMS, locate, holds, join, maps=maps, blocks=blocks
        )
    streams = context.spending.streams(resolution.listing.endpoint, ORIGIN_STREAMS)
    return Origin(source.name, source.kind, streams, locate)


async def _locate(
    source: Source, resolution: Resolution, credentials: Credentials, key: str
) -> Location:
    return await source.locate(resolution.listing, key, credentials)


async def adopt(
    context: PullContext, ref: Ref, files: Sequence[ListedFile], hold: Hold
) -> dict[str, BlobInfo]:
    """Use what other caches hold: hashed in place, never copied, never trusted by its name."""
    found: dict[str, BlobInfo] = {}

    async def one(file: ListedFile) -> None:
        for adopter in context.adopters:
            for path in adopter(ref, file):
                blob = await _adopt_one(context, path, file, hold)
                if blob is not None:
                    found[file.path] = blob
                    return

    async def worker() -> None:
        for file in remaining:
            await one(file)
            await trio.lowlevel.checkpoint()  # most files are nowhere: others want to run too

    remaining = (f for f in files if f.digest is not None and f.size is not None)
    with plain_errors():
        async with trio.open_nursery() as nursery:
            for _ in range(context.cores):
                nursery.start_soon(worker)
    return found


async def _adopt_one(
    context: PullContext, path: Path, file: ListedFile, hold: Hold
) -> BlobInfo | None:
    assert file.digest is not None
    assert file.size is not None
    try:
        before = await trio.Path(path).stat()
        if before.st_size != file.size:
            return None
        order = FollowOrder(str(path), None, file.size, git_sha1=is_git_sha1(file.digest))
        report = await context.workers.follow(order)
        if report.fault is not None or report.block_digests is None:
            return None  # unreadable or changed under us: the origin has it too
        blob = verify_whole(
            file.digest, file.size, WholeDigests(file.size, report.sha256, report.git_sha1)
        )
        hashes = report.block_digests
        root = file_root((hashes[i : i + 32] for i in range(0, len(hashes), 32)), file.size)

        def adopt() -> BlobInfo:
            hold([blob.sha256])
            return context.store.adopt(path, blob, before, root_cid=root.cid, block_digests=hashes)

        return await trio.to_thread.run_sync(adopt)
    except (Untrusted, LocalFault, OSError):
        return None  # damaged there, or gone: not ours to mend
