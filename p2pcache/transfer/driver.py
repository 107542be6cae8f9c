"""Runs one pull: does what the machine says and tells it what happened. It decides nothing.

Cancelling a pull keeps everything that was verified: workers are killed (their sockets close),
partials are flushed and their leases given back, and the next pull goes on from there.
"""

from __future__ import annotations

import math
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, assert_never

import trio

from p2pcache.errors import DiskFull, P2PCacheError, plain_errors
from p2pcache.lanes.orders import BLOCK_BYTES, Fault, FaultKind, FetchLimits, FetchOrder, Location
from p2pcache.transfer import events as ev
from p2pcache.transfer.batches import fetch_batch
from p2pcache.transfer.faults import fault_of, local_error, no_source
from p2pcache.transfer.growing import GrowingBlob
from p2pcache.transfer.machine import Download
from p2pcache.transfer.policy import StreamTuner, TransferOptions, piece_bytes
from p2pcache.transfer.progress import Meter, Progress
from p2pcache.transfer.workers import idle_cpu_s, machine_core_count

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from p2pcache.lanes.orders import FetchReport
    from p2pcache.store.blobs import BlobInfo
    from p2pcache.store.store import Store
    from p2pcache.transfer.machine import Statistics
    from p2pcache.transfer.want import Origin, Wanted
    from p2pcache.transfer.workers import Workers

PROGRESS_BEAT_S = 0.2
TUNE_BEAT_S = 2.0  # a TCP connection over a far link is at full rate by then
LIMITED_SINGLE_STREAM = 32 << 20  # bytes/s: below this limit one stream is enough and more exact


class Driver:
    """One run of the machine over the blobs that are not here yet."""

    def __init__(
        self,
        wanted: Sequence[Wanted],
        origins: Sequence[Origin],
        store: Store,
        workers: Workers,
        *,
        options: TransferOptions,
        limits: FetchLimits,
        cores: int,
        chance: Callable[[], float],
        watch: Callable[[Progress], None],
    ) -> None:
        self._wanted = list(wanted)
        self._origins = {origin.name: origin for origin in origins}
        self._store = store
        self._workers = workers
        self._options = options
        self._watch = watch
        self._tuner = StreamTuner(cores, options)
        self._streams = self._tuner.floor
        rate = limits.rate_bytes_per_s
        if rate is not None and rate < LIMITED_SINGLE_STREAM:
            self._streams = 1
        self._limited = rate is not None
        self._limits = limits if rate is None else _share(limits, rate / self._streams)
        self._machine = Download(
            [
                ev.BlobSpec(i, w.size_bytes, w.size_bytes <= BLOCK_BYTES, w.whole)
                for i, w in enumerate(self._wanted)
            ],
            piece_bytes=piece_bytes(sum(w.size_bytes for w in self._wanted)),
            streams=self._streams,
            options=options,
            chance=chance,
            now=trio.current_time(),
        )
        # as many answers may be on their way as there are requests and blobs being opened
        self._send, self._receive = trio.open_memory_channel[ev.Event](4 * options.max_streams)
        self._growing: dict[int, GrowingBlob] = {}
        self._scopes: dict[int, trio.CancelScope] = {}
        self._locations: dict[tuple[str, int], Location] = {}
        self._meter = Meter()
        self.blobs: dict[int, BlobInfo] = {}
        self._kept_bytes = 0
        self.verify_s = 0.0

    @property
    def best_bytes_per_s(self) -> float:
        """The best second of this pull."""
        return self._meter.best_bytes_per_s

    def statistics(self) -> Statistics:
        """Counters of the machine."""
        return self._machine.statistics()

    async def run(self) -> None:
        """Bring everything into the store. Raises the one error that ended the pull."""
        try:
            with plain_errors():
                # leases are given back last: tasks that are being cancelled still use their partial
                async with AsyncExitStack() as closing, trio.open_nursery() as nursery:
                    closing.push_async_callback(self._close_all)
                    closing.callback(self._count_kept)
                    nursery.start_soon(self._beat)
                    if not self._limited:
                        nursery.start_soon(self._adapt)
                    await self._loop(nursery)
                    nursery.cancel_scope.cancel()
        except DiskFull as exc:
            total = sum(w.size_bytes for w in self._wanted)
            counts = f"{self._kept_bytes:,} of {total:,} bytes are verified and kept"
            raise DiskFull(f"{exc.message}; {counts}", hint=exc.hint) from exc

    def _count_kept(self) -> None:
        self._kept_bytes = self.progress().done_bytes  # partials that are closed tell nothing

    async def _close_all(self) -> None:
        """Give every lease back, also when a full disk refuses the flush of one of them."""
        async with AsyncExitStack() as closing:
            for growing in self._growing.values():
                closing.push_async_callback(growing.aclose)

    async def _loop(self, nursery: trio.Nursery) -> None:
        wake = math.inf
        starting = [ev.SourceUp(o.name, o.kind, o.streams) for o in self._origins.values()]
        pending: list[ev.Event] = [*starting, ev.Tick()]
        while True:
            for event in pending:
                for action in self._machine.handle(event, trio.current_time()):
                    if isinstance(action, ev.Finished):
                        return
                    if isinstance(action, ev.Wake):
                        wake = action.at
                    else:
                        self._do(action, nursery)
            pending = []
            with trio.move_on_at(wake):
                pending = [await self._receive.receive()]
            if not pending:
                wake = math.inf
                pending = [ev.Tick()]

    def _do(self, action: ev.Action, nursery: trio.Nursery) -> None:
        match action:
            case ev.Open(blob):
                growing = GrowingBlob(self._wanted[blob], self._store, self._workers)
                self._growing[blob] = growing
                nursery.start_soon(self._open, blob, growing, nursery)
            case ev.Fetch(job):
                nursery.start_soon(self._fetch, job)
            case ev.FetchBatch(batch):
                nursery.start_soon(self._fetch_batch, batch)
            case ev.Abort(job):
                if job.id in self._scopes:
                    self._scopes[job.id].cancel()
            case ev.Digest(blob, again):
                nursery.start_soon(self._digest, blob, again)
            case ev.Failed(blobs, faults):
                raise no_source([self._wanted[i].path for i in blobs], len(self._wanted), faults)
            case ev.Banned() | ev.Wake() | ev.Finished():
                pass  # bans are in the machine's statistics; the other two end in `_loop`
            case _:
                assert_never(action)

    async def _open(self, blob: int, growing: GrowingBlob, nursery: trio.Nursery) -> None:
        found = await growing.open()
        if found is not None:
            self.blobs[blob] = found
            del self._growing[blob]
            await self._send.send(ev.Settled(blob))
            return
        nursery.start_soon(growing.follow)
        nursery.start_soon(growing.keep_flushed)
        await self._send.send(ev.Opened(blob, growing.live()))

    async def _fetch(self, job: ev.Job) -> None:
        growing = self._growing[job.blob]
        report: FetchReport | None = None
        fault: Fault | None = None
        started = trio.current_time()
        with trio.CancelScope() as scope:
            self._scopes[job.id] = scope
            try:
                report = await self._request(job, growing)
                fault = report.fault
            except P2PCacheError as exc:
                fault = fault_of(exc)
        del self._scopes[job.id]
        if fault is not None and fault.kind in (FaultKind.LOCAL, FaultKind.DISK_FULL):
            raise local_error(fault)
        done = growing.verified_to(job.start, job.end) if report is None else report.done
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

    async def _request(self, job: ev.Job, growing: GrowingBlob) -> FetchReport:
        """One order to a worker; a location that is refused is asked for once more."""
        key = (job.source, job.blob)
        known = self._locations.get(key)
        location = known or await self._locate(key)
        report = await self._workers.fetch(self._order(job, growing, location))
        refused = report.fault is not None and report.fault.kind is FaultKind.DENIED
        if refused and known is not None:
            fresh = await self._locate(key)
            if fresh != known:
                report = await self._workers.fetch(self._order(job, growing, fresh))
        return report

    async def _locate(self, key: tuple[str, int]) -> Location:
        source, blob = key
        location = await self._origins[source].locate(self._wanted[blob].key)
        self._locations[key] = location
        return location

    def _order(self, job: ev.Job, growing: GrowingBlob, location: Location) -> FetchOrder:
        return FetchOrder(
            location=location,
            data_path=str(growing.partial.data_path),
            map_path=str(growing.partial.map_path),
            live_path=str(growing.partial.live_path),
            blob_bytes=growing.wanted.size_bytes,
            start=job.start,
            end=job.end,
            expected=growing.expected(job.start, job.end),
            whole=job.whole,
            compare=job.compare,
            limits=self._limits,
            validator=growing.wanted.validator,
        )

    async def _fetch_batch(self, batch: ev.Batch) -> None:
        async def locate(blob: int) -> Location:
            return await self._locate((batch.source, blob))

        outcome = await fetch_batch(
            batch, self._wanted, locate, self._store, self._workers, self._limits
        )
        self.blobs.update(outcome.blobs)
        await self._send.send(outcome.ended)

    async def _digest(self, blob: int, again: bool) -> None:
        growing = self._growing[blob]
        started = trio.current_time()
        message = ""
        info = None
        try:
            info = await growing.finish(again)
        except P2PCacheError as exc:
            if fault_of(exc).kind is not FaultKind.UNTRUSTED:
                raise
            message = exc.message
        self.verify_s += trio.current_time() - started
        if info is not None:
            self.blobs[blob] = info
            del self._growing[blob]
        await self._send.send(ev.Digested(blob, info is not None, message))

    # -- watching ---------------------------------------------------------------------------------

    def progress(self) -> Progress:
        """How far it is now: verified bytes, of complete and of growing blobs."""
        complete = sum(self._wanted[i].size_bytes for i in self.blobs)
        growing = sum(g.live_bytes() for g in self._growing.values())
        done = complete + growing
        statistics = self._machine.statistics()
        by_source = {s.name: s.kept_bytes for s in statistics.sources if s.requests}
        return Progress(
            "fetching",
            next((g.wanted.path for g in self._growing.values()), None),
            done,
            sum(w.size_bytes for w in self._wanted),
            len(self.blobs),
            len(self._wanted),
            self._meter.add(trio.current_time(), done),
            by_source,
        )

    async def _beat(self) -> None:
        while True:
            self._watch(self.progress())
            await trio.sleep(PROGRESS_BEAT_S)

    async def _adapt(self) -> None:
        """Every two seconds, see whether cores or the network are the limit."""
        idle_s, done = idle_cpu_s(), 0
        while True:
            await trio.sleep(TUNE_BEAT_S)
            idle_before_s, done_before = idle_s, done
            idle_s, done = idle_cpu_s(), self.progress().done_bytes
            idle_share = (idle_s - idle_before_s) / (TUNE_BEAT_S * machine_core_count())
            streams = self._tuner.next((done - done_before) / TUNE_BEAT_S, idle_share)
            if streams != self._streams:
                self._streams = streams
                await self._send.send(ev.Streams(streams))


def _share(limits: FetchLimits, rate_bytes_per_s: float) -> FetchLimits:
    return FetchLimits(
        connect_timeout_s=limits.connect_timeout_s,
        no_progress_s=limits.no_progress_s,
        floor_bytes_per_s=min(limits.floor_bytes_per_s, rate_bytes_per_s / 4),
        rate_bytes_per_s=rate_bytes_per_s,
        max_redirects=limits.max_redirects,
    )
