"""Small blobs: fetched whole, many a call, verified, then stored together."""

from __future__ import annotations

import uuid
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from p2pcache.content import digests
from p2pcache.content.verify import VerifiedBlob, verify_whole
from p2pcache.errors import Denied, NotFound, P2PCacheError, Unavailable, Untrusted
from p2pcache.lanes.inline import is_inline
from p2pcache.lanes.joined import JoinedOrder
from p2pcache.lanes.orders import (
    BatchReport,
    BundleOrder,
    Fault,
    FaultKind,
    SmallOrder,
    SmallReport,
)
from p2pcache.transfer import events as ev
from p2pcache.transfer.faults import OURS, fault_of, local_error

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from p2pcache.lanes.orders import FetchLimits, Location
    from p2pcache.store.blobs import BlobInfo
    from p2pcache.store.store import Hold, Store
    from p2pcache.transfer.spending import Spending
    from p2pcache.transfer.want import Wanted
    from p2pcache.transfer.workers import Workers


@dataclass(frozen=True, slots=True)
class BatchOutcome:
    """`blobs`: the ones that are stored now. `ended`: what the machine is told."""

    blobs: dict[int, BlobInfo]
    ended: ev.BatchEnded


async def fetch_batch(
    batch: ev.Batch,
    wanted: Sequence[Wanted],
    locate: Callable[[int], Awaitable[Location]],
    store: Store,
    workers: Workers,
    limits: FetchLimits,
    hold: Hold,
    spending: Spending,
    *,
    again: Callable[[Location], Awaitable[Location]] | None = None,
    join: Callable[[Sequence[int]], Location] | None = None,
) -> BatchOutcome:
    """Fetch, verify and store one batch. If cancelled, nothing of it stays behind.

    `again`: the source is a peer, whose blobs are all asked for with one request; `locate` then
    tells the same place for each, `again` another one when it was refused, and every blob has a
    name. `join`: the source gives several blobs as one body, there.
    """
    started = trio.current_time()
    faults: dict[int, Fault | None] = {}
    orders: dict[int, SmallOrder] = {}
    folder = store.small_dir()
    for blob in batch.blobs:
        try:
            location = await locate(blob)
        except OURS:
            raise
        except P2PCacheError as exc:
            faults[blob] = fault_of(exc)
        else:
            orders[blob] = _order(wanted[blob], location, folder / uuid.uuid4().hex)
    incoming_bytes = sum(wanted[blob].size_bytes for blob in orders)
    await trio.to_thread.run_sync(store.ensure_room, incoming_bytes)
    try:
        if join is not None and len(orders) > 1:
            joined = JoinedOrder(join(list(orders)), tuple(orders.values()))
            report = await workers.fetch_joined(joined, limits)
        else:
            report = await _fetch(orders, wanted, workers, limits, spending, again)
            if again is None:
                report = await _once_more(orders, report, locate, workers, limits, spending)
        good: dict[int, tuple[Path, VerifiedBlob]] = {}
        for (blob, order), small in zip(orders.items(), report.reports, strict=True):
            faults[blob] = small.fault
            if small.fault is None:
                try:
                    good[blob] = Path(order.dst_path), _verified(wanted[blob], small)
                except Untrusted as exc:
                    faults[blob] = Fault(FaultKind.UNTRUSTED, exc.message)
            elif small.fault.kind in (FaultKind.LOCAL, FaultKind.DISK_FULL):
                raise local_error(small.fault)
        hold(verified.sha256 for _, verified in good.values())
        infos = await trio.to_thread.run_sync(store.publish_small, list(good.values()))
    finally:
        _remove(order.dst_path for order in orders.values())
    ended = ev.BatchEnded(
        batch,
        tuple(faults[blob] for blob in batch.blobs),
        sum(small.wire_bytes for small in report.reports),
        trio.current_time() - started,
    )
    return BatchOutcome(dict(zip(good, infos, strict=True)), ended)


async def _fetch(
    orders: dict[int, SmallOrder],
    wanted: Sequence[Wanted],
    workers: Workers,
    limits: FetchLimits,
    spending: Spending,
    again: Callable[[Location], Awaitable[Location]] | None,
) -> BatchReport:
    small = tuple(orders.values())
    if again is None:
        return await _of_origin(small, workers, limits, spending)
    names = tuple(name for blob in orders if (name := wanted[blob].name) is not None)
    if not (small and len(names) == len(small)):
        return await workers.fetch_small(small, limits)
    # One location for all: a ticket that was renewed in between is good for the others too.
    place = small[-1].location
    report = await workers.fetch_bundle(BundleOrder(place, names, small), limits)
    if all(one.fault and one.fault.kind is FaultKind.DENIED for one in report.reports):
        with suppress(Denied, NotFound, Unavailable):  # then the first refusal is what counts
            fresh = await again(place)
            if fresh != place:
                return await workers.fetch_bundle(BundleOrder(fresh, names, small), limits)
    return report


async def _once_more(
    orders: dict[int, SmallOrder],
    report: BatchReport,
    locate: Callable[[int], Awaitable[Location]],
    workers: Workers,
    limits: FetchLimits,
    spending: Spending,
) -> BatchReport:
    """What an origin refused, where it is now: a token may have ended while the batch waited."""
    fresh: dict[int, SmallOrder] = {}
    for at, (blob, order) in enumerate(orders.items()):
        fault = report.reports[at].fault
        if fault is not None and fault.kind is FaultKind.DENIED:
            with suppress(Denied, NotFound, Unavailable):  # then the first refusal is what counts
                location = await locate(blob)
                if location != order.location:
                    fresh[at] = replace(order, location=location)
    if not fresh:
        return report
    second = await _of_origin(tuple(fresh.values()), workers, limits, spending)
    reports = list(report.reports)
    for at, one in zip(fresh, second.reports, strict=True):
        reports[at] = one
    return BatchReport(tuple(reports), report.cpu_s + second.cpu_s)


async def _of_origin(
    orders: tuple[SmallOrder, ...], workers: Workers, limits: FetchLimits, spending: Spending
) -> BatchReport:
    """As many at a time as the origin's budget allows; what it does not is a fault of each."""
    reports: list[SmallReport] = []
    cpu_s = 0.0
    while len(reports) < len(orders):
        rest = orders[len(reports) :]
        # what the listing holds itself is no place that has a budget
        asked = (o.location for o in rest if not is_inline(o.location.url))
        place = next(asked, rest[0].location)
        part = rest[: spending.together(place, len(rest))]
        try:
            async with spending.request(place, limits, len(part)) as one:
                report = await workers.fetch_small(part, one.limits)
                one.wire_bytes = sum(small.wire_bytes for small in report.reports)
        except OURS:
            raise
        except P2PCacheError as exc:
            reports += [SmallReport(0, None, None, 0, 0.0, fault_of(exc))] * len(rest)
            break
        for small in report.reports:
            spending.answered(place, small.fault)
        reports += report.reports
        cpu_s += report.cpu_s
    return BatchReport(tuple(reports), cpu_s)


def _remove(paths: Iterable[str]) -> None:
    """What was not published; a few unlinks, not worth a thread."""
    for path in paths:
        with suppress(OSError):
            Path(path).unlink(missing_ok=True)


def _order(wanted: Wanted, location: Location, dst: Path) -> SmallOrder:
    sha256 = git_sha1 = None
    if wanted.digest is not None:
        raw = digests.raw(wanted.digest)
        sha256, git_sha1 = (None, raw) if digests.is_git_sha1(wanted.digest) else (raw, None)
    return SmallOrder(location, str(dst), wanted.size_bytes, sha256, git_sha1)


def _verified(wanted: Wanted, small: SmallReport) -> VerifiedBlob:
    """The door once more, on this side: the worker's word is its hashes, not its verdict."""
    assert small.sha256 is not None
    got = digests.WholeDigests(small.size, small.sha256, small.git_sha1)
    return verify_whole(wanted.digest, wanted.size_bytes, got)
