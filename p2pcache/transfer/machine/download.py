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

from typing import TYPE_CHECKING, assert_never

from p2pcache.lanes.orders import BLOCK_BYTES, Fault, FaultKind
from p2pcache.transfer import events as ev
from p2pcache.transfer.machine import bits
from p2pcache.transfer.machine.blame import (
    BUSY,
    LACKS_IT,
    UNASKED,
    accuse,
    blame,
    cause_of,
    stalled,
)
from p2pcache.transfer.machine.blobs import BlobState, Phase
from p2pcache.transfer.machine.owners import Unit
from p2pcache.transfer.machine.planning import Planning
from p2pcache.transfer.machine.shares import pieces_of
from p2pcache.transfer.machine.sources import SourceState, Statistics, statistics_of
from p2pcache.transfer.machine.words import Words
from p2pcache.transfer.machine.zones import FAR

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from p2pcache.transfer.machine.flights import Flight

# Peers refuse what is more than their links carry; to ask on costs both sides and brings nothing.
# So as TCP does: down to what runs when one refuses, up by a part of a request for each that ends.
LEAST_APPETITE = 3.0  # one that arrives, one that waits, one that is asked for
APPETITE_STEP = 0.5
PREFERRED_S = 2.0  # for a holder that a busy one named: its own word is newer then


class Download(Planning):
    """Decides who brings what. Feed it events, do the actions it returns, in order.

    `hopeful` (or a later `Listening`): a swarm is listened to, so somebody may still
    appear with what nobody has. `origins`: those that are still to come up, whatever time it takes.
    """

    def handle(self, event: ev.Event, now: float) -> list[ev.Action]:
        """Take note of one event and say what to do now. After Finished or Failed: nothing."""
        return self.handle_all((event,), now)

    def handle_all(self, events: Iterable[ev.Event], now: float) -> list[ev.Action]:
        """The same for events that came together: what to do is looked for once."""
        if self._over:
            return []
        out: list[ev.Action] = []
        for event in events:
            self._take_note(event, now, out)
        return out + self._plan(now)

    def _take_note(self, event: ev.Event, now: float, out: list[ev.Action]) -> None:
        match event:
            case ev.SourceHas():
                self._source_has(event, now)
            case ev.SourceQueue(name, queue_s):
                source = self._sources[name]
                source.queue_s, source.queue_at = queue_s, now
            case ev.SourceUp():
                self._source_up(event, now)
                self._obey(event.name, now)
            case ev.OriginWord(name, member, retry_after_s):
                words = self._words.setdefault(name, Words(self._options.retry_after_cap_s))
                words.heard(member, retry_after_s, now)
                self._obey(name, now)
            case ev.SourceLost():
                self._source_lost(event)
            case ev.SourceDown(name, reason, may_return):
                self._leave(self._sources[name], reason, out)
                self._sources[name].left_at = now if may_return else None
            case ev.Placed(name, distance):
                self._placed(name, distance)
            case ev.Partner():
                self._partner(event, now, out)
            case ev.PartnerLeft(name):
                if self._owners is not None:
                    self._owners.left(name)
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
                self._roster.changed()
                for source in self._sources.values():
                    if source.barred.pop(blob, 0) and source.is_peer:
                        source.failures, source.not_before = 0, 0.0
            case ev.Listening():
                self._hopeful, self._heard_at = True, now
            case ev.Streams(count):
                self._streams = count
            case ev.StoodStill(seconds):
                self._stood_still(seconds, now)
            case ev.Tick():
                pass
            case _:
                assert_never(event)

    def statistics(self) -> Statistics:
        """Counters so far; cheap."""
        return Statistics(
            sources=tuple(statistics_of(s) for s in self._sources.values()),
            fetched_bytes=self._fetched_bytes,
            duplicate_bytes=self._duplicate_bytes,
            retries=sum(s.retries for s in self._sources.values()),
            complete_blobs=len(self._blobs) - len(self._left),
            duplicates=dict(self._duplicates),
        )

    # -- sources ----------------------------------------------------------------------------------

    def _source_up(self, event: ev.SourceUp, now: float) -> None:
        self._roster.changed()
        self._heard_at = now
        holds = None
        if event.holds is not None:
            holds = {i: self._blobs[i].full for i in event.holds}
        known = self._sources.get(event.name)
        if known is None:
            self._to_come.discard(event.name)
            made = SourceState(event.name, event.kind, event.streams, holds)
            made.distance = self._distances.get(event.name, 0)
            self._sources[event.name] = made
        else:  # it came back
            known.gone, known.holds, known.failures = None, holds, 0
            known.left_at = known.refuses_since = None

    def _placed(self, name: str, distance: int) -> None:
        self._distances[name] = distance
        if name in self._sources:
            self._sources[name].distance = distance
            self._roster.changed()
        if self._owners is not None:
            self._owners.placed(name, far=distance == FAR)

    def _source_has(self, event: ev.SourceHas, now: float) -> None:
        source, index = self._sources[event.name], event.blob
        if source.holds is None:
            return
        blob = self._blobs[index]
        more = blob.full if event.blocks is None else bits.of_ranges(event.blocks) & blob.full
        if self._owners is not None:
            fresh = more & ~source.told.get(index, 0)
            if fresh:  # what it told before is no sign of anything
                roster = self._roster
                known = roster.reach(blob) if source.is_far else roster.near(blob)
                new = bool(fresh & ~known & ~blob.done)
                self._owners.moved(event.name, self._units(index, fresh), now, new=new)
            source.told[index] = source.told.get(index, 0) | more
        source.holds[index] = source.holds.get(index, 0) | more
        self._roster.told(source, blob)
        self._heard_at = now

    def _source_lost(self, event: ev.SourceLost) -> None:
        self._doubtful.add(event.blob)
        self._roster.changed()
        holds = self._sources[event.name].holds
        if holds is not None:
            holds.pop(event.blob, None)

    def _units(self, blob: int, blocks: int) -> Iterator[Unit]:
        for piece in pieces_of(blocks, self._piece_bytes):  # looked at when it is asked for
            yield Unit(blob, piece)

    def _partner(self, event: ev.Partner, now: float, out: list[ev.Action]) -> None:
        """What another brings; where both of us do, the lower rank stops."""
        owners = self._owners
        if owners is None:
            return
        brings = [
            unit
            for i, blocks in event.brings
            for unit in self._units(i, bits.of_ranges(blocks) & self._blobs[i].full)
        ]
        owners.heard(
            event.name,
            intake=event.intake_bytes_per_s,
            declines=event.declines,
            brings=brings,
            now=now,
        )
        for flight in list(self._flights.values()):
            far = flight.source.is_far
            if (flight.source.is_peer and not far) or not flight.left or not flight.is_watched:
                continue
            index = flight.blob.spec.index
            units = self._units(index, flight.left)
            if owners.knows(index) and any(owners.yields(unit, now, across=far) for unit in units):
                self._abort(flight, out, ev.Cause.RACE)

    def _leave(self, source: SourceState, reason: str, out: list[ev.Action]) -> None:
        source.gone = reason
        self._roster.changed()
        self._doubtful |= self._left
        for flight in list(self._flights.values()):
            if flight.source is source:
                self._abort(flight, out, ev.Cause.LEFT)
        for batch, _, _ in self._batches.values():
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
        self._overtake(flight.source, here.bit_count() - flight.seen)
        flight.seen = here.bit_count()
        flight.moved_at = flight.source.moved_at = now
        self._progressed(now)
        flight.source.refuses_since = None
        flight.source.measured(now - flight.started, flight.seen)
        new = here & ~blob.done
        blob.done |= new
        if flight.had_twin:  # which of the two brought it is told at their ends
            blob.unclear |= new
        else:
            self._credit(flight, new)
        blob.claimed &= ~new
        if flight.had_twin:
            self._abort_needless(blob, out)

    def _overtake(self, source: SourceState, blocks: int) -> None:
        """So many blocks came of this source: share them out to the requests that are not of
        each other one, to see who is left behind.
        """
        for other in {flight.source for flight in self._flights.values()}:
            elsewhere = self._running - other.in_flight
            other.behind = 0.0 if other is source else other.behind + blocks / max(1, elsewhere)

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
        if not flight.is_aborted:
            self._running -= 1
            self._asked_peers -= source.is_peer
        self._origin_turn += not (flight.is_aborted or source.is_peer)
        self._doubtful.add(blob.spec.index)
        source.seconds += event.seconds
        kept_before = flight.kept_bytes
        fresh = self._take(flight, event)
        wire = max(event.wire_bytes, flight.kept_bytes)
        source.wire_bytes += wire
        self._duplicate_bytes += wire - flight.kept_bytes
        cause = cause_of(event, endgame=flight.had_twin, race=flight.stopped is ev.Cause.RACE)
        self._duplicates[cause] = self._duplicates.get(cause, 0) + wire - flight.kept_bytes
        blob.digested = blob.digested or bool(event.changed)
        if flight.twin is not None:
            flight.twin.twin = None
        self._settle_claims(blob)
        if fresh or flight.kept_bytes > kept_before:
            self._overtake(source, -(-(flight.kept_bytes - kept_before) // BLOCK_BYTES))
            source.moved_at = now
            self._progressed(now)
            source.refuses_since = None
        if (fresh or flight.kept_bytes) and event.fault is None:
            if source.failures:
                self._roster.changed()
            source.failures = source.misses = 0
            if source.is_peer:
                self._appetite += APPETITE_STEP
            count = max(flight.mask.bit_count(), 1)
            took_s = max(now - flight.started, event.seconds)
            source.measured(took_s, count)
            self._pace.add(took_s / count)
            if self._owners is not None and (source.is_far or not source.is_peer):
                self._owners.took(took_s * self._piece_bytes / (count * BLOCK_BYTES))
        if event.blame:
            self._tried(source, flight.started, (event.fault,), now)
        if event.fault is not None and event.blame:
            if self._owners is not None and event.fault.http_status in LACKS_IT:
                self._owners.broke(source.name)
            blame(source, blob, event, event.fault, self._options, self._chance, now, out)
            is_busy = source.is_peer and event.fault.http_status == BUSY
            if is_busy:
                self._prefer(event.fault.instead, now)
                self._appetite = max(LEAST_APPETITE, float(self._asked_peers))
            self._troubled(source, standing=now < source.not_before or not is_busy)
        elif flight.stalled:
            stalled(source, self._options, self._chance, now)
            self._troubled(source)
        self._abort_needless(blob, out)
        self._digest_when_done(blob, out)

    def _obey(self, origin: str, now: float) -> None:
        """Ask an origin as little as members' words say."""
        words, source = self._words.get(origin), self._sources.get(origin)
        if words is not None and source is not None and not source.is_peer:
            source.busy_until, source.limited_until = words.parked_until, words.limited_until
            source.asked_s = max(source.asked_s, words.parked_until - now)
            self._paused[origin] = source

    def _tried(
        self, source: SourceState, began: float, faults: Sequence[Fault | None], now: float
    ) -> None:
        """A request of ours ended: members' words on its origin were right or wrong."""
        words = self._words.get(source.name)
        asked = not all(fault is not None and fault.kind in UNASKED for fault in faults)
        if words is not None and not source.is_peer and asked:
            words.tried(began, now, well=None in faults)
            self._obey(source.name, now)

    def _prefer(self, names: Sequence[str], now: float) -> None:
        """A busy holder named others: those that are known to hold something come first."""
        for name in names:
            source = self._sources.get(name)
            if source is not None and source.is_peer:
                source.preferred_until = now + PREFERRED_S

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
            if flight.is_aborted and event.wire_bytes < blob.bytes_of(fresh):
                blob.unclear |= fresh  # who was asked instead was quicker than the end of this one
                blob.done |= covered
                return 0
            if not event.wire_bytes and flight.twin is not None:  # no report: the other one's tells
                blob.unclear |= fresh
                mine = 0
            elif flight.twin is None:
                mine |= blob.unclear & flight.mask
            blob.unclear &= ~mine
            self._credit(flight, mine)
        blob.done |= covered
        return fresh

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
        self._origin_turn += not source.is_peer
        self._troubled(source)
        if event.blame:
            self._tried(source, now - event.seconds, event.faults, now)
        source.wire_bytes += event.wire_bytes
        source.seconds += event.seconds
        kept = 0
        for index, fault in zip(event.batch.blobs, event.faults, strict=True):
            blob = self._blobs[index]
            if fault is None:
                kept += blob.spec.size_bytes
                source.refuses_since = None
                self._complete(index, now)
                continue
            if blob.phase is not Phase.COMPLETE:
                blob.phase = Phase.WAITING
                self._small.append(index)
            self._doubtful.add(index)
            if event.blame:
                blame(source, blob, None, fault, self._options, self._chance, now, out)
        if not event.blame and source.gone is None:
            stalled(source, self._options, self._chance, now)
        source.kept_bytes += kept
        self._fetched_bytes += kept
        self._duplicate_bytes += max(0, event.wire_bytes - kept)
        cause = cause_of(event)
        self._duplicates[cause] = self._duplicates.get(cause, 0) + max(0, event.wire_bytes - kept)
        if not any(event.faults):
            if self._owners is not None and not source.is_peer:
                self._owners.took(event.seconds)
            source.failures = source.misses = 0
            source.measured(event.seconds, -(-kept // BLOCK_BYTES))

    def _digested(self, event: ev.Digested, now: float, out: list[ev.Action]) -> None:
        blob = self._blobs[event.blob]
        if event.ok:
            self._complete(event.blob, now)
            return
        blob.digested = True
        self._roster.changed()
        self._doubtful.add(event.blob)
        blob.phase = Phase.FETCHING
        suspects = 0 if event.suspects is None else bits.of_ranges(event.suspects) & blob.full
        if suspects:
            self._compare(blob, suspects)
            return
        if not blob.audited:  # fetch everything once more, keep what agrees
            blob.audited = True
            self._compare(blob, blob.full)
            return
        self._compare(blob, blob.full)
        accuse(blob, self._sources, Fault(FaultKind.UNTRUSTED, event.message), out)
        blob.audited = bool(blob.alone)  # else another source starts afresh
        blob.by = {}

    def _stood_still(self, seconds: float, now: float) -> None:
        """That time counts for nobody: not against patience, nor against who was asked."""
        self._progress_at = min(now, self._progress_at + seconds)
        self._heard_at = min(now, self._heard_at + seconds)
        for flight in self._flights.values():
            flight.moved_at = min(now, flight.moved_at + seconds)
        for source in self._sources.values():
            source.moved_at = min(now, source.moved_at + seconds)
            source.asked_at = min(now, source.asked_at + seconds)

    def _compare(self, blob: BlobState, blocks: int) -> None:
        """Have blocks fetched again by somebody who did not send them."""
        self._has_barred = True
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
        self._doubtful.discard(index)
        self._unopened.pop(index, None)
        self._open.pop(index, None)
        self._progress_at = now

    def _abort_needless(self, blob: BlobState, out: list[ev.Action]) -> None:
        for flight in self._flights.values():
            if flight.blob is blob and flight.had_twin and not flight.left:
                self._abort(flight, out, ev.Cause.ENDGAME)
