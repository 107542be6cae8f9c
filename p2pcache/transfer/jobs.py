"""The requests of one pull that are on their way: the machine's jobs as orders to workers.

It decides nothing: what comes of a job is told to the machine as its end.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import trio

from p2pcache.errors import P2PCacheError
from p2pcache.lanes.orders import BLOCK_BYTES, Fault, FaultKind, FetchOrder, Location
from p2pcache.sources.port import SourceKind
from p2pcache.transfer import events as ev
from p2pcache.transfer.batches import fetch_batch
from p2pcache.transfer.faults import OURS, fault_of, local_error
from p2pcache.transfer.spending import uncounted

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

    from p2pcache.lanes.orders import FetchLimits, FetchReport
    from p2pcache.store.blobs import BlobInfo
    from p2pcache.store.store import Hold, Store
    from p2pcache.transfer.growing import GrowingBlob
    from p2pcache.transfer.policy import TransferOptions
    from p2pcache.transfer.spending import Spending
    from p2pcache.transfer.swarming import Swarming
    from p2pcache.transfer.want import Origin, Wanted
    from p2pcache.transfer.workers import Workers

UNHASHED_BEAT_S = 0.05


class Jobs:
    """What runs now. `growing`: the blobs that are open, the driver's. `arrived` is called with
    each small blob that is complete. `swarming`: peers, from when there are any.
    """

    def __init__(
        self,
        wanted: Sequence[Wanted],
        origins: Iterable[Origin],
        store: Store,
        workers: Workers,
        *,
        options: TransferOptions,
        limits: FetchLimits,
        hold: Hold,
        growing: Mapping[int, GrowingBlob],
        send: trio.MemorySendChannel[ev.Event],
        arrived: Callable[[int, BlobInfo], Awaitable[None]],
        spending: Spending,
    ) -> None:
        self.swarming: Swarming | None = None
        self._wanted = wanted
        self._origins = {origin.name: origin for origin in origins}
        self._store = store
        self._workers = workers
        self._options = options
        self._limits = limits
        self._hold = hold
        self._growing = growing
        self._send = send
        self._arrived = arrived
        self._spending = spending
        self._jobs: dict[int, ev.Job] = {}  # that are running
        self._seen: dict[int, int] = {}  # of each, how far it was seen to be
        self._alone: dict[int, int] = {}  # of each, the block up to which no other job wrote
        self._unhashed: set[int] = set()  # those that bring blocks without their hashes
        self._scopes: dict[int, trio.CancelScope] = {}
        self._locations: dict[tuple[str, int], Location] = {}

    def start(self, job: ev.Job, nursery: trio.Nursery) -> None:
        """Run a job in the nursery; its end is told to the machine."""
        self._note_others(job)
        self._jobs[job.id] = job
        if self._growing[job.blob].hashes_later:
            self._unhashed.add(job.id)
        self._scopes[job.id] = trio.CancelScope()
        nursery.start_soon(self._fetch, job, self._scopes[job.id])

    def start_batch(self, batch: ev.Batch, nursery: trio.Nursery) -> None:
        """The same for a batch of small blobs."""
        self._scopes[batch.id] = trio.CancelScope()
        nursery.start_soon(self._fetch_batch, batch, self._scopes[batch.id])

    async def end_unhashed(self) -> None:
        """Stop the jobs that bring blocks without their hashes, and wait until they have ended: at
        a slow origin a piece may take a minute. What they brought stays.
        """
        for number in self._unhashed:
            self.stop(number)
        while self._unhashed:  # noqa: ASYNC110 - once in the life of a pull
            await trio.sleep(UNHASHED_BEAT_S)

    def stop(self, number: int) -> None:
        """Kill a request, if it still runs; its end is told all the same."""
        if number in self._scopes:
            self._scopes[number].cancel()

    async def look(self, blob: int, growing: GrowingBlob, live: bytes) -> None:
        """Tell the machine how far the running jobs of a blob are."""
        for job in [j for j in self._jobs.values() if j.blob == blob]:
            if job.id not in self._jobs:
                continue  # it ended while the machine was told of another
            done = self._look_at(job, growing, live)
            if done is not None:
                await self._send.send(ev.Progress(job, done))

    async def _fetch(self, job: ev.Job, scope: trio.CancelScope) -> None:
        growing = self._growing[job.blob]
        report: FetchReport | None = None
        fault: Fault | None = None
        started = trio.current_time()
        with scope:
            try:
                report = await self._request(job, growing)
                fault = report.fault
            except OURS:
                raise
            except P2PCacheError as exc:
                fault = fault_of(exc)
        if fault is not None and fault.kind in (FaultKind.LOCAL, FaultKind.DISK_FULL):
            raise local_error(fault)
        done = growing.verified_to(job.start, job.end) if report is None else report.done
        if self.swarming is not None:
            await self._learn_from(self.swarming, job, growing, report, fault)
            if growing.is_open:  # told together with the end of its "I bring it"
                self.swarming.share(job.blob, growing, growing.live())
        del self._scopes[job.id], self._jobs[job.id], self._alone[job.id]
        self._seen.pop(job.id, None)
        self._unhashed.discard(job.id)
        await self._send.send(
            ev.Ended(
                job,
                done,
                0 if report is None else report.wire_bytes,
                trio.current_time() - started,
                fault,
                () if report is None else report.changed,
                blame=not scope.cancelled_caught,
            )
        )

    async def _learn_from(
        self,
        swarming: Swarming,
        job: ev.Job,
        growing: GrowingBlob,
        report: FetchReport | None,
        fault: Fault | None,
    ) -> None:
        """What a job brought, also when it was cut off, and what it was refused for."""
        if report is None:
            self._look_at(job, growing, growing.live())
        else:
            swarming.brought(job.source, job.blob, job.start // BLOCK_BYTES, report.digests)
            if fault is not None:
                await swarming.refused(job.source, job.blob, report.done // BLOCK_BYTES, fault)
        if fault is not None and self._is_metered(job.source):
            swarming.throttled(job.source, fault)
        if fault is not None and fault.kind is FaultKind.UNAVAILABLE and fault.http_status is None:
            swarming.unreachable(job.source)
        cut_off = fault is not None or report is None
        if cut_off and not any(j.blob == job.blob and j.id != job.id for j in self._jobs.values()):
            swarming.source_lost(job.blob)

    async def _request(self, job: ev.Job, growing: GrowingBlob) -> FetchReport:
        """One order to a worker; a location that is refused is asked for once more: an origin's
        signature or token may have ended while the order waited, and a peer may have forgotten a
        ticket.
        """
        key = (job.source, job.blob)
        location = self._locations.get(key) or await self._locate(key)
        report = await self._ask(job, growing, location)
        if report.fault is None or report.fault.kind is not FaultKind.DENIED:
            return report
        if self.swarming is not None and self.swarming.is_peer(job.source):
            self.swarming.expire(job.source, location, job.blob)
        fresh = await self._locate(key)
        if fresh == location:
            return report
        return await self._ask(job, growing, fresh)

    async def _ask(self, job: ev.Job, growing: GrowingBlob, location: Location) -> FetchReport:
        """One request; one of an origin when and as its budget allows it."""
        if not self._is_metered(job.source):
            return await self._workers.fetch(self._order(job, growing, location, self._limits))
        async with self._spending.request(location, self._limits) as one:
            report = await self._workers.fetch(self._order(job, growing, location, one.limits))
            one.wire_bytes = report.wire_bytes
        self._spending.answered(location, report.fault)
        return report

    def _is_metered(self, source: str) -> bool:
        """Whether what it is asked for counts as an origin's: peers and a Kubo of ours are free."""
        origin = self._origins.get(source)
        return origin is not None and origin.kind is SourceKind.ORIGIN

    async def locate_first(self, origin: str) -> None:
        """Find out where an origin is, before it is asked for bytes. Raises what `locate` does."""
        await self._locate((origin, 0))

    async def _locate(self, key: tuple[str, int]) -> Location:
        source, blob = key
        if self.swarming is not None and self.swarming.is_peer(source):
            return await self.swarming.locate(source, blob)  # tickets are kept there
        location = await self._origins[source].locate(self._wanted[blob].key)
        self._locations[key] = location
        if self.swarming is not None and self._is_metered(source):
            await self.swarming.asks(source, location)
        return location

    def _order(
        self, job: ev.Job, growing: GrowingBlob, location: Location, limits: FetchLimits
    ) -> FetchOrder:
        return FetchOrder(
            location=location,
            data_path=str(growing.partial.data_path),
            map_path=str(growing.partial.map_path),
            live_path=str(growing.partial.live_path),
            blob_bytes=growing.wanted.size_bytes,
            start=job.start,
            end=job.end,
            expected=self._expected(job, growing),
            whole=job.whole,
            compare=job.compare,
            limits=limits,
            validator=growing.wanted.validator,
            hashed=job.id not in self._unhashed,
        )

    def _expected(self, job: ev.Job, growing: GrowingBlob) -> bytes | None:
        origin = self._origins.get(job.source)
        own = None if origin is None else origin.maps.get(growing.wanted.key)
        if own is not None:
            return own[32 * (job.start // BLOCK_BYTES) : 32 * -(-job.end // BLOCK_BYTES)]
        if self.swarming is None:
            return growing.expected(job.start, job.end)
        if job.compare and not self.swarming.is_proven(job.blob):
            return None  # words and bytes differ: what arrives is one more witness
        if not self.swarming.is_peer(job.source) and not self.swarming.is_proven(job.blob):
            return None  # an origin's bytes are no peer's to refuse
        return self.swarming.expected(job.blob, job.start, job.end)

    async def _fetch_batch(self, batch: ev.Batch, scope: trio.CancelScope) -> None:
        peers = self.swarming
        if peers is not None and not peers.is_peer(batch.source):
            peers = None
        if peers is not None:
            peers.asks_small(batch.source, batch.blobs)

        async def locate(blob: int) -> Location:
            if peers is not None:
                return await peers.locate_bundle(batch.source)
            return await self._locate((batch.source, blob))

        async def again(refused: Location) -> Location:
            assert peers is not None, "only peers are asked for bundles"
            peers.expire(batch.source, refused)
            return await peers.locate_bundle(batch.source)

        started = trio.current_time()
        limits = self._limits
        if peers is not None:
            limits = replace(
                limits,
                connect_timeout_s=min(limits.connect_timeout_s, self._options.stall_s),
                no_progress_s=min(limits.no_progress_s, self._options.stall_s),
            )
        outcome = None
        with scope:
            outcome = await fetch_batch(
                batch, self._wanted, locate, self._store, self._workers, limits, self._hold,
                self._spending if self._is_metered(batch.source) else uncounted(),
                again=None if peers is None else again, join=self._join_of(batch.source),
            )  # fmt: skip
        del self._scopes[batch.id]
        if outcome is None:
            why = Fault(FaultKind.UNAVAILABLE, f"{batch.source}: stopped, it did not move")
            seconds = trio.current_time() - started
            ended = ev.BatchEnded(batch, (why,) * len(batch.blobs), 0, seconds, blame=False)
            await self._send.send(ended)
            return
        for blob, info in outcome.blobs.items():
            await self._arrived(blob, info)
        if self.swarming is not None:
            for blob, fault in zip(batch.blobs, outcome.ended.faults, strict=True):
                if fault is not None:
                    if self._is_metered(batch.source):
                        self.swarming.throttled(batch.source, fault)
                    await self.swarming.refused_small(batch.source, blob, fault)
        await self._send.send(outcome.ended)

    def _join_of(self, source: str) -> Callable[[Sequence[int]], Location] | None:
        """Where blobs of it come as one body, if it gives that."""
        origin = self._origins.get(source)
        if origin is None or origin.join is None:
            return None
        join = origin.join
        return lambda blobs: join([self._wanted[blob].key for blob in blobs])

    def _look_at(self, job: ev.Job, growing: GrowingBlob, live: bytes) -> int | None:
        """The verified end of a running job, if it moved. Its new blocks become evidence, as far as
        nobody else can have written them; of the others its worker's report will tell.
        """
        if job.whole or job.compare:
            return None
        seen = self._seen.get(job.id, job.start)
        block = first = seen // BLOCK_BYTES
        last = -(-job.end // BLOCK_BYTES)
        while block < last and live[block]:
            block += 1
        if block == first:
            return None
        done = min(block * BLOCK_BYTES, job.end)
        self._seen[job.id] = done
        alone = min(block, self._alone[job.id])
        if self.swarming is not None and alone > first:
            hashes = growing.hashes(first, alone)
            self.swarming.brought(job.source, job.blob, first, hashes)
        return done

    def _note_others(self, job: ev.Job) -> None:
        """Before a job starts: from where on its blocks, and those of jobs that it meets, may be
        another's. All of them write into one map, and who is cut off leaves no report of its own:
        what it says there would be taken for the word of the wrong one, also long after the other
        ended. The dying worker of a job that was stopped writes too.
        """
        first, last = job.start // BLOCK_BYTES, -(-job.end // BLOCK_BYTES)
        here = self._growing[job.blob].live().find(1, first, last)
        alone = last if here < 0 else here
        for other in self._jobs.values():
            if other.blob == job.blob and other.start < job.end and job.start < other.end:
                met = max(first, other.start // BLOCK_BYTES)
                alone = min(alone, met)
                self._alone[other.id] = min(self._alone[other.id], met)
        self._alone[job.id] = alone
