"""One pull as a pure machine: events in, actions out. No clock, no chance, no await, no disk.

The driver (transfer/driver) and the virtual-time simulator (issue C) run this same class. Time
is an argument of `handle`; chance is a callable given at construction, returning [0, 1).

The rules, and where they come from:

* sources in order of preference, by piece and not by blob (DESIGN 6);
* small blobs travel in batches, large ones in runs of whole pieces that get shorter near the end;
* a source that fails is left alone for a jittered, growing while; `Retry-After` is honoured; a
  permanent answer (missing, denied) excludes that source for that blob and is not repeated;
* a source that ignores ranges is asked for whole bodies only;
* when the whole digest does not match, every piece is fetched again and compared; only the blocks
  that differ are rewritten; if the digest still fails, the source is what lies (DESIGN 3);
* the pull fails when nobody is left for a blob, or nothing was verified for `patience_s`
  and the longest wait that a source asked for.
"""

from __future__ import annotations

import enum
from collections import deque
from dataclasses import dataclass, field
from itertools import takewhile
from typing import TYPE_CHECKING, assert_never

from p2pcache.lanes.orders import BLOCK_BYTES, Fault, FaultKind
from p2pcache.transfer import events as ev
from p2pcache.transfer.policy import TransferOptions, backoff_s, run_limit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from p2pcache.sources.port import SourceKind


class Phase(enum.Enum):
    """Where one blob stands."""

    WAITING = "waiting"  # nobody asked for its partial yet
    OPENING = "opening"
    FETCHING = "fetching"
    DIGESTING = "digesting"
    COMPLETE = "complete"


class _Blob:
    """A blob in work: one byte a block, 0 missing, 1 in flight, 2 done."""

    __slots__ = (
        "_last_bytes",
        "audited",
        "by",
        "cursor",
        "digested",
        "missing",
        "phase",
        "spec",
        "state",
        "suspects",
    )

    def __init__(self, spec: ev.BlobSpec) -> None:
        self.spec = spec
        self.phase = Phase.WAITING
        self.state = bytearray(-(-spec.size_bytes // BLOCK_BYTES))
        self._last_bytes = spec.size_bytes - (len(self.state) - 1) * BLOCK_BYTES
        self.missing = len(self.state)
        self.cursor = 0  # no missing block below it
        self.audited = False  # its pieces are being compared, after a wrong whole digest
        self.digested = False  # a whole digest came out wrong before: hash again from the start
        self.by: set[str] = set()  # sources that brought any of its bytes
        self.suspects: set[str] = set()  # those of them whose bytes are being compared

    def set(self, start: int, end: int, value: int) -> None:
        """Set blocks [start, end), keeping count of the missing ones."""
        before = self.state.count(0, start, end)
        self.state[start:end] = bytes([value]) * (end - start)
        self.missing += (0 if value else end - start) - before
        if not value:
            self.cursor = min(self.cursor, start)

    def gap(self, limit: int) -> tuple[int, int] | None:
        """The first run of missing blocks, at most `limit` long."""
        start = self.state.find(0, self.cursor)
        if start < 0:
            self.cursor = len(self.state)
            return None
        self.cursor = start
        end = start
        while end < len(self.state) and end - start < limit and not self.state[end]:
            end += 1
        return start, end

    @property
    def done(self) -> bool:
        """Whether every block is here."""
        return self.state.count(2) == len(self.state)

    @property
    def done_bytes(self) -> int:
        """Bytes that are here; the last block may be short."""
        blocks = self.state.count(2)
        if blocks and self.state[-1] == 2:
            return (blocks - 1) * BLOCK_BYTES + self._last_bytes
        return blocks * BLOCK_BYTES


@dataclass(slots=True)
class _Source:
    name: str
    kind: SourceKind
    streams: int
    holds: frozenset[int] | None
    in_flight: int = 0
    failures: int = 0
    not_before: float = 0.0
    asked_s: float = 0.0  # the longest Retry-After that is honoured
    ranged: bool = True
    gone: str | None = None
    last_fault: Fault | None = None
    excluded: dict[int, Fault] = field(default_factory=dict)
    strikes: dict[int, int] = field(default_factory=dict)
    # for the receipt
    wire_bytes: int = 0
    kept_bytes: int = 0
    seconds: float = 0.0
    requests: int = 0
    retries: int = 0

    def may(self, blob: int) -> bool:
        """Whether it could ever bring this blob."""
        return (
            self.gone is None
            and blob not in self.excluded
            and (self.holds is None or blob in self.holds)
        )


@dataclass(frozen=True, slots=True)
class SourceStatistics:
    """What one source did in a pull; `left` says why it is not asked any more, or None."""

    name: str
    kind: SourceKind
    wire_bytes: int
    kept_bytes: int
    seconds: float
    requests: int
    retries: int
    left: str | None


@dataclass(frozen=True, slots=True)
class Statistics:
    """Counters of a pull so far."""

    sources: tuple[SourceStatistics, ...]
    fetched_bytes: int
    duplicate_bytes: int
    retries: int
    complete_blobs: int


class Download:
    """Decides who brings what. Feed it events, do the actions it returns, in order."""

    def __init__(
        self,
        blobs: Iterable[ev.BlobSpec],
        *,
        piece_bytes: int,
        streams: int,
        options: TransferOptions,
        chance: Callable[[], float],
        now: float,
    ) -> None:
        self._blobs = {spec.index: _Blob(spec) for spec in blobs}
        self._small = deque(b.spec.index for b in self._blobs.values() if b.spec.small)
        self._large = [b.spec.index for b in self._blobs.values() if not b.spec.small]
        self._left = set(self._blobs)
        self._doubtful = set(self._blobs)  # may be without a source: found out since the last look
        self._sources: dict[str, _Source] = {}
        self._piece_bytes = piece_bytes
        self._streams = streams
        self._options = options
        self._chance = chance
        self._jobs: dict[int, ev.Job | ev.Batch] = {}
        self._next_job = 0
        self._progress_at = now
        self._over = False
        self._aborted: set[int] = set()
        self._fetched_bytes = 0
        self._duplicate_bytes = 0

    def handle(self, event: ev.Event, now: float) -> list[ev.Action]:
        """Take note of one event and say what to do now. After Finished or Failed: nothing."""
        if self._over:
            return []
        out: list[ev.Action] = []
        match event:
            case ev.SourceUp(name, kind, streams, holds):
                self._sources[name] = _Source(name, kind, streams, holds)
            case ev.SourceHas(name, blobs):
                source = self._sources[name]
                source.holds = None if source.holds is None else source.holds | blobs
            case ev.SourceDown(name, reason):
                self._leave(self._sources[name], reason, out)
            case ev.Opened(blob, live):
                self._opened(self._blobs[blob], live, out)
            case ev.Settled(blob):
                self._complete(blob, now)
            case ev.Ended():
                self._ended(event, now, out)
            case ev.BatchEnded():
                self._batch_ended(event, now)
            case ev.Digested(blob, ok, message):
                self._digested(self._blobs[blob], ok, message, now, out)
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
            sources=tuple(
                SourceStatistics(
                    s.name, s.kind, s.wire_bytes, s.kept_bytes, s.seconds, s.requests, s.retries,
                    s.gone or next((f.message for f in s.excluded.values()), None),
                )
                for s in self._sources.values()
            ),
            fetched_bytes=self._fetched_bytes,
            duplicate_bytes=self._duplicate_bytes,
            retries=sum(s.retries for s in self._sources.values()),
            complete_blobs=len(self._blobs) - len(self._left),
        )  # fmt: skip

    # -- what happened ----------------------------------------------------------------------------

    def _opened(self, blob: _Blob, live: bytes, out: list[ev.Action]) -> None:
        blob.phase = Phase.FETCHING
        blob.state[:] = live.translate(_LIVE_TO_STATE)[: len(blob.state)]
        blob.missing = blob.state.count(0)
        blob.cursor = 0
        self._digest_when_done(blob, out)

    def _ended(self, event: ev.Ended, now: float, out: list[ev.Action]) -> None:
        job = event.job
        del self._jobs[job.id]
        self._aborted.discard(job.id)
        blob, source = self._blobs[job.blob], self._sources[job.source]
        source.in_flight -= 1
        kept = self._take(blob, job, event)
        source.wire_bytes += event.wire_bytes
        source.kept_bytes += kept
        source.seconds += event.seconds
        self._fetched_bytes += kept
        self._duplicate_bytes += max(0, event.wire_bytes - kept)
        blob.digested = blob.digested or bool(event.changed)
        if kept:
            blob.by.add(source.name)
            self._progress_at = now
            if event.fault is None:
                source.failures = 0
        self._doubtful.add(job.blob)
        if event.fault is not None and event.blame:
            self._blame(source, job.blob, event.fault, now, out)
        self._digest_when_done(blob, out)

    def _take(self, blob: _Blob, job: ev.Job, event: ev.Ended) -> int:
        """Mark what a job brought; returns the bytes that were new."""
        first, last = job.start // BLOCK_BYTES, -(-job.end // BLOCK_BYTES)
        before = blob.done_bytes
        done = last if event.done >= job.end else max(first, event.done // BLOCK_BYTES)
        if job.whole:  # blocks that were here before stay; the others of the run are known now
            for block in range(first, last):
                if blob.state[block] == 1:
                    blob.set(block, block + 1, 2 if block < done else 0)
        else:
            blob.set(first, done, 2)
            blob.set(done, last, 0)
        return len(event.changed) * BLOCK_BYTES if job.compare else blob.done_bytes - before

    def _digest_when_done(self, blob: _Blob, out: list[ev.Action]) -> None:
        if blob.phase is Phase.FETCHING and blob.done:
            blob.phase = Phase.DIGESTING
            out.append(ev.Digest(blob.spec.index, again=blob.digested))

    def _batch_ended(self, event: ev.BatchEnded, now: float) -> None:
        del self._jobs[event.batch.id]
        source = self._sources[event.batch.source]
        source.in_flight -= 1
        source.wire_bytes += event.wire_bytes
        source.seconds += event.seconds
        kept = 0
        ok = True
        for index, fault in zip(event.batch.blobs, event.faults, strict=True):
            if fault is None:
                kept += self._blobs[index].spec.size_bytes
                self._complete(index, now)
                continue
            ok = False
            blob = self._blobs[index]
            if blob.phase is not Phase.COMPLETE:
                blob.phase = Phase.WAITING
                self._small.append(index)
            self._doubtful.add(index)
            self._blame(source, index, fault, now, [])
        source.kept_bytes += kept
        self._fetched_bytes += kept
        self._duplicate_bytes += max(0, event.wire_bytes - kept)
        if ok:
            source.failures = 0

    def _digested(
        self, blob: _Blob, ok: bool, message: str, now: float, out: list[ev.Action]
    ) -> None:
        if ok:
            self._complete(blob.spec.index, now)
            return
        blob.digested = True
        self._doubtful.add(blob.spec.index)
        if not blob.audited:  # fetch everything once more, keep what agrees
            blob.audited = True
            blob.suspects = set(blob.by)
            blob.phase = Phase.FETCHING
            blob.set(0, len(blob.state), 0)
            return
        fault = Fault(FaultKind.UNTRUSTED, message)
        for name in sorted(blob.by) or sorted(self._sources):
            self._sources[name].excluded[blob.spec.index] = fault
            out.append(ev.Banned(name, message))
        blob.audited = False  # another source starts afresh
        blob.phase = Phase.FETCHING
        blob.by = set()
        blob.set(0, len(blob.state), 0)

    def _complete(self, index: int, now: float) -> None:
        blob = self._blobs[index]
        blob.phase = Phase.COMPLETE
        blob.state = bytearray()
        blob.missing = 0
        if index in self._left and not blob.spec.small:
            self._large.remove(index)  # one of the first: they are worked on in order
        self._left.discard(index)
        self._doubtful.discard(index)
        self._progress_at = now

    def _blame(
        self, source: _Source, blob: int, fault: Fault, now: float, out: list[ev.Action]
    ) -> None:
        source.last_fault = fault
        match fault.kind:
            case FaultKind.UNAVAILABLE:
                if now < source.not_before:
                    return  # its other streams fail for the same reason: counted once
                source.failures += 1
                source.retries += 1
                asked = min(fault.retry_after_s or 0.0, self._options.retry_after_cap_s)
                source.asked_s = max(source.asked_s, asked)
                own = backoff_s(source.failures, self._chance(), self._options)
                source.not_before = now + max(asked * (1.0 + 0.1 * self._chance()), own)
            case FaultKind.RANGE_IGNORED:
                source.ranged = False
            case FaultKind.NOT_FOUND | FaultKind.DENIED:
                source.excluded[blob] = fault
            case FaultKind.UNTRUSTED:
                source.strikes[blob] = source.strikes.get(blob, 0) + 1
                source.retries += 1
                if source.strikes[blob] >= self._options.strikes:
                    source.excluded[blob] = fault
                    out.append(ev.Banned(source.name, fault.message))
            case FaultKind.LOCAL | FaultKind.DISK_FULL:
                pass  # the driver ends the pull with it; the source did nothing wrong
            case _:
                assert_never(fault.kind)

    def _leave(self, source: _Source, reason: str, out: list[ev.Action]) -> None:
        source.gone = reason
        self._doubtful |= self._left
        for job in self._jobs.values():
            if job.source == source.name and isinstance(job, ev.Job):
                self._abort(job, out)

    def _abort(self, job: ev.Job, out: list[ev.Action]) -> None:
        if job.id not in self._aborted:
            self._aborted.add(job.id)
            out.append(ev.Abort(job))

    # -- what to do -------------------------------------------------------------------------------

    def _plan(self, now: float) -> list[ev.Action]:
        out: list[ev.Action] = []
        if not self._left:
            self._over = True
            return [ev.Finished()]
        while len(self._jobs) < self._streams and (action := self._next(now, out)) is not None:
            out.append(action)
        out += self._open_ahead()
        failed = self._hopeless(now)
        if failed is not None:
            self._over = True
            for name, fault in failed.faults:  # also who was only unavailable has a reason
                source = self._sources[name]
                source.gone = source.gone or fault.message
            return [*out, failed]
        wake = self._wake(now)
        return [*out, wake] if wake is not None else out

    def _next(self, now: float, out: list[ev.Action]) -> ev.Action | None:
        """The next request worth making, or None."""
        if self._small and (batch := self._next_batch(now)) is not None:
            return ev.FetchBatch(batch)
        for index in self._large:
            blob = self._blobs[index]
            if blob.phase is Phase.WAITING:
                break  # nor is any after it opened
            if blob.phase is not Phase.FETCHING or not blob.missing:
                continue
            source = self._choose(index, now)
            if source is not None and (job := self._next_job_of(blob, source)) is not None:
                return ev.Fetch(job)
        return None

    def _next_batch(self, now: float) -> ev.Batch | None:
        source = self._choose(self._small[0], now)
        if source is None:
            self._small.rotate(-1)  # a blob that nobody brings now must not block the others
            return None
        share = -(-len(self._small) // max(1, self._streams))
        chosen: list[int] = []
        size = 0
        for _ in range(len(self._small)):
            if len(chosen) >= min(share, self._options.batch_files):
                break
            if size >= self._options.batch_bytes:
                break
            index = self._small.popleft()
            if not source.may(index):
                self._small.append(index)
                continue
            chosen.append(index)
            size += self._blobs[index].spec.size_bytes
            self._blobs[index].phase = Phase.FETCHING
        batch = ev.Batch(self._new_id(), tuple(chosen), source.name)
        self._start(batch, source)
        return batch

    def _next_job_of(self, blob: _Blob, source: _Source) -> ev.Job | None:
        size = blob.spec.size_bytes
        if not source.ranged or blob.spec.whole:
            if any(
                isinstance(j, ev.Job) and j.blob == blob.spec.index for j in self._jobs.values()
            ):
                return None
            # a stream that broke may have been of another version: compare what it left
            compare = blob.audited or (blob.spec.whole and blob.missing < len(blob.state))
            for block in range(len(blob.state)):
                if not blob.state[block]:
                    blob.set(block, block + 1, 1)
            job = ev.Job(self._new_id(), blob.spec.index, source.name, 0, size, True, compare)
            self._start(job, source)
            return job
        left = blob.missing * BLOCK_BYTES
        limit = run_limit(left, self._piece_bytes, self._streams, self._options) // BLOCK_BYTES
        gap = blob.gap(limit)
        if gap is None:
            return None
        blob.set(*gap, 1)
        start, end = gap[0] * BLOCK_BYTES, min(gap[1] * BLOCK_BYTES, size)
        job = ev.Job(self._new_id(), blob.spec.index, source.name, start, end, compare=blob.audited)
        self._start(job, source)
        return job

    def _choose(self, blob: int, now: float) -> _Source | None:
        """The preferred source that can take one more request for this blob now."""
        usable = [
            s
            for s in self._sources.values()
            if s.may(blob) and s.in_flight < s.streams and now >= s.not_before
        ]
        suspects = self._blobs[blob].suspects if self._blobs[blob].audited else set()
        return min(
            usable,
            key=lambda s: (s.name in suspects, s.kind, s.failures, s.in_flight, self._chance()),
            default=None,
        )

    def _open_ahead(self) -> list[ev.Action]:
        """Partials are opened in order, just ahead of need: few leases, few followers at once."""
        working = sum(
            1
            for i in takewhile(lambda i: self._blobs[i].phase is not Phase.WAITING, self._large)
            if self._blobs[i].missing
        )
        ranged = any(s.ranged and s.gone is None for s in self._sources.values())
        ahead = 1 if ranged else self._streams
        out: list[ev.Action] = []
        for index in self._large:
            if working >= ahead:
                break
            blob = self._blobs[index]
            if blob.phase is Phase.WAITING and self._has_source(index):
                blob.phase = Phase.OPENING
                out.append(ev.Open(index))
                working += 1
        return out

    def _hopeless(self, now: float) -> ev.Failed | None:
        """A blob that nobody can ever bring, or patience at its end."""
        self._doubtful = {i for i in self._doubtful if not self._has_source(i)}
        stuck = [
            i
            for i in self._doubtful
            if self._needs_source(self._blobs[i]) or self._blobs[i].phase is Phase.WAITING
        ]
        impatient = (
            not stuck and not self._jobs and self._waits() and now >= self._patience_ends_at()
        )
        if not stuck and not impatient:
            return None
        blobs = tuple(sorted(stuck or self._left))
        faults = {s.name: s.excluded.get(blobs[0]) or s.last_fault for s in self._sources.values()}
        known = [(name, fault) for name, fault in faults.items() if fault is not None]
        known.sort(key=lambda pair: _WORST_FIRST.index(pair[1].kind))
        return ev.Failed(blobs, tuple(known))

    def _has_source(self, blob: int) -> bool:
        """Whether anybody could ever bring it: without, not even room is made for it."""
        return any(s.may(blob) for s in self._sources.values())

    def _patience_ends_at(self) -> float:
        """A source's own Retry-After comes on top: giving up before it would make it pointless."""
        asked = [s.asked_s for s in self._sources.values() if s.gone is None]
        return self._progress_at + self._options.patience_s + max(asked, default=0.0)

    def _needs_source(self, blob: _Blob) -> bool:
        if blob.spec.small:
            return blob.phase is Phase.WAITING
        return blob.phase is Phase.FETCHING and blob.missing > 0

    def _waits(self) -> bool:
        """Whether anything needs a source now. Large blobs are worked on in order, few at once."""
        if self._small:
            return True
        for index in self._large:
            if self._blobs[index].phase is Phase.WAITING:
                break
            if self._needs_source(self._blobs[index]):
                return True
        return False

    def _wake(self, now: float) -> ev.Wake | None:
        """When something that is waited for becomes possible by time alone."""
        if not self._waits():
            return None
        times = [s.not_before for s in self._sources.values() if s.not_before > now]
        if not self._jobs:
            times.append(max(now, self._patience_ends_at()))
        return ev.Wake(min(times)) if times else None

    def _new_id(self) -> int:
        self._next_job += 1
        return self._next_job

    def _start(self, job: ev.Job | ev.Batch, source: _Source) -> None:
        self._jobs[job.id] = job
        source.in_flight += 1
        source.requests += 1


_LIVE_TO_STATE = bytes([0]) + bytes([2]) * 255
_WORST_FIRST = [
    FaultKind.DENIED,
    FaultKind.UNTRUSTED,
    FaultKind.NOT_FOUND,
    FaultKind.UNAVAILABLE,
    FaultKind.RANGE_IGNORED,
    FaultKind.LOCAL,
    FaultKind.DISK_FULL,
]
