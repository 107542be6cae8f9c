"""Files that no map of our blocks can prove, out of a source that has their DAG: block by block.

They come before the rest of a pull, some at a time, each whole or not at all: what is cut off in
the middle is asked for again from its beginning. Then they are blobs like others, under their
sha2-256.
"""

from __future__ import annotations

import secrets
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from p2pcache.content.digests import WholeDigests
from p2pcache.content.unixfs import file_root
from p2pcache.content.verify import verify_whole
from p2pcache.errors import P2PCacheError, Untrusted, plain_errors
from p2pcache.lanes.dag import DagOrder, put_together
from p2pcache.lanes.faults import Ended
from p2pcache.lanes.orders import BLOCK_BYTES, FaultKind, FetchLimits
from p2pcache.lanes.pace import pacer_for
from p2pcache.transfer.faults import fault_of, local_error, no_source
from p2pcache.transfer.machine import SourceStatistics, Statistics

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from p2pcache.lanes.dag import DagReport
    from p2pcache.store.blobs import BlobInfo
    from p2pcache.store.store import Hold, Store
    from p2pcache.transfer.want import Origin, Wanted
    from p2pcache.transfer.workers import Workers

TRIES = 3  # of a file whose source broke off; a lie is never asked for again
WATCH_S = 0.3
_WRONG_DAG = "whoever made it has to add the file again; no other source has other bytes of it"


@dataclass(slots=True)
class ByBlocks:
    """What came so far: blobs by path, and the counters of the one source."""

    source: Origin
    blobs: dict[str, BlobInfo] = field(default_factory=dict)
    wire_bytes: int = 0
    kept_bytes: int = 0
    requests: int = 0
    retries: int = 0
    seconds: float = 0.0
    left: str | None = None

    def statistics(self) -> Statistics:
        """As those of the machine."""
        one = SourceStatistics(
            self.source.name, self.source.kind, self.wire_bytes, self.kept_bytes, self.seconds,
            self.requests, self.retries, self.left,
        )  # fmt: skip
        # what blocks are wrapped in is no duplicate: their nodes are how they are proven
        return Statistics((one,), self.kept_bytes, 0, self.retries, len(self.blobs))


async def bring_by_blocks(
    wanted: Sequence[Wanted],
    so_far: ByBlocks,
    store: Store,
    workers: Workers,
    *,
    limits: FetchLimits,
    at_once: int,
    hold: Hold,
    watch: Callable[[int], None],
) -> None:
    """Bring all into the store and note them in `so_far`. `watch` hears how many bytes are here.

    Raises what the source's faults mean, or ours; cancelled or not, files that are complete stay.
    """
    rate, at_once = limits.rate_bytes_per_s, min(at_once, len(wanted))
    if rate is not None:
        limits = replace(limits, rate_bytes_per_s=rate / at_once)
    left, drafts = iter(wanted), set[Path]()

    async def worker() -> None:
        for one in left:
            await _bring(one, so_far, store, workers, limits, hold, drafts)

    async def look() -> None:
        while True:
            await trio.sleep(WATCH_S)
            watch(so_far.kept_bytes + await trio.to_thread.run_sync(_sizes, list(drafts)))

    with plain_errors():
        async with trio.open_nursery() as looking:
            looking.start_soon(look)
            async with trio.open_nursery() as nursery:
                for _ in range(at_once):
                    nursery.start_soon(worker)
            looking.cancel_scope.cancel()


async def _bring(
    one: Wanted,
    so_far: ByBlocks,
    store: Store,
    workers: Workers,
    limits: FetchLimits,
    hold: Hold,
    drafts: set[Path],
) -> None:
    await trio.to_thread.run_sync(store.ensure_room, one.size_bytes)
    for number in range(TRIES):
        draft = store.small_dir() / secrets.token_hex(8)
        drafts.add(draft)
        try:
            report = await _written(one, so_far.source, str(draft), workers, limits)
            so_far.wire_bytes += report.wire_bytes
            so_far.requests += report.blocks
            so_far.seconds += report.seconds
            if report.fault is None:
                blob = await trio.to_thread.run_sync(_keep, store, draft, one, report, hold)
                so_far.blobs[one.path] = blob
                so_far.kept_bytes += blob.size
                return
        finally:
            drafts.discard(draft)
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(_remove, draft)
        if report.fault.kind in (FaultKind.LOCAL, FaultKind.DISK_FULL):
            raise local_error(report.fault)
        if report.is_dag_wrong:
            raise Untrusted(f"`{one.path}`: {report.fault.message}", hint=_WRONG_DAG)
        if report.fault.kind is not FaultKind.UNAVAILABLE or number + 1 == TRIES:
            so_far.left = report.fault.message
            raise _error(one, so_far, report)
        so_far.retries += 1


async def _written(
    one: Wanted, source: Origin, draft: str, workers: Workers, limits: FetchLimits
) -> DagReport:
    """The file of its blocks: by a worker of ours from an address, or in a thread."""
    assert one.dag is not None
    reader = source.blocks
    if reader is None:
        location = await source.locate(one.key)
        return await workers.fetch_dag(DagOrder(location, one.dag, draft, one.size_bytes, limits))

    with ExitStack() as running:
        pacer = None
        if not reader.is_here:
            pacer = pacer_for(running.enter_context(workers.downlink.request("", limits)))

        def get(cid: bytes) -> bytes:
            try:
                data = reader.read(cid)
            except P2PCacheError as exc:
                raise Ended(fault_of(exc)) from exc
            if pacer is not None and (pause_s := pacer.delay_s(len(data))) > 0:
                trio.from_thread.run(trio.sleep, pause_s)  # so that it can be cancelled
            return data

        return await trio.to_thread.run_sync(
            put_together, one.dag, one.size_bytes, draft, get, limiter=reader.threads
        )


def _error(one: Wanted, so_far: ByBlocks, report: DagReport) -> P2PCacheError:
    assert report.fault is not None
    return no_source([one.path], 1, [(so_far.source.name, report.fault)])


def _keep(store: Store, draft: Path, one: Wanted, report: DagReport, hold: Hold) -> BlobInfo:
    """Publish what was verified. Blocking."""
    blob = verify_whole(
        one.digest, one.size_bytes, WholeDigests(one.size_bytes, report.sha256, None)
    )
    hold([blob.sha256])
    if one.size_bytes <= BLOCK_BYTES:
        return store.publish_small([(draft, blob)])[0]
    hashes = report.block_digests
    root = file_root((hashes[i : i + 32] for i in range(0, len(hashes), 32)), one.size_bytes)
    return store.publish_draft(draft, blob, root_cid=root.cid, block_digests=hashes)


def _remove(draft: Path) -> None:
    draft.unlink(missing_ok=True)


def _sizes(drafts: Sequence[Path]) -> int:
    found = 0
    for draft in drafts:
        try:
            found += draft.stat().st_size
        except OSError:
            continue
    return found


def together(one: Statistics, other: Statistics) -> Statistics:
    """Both as one: a source of both counts once."""
    sources = {source.name: source for source in one.sources}
    for source in other.sources:
        before = sources.get(source.name)
        sources[source.name] = source if before is None else _sum(before, source)
    duplicates = dict(one.duplicates)
    for cause, count in other.duplicates.items():
        duplicates[cause] = duplicates.get(cause, 0) + count
    return Statistics(
        tuple(sources.values()),
        one.fetched_bytes + other.fetched_bytes,
        one.duplicate_bytes + other.duplicate_bytes,
        one.retries + other.retries,
        one.complete_blobs + other.complete_blobs,
        duplicates,
    )


def _sum(one: SourceStatistics, other: SourceStatistics) -> SourceStatistics:
    return SourceStatistics(
        one.name, one.kind, one.wire_bytes + other.wire_bytes, one.kept_bytes + other.kept_bytes,
        one.seconds + other.seconds, one.requests + other.requests, one.retries + other.retries,
        one.left or other.left,
    )  # fmt: skip
