"""Where the time and the bytes of one pull went: pure, fed with what enters and leaves the machine.

The same account is kept while a pull runs (`steps`) and made again from its trace (`replay`). Times
are seconds from the pull's start. What it says of others is what this node *heard*:

* `nodes`: this one and every member that was heard to take part, also those that left;
* `heard_origin_bytes`: blocks that a member told to have and had said to be bringing from its
  origin. What a member brought and lost, or never told, is not in it. Where a member told of a
  block up to `LATE_S` after it had stopped saying so, it counts only if nobody had it before;
* `origin_bytes_per_s`: the best second of all bytes that left an origin, ours and those heard of.

Each moment is counted once, under the first of these that holds:

| key | while |
|---|---|
| `both_s`, `peers_s`, `origin_s` | requests run: to peers and an origin, to peers, to an origin |
| `disk_s` | none runs; a partial is opened, a digest compared, all is put away at the end |
| `owner_s` | nothing runs, and a member takes part that brings, or may bring, what is missing |
| `idle_s` | nothing runs and nobody is known to help: greetings, a source left alone for a while |
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from p2pcache.lanes.orders import BLOCK_BYTES
from p2pcache.sources.port import SourceKind
from p2pcache.transfer import events as ev
from p2pcache.transfer.machine import bits
from p2pcache.transfer.machine.zones import FAR
from p2pcache.transfer.progress import Meter

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from p2pcache.content.ranges import RangeSet

SPENT = ("owner_s", "peers_s", "origin_s", "both_s", "disk_s", "idle_s")
LATE_S = 2.0  # a block is told by the beat, the end of its request at once
SAMPLE_S = 0.05  # how often the bytes of origins are noted: 20 samples make the best second
MAX_INCIDENTS = 40  # of one receipt; the first matter most
SAME_S = 1.0  # the streams of one source stall together: told once


@dataclass(frozen=True, slots=True)
class Incident:
    """Something that cost time, for people. `source`: its name, or None when it is this node."""

    at_s: float
    source: str | None
    text: str

    def to_wire(self) -> dict[str, Any]:
        """For the receipt."""
        return {"at_s": self.at_s, "source": self.source, "text": self.text}


@dataclass(frozen=True, slots=True)
class Tally:
    """An account at one moment; see the module. `missing_bytes`: what was not here at the start.

    `origin_bytes`: on the wire from origins to this node. `troubles`: the last word on each source
    that made trouble. `more_incidents`: how many were not kept.
    """

    spent: Mapping[str, float]
    missing_bytes: int
    nodes: int
    origin_bytes: int
    heard_origin_bytes: int
    origin_bytes_per_s: float
    incidents: tuple[Incident, ...]
    more_incidents: int
    troubles: Mapping[str, str]


@dataclass(slots=True)
class _Member:
    """What one other told. Masks of blocks (`bits`) by blob."""

    takes_part: bool = False
    declines: bool = False
    has: dict[int, int] = field(default_factory=dict)
    brings: dict[int, int] = field(default_factory=dict)
    dropped: dict[int, tuple[int, float]] = field(default_factory=dict)  # said before, until when
    counted: dict[int, int] = field(default_factory=dict)

    @property
    def may_bring(self) -> bool:
        return self.takes_part and (bool(self.brings) or not self.declines)


@dataclass(slots=True)
class _Request:
    source: str
    moved_at: float
    done: int = 0
    counted: int = 0  # of its bytes, as an origin's


class Account:
    """Feed it each step of the machine in order; `tally` at any time. Costs microseconds a step."""

    def __init__(self, blobs: Iterable[ev.BlobSpec], now: float = 0.0) -> None:
        self._sizes = {spec.index: spec.size_bytes for spec in blobs}
        self._missing_bytes = sum(self._sizes.values())
        self._at = now
        self._spent = dict.fromkeys(SPENT, 0.0)
        self._over = False
        self._kinds: dict[str, SourceKind] = {}
        self._running: dict[int, _Request] = {}
        self._stopping: dict[int, _Request] = {}
        self._working: set[tuple[str, int]] = set()  # partials being opened, digests
        self._members: dict[str, _Member] = {}
        self._took_part: set[str] = set()
        self._is_zoned = False
        self._known: dict[int, int] = {}  # blocks that anybody has, we among them
        self._origin_bytes = self._heard_bytes = 0
        self._meter = Meter()
        self._meter.add(now, 0)
        self._sampled_at = now
        self._incidents: list[Incident] = []
        self._more = 0
        self._told: dict[object, float] = {}
        self._troubles: dict[str, str] = {}

    def note(self, events: Iterable[ev.Event], actions: Iterable[ev.Action], now: float) -> None:
        """One step: what the machine was told together, and what it then asked for."""
        self._spend(now)
        for event in events:
            self._happened(event, now)
        for action in actions:
            self._asked(action, now)
        if now >= self._sampled_at + SAMPLE_S:
            self._sampled_at = now
            self._meter.add(now, self._origin_bytes + self._heard_bytes)

    def close(self, now: float) -> None:
        """The pull is over, and what was still to be put away is: the times add up to `now`."""
        self._over = True
        self._spend(now)

    def tally(self) -> Tally:
        """Everything so far."""
        return Tally(
            spent=dict(self._spent),
            missing_bytes=self._missing_bytes,
            nodes=1 + len(self._took_part),
            origin_bytes=self._origin_bytes,
            heard_origin_bytes=self._heard_bytes,
            origin_bytes_per_s=self._meter.best_bytes_per_s,
            incidents=tuple(self._incidents),
            more_incidents=self._more,
            troubles=dict(self._troubles),
        )

    # -- time -------------------------------------------------------------------------------------

    def _spend(self, now: float) -> None:
        if now > self._at:
            self._spent[self._state()] += now - self._at
            self._at = now

    def _state(self) -> str:
        if self._over:
            return "disk_s"
        if self._running:
            peers = {self._is_peer(request.source) for request in self._running.values()}
            return "both_s" if len(peers) == 2 else "peers_s" if True in peers else "origin_s"
        if self._working:
            return "disk_s"
        return "owner_s" if any(m.may_bring for m in self._members.values()) else "idle_s"

    def _is_peer(self, source: str) -> bool:
        return self._kinds.get(source) is not SourceKind.ORIGIN

    # -- what happened ----------------------------------------------------------------------------

    def _happened(self, event: ev.Event, now: float) -> None:
        match event:
            case ev.SourceUp(name, kind):
                self._kinds[name] = kind
            case ev.Placed(_, distance):
                self._is_zoned = self._is_zoned or distance == FAR
            case ev.SourceHas(name, blob, blocks):
                self._has(self._member(name), blob, blocks, now)
            case ev.SourceDown(name, reason):
                self._tell(now, name, f"left: {reason}", key=(name, "left"))
            case ev.Partner():
                self._partner(event, now)
            case ev.PartnerLeft(name):
                member = self._members.get(name)
                if member is not None and member.takes_part:
                    member.takes_part = False
                    member.brings = {}
            case ev.Opened(blob, live):
                self._working.discard(("open", blob))
                here = bits.of_live(live)
                self._known[blob] = self._known.get(blob, 0) | here
                self._missing_bytes -= self._bytes_of(blob, here)
            case ev.Settled(blob):
                if ("open", blob) in self._working:
                    self._working.discard(("open", blob))
                    self._missing_bytes -= self._sizes[blob]
            case ev.Progress(job, done):
                self._moved(job, done, now)
            case ev.Ended():
                self._ended(event, now)
            case ev.BatchEnded():
                self._batch_ended(event, now)
            case ev.Digested(blob):
                self._working.discard(("digest", blob))
            case _:
                pass

    def _moved(self, job: ev.Job, done: int, now: float) -> None:
        request = self._running.get(job.id) or self._stopping.get(job.id)
        if request is None:
            return
        request.moved_at, request.done = now, max(request.done, done - job.start)
        end = -(-done // BLOCK_BYTES) if done >= job.end else done // BLOCK_BYTES
        mask = bits.span(job.start // BLOCK_BYTES, end)
        self._known[job.blob] = self._known.get(job.blob, 0) | mask
        self._count_origin(request, request.done)

    def _count_origin(self, request: _Request, so_far: int) -> None:
        if not self._is_peer(request.source) and so_far > request.counted:
            self._origin_bytes += so_far - request.counted
            request.counted = so_far

    def _ended(self, event: ev.Ended, now: float) -> None:
        self._moved(event.job, event.done, now)
        request = self._take(event.job.id)
        if request is not None:
            self._count_origin(request, max(event.wire_bytes, request.done))
        if event.blame:
            self._fault(event.job.source, event.fault, now)

    def _batch_ended(self, event: ev.BatchEnded, now: float) -> None:
        request = self._take(event.batch.id)
        for blob, fault in zip(event.batch.blobs, event.faults, strict=True):
            if fault is None:
                self._known[blob] = 1
            elif event.blame:
                self._fault(event.batch.source, fault, now)
        if request is not None:
            self._count_origin(request, event.wire_bytes)

    def _take(self, number: int) -> _Request | None:
        return self._running.pop(number, None) or self._stopping.pop(number, None)

    # -- what others tell -------------------------------------------------------------------------

    def _member(self, name: str) -> _Member:
        return self._members.setdefault(name, _Member())

    def _partner(self, event: ev.Partner, now: float) -> None:
        member = self._member(event.name)
        member.takes_part = event.intake_bytes_per_s is not None
        if member.takes_part:
            self._took_part.add(event.name)
        if event.declines and not member.declines and member.takes_part:
            why = "owns nothing now: it is slow, or cannot ask its origin"
            self._tell(now, event.name, why, key=(event.name, "declines"))
        member.declines = event.declines
        brings = {i: bits.of_ranges(blocks) for i, blocks in event.brings if i in self._sizes}
        for blob, before in member.brings.items():
            gone = before & ~brings.get(blob, 0)
            if gone:
                old, at = member.dropped.get(blob, (0, now))
                member.dropped[blob] = (gone if now > at + LATE_S else old | gone, now)
        member.brings = brings
        for blob, mask in brings.items():
            self._count_heard(member, blob, mask & member.has.get(blob, 0))

    def _has(self, member: _Member, blob: int, blocks: RangeSet | None, now: float) -> None:
        mask = self._full(blob) if blocks is None else bits.of_ranges(blocks)
        fresh = mask & ~member.has.get(blob, 0)
        member.has[blob] = member.has.get(blob, 0) | mask
        if self._is_zoned:  # who carries into its zone says that it brings it, too
            fresh &= ~self._known.get(blob, 0)
        dropped, at = member.dropped.get(blob, (0, now))
        late = fresh & dropped & ~self._known.get(blob, 0) if now <= at + LATE_S else 0
        self._known[blob] = self._known.get(blob, 0) | mask
        self._count_heard(member, blob, fresh & member.brings.get(blob, 0) | late)

    def _count_heard(self, member: _Member, blob: int, mask: int) -> None:
        new = mask & ~member.counted.get(blob, 0)
        if new:
            member.counted[blob] = member.counted.get(blob, 0) | new
            self._heard_bytes += self._bytes_of(blob, new)

    # -- what the machine asks for ----------------------------------------------------------------

    def _asked(self, action: ev.Action, now: float) -> None:
        match action:
            case ev.Open(blob):
                self._working.add(("open", blob))
            case ev.Digest(blob):
                self._working.add(("digest", blob))
            case ev.Fetch(job):
                self._running[job.id] = _Request(job.source, now)
            case ev.FetchBatch(batch):
                self._running[batch.id] = _Request(batch.source, now)
            case ev.Abort(job, why):
                request = self._running.pop(job.id, None)
                if request is not None:
                    self._stopping[job.id] = request
                    self._stopped(job.source, why, now - request.moved_at, now)
            case ev.Suspect(name, waited_s, promised):
                said = ", which had said that it brings it" if promised else ""
                text = f"waited for owner {name}{said}; taken over after {waited_s:.1f} s"
                self._tell(now, name, text, key=(name, "owner"), own_words=True)
            case ev.Say(_, declines):
                if declines:
                    why_not = "owned nothing: slow, or its origin cannot be asked"
                    self._tell(now, None, f"this node {why_not}", key="declined", once=True)
            case ev.Finished() | ev.Failed():
                self._over = True
            case _:
                pass

    def _stopped(self, source: str, why: ev.Cause, silent_s: float, now: float) -> None:
        if why is ev.Cause.STALLED and silent_s < SAME_S:
            text = "was far slower than the others: its pieces went to them"
        elif why is ev.Cause.STALLED or (why is ev.Cause.ENDGAME and silent_s >= SAME_S):
            text = f"brought nothing for {silent_s:.1f} s: its pieces went to others"
        else:
            return
        self._tell(now, source, text, key=(source, "stalled"))

    def _fault(self, source: str, fault: object, now: float) -> None:
        if fault is not None:
            kind, status = getattr(fault, "kind", None), getattr(fault, "http_status", None)
            text = str(getattr(fault, "message", fault))
            self._tell(now, source, text, key=(source, kind, status), once=True)

    def _tell(
        self,
        now: float,
        source: str | None,
        text: str,
        *,
        key: object,
        once: bool = False,
        own_words: bool = False,
    ) -> None:
        """Note an incident, unless the same was told within SAME_S (`once`: at all)."""
        before = self._told.get(key)
        self._told[key] = now
        if source is not None:
            self._troubles[source] = text
        if before is not None and (once or now < before + SAME_S):
            return
        if len(self._incidents) >= MAX_INCIDENTS:
            self._more += 1
            return
        if source is not None and not own_words and not text.startswith(source):
            text = f"{source} {text}" if text[:1].islower() else f"{source}: {text}"
        self._incidents.append(Incident(now, source, text))

    # -- blocks -----------------------------------------------------------------------------------

    def _full(self, blob: int) -> int:
        return bits.span(0, max(1, -(-self._sizes[blob] // BLOCK_BYTES)))

    def _bytes_of(self, blob: int, mask: int) -> int:
        size = self._sizes[blob]
        count = max(1, -(-size // BLOCK_BYTES))
        mask &= self._full(blob)
        short = count * BLOCK_BYTES - size if mask >> (count - 1) & 1 else 0
        return mask.bit_count() * BLOCK_BYTES - short


def bound_terms(
    *,
    fetched_bytes: int,
    from_origins_bytes: int,
    nodes: int,
    origin_bytes_per_s: float,
    link_bytes_per_s: float,
) -> dict[str, float]:
    """Seconds below which a pull in a swarm cannot be: `max(F/O, F/B, N*F/(O + N*B))`, by term.

    F: bytes that were missing here. N: nodes that were heard to take part, and this one. O: the
    best second of all that left an origin, to us or, as heard, to others. B: our own best second
    from all sources. Each is measured, so the terms are lower bounds as far as these hold.

    * "origin" F/O: of F only what was seen or heard to leave an origin counts: what a seed had all
      along need not leave it. Left out when nothing did.
    * "link" F/B: all of it had to come in here.
    * "swarm" N*F/(O + N*B): N nodes get F each from the origin and one another. With one B for all,
      up and down, it is below "link" and comes close when the origin adds nothing.
    """
    terms: dict[str, float] = {}
    from_origins = min(fetched_bytes, from_origins_bytes)
    if from_origins and origin_bytes_per_s > 0:
        terms["origin"] = from_origins / origin_bytes_per_s
    if link_bytes_per_s > 0:
        terms["link"] = fetched_bytes / link_bytes_per_s
        together = origin_bytes_per_s + nodes * link_bytes_per_s
        terms["swarm"] = nodes * fetched_bytes / together
    return terms


def binding(terms: Mapping[str, float]) -> str | None:
    """The largest term; None when there is none."""
    return max(terms, key=lambda name: terms[name]) if terms else None
