"""Runs one pull: does what the machine says and tells it what happened. It decides nothing.

Cancelling a pull keeps everything that was verified: workers are killed (their sockets close),
partials are flushed and their leases given back, and the next pull goes on from there.
"""

from __future__ import annotations

import math
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, assert_never

import trio

from p2pcache.content.peerid import format_peer_id
from p2pcache.errors import DiskFull, P2PCacheError, plain_errors
from p2pcache.lanes.orders import BLOCK_BYTES, Fault, FaultKind, FetchLimits, FetchOrder, Location
from p2pcache.transfer import events as ev
from p2pcache.transfer.batches import fetch_batch
from p2pcache.transfer.faults import OURS, fault_of, local_error, no_source
from p2pcache.transfer.growing import GrowingBlob
from p2pcache.transfer.machine import Download
from p2pcache.transfer.machine.owners import OwnerOptions, Owners
from p2pcache.transfer.policy import StreamTuner, TransferOptions, piece_bytes
from p2pcache.transfer.progress import Meter, Progress
from p2pcache.transfer.sharing import Peers
from p2pcache.transfer.swarming import HELLO_S, Swarming
from p2pcache.transfer.workers import idle_cpu_s, machine_core_count

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from p2pcache.lanes.orders import FetchReport
    from p2pcache.store.blobs import BlobInfo
    from p2pcache.store.store import Hold, Store
    from p2pcache.transfer.machine import Statistics
    from p2pcache.transfer.sharing import PeersLater
    from p2pcache.transfer.want import Origin, Wanted
    from p2pcache.transfer.workers import Workers

PROGRESS_BEAT_S = 0.2
SAY_BEAT_S = 0.05  # among peers: a block that is announced late is a link that idles
MAX_TOGETHER = 256  # events that the machine is told before it plans again
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
        hold: Hold,
        peers: Peers | PeersLater | None = None,
        total_bytes: int | None = None,
    ) -> None:
        self._wanted = list(wanted)
        self._origins = {origin.name: origin for origin in origins}
        self._store = store
        self._workers = workers
        self._options = options
        self._watch = watch
        self._hold = hold
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
            piece_bytes=piece_bytes(total_bytes or sum(w.size_bytes for w in self._wanted)),
            streams=self._streams,
            options=options,
            chance=chance,
            now=trio.current_time(),
            hopeful=isinstance(peers, Peers),
            owners=self._owners(peers) if isinstance(peers, Peers) else None,
        )
        # as many answers may be on their way as there are requests and blobs being opened
        self._send, self._receive = trio.open_memory_channel[ev.Event](4 * options.max_streams)
        self._swarming = self._swarm(peers) if isinstance(peers, Peers) else None
        self._later = None if isinstance(peers, Peers) else peers
        self._growing: dict[int, GrowingBlob] = {}
        self._jobs: dict[int, ev.Job] = {}  # that are running
        self._seen: dict[int, int] = {}  # of each, how far it was seen to be
        self._scopes: dict[int, trio.CancelScope] = {}
        self._locations: dict[tuple[str, int], Location] = {}
        self._meter = Meter()
        self.blobs: dict[int, BlobInfo] = {}
        self._kept_bytes = 0
        self.verify_s = 0.0

    def _owners(self, peers: Peers) -> Owners | None:
        """Who may bring what from an origin; None when we have no name that others know."""
        if peers.signer is None or not self._origins:
            return None
        me = format_peer_id(peers.signer.peer_id)
        members = [format_peer_id(peer) for peer in peers.swarm.members()]
        owners = Owners(me, members, _owner_options(peers.told_s), trio.current_time())
        for index, wanted in enumerate(self._wanted):
            if wanted.name is not None:
                owners.add_blob(index, wanted.name)
        return owners

    @property
    def best_bytes_per_s(self) -> float:
        """The best second of this pull."""
        return self._meter.best_bytes_per_s

    @property
    def hosts(self) -> dict[str, str]:
        """`host:port` of each peer that was asked for bytes."""
        return {} if self._swarming is None else self._swarming.hosts()

    def statistics(self) -> Statistics:
        """Counters of the machine."""
        return self._machine.statistics()

    def _swarm(self, peers: Peers) -> Swarming:
        return Swarming(peers, self._wanted, self._send, requests=self._options.peer_requests)

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
                    if self._swarming is not None:
                        nursery.start_soon(self._swarming.run)
                    if self._swarming is not None or len(self._origins) > 1:
                        nursery.start_soon(self._look)
                    if self._later is not None:
                        nursery.start_soon(self._join_later, self._later)
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
        if self._swarming is not None:
            pending = [ev.Tick()]
            nursery.start_soon(self._origins_later, self._swarming, starting)
        while True:
            for action in self._machine.handle_all(pending, trio.current_time()):
                if isinstance(action, ev.Finished):
                    return
                if isinstance(action, ev.Wake):
                    wake = action.at
                else:
                    self._do(action, nursery)
            pending = []
            with trio.move_on_at(wake):
                pending = [await self._receive.receive()]
            with suppress(trio.WouldBlock):  # peers tell of thousands of files at once
                while pending and len(pending) < MAX_TOGETHER:
                    pending.append(self._receive.receive_nowait())
            if not pending:
                wake = math.inf
                pending = [ev.Tick()]

    async def _origins_later(self, swarming: Swarming, starting: list[ev.SourceUp]) -> None:
        """Those that are spared come last: a joiner that asks at once brings all of it again."""
        await swarming.wait_hello()
        for event in starting:
            await self._send.send(event)

    async def _join_later(self, later: PeersLater) -> None:
        """Peers that come in the middle. They are told of what arrives from now on, and of whole
        blobs: who sent the blocks before was not kept.
        """
        async with later() as peers:
            swarming = self._swarm(peers)
            for blob in self.blobs:
                swarming.here_before(blob)
            for blob, growing in self._growing.items():
                if growing.is_open:
                    swarming.opened(blob, growing)
            self._swarming = swarming
            await self._send.send(ev.Listening())
            async with trio.open_nursery() as nursery:
                nursery.start_soon(swarming.run)
                if len(self._origins) <= 1:  # otherwise it runs
                    nursery.start_soon(self._look)

    def _do(self, action: ev.Action, nursery: trio.Nursery) -> None:
        match action:
            case ev.Open(blob):
                growing = GrowingBlob(
                    self._wanted[blob],
                    self._store,
                    self._workers,
                    self._hold,
                    self._options.patience_s,
                )
                self._growing[blob] = growing
                nursery.start_soon(self._open, blob, growing, nursery)
            case ev.Fetch(job):
                self._jobs[job.id] = job
                self._scopes[job.id] = trio.CancelScope()
                nursery.start_soon(self._fetch, job, self._scopes[job.id])
            case ev.FetchBatch(batch):
                self._scopes[batch.id] = trio.CancelScope()
                nursery.start_soon(self._fetch_batch, batch, self._scopes[batch.id])
            case ev.Abort(job):
                if job.id in self._scopes:
                    self._scopes[job.id].cancel()
            case ev.Say():
                if self._swarming is not None:
                    self._swarming.say(action)
            case ev.Doubt(blob, blocks):
                if self._swarming is not None:
                    self._swarming.doubt(blob, blocks)
            case ev.Digest(blob, again):
                nursery.start_soon(self._digest, blob, again)
            case ev.Failed(blobs, faults, lost):
                paths = [self._wanted[i].path for i in blobs]
                raise no_source(paths, len(self._wanted), faults, lost)
            case ev.Banned() | ev.Wake() | ev.Finished():
                pass  # bans are in the machine's statistics; the other two end in `_loop`
            case _:
                assert_never(action)

    async def _open(self, blob: int, growing: GrowingBlob, nursery: trio.Nursery) -> None:
        found = await growing.open()
        if found is not None:
            self.blobs[blob] = found
            del self._growing[blob]
            await self._completed(blob, found, None)
            await self._send.send(ev.Settled(blob))
            return
        nursery.start_soon(growing.follow)
        nursery.start_soon(growing.keep_flushed)
        if self._swarming is not None:
            self._swarming.opened(blob, growing)
            await self._swarming.learn_maps(blob)
        await self._send.send(ev.Opened(blob, growing.live()))

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
        if self._swarming is not None:
            await self._learn_from(self._swarming, job, growing, report, fault)
        del self._scopes[job.id], self._jobs[job.id]
        self._seen.pop(job.id, None)
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
        if fault is not None and fault.kind is FaultKind.UNAVAILABLE and fault.http_status is None:
            swarming.unreachable(job.source)
        cut_off = fault is not None or report is None
        if cut_off and not any(j.blob == job.blob and j.id != job.id for j in self._jobs.values()):
            swarming.source_lost(job.blob)

    async def _request(self, job: ev.Job, growing: GrowingBlob) -> FetchReport:
        """One order to a worker; a location that is refused is asked for once more: an origin's
        that was kept, and a peer's, whose ticket it may have forgotten.
        """
        key = (job.source, job.blob)
        known = self._locations.get(key)
        location = known or await self._locate(key)
        report = await self._workers.fetch(self._order(job, growing, location))
        if report.fault is None or report.fault.kind is not FaultKind.DENIED:
            return report
        fresh = location
        if self._swarming is not None and self._swarming.is_peer(job.source):
            self._swarming.expire(job.source, location)
            fresh = await self._locate(key)
        elif known is not None:
            fresh = await self._locate(key)
        if fresh == location:
            return report
        return await self._workers.fetch(self._order(job, growing, fresh))

    async def _locate(self, key: tuple[str, int]) -> Location:
        source, blob = key
        if self._swarming is not None and self._swarming.is_peer(source):
            return await self._swarming.locate(source, blob)  # tickets are kept there
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
            expected=self._expected(job, growing),
            whole=job.whole,
            compare=job.compare,
            limits=self._limits,
            validator=growing.wanted.validator,
        )

    def _expected(self, job: ev.Job, growing: GrowingBlob) -> bytes | None:
        if self._swarming is None:
            return growing.expected(job.start, job.end)
        if job.compare and not self._swarming.is_proven(job.blob):
            return None  # words and bytes differ: what arrives is one more witness
        if not self._swarming.is_peer(job.source) and not self._swarming.is_proven(job.blob):
            return None  # an origin's bytes are no peer's to refuse
        return self._swarming.expected(job.blob, job.start, job.end)

    async def _fetch_batch(self, batch: ev.Batch, scope: trio.CancelScope) -> None:
        peers = self._swarming
        if peers is not None and not peers.is_peer(batch.source):
            peers = None

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
                again=None if peers is None else again,
            )  # fmt: skip
        del self._scopes[batch.id]
        if outcome is None:
            why = Fault(FaultKind.UNAVAILABLE, f"{batch.source}: stopped, it did not move")
            seconds = trio.current_time() - started
            ended = ev.BatchEnded(batch, (why,) * len(batch.blobs), 0, seconds, blame=False)
            await self._send.send(ended)
            return
        self.blobs.update(outcome.blobs)
        if self._swarming is not None:
            for blob, info in outcome.blobs.items():
                await self._completed(blob, info, None)
            for blob, fault in zip(batch.blobs, outcome.ended.faults, strict=True):
                if fault is not None:
                    await self._swarming.refused_small(batch.source, blob, fault)
        await self._send.send(outcome.ended)

    async def _completed(self, blob: int, info: BlobInfo, hashes: bytes | None) -> None:
        if self._swarming is not None:
            await self._swarming.completed(blob, info, hashes)

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
        suspects = None
        if info is not None:
            self.blobs[blob] = info
            del self._growing[blob]
            await self._completed(blob, info, growing.final_map)
        elif self._swarming is not None:
            suspects = await self._swarming.suspects(blob)
        await self._send.send(ev.Digested(blob, info is not None, message, suspects))

    # -- watching ---------------------------------------------------------------------------------

    def progress(self) -> Progress:
        """How far it is now: verified bytes, of complete and of growing blobs."""
        complete = sum(self._wanted[i].size_bytes for i in self.blobs)
        growing = sum(g.live_bytes() for g in self._growing.values())
        done = complete + growing
        statistics = self._machine.statistics()
        by_source = {s.name: s.kept_bytes for s in statistics.sources if s.requests}
        waits = next((g.waits_for for g in self._growing.values() if g.waits_for), None)
        return Progress(
            "fetching" if waits is None else f"waiting for {waits}",
            None if waits else next((g.wanted.path for g in self._growing.values()), None),
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

    async def _look(self) -> None:
        """Tell how far running jobs are, so that who stalls is noticed; announce what is new."""
        while True:
            await trio.sleep(PROGRESS_BEAT_S if self._swarming is None else SAY_BEAT_S)
            for blob, growing in list(self._growing.items()):
                if not growing.is_open:
                    continue
                live = growing.live()
                for job in [j for j in self._jobs.values() if j.blob == blob]:
                    done = self._look_at(job, growing, live)
                    if done is not None:
                        await self._send.send(ev.Progress(job, done))
                if self._swarming is not None and growing.is_open:
                    self._swarming.share(blob, growing, live)

    def _look_at(self, job: ev.Job, growing: GrowingBlob, live: bytes) -> int | None:
        """The verified end of a running job, if it moved; its new blocks become evidence."""
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
        twin = any(
            j.blob == job.blob and j.id != job.id and j.start < job.end and job.start < j.end
            for j in self._jobs.values()
        )
        if self._swarming is not None and not twin:
            hashes = growing.hashes(first, block)
            self._swarming.brought(job.source, job.blob, first, hashes)
        return done

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
    floor = min(limits.floor_bytes_per_s, rate_bytes_per_s / 4)
    return replace(limits, rate_bytes_per_s=rate_bytes_per_s, floor_bytes_per_s=floor)


def _owner_options(told_s: float | None) -> OwnerOptions:
    """Blind as long as a word of who starts beside us may be on its way. Ours is said when the pull
    begins, HELLO_S before anybody asks an origin; where all members just answered, theirs takes no
    longer than that did, twice for safety. A member that starts later hears ours first.
    """
    usual = OwnerOptions()
    if told_s is None:
        return usual
    return OwnerOptions(blind_s=min(usual.blind_s, HELLO_S + 2 * told_s))
