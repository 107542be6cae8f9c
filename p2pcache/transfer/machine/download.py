"""Events to actions, and when a pull is over.

* small blobs travel in batches, large ones in runs of whole pieces (`choose`);
* a source that fails is left alone for a jittered, growing while; `Retry-After` is honoured; a
  permanent answer (missing, denied) excludes an origin for that blob and is not repeated;
* a peer that lacks what it told loses that word and is asked less; one that is full is asked again
  soon; one that stalls, or moves under a tenth of the median rate, loses its pieces at once;
* a peer that sends other bytes than a map wants is not asked for that block again; when nobody is
  left for a block, the map is doubted instead (`Doubt`), and the whole digest decides;
* a source that ignores ranges is asked for whole bodies only;
* when the whole digest does not match, blocks are fetched again, first those that the evidence
  points at, from others than who sent them, and compared; only those that differ are rewritten; if
  the digest still fails after all were compared, the sources are what lies (DESIGN 3);
* strict endgame: when nothing is left to ask for, a late request may be asked for twice, one for
  each usual time of a request that passes, and never more than `duplicate_share` in all;
* the pull fails when nobody is left for a blob, or nothing was verified for `patience_s`
  and the longest wait that a source asked for.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, assert_never

from p2pcache.lanes.orders import BLOCK_BYTES, Fault, FaultKind
from p2pcache.transfer import events as ev
from p2pcache.transfer.machine import bits
from p2pcache.transfer.machine.blame import WORST_FIRST, blame, stalled
from p2pcache.transfer.machine.blobs import BlobState, Phase
from p2pcache.transfer.machine.choose import Chooser
from p2pcache.transfer.machine.flights import Flight, Pace, lags, stall_at
from p2pcache.transfer.machine.sources import SourceState, Statistics, statistics_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from p2pcache.transfer.machine.choose import Choice
    from p2pcache.transfer.policy import TransferOptions

MIN_BATCH_BYTES = 64 << 10  # of small files from a slow peer


class Download:
    """Decides who brings what. Feed it events, do the actions it returns, in order.

    `hopeful`: a swarm is listened to, so somebody may still appear with what nobody has.
    """

    def __init__(
        self,
        blobs: Iterable[ev.BlobSpec],
        *,
        piece_bytes: int,
        streams: int,
        options: TransferOptions,
        chance: Callable[[], float],
        now: float,
        hopeful: bool = False,
    ) -> None:
        self._blobs = {spec.index: BlobState(spec) for spec in blobs}
        self._small = deque(b.spec.index for b in self._blobs.values() if b.spec.small)
        self._large = [b.spec.index for b in self._blobs.values() if not b.spec.small]
        self._left = set(self._blobs)
        self._sources: dict[str, SourceState] = {}
        self._piece_bytes = piece_bytes
        self._streams = streams
        self._options = options
        self._chance = chance
        self._hopeful = hopeful
        self._flights: dict[int, Flight] = {}
        self._batches: dict[int, tuple[ev.Batch, float]] = {}  # with the time it may take
        self._aborted_batches: set[int] = set()
        self._next_id = 0
        self._progress_at = now
        self._heard_at = now  # when a source last came or told of something
        self._over = False
        self._pace = Pace()
        self._twin_at = now
        total = sum(b.spec.size_bytes for b in self._blobs.values())
        self._twin_budget = max(piece_bytes, int(total * options.duplicate_share))
        self._fetched_bytes = 0
        self._duplicate_bytes = 0

    def handle(self, event: ev.Event, now: float) -> list[ev.Action]:
        """Take note of one event and say what to do now. After Finished or Failed: nothing."""
        if self._over:
            return []
        out: list[ev.Action] = []
        match event:
            case ev.SourceUp() | ev.SourceHas() | ev.SourceLost() | ev.SourceQueue():
                self._source_event(event, now)
            case ev.SourceDown(name, reason):
                self._leave(self._sources[name], reason, out)
            case ev.Opened(blob, live):
                self._opened(self._blobs[blob], live, out)
            case ev.Settled(blob):
                self._complete(blob, now)
            case ev.Progress(job, done):
                self._progress(job, done, now, out)
            case ev.Ended():
                self._ended(event, now, out)
            case ev.BatchEnded():
                self._batch_ended(event, now, out)
            case ev.Digested():
                self._digested(event, now, out)
            case ev.Cleared(blob):
                for source in self._sources.values():
                    if source.barred.pop(blob, 0) and source.is_peer:
                        source.failures, source.not_before = 0, 0.0
            case ev.Streams(count):
                self._streams = count
            case ev.Tick():
                pass
            case _:
                assert_never(event)
        return out + self._plan(now)

    def statistics(self) -> Statistics:
        """Counters so far; cheap."""
        return Statistics(
            sources=tuple(statistics_of(s) for s in self._sources.values()),
            fetched_bytes=self._fetched_bytes,
            duplicate_bytes=self._duplicate_bytes,
            retries=sum(s.retries for s in self._sources.values()),
            complete_blobs=len(self._blobs) - len(self._left),
        )

    # -- sources ----------------------------------------------------------------------------------

    def _source_event(
        self, event: ev.SourceUp | ev.SourceHas | ev.SourceLost | ev.SourceQueue, now: float
    ) -> None:
        if isinstance(event, ev.SourceUp):
            holds = None
            if event.holds is not None:
                holds = {i: self._blobs[i].full for i in event.holds}
            known = self._sources.get(event.name)
            if known is None:
                made = SourceState(event.name, event.kind, event.streams, holds)
                self._sources[event.name] = made
            else:  # it came back
                known.gone, known.holds, known.failures = None, holds, 0
            self._heard_at = now
            return
        source = self._sources[event.name]
        match event:
            case ev.SourceHas(_, index, blocks):
                if source.holds is not None:
                    blob = self._blobs[index]
                    more = blob.full if blocks is None else bits.of_ranges(blocks) & blob.full
                    source.holds[index] = source.holds.get(index, 0) | more
                    self._heard_at = now
            case ev.SourceLost(_, index):
                if source.holds is not None:
                    source.holds.pop(index, None)
            case ev.SourceQueue(_, queue_s):
                source.queue_s = queue_s

    def _leave(self, source: SourceState, reason: str, out: list[ev.Action]) -> None:
        source.gone = reason
        for flight in list(self._flights.values()):
            if flight.source is source:
                self._abort(flight, out)
        for batch, _ in self._batches.values():
            if batch.source == source.name and source.is_peer:
                self._abort_batch(batch, out)

    # -- blobs and requests -----------------------------------------------------------------------

    def _opened(self, blob: BlobState, live: bytes, out: list[ev.Action]) -> None:
        blob.phase = Phase.FETCHING
        blob.done = bits.of_live(live) & blob.full
        self._digest_when_done(blob, out)

    def _progress(self, job: ev.Job, done: int, now: float, out: list[ev.Action]) -> None:
        flight = self._flights.get(job.id)
        if flight is None or not flight.is_watched:
            return
        blob = flight.blob
        here = flight.mask & blob.upto(job.start, done)
        if here.bit_count() <= flight.seen:
            return
        flight.seen = here.bit_count()
        flight.moved_at = self._progress_at = now
        flight.source.measured(now - flight.started, flight.seen)
        new = here & ~blob.done
        blob.done |= new
        if flight.had_twin:  # which of the two brought it is told at their ends
            blob.unclear |= new
        else:
            self._credit(flight, new)
        self._settle_claims(blob)
        if flight.had_twin:
            self._abort_needless(blob, out)

    def _credit(self, flight: Flight, blocks: int) -> None:
        if not blocks:
            return
        kept = flight.blob.bytes_of(blocks)
        flight.kept_bytes += kept
        flight.source.kept_bytes += kept
        self._fetched_bytes += kept
        by = flight.blob.by
        by[flight.source.name] = by.get(flight.source.name, 0) | blocks

    def _ended(self, event: ev.Ended, now: float, out: list[ev.Action]) -> None:
        flight = self._flights.pop(event.job.id)
        blob, source = flight.blob, flight.source
        source.in_flight -= 1
        source.seconds += event.seconds
        kept_before = flight.kept_bytes
        fresh = self._take(flight, event)
        wire = max(event.wire_bytes, flight.kept_bytes)
        source.wire_bytes += wire
        self._duplicate_bytes += wire - flight.kept_bytes
        if flight.twin is not None:
            flight.twin.twin = None
        self._settle_claims(blob)
        if fresh or flight.kept_bytes > kept_before:
            self._progress_at = now
        if (fresh or flight.kept_bytes) and event.fault is None:
            source.failures = source.misses = 0
            count = max(flight.mask.bit_count(), 1)
            took_s = max(now - flight.started, event.seconds)
            source.measured(took_s, count)
            self._pace.add(took_s / count)
        if event.fault is not None and event.blame:
            blame(source, blob, event, event.fault, self._options, self._chance, now, out)
        elif flight.stalled:
            stalled(source, self._options, self._chance, now)
        self._abort_needless(blob, out)
        self._digest_when_done(blob, out)

    def _take(self, flight: Flight, event: ev.Ended) -> int:
        """Mark what a job brought; returns the blocks that were learnt by it."""
        job, blob = event.job, flight.blob
        covered = blob.upto(job.start, event.done)
        fresh = covered & ~blob.done
        if job.compare:
            changed = sum(1 << block for block in event.changed)
            for name in blob.by:
                blob.by[name] &= ~changed
            self._credit(flight, changed)
            by = blob.by.get(flight.source.name, 0)
            blob.by[flight.source.name] = by | covered
            blob.recheck &= ~covered
        else:
            mine = fresh | (blob.unclear & covered & flight.mask)
            if not event.wire_bytes and flight.twin is not None:  # no report: the other one's tells
                blob.unclear |= fresh
                mine = 0
            elif flight.twin is None:
                mine |= blob.unclear & flight.mask
            blob.unclear &= ~mine
            self._credit(flight, mine)
        blob.done |= covered
        return fresh

    def _settle_claims(self, blob: BlobState) -> None:
        claimed = 0
        for flight in self._flights.values():
            if flight.blob is blob and not flight.is_aborted:
                claimed |= flight.mask
        blob.claimed = claimed & ~blob.done

    def _digest_when_done(self, blob: BlobState, out: list[ev.Action]) -> None:
        if blob.phase is not Phase.FETCHING or not blob.is_done:
            return
        if any(f.blob is blob for f in self._flights.values()):
            return  # a loser of the endgame that is being stopped still holds the files
        blob.phase = Phase.DIGESTING
        out.append(ev.Digest(blob.spec.index, again=blob.digested))

    def _batch_ended(self, event: ev.BatchEnded, now: float, out: list[ev.Action]) -> None:
        del self._batches[event.batch.id]
        self._aborted_batches.discard(event.batch.id)
        source = self._sources[event.batch.source]
        source.in_flight -= 1
        source.wire_bytes += event.wire_bytes
        source.seconds += event.seconds
        kept = 0
        for index, fault in zip(event.batch.blobs, event.faults, strict=True):
            blob = self._blobs[index]
            if fault is None:
                kept += blob.spec.size_bytes
                self._complete(index, now)
                continue
            if blob.phase is not Phase.COMPLETE:
                blob.phase = Phase.WAITING
                self._small.append(index)
            if event.blame:
                blame(source, blob, None, fault, self._options, self._chance, now, out)
        if not event.blame and source.gone is None:
            stalled(source, self._options, self._chance, now)
        source.kept_bytes += kept
        self._fetched_bytes += kept
        self._duplicate_bytes += max(0, event.wire_bytes - kept)
        if not any(event.faults):
            source.failures = source.misses = 0
            source.measured(event.seconds, -(-kept // BLOCK_BYTES))

    def _digested(self, event: ev.Digested, now: float, out: list[ev.Action]) -> None:
        blob = self._blobs[event.blob]
        if event.ok:
            self._complete(event.blob, now)
            return
        blob.digested = True
        blob.phase = Phase.FETCHING
        suspects = 0 if event.suspects is None else bits.of_ranges(event.suspects) & blob.full
        if suspects:
            self._compare(blob, suspects)
            return
        if not blob.audited:  # fetch everything once more, keep what agrees
            blob.audited = True
            self._compare(blob, blob.full)
            return
        fault = Fault(FaultKind.UNTRUSTED, event.message)
        for name in sorted(name for name, mask in blob.by.items() if mask) or sorted(self._sources):
            self._sources[name].excluded[event.blob] = fault
            out.append(ev.Banned(name, event.message))
        blob.audited = False  # another source starts afresh
        self._compare(blob, blob.full)
        blob.by = {}

    def _compare(self, blob: BlobState, blocks: int) -> None:
        """Have blocks fetched again by somebody who did not send them."""
        for name, sent in blob.by.items():
            barred = self._sources[name].barred
            barred[blob.spec.index] = barred.get(blob.spec.index, 0) | (sent & blocks)
        blob.compare_again(blocks)

    def _complete(self, index: int, now: float) -> None:
        blob = self._blobs[index]
        blob.forget()
        for source in self._sources.values():
            source.barred.pop(index, None)
        self._left.discard(index)
        self._progress_at = now

    # -- what runs --------------------------------------------------------------------------------

    def _abort(self, flight: Flight, out: list[ev.Action]) -> None:
        """Stop a request; its blocks may be asked for elsewhere at once."""
        if not flight.is_aborted:
            flight.is_aborted = True
            self._settle_claims(flight.blob)
            out.append(ev.Abort(flight.job))

    def _abort_batch(self, batch: ev.Batch, out: list[ev.Action]) -> None:
        if batch.id not in self._aborted_batches:
            self._aborted_batches.add(batch.id)
            out.append(ev.Abort(batch))

    def _abort_needless(self, blob: BlobState, out: list[ev.Action]) -> None:
        for flight in self._flights.values():
            if flight.blob is blob and flight.had_twin and not flight.left:
                self._abort(flight, out)

    def _watch_flights(self, chooser: Chooser, now: float, out: list[ev.Action]) -> None:
        for flight in list(self._flights.values()):
            if not flight.is_watched or not flight.left:
                continue
            late = now >= stall_at(flight, chooser.median_s, self._options)
            late = late or lags(flight, chooser.median_s, now, self._options)
            if late and chooser.can_relieve(flight.blob, flight.left, flight.source):
                flight.stalled = True
                flight.blob.delayed |= flight.left
                if flight.source.is_peer:  # it is not asked on, also before this one has ended
                    stalled(flight.source, self._options, self._chance, now)
                self._abort(flight, out)
        for batch, until in list(self._batches.values()):
            source = self._sources[batch.source]
            if now >= until and source.is_peer and self._is_relieved(chooser, batch):
                self._abort_batch(batch, out)

    def _is_relieved(self, chooser: Chooser, batch: ev.Batch) -> bool:
        source = self._sources[batch.source]
        return any(
            chooser.can_relieve(self._blobs[i], self._blobs[i].full, source) for i in batch.blobs
        )

    # -- what to do -------------------------------------------------------------------------------

    def _chooser(self, now: float) -> Chooser:
        return Chooser(
            self._sources.values(),
            piece_bytes=self._piece_bytes,
            streams=self._streams,
            options=self._options,
            chance=self._chance,
            now=now,
        )

    def _plan(self, now: float) -> list[ev.Action]:
        out: list[ev.Action] = []
        if not self._left:
            self._over = True
            return [ev.Finished()]
        chooser = self._chooser(now)
        self._watch_flights(chooser, now, out)
        if out:
            chooser = self._chooser(now)
        while True:
            while self._idle_streams > 0 and (action := self._next(chooser, now)) is not None:
                out.append(action)
            if not self._last_resort(out):
                break
            chooser = self._chooser(now)
        out += self._open_ahead()
        failed = self._hopeless(now)
        if failed is not None:
            self._over = True
            for name, fault in failed.faults:  # also who was only unavailable has a reason
                source = self._sources[name]
                source.gone = source.gone or fault.message
            return [*out, failed]
        wake = self._wake(chooser, now)
        return [*out, wake] if wake is not None else out

    @property
    def _idle_streams(self) -> int:
        running = sum(1 for f in self._flights.values() if not f.is_aborted)
        return self._streams - running - len(self._batches)

    def _next(self, chooser: Chooser, now: float) -> ev.Action | None:
        """The next request worth making, or None."""
        if self._small and (batch := self._next_batch(chooser, now)) is not None:
            return ev.FetchBatch(batch)
        for index in self._large:
            blob = self._blobs[index]
            if blob.phase is Phase.FETCHING and blob.missing:
                choice = chooser.of_large(blob)
                if choice is not None:
                    return ev.Fetch(self._start(blob, choice, now).job)
        return self._twin(chooser, now)

    def _start(self, blob: BlobState, choice: Choice, now: float) -> Flight:
        start, end = blob.byte_span(choice.start, choice.end)
        self._next_id += 1
        source = choice.source
        job = ev.Job(
            self._next_id, blob.spec.index, source.name, start, end, choice.whole, choice.compare
        )
        mask = bits.span(choice.start, choice.end) & ~blob.done
        flight = Flight(job, mask, source, blob, now, now)
        self._flights[job.id] = flight
        source.in_flight += 1
        source.requests += 1
        self._settle_claims(blob)
        return flight

    def _twin(self, chooser: Chooser, now: float) -> ev.Action | None:
        """In the endgame, ask somebody else for what is late; see `Pace` for how often."""
        if any(b.missing or b.phase is Phase.WAITING for b in self._unfinished()):
            return None
        for flight in sorted(self._flights.values(), key=lambda f: f.started):
            if not flight.is_watched or flight.had_twin or not flight.left:
                continue
            usual_s = self._pace.usual_s(flight.mask.bit_count())
            if usual_s is None or now < max(flight.started, self._twin_at) + usual_s:
                continue
            cost = flight.blob.bytes_of(flight.left)
            choice = chooser.second(flight.blob, flight.left, flight.source)
            if cost > self._twin_budget or choice is None:
                continue
            self._twin_budget -= cost
            self._twin_at = now
            twin = self._start(flight.blob, choice, now)
            flight.twin, twin.twin = twin, flight
            flight.had_twin = twin.had_twin = True
            return ev.Fetch(twin.job)
        return None

    def _unfinished(self) -> list[BlobState]:
        return [self._blobs[i] for i in self._left if not self._blobs[i].spec.small]

    def _next_batch(self, chooser: Chooser, now: float) -> ev.Batch | None:
        source = None
        for _ in range(min(len(self._small), self._options.batch_files)):
            source = chooser.of_small(self._blobs[self._small[0]])
            if source is not None:
                break
            self._small.rotate(-1)  # a blob that nobody brings now must not block the others
        if source is None:
            return None
        share = -(-len(self._small) // max(1, self._streams))
        most_bytes = self._batch_bytes(source)
        chosen: list[int] = []
        size = 0
        for _ in range(len(self._small)):
            if len(chosen) >= min(share, self._options.batch_files) or size >= most_bytes:
                break
            index = self._small.popleft()
            blob = self._blobs[index]
            if not source.held(blob) or chooser.is_spared(source, blob):
                self._small.append(index)
                continue
            chosen.append(index)
            size += blob.spec.size_bytes
            blob.phase = Phase.FETCHING
        self._next_id += 1
        batch = ev.Batch(self._next_id, tuple(chosen), source.name)
        each = source.block_s or self._options.peer_batch_s
        takes_s = max(self._options.stall_s, 4 * each * -(-size // BLOCK_BYTES))
        self._batches[batch.id] = (batch, now + takes_s)
        source.in_flight += 1
        source.requests += 1
        return batch

    def _batch_bytes(self, source: SourceState) -> int:
        """As much as a frozen source may delay: an origin's batches are large."""
        options = self._options
        if not source.is_peer:
            return options.batch_bytes
        if source.block_s is None:
            return options.peer_batch_bytes
        fits = int(options.peer_batch_s / source.block_s * BLOCK_BYTES)
        return min(options.batch_bytes, max(MIN_BATCH_BYTES, fits))

    def _open_ahead(self) -> list[ev.Action]:
        """Partials are opened in order, just ahead of need: few leases, few followers at once."""
        large = [self._blobs[i] for i in self._large]
        opening = sum(1 for b in large if b.phase is Phase.OPENING)
        working = opening + sum(1 for b in large if b.phase is Phase.FETCHING and b.missing)
        ranged = any(s.ranged and s.gone is None for s in self._sources.values())
        ahead = 1 if ranged else self._streams
        if not opening and self._idle_streams > 0 and working < self._streams:
            ahead = working + 1  # what is open is all asked for, or waits for its sources
        out: list[ev.Action] = []
        for blob in large:
            if working >= ahead:
                break
            if blob.phase is Phase.WAITING:
                blob.phase = Phase.OPENING
                out.append(ev.Open(blob.spec.index))
                working += 1
        return out

    # -- the end ----------------------------------------------------------------------------------

    def _last_resort(self, out: list[ev.Action]) -> bool:
        """When only those are left that differ from a map, or that sent what is compared: them."""
        found = False
        for index in self._left:
            blob = self._blobs[index]
            if not self._needs_source(blob) or blob.spec.small:
                continue
            reach = 0
            for source in self._sources.values():
                reach |= source.held(blob)
            lost = blob.missing & ~reach
            barred = 0
            for source in self._sources.values():
                if source.may(index):
                    barred |= source.barred.get(index, 0)
            lost &= barred
            if lost:
                for source in self._sources.values():
                    if index in source.barred:
                        source.barred[index] &= ~lost
                        if source.is_peer:
                            source.not_before = 0.0
                if lost & ~blob.recheck:
                    blob.doubted |= lost
                    out.append(ev.Doubt(index, bits.to_ranges(lost & ~blob.recheck)))
                found = True
        return found

    def _hopeless(self, now: float) -> ev.Failed | None:
        """A blob that nobody can ever bring, or patience at its end."""
        stuck = [
            i
            for i in self._left
            if self._needs_source(self._blobs[i])
            and not any(s.may(i) for s in self._sources.values())
        ]
        if stuck and self._hopeful and now < self._hope_ends_at():
            stuck = []
        impatient = (
            not stuck
            and not self._flights
            and not self._batches
            and self._waits()
            and now >= self._patience_ends_at()
        )
        if not stuck and not impatient:
            return None
        blobs = tuple(sorted(stuck or self._left))
        faults = {s.name: s.excluded.get(blobs[0]) or s.last_fault for s in self._sources.values()}
        known = [(name, fault) for name, fault in faults.items() if fault is not None]
        known.sort(key=lambda pair: WORST_FIRST.index(pair[1].kind))
        return ev.Failed(blobs, tuple(known))

    def _hope_ends_at(self) -> float:
        return max(self._progress_at, self._heard_at) + self._options.hope_s

    def _patience_ends_at(self) -> float:
        """A source's own Retry-After comes on top: giving up before it would make it pointless."""
        asked = [s.asked_s for s in self._sources.values() if s.gone is None]
        return self._progress_at + self._options.patience_s + max(asked, default=0.0)

    def _needs_source(self, blob: BlobState) -> bool:
        if blob.spec.small:
            return blob.phase is Phase.WAITING
        return blob.phase is Phase.FETCHING and bool(blob.missing)

    def _waits(self) -> bool:
        return any(self._needs_source(self._blobs[i]) for i in self._left)

    def _wake(self, chooser: Chooser, now: float) -> ev.Wake | None:
        """When something that is waited for becomes possible by time alone."""
        times: list[float] = []
        for flight in self._flights.values():
            if flight.is_watched and flight.left:
                times.append(max(stall_at(flight, chooser.median_s, self._options), now + 0.1))
                usual_s = self._pace.usual_s(flight.mask.bit_count())
                if self._idle_streams > 0 and usual_s is not None and not flight.had_twin:
                    times.append(max(flight.started, self._twin_at) + usual_s)
        times += [until for _, until in self._batches.values()]
        if self._waits():
            times += [s.not_before for s in self._sources.values() if s.gone is None]
            if not self._flights and not self._batches:
                times.append(max(now, self._patience_ends_at()))
                if self._hopeful:
                    times.append(self._hope_ends_at())
        return ev.Wake(min(due)) if (due := [t for t in times if t > now]) else None
