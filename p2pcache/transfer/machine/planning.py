"""What to do now: which requests to make and to stop, which blobs to open, when it is over."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from p2pcache.lanes.orders import BLOCK_BYTES
from p2pcache.transfer import events as ev
from p2pcache.transfer.machine import bits
from p2pcache.transfer.machine.blame import WORST_FIRST, stalled
from p2pcache.transfer.machine.blobs import BlobState, Phase
from p2pcache.transfer.machine.flights import Flight, Stalls, lags, link_block_s
from p2pcache.transfer.machine.owners import Unit
from p2pcache.transfer.machine.state import PullState

if TYPE_CHECKING:
    from p2pcache.content.ranges import RangeSet
    from p2pcache.transfer.machine.choose import Choice, Chooser
    from p2pcache.transfer.machine.owners import Owners
    from p2pcache.transfer.machine.shares import Shares
    from p2pcache.transfer.machine.sources import SourceState


LEAST_BUNDLE = 16  # files that are asked of a peer together, as far as it has them
LAST_TRY_S = 10.0  # for what is begun after the patience: as long as a connection may take
MOST_WAITING = 16  # blobs that are open while nobody brings any of them
COUNT_BEAT_S = 0.1  # how often rates are taken
TAKE_OVER_S = 0.01  # after an owner is suspected, what was its is asked for
RESAY_S, RESAY_MOST_S = 0.5, 3.0  # an intake that is older says nothing, also if it is the same
RESAY_SHARE = 0.25  # a change of our intake below this changes nothing for the others


class Planning(PullState):
    """From a state to actions; it reads no event."""

    def _plan(self, now: float) -> list[ev.Action]:
        out: list[ev.Action] = []
        if not self._left:
            self._over = True
            return [ev.Finished()]
        self._measure_intake(now)
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
        out += self._take_part(chooser, now)
        failed = self._hopeless(now)
        if failed is not None:
            self._over = True
            for name, fault in failed.faults:  # also who was only unavailable has a reason
                source = self._sources[name]
                source.gone = source.gone or fault.message
            return [*out, failed]
        wake = self._wake(chooser, now)
        if any(isinstance(action, ev.Suspect) for action in out):
            soon = now + TAKE_OVER_S
            wake = ev.Wake(soon if wake is None else min(soon, wake.at))
        return [*out, wake] if wake is not None else out

    def _watch_flights(self, chooser: Chooser, now: float, out: list[ev.Action]) -> None:
        standing = now >= self._relief_at()
        stalls = self._stalls(chooser)
        for flight in list(self._flights.values()):
            if not flight.is_watched or not flight.left:
                continue
            late = now >= stalls.at(flight)
            if not late and standing and now >= flight.moved_at + self._standing_s:
                late = True  # one of them: if our own link is slow, the others go on
            late = late or now >= self._left_behind_at(flight)
            late = late or lags(flight, chooser.median_s, now, self._options)
            if late and chooser.can_relieve(flight.blob, flight.left, flight.source):
                flight.stalled = True
                if standing:
                    self._relieved_at, standing = now, False
                if flight.source.is_peer:  # it is not asked on, also before this one has ended
                    flight.blob.delayed |= flight.left  # what an origin delays, peers may bring
                    flight.source.stalled_at = now
                    stalled(flight.source, self._options, self._chance, now)
                    self._troubled(flight.source)
                self._abort(flight, out)
        for batch, _, until in list(self._batches.values()):
            source = self._sources[batch.source]
            if now >= until and source.is_peer and self._is_relieved(chooser, batch):
                self._abort_batch(batch, out)

    def _left_behind_at(self, flight: Flight) -> float:
        """When a request is late whose source stalled with another one of ours, while something
        came of elsewhere since: our own link is not what all wait for. Else never.
        """
        source = flight.source
        if flight.started < source.stalled_at < self._progress_at:
            return max(flight.moved_at, source.moved_at) + self._options.stall_s
        return math.inf

    def _relief_at(self) -> float:
        """When nothing came of anybody for so long that one request is tried elsewhere."""
        return max(self._progress_at, self._relieved_at) + self._standing_s

    def _stalls(self, chooser: Chooser) -> Stalls:
        running = [f.source for f in self._flights.values() if f.is_watched]
        alone = len(set(map(id, running))) < 2
        link_s = link_block_s(len(running), self._intake, alone=alone)
        return Stalls(chooser.median_s, link_s, self._options)

    def _is_relieved(self, chooser: Chooser, batch: ev.Batch) -> bool:
        source = self._sources[batch.source]
        return any(
            chooser.can_relieve(self._blobs[i], self._blobs[i].full, source) for i in batch.blobs
        )

    def _next(self, chooser: Chooser, now: float) -> ev.Action | None:
        """The next request worth making, or None."""
        if self._small and (batch := self._next_batch(chooser, now)) is not None:
            return ev.FetchBatch(batch)
        for blob in self._open.values():
            if blob.phase is Phase.FETCHING and blob.missing:
                choice = chooser.of_large(blob, peers=self._asked_peers < self._appetite)
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
        source.asked(now)
        self._running += 1
        self._asked_peers += source.is_peer
        self._origin_turn += not source.is_peer
        blob.claimed |= mask
        return flight

    @property
    def _is_endgame(self) -> bool:
        """Whether everything is here or asked for."""
        return not self._unopened and not any(b.missing for b in self._open.values())

    def _twin(self, chooser: Chooser, now: float) -> ev.Action | None:
        """In the endgame, ask somebody else for what is late; see `Pace` for how often."""
        if not self._is_endgame:
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
        if source.is_peer:  # one request brings them all; of an origin each is one
            share = max(share, LEAST_BUNDLE)
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
        self._batches[batch.id] = (batch, now, now + takes_s)
        source.asked(now)
        self._origin_turn += not source.is_peer
        return batch

    def _batch_bytes(self, source: SourceState) -> int:
        """As much as a frozen source may delay: an origin's batches are large."""
        options = self._options
        if not source.is_peer:
            return options.batch_bytes
        if source.block_s is None:
            return options.peer_batch_bytes
        fits = int(options.peer_batch_s / source.block_s * BLOCK_BYTES)
        return min(options.batch_bytes, max(options.peer_batch_bytes, fits))

    def _open_ahead(self) -> list[ev.Action]:
        """Partials are opened in order, just ahead of need: few leases, few followers at once."""
        if not self._unopened:
            return []
        opening = sum(1 for b in self._open.values() if b.phase is Phase.OPENING)
        fetching = sum(1 for b in self._open.values() if b.phase is Phase.FETCHING and b.missing)
        working = opening + fetching
        ranged = any(s.ranged and s.gone is None for s in self._sources.values())
        ahead = 1 if ranged else self._streams
        is_idle = not self._flights and not self._batches
        if (
            not opening
            and self._idle_streams > 0
            and working < (max(self._streams, MOST_WAITING) if is_idle else self._streams)
        ):
            ahead = working + 1  # what is open is all asked for, or waits for its sources
        chosen: list[int] = []
        for index in self._unopened:
            if working + len(chosen) >= ahead:
                break
            if self._has_source(index):
                chosen.append(index)
        for index in chosen:
            del self._unopened[index]
            blob = self._open[index] = self._blobs[index]
            blob.phase = Phase.OPENING
        return [ev.Open(index) for index in chosen]

    def _take_part(self, chooser: Chooser, now: float) -> list[ev.Action]:
        """Tell the others what we bring, and see whether the owner of what is missing moves."""
        owners, shares = self._owners, chooser.shares
        if owners is None or shares is None:
            return []
        if now >= self._told_at + COUNT_BEAT_S:
            self._told_at = now
            self._count(owners, chooser, now)
            found = self._untouched(owners, shares, chooser, now) if shares.is_shared else None
            lowest, across = (None, False) if found is None else found
            owners.watch(lowest, now, across=across)
        out: list[ev.Action] = [ev.Suspect(*suspect) for suspect in owners.suspects]
        owners.suspects.clear()
        carried = frozenset(f.job.id for f in self._flights.values() if f.source.is_far)
        running = (self._origin_turn, owners.declines, carried)
        if running == self._said_of and now < self._said_at + self._resay_s():
            return out
        self._said_of, self._said_at, self._said_intake = running, now, self._intake
        return [*out, ev.Say(self._intake, owners.declines, self._brings())]

    def _resay_s(self) -> float:
        """A word to everybody costs everybody something: seldom, while it would be the same."""
        change = abs(self._intake - self._said_intake)
        return RESAY_S if change > RESAY_SHARE * self._said_intake else RESAY_MOST_S

    def _untouched(
        self, owners: Owners, shares: Shares, chooser: Chooser, now: float
    ) -> tuple[Unit, bool] | None:
        """The lowest unit that nobody has or brings (of our zone: then True); of small blobs too,
        so that all watch one.
        """
        for blob in self._open.values():
            if blob.phase is Phase.FETCHING and shares.applies(blob):
                there = chooser.there(blob)
                here = chooser.near(blob) if shares.is_zoned else there
                lowest = shares.untouched(blob, blob.done | here, there & ~here)
                if lowest is not None:
                    return lowest
        for index in sorted(self._small):
            unit, there = Unit(index, 0), chooser.there(self._blobs[index])
            across = bool(there) and shares.is_zoned and not chooser.near(self._blobs[index])
            if not owners.knows(index) or owners.is_brought(unit, now, across=across):
                continue
            if not there or across:
                return unit, across
        return None

    def _count(self, owners: Owners, chooser: Chooser, now: float) -> None:
        exists = sum((b.done | chooser.there(b)).bit_count() for b in self._open.values())
        origins = [s for s in self._sources.values() if not s.is_peer]
        can_ask = not origins or any(
            s.gone is None and now >= s.not_before and s.excluded.keys().isdisjoint(self._left)
            for s in origins
        )
        own = [f.started for f in self._flights.values() if f.source.is_far or not f.source.is_peer]
        owners.counted(
            exists * BLOCK_BYTES // self._piece_bytes,
            self._intake,
            can_ask=can_ask,
            oldest_s=now - min(own, default=now),
            now=now,
        )

    def _brings(self) -> tuple[tuple[int, RangeSet], ...]:
        """What is on its way from origins and into our zone, by blob."""
        masks: dict[int, int] = {}
        for flight in self._flights.values():
            if (flight.source.is_far or not flight.source.is_peer) and not flight.is_aborted:
                index = flight.blob.spec.index
                masks[index] = masks.get(index, 0) | flight.mask
        for batch, _, _ in self._batches.values():
            source = self._sources[batch.source]
            if source.is_far or not source.is_peer:
                masks |= {i: 1 for i in batch.blobs if self._blobs[i].phase is not Phase.COMPLETE}
        return tuple((i, bits.to_ranges(mask)) for i, mask in sorted(masks.items()))

    # -- the end ----------------------------------------------------------------------------------

    def _last_resort(self, out: list[ev.Action]) -> bool:
        """When only those are left that differ from a map, or that sent what is compared: them."""
        found = False
        if not self._has_barred:
            return False
        for index, blob in self._open.items():
            if not self._needs_source(blob):
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
                self._roster.changed()
                if lost & ~blob.recheck:
                    blob.doubted |= lost
                    out.append(ev.Doubt(index, bits.to_ranges(lost & ~blob.recheck)))
                found = True
        return found

    def _hopeless(self, now: float) -> ev.Failed | None:
        """A blob that nobody can ever bring, or patience at its end."""
        if self._to_come:
            return None
        self._doubtful = {i for i in self._doubtful if not self._has_source(i)}
        stuck = [
            i for i in self._doubtful if i in self._unopened or self._needs_source(self._blobs[i])
        ]
        if stuck and self._hopeful and now < self._hope_ends_at():
            stuck = []
        if not stuck and not self._is_impatient(now):
            return None
        blobs = tuple(sorted(stuck or self._left))
        faults = {s.name: s.excluded.get(blobs[0]) or s.last_fault for s in self._sources.values()}
        known = [(name, fault) for name, fault in faults.items() if fault is not None]
        known.sort(key=lambda pair: WORST_FIRST.index(pair[1].kind))
        lost = [
            (s.name, now - s.left_at)
            for s in self._sources.values()
            if s.left_at is not None and any(i in blobs for i in s.holds or ())
        ]
        lost.sort(key=lambda pair: pair[1])
        return ev.Failed(blobs, tuple(known), tuple(lost))

    def _is_impatient(self, now: float) -> bool:
        """Nothing came for so long. All that is begun since has LAST_TRY_S together: where sources
        take turns in failing, something is always on its way.
        """
        ends_at = self._patience_ends_at()
        if now < ends_at:
            return False
        begun = self._begun()
        if not begun:
            return self._waits()
        if self._last_try_at < ends_at:  # also after this process stood still for long
            self._last_try_at = now
        return now >= self._last_try_at + LAST_TRY_S and min(begun) >= ends_at

    def _begun(self) -> list[float]:
        """When each request that is on its way began."""
        started = [f.started for f in self._flights.values()]
        return started + [at for _, at, _ in self._batches.values()]

    def _hope_ends_at(self) -> float:
        left = [
            s.left_at
            for s in self._sources.values()
            if s.left_at is not None and any(i in self._left for i in s.holds or ())
        ]
        ends_at = max(self._progress_at, self._heard_at) + self._options.hope_s
        return max([ends_at, *(at + self._options.return_s for at in left)])

    def _patience_ends_at(self) -> float:
        """A source's own Retry-After comes on top: giving up before it would make it pointless."""
        asked = [s.asked_s for s in self._sources.values() if s.gone is None]
        return self._progress_at + self._options.patience_s + max(asked, default=0.0)

    def _wake(self, chooser: Chooser, now: float) -> ev.Wake | None:
        """When something that is waited for becomes possible by time alone."""
        times: list[float] = []
        stalls = self._stalls(chooser)
        late = self._is_endgame and self._idle_streams > 0
        for flight in self._flights.values():
            if flight.is_watched and flight.left:
                at = min(stalls.at(flight), self._left_behind_at(flight))
                times.append(max(at, now + 0.1))
                if flight.source.is_peer and flight.source.block_s is None:
                    times.append(flight.source.asked_at + self._options.first_block_s)
                usual_s = self._pace.usual_s(flight.mask.bit_count()) if late else None
                if usual_s is not None and not flight.had_twin:
                    times.append(max(flight.started, self._twin_at) + usual_s)
        if times:
            times.append(self._relief_at())
        times += [until for _, _, until in self._batches.values()]
        if self._waits():
            if self._owners is not None:
                at = self._owners.next_at(now)
                times.append(at if at > now else self._told_at + COUNT_BEAT_S)  # looked at then
            times += self._resume_times(now)
            if not self._flights and not self._batches:
                times.append(max(now, self._patience_ends_at()))
        if self._flights or self._batches:
            ends_at = self._patience_ends_at()
            times.append(ends_at if now < ends_at else self._last_try_at + LAST_TRY_S)
        if self._hopeful and self._doubtful:
            times.append(self._hope_ends_at())
        return ev.Wake(min(later)) if (later := [t for t in times if t > now]) else None

    def _resume_times(self, now: float) -> list[float]:
        """When those that are left alone for a while may be asked again."""
        at = {s.name: s.asked_again_at() for s in self._paused.values()}
        for name in [name for name, until in at.items() if until <= now]:
            del self._paused[name]
        return [at[name] for name, source in self._paused.items() if source.gone is None]
