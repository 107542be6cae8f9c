"""Who wants what over one link: what the peer asked us to tell, and what we asked it. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from p2pcache.content.unixfs import LEAF_BYTES
from p2pcache.errors import Untrusted
from p2pcache.net.sync.fields import MAX_SPANS
from p2pcache.net.sync.limits import Bucket
from p2pcache.net.sync.wire import (
    MAX_COMING_SPANS,
    MAX_NAMES,
    Brings,
    Coming,
    Gone,
    Grown,
    Have,
    Held,
    Holds,
    HoldsEnd,
    Message,
    Throttled,
    Want,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from p2pcache.content.ranges import RangeSet

_REFUSALS = 8  # of one want: at first, and after each ticket that we asked for
_REFUSALS_PER_S = 1 / 30
MAX_BRINGS_SPANS = MAX_NAMES + MAX_COMING_SPANS  # small files, and pieces of large ones
Entry = TypeVar("Entry", Held, Grown)
_MAX_WAITS = 64  # origins that told us to wait, of all manifests; the oldest is forgotten
_FRAME_SPANS = 65536  # 512 KiB of spans in one frame, beside 1024 names of 64 bytes


@dataclass(frozen=True, slots=True)
class LookUp:
    """Find out what the peer may be told of these names now, then call `TheirWants.found`."""

    id: int
    manifest: bytes | None
    names: tuple[bytes, ...]
    first: bool


@dataclass(frozen=True, slots=True)
class Part:
    """Our part in bringing a manifest: see `wire.Brings`."""

    intake_bytes_per_s: float | None
    declines: bool
    brings: tuple[Coming, ...]


@dataclass(slots=True)
class _Theirs:
    manifest: bytes | None
    names: frozenset[bytes]
    told: set[bytes] = field(default_factory=set)  # a Holds of ours spoke of them
    grown: dict[bytes, RangeSet | None] = field(default_factory=dict)  # not told yet
    gone: set[bytes] = field(default_factory=set)  # not told yet
    unclear: set[bytes] = field(default_factory=set)  # to be looked up
    looking: int = 0
    refused: bool = False  # nothing is told until its rights are checked again
    cleared: bool = False  # its rights were checked, and it heard the first answer
    part: Part | None = None  # not told yet
    warned: bool = False  # it was told which origins told us to wait


class TheirWants:
    """What a peer wants to hear of. Only what a LookUp cleared is ever told, by name."""

    def __init__(self, soon_s: float, every_s: float) -> None:
        self._soon_s, self._every_s = soon_s, every_s  # what a part may wait for more
        self._part_at = -math.inf  # when one was told
        self._wants: dict[int, _Theirs] = {}
        self._parts: dict[bytes, Part] = {}  # the newest of ours, by manifest
        self._waits: dict[tuple[bytes, bytes], float] = {}  # manifest, origin: until
        self.names_count = 0
        self.due_at: float | None = None

    def __len__(self) -> int:
        return len(self._wants)

    def add(self, want: Want) -> LookUp:
        """A new want."""
        self._wants[want.id] = made = _Theirs(want.manifest, frozenset(want.names), looking=1)
        if want.manifest is not None:
            made.part = self._parts.get(want.manifest)
        self.names_count += len(made.names)
        return LookUp(want.id, want.manifest, want.names, first=True)

    def drop(self, number: int) -> None:
        """The peer no longer wants it; unknown numbers are fine (it was refused)."""
        ended = self._wants.pop(number, None)
        if ended is not None:
            self.names_count -= len(ended.names)

    def recheck(self, manifest: bytes) -> list[LookUp]:
        """The peer's rights changed: look everything of this manifest up again."""
        out = []
        for number, want in self._wants.items():
            if want.manifest == manifest:
                want.looking += 1
                want.refused = False
                want.part = self._parts.get(manifest)
                out.append(LookUp(number, manifest, tuple(want.names), first=False))
        return out

    def grew(self, name: bytes, blocks: RangeSet | None, now: float, beat_s: float) -> None:
        """More blocks of a blob came in (None: it is complete); due in `beat_s` at the latest."""
        for want in self._wants.values():
            if want.refused or name not in want.names:
                continue
            if name not in want.told:
                want.unclear.add(name)
            elif blocks is None or name not in want.grown:
                want.grown[name] = blocks
            else:
                before = want.grown[name]
                want.grown[name] = None if before is None else before | blocks
            if self.due_at is None:
                self.due_at = now + beat_s

    def brings(self, manifest: bytes, part: Part, now: float) -> None:
        """Our part in bringing a manifest changed; due soon, as it keeps others from doing it too.

        Its end is told once; a later want hears nothing of it.
        """
        if part.intake_bytes_per_s is None:
            self._parts.pop(manifest, None)
        else:
            self._parts[manifest] = part
        for want in self._wants.values():
            if want.manifest == manifest and not want.refused:
                want.part = part
                if want.cleared:
                    self.due(max(now + self._soon_s, self._part_at + self._every_s))

    def throttled(
        self, manifest: bytes, origin: bytes, retry_after_s: float, now: float
    ) -> list[Message]:
        """An origin told us to wait: for those who may know that we take part, now or later."""
        self._waits.pop((manifest, origin), None)
        self._waits[manifest, origin] = now + retry_after_s
        if len(self._waits) > _MAX_WAITS:
            del self._waits[next(iter(self._waits))]
        return [
            Throttled(number, origin, retry_after_s)
            for number, want in self._wants.items()
            if want.manifest == manifest and want.cleared
        ]

    def due(self, at: float) -> None:
        """Something is to be told by then."""
        self.due_at = at if self.due_at is None else min(self.due_at, at)

    def lost(self, names: Iterable[bytes], now: float) -> None:
        """Blobs went, or their source did: due at once."""
        gone = frozenset(names)
        for want in self._wants.values():
            known = gone & want.told
            for name in known:
                want.told.discard(name)
                want.grown.pop(name, None)
            want.gone |= known
            if want.looking:  # an answer under way may be older than this
                want.unclear |= gone & want.names
            if want.gone or want.unclear:
                self.due_at = now

    def flush(self, now: float) -> tuple[list[Message], list[LookUp]]:
        """What is due: what is gone, haves, and names to look up first."""
        self.due_at = None
        haves: list[Message] = []
        lookups: list[LookUp] = []
        for number, want in self._wants.items():
            if want.gone:
                haves += [Gone(number, part) for part in _parts(sorted(want.gone))]
                want.gone.clear()
            if want.cleared and want.part is not None:
                haves += _brings(number, want)
                want.part = None
                self._part_at = now
            if want.cleared and not want.warned:
                want.warned = True
                haves += [
                    Throttled(number, origin, until - now)
                    for (manifest, origin), until in self._waits.items()
                    if manifest == want.manifest and until > now
                ]
            if want.grown:
                entries = [Grown(name, blocks) for name, blocks in want.grown.items()]
                haves += [Have(number, part) for part in _weighed(entries)]
                want.grown.clear()
            if want.unclear:
                names = tuple(want.unclear)
                want.unclear.clear()
                want.looking += 1
                lookups += [LookUp(number, want.manifest, names, first=False)]
        return haves, lookups

    def found(self, looked: LookUp, entries: Sequence[Held]) -> list[Message]:
        """The answer to a LookUp: what to send. Nothing if the want was dropped meanwhile."""
        want = self._wants.get(looked.id)
        if want is None:
            return []
        want.looking -= 1
        held = [entry for entry in entries if entry.name in want.names]
        want.told |= {entry.name for entry in held}
        want.gone -= want.told
        out: list[Message] = [Holds(looked.id, part) for part in _weighed(held)]
        missing = sorted((set(looked.names) - {entry.name for entry in held}) & want.told)
        want.told -= set(missing)
        for name in missing:
            want.grown.pop(name, None)
        out += [Gone(looked.id, part) for part in _parts(missing)]
        if want.part is not None and not want.cleared:
            out += _brings(looked.id, want)
            want.part = None
        want.cleared = True
        if not want.warned and self._waits:
            self.due(0.0)
        return [*out, HoldsEnd(looked.id)] if looked.first else out

    def refused(self, looked: LookUp) -> None:
        """A LookUp came to nothing; the want stays, for `recheck`."""
        want = self._wants.get(looked.id)
        if want is not None:
            want.looking -= 1
            want.refused = True
            want.cleared = False
            want.part = None
            want.grown.clear()
            want.unclear.clear()


@dataclass(frozen=True, slots=True)
class Learned:
    """All that the peer holds of a blob now."""

    id: int
    name: bytes
    size: int
    blocks: RangeSet | None


@dataclass(frozen=True, slots=True)
class LostThere:
    """The peer no longer holds it."""

    id: int
    name: bytes


@dataclass(frozen=True, slots=True)
class Settled:
    """The peer told everything it holds now."""

    id: int


@dataclass(frozen=True, slots=True)
class PartThere:
    """What the peer brings from an origin: see `wire.Brings`."""

    id: int
    part: Part


@dataclass(frozen=True, slots=True)
class ThrottledThere:
    """An origin told the peer to wait: see `wire.Throttled`."""

    id: int
    origin: bytes
    retry_after_s: float


Knowledge = Learned | LostThere | Settled | PartThere | ThrottledThere


@dataclass(slots=True)
class _Ours:
    names: frozenset[bytes]
    known: dict[bytes, tuple[int, RangeSet | None]] = field(default_factory=dict)
    brings_spans: int = 0
    refusals: Bucket | None = None


class OurWants:
    """What we want to hear of from a peer, and what it said. Raises Untrusted for all else.

    `issued` is any number we ever gave out: news of a dropped want may still be under way.
    """

    def __init__(self, max_spans: int) -> None:
        self._max_spans = max_spans
        self._spans = 0
        self._wants: dict[int, _Ours] = {}
        self.names_count = 0

    def __len__(self) -> int:
        return len(self._wants)

    def __contains__(self, number: int) -> bool:
        return number in self._wants

    def add(self, number: int, names: Iterable[bytes]) -> None:
        """We asked."""
        self._wants[number] = made = _Ours(frozenset(names))
        self.names_count += len(made.names)

    def drop(self, number: int) -> bool:
        """We ask no more. False: it was not there."""
        ended = self._wants.pop(number, None)
        if ended is None:
            return False
        self.names_count -= len(ended.names)
        self._spans -= sum(_weight(blocks) for _, blocks in ended.known.values())
        self._spans -= ended.brings_spans
        return True

    def refused(self, number: int, now: float) -> None:
        """The peer will not tell what it holds, or wants proof first."""
        want = self._wants[number]
        if want.refusals is None:
            want.refusals = Bucket(_REFUSALS_PER_S, _REFUSALS, now)
        if not want.refusals.take(1, now):
            raise Untrusted("a peer refuses the same again and again")

    def hear(self, news: Holds | HoldsEnd | Have | Gone | Brings | Throttled) -> list[Knowledge]:
        """What follows from a message for a want that stands."""
        want = self._wants.get(news.id)
        if want is None:
            return []
        match news:
            case HoldsEnd(number):
                return [Settled(number)]
            case Throttled(number, origin, retry_after_s):
                return [ThrottledThere(number, origin, retry_after_s)]
            case Brings(number, intake_bytes_per_s, declines, coming):
                for name in (each.name for each in coming):
                    _check_wanted(want, name)
                spans = sum(map(_coming_weight, coming))
                if spans > MAX_BRINGS_SPANS:
                    raise Untrusted("a peer says it brings more pieces than it may")
                self._remember(spans - want.brings_spans)
                want.brings_spans = spans
                return [PartThere(number, Part(intake_bytes_per_s, declines, coming))]
            case Holds(number, entries):
                return [self._set(number, want, one.name, one.size, one.blocks) for one in entries]
            case Have(number, grown):
                out: list[Knowledge] = []
                for one in grown:
                    _check_wanted(want, one.name)
                    if (known := want.known.get(one.name)) is None:
                        continue  # it crossed a Gone
                    size, before = known
                    whole = one.blocks is None or before is None
                    blocks = None if whole else before | one.blocks  # type: ignore[operator]
                    out.append(self._set(number, want, one.name, size, blocks))
                return out
            case Gone(number, names):
                gone: list[Knowledge] = []
                for name in names:
                    _check_wanted(want, name)
                    if (known := want.known.pop(name, None)) is not None:
                        self._spans -= _weight(known[1])
                        gone.append(LostThere(number, name))
                return gone

    def _set(
        self, number: int, want: _Ours, name: bytes, size: int, blocks: RangeSet | None
    ) -> Learned:
        _check_wanted(want, name)
        if blocks is not None and blocks.spans and blocks.spans[-1][1] > -(-size // LEAF_BYTES):
            raise Untrusted("a peer says it holds blocks behind the end of a blob")
        before = want.known.get(name)
        self._remember(_weight(blocks) - (0 if before is None else _weight(before[1])))
        want.known[name] = (size, blocks)
        return Learned(number, name, size, blocks)

    def _remember(self, more: int) -> None:
        self._spans += more
        if self._spans > self._max_spans:
            raise Untrusted("a peer tells of more spans than one may")


def _check_wanted(want: _Ours, name: bytes) -> None:
    if name not in want.names:
        raise Untrusted("a peer tells of a blob that it was not asked for")


def _brings(number: int, want: _Theirs) -> list[Message]:
    part = want.part
    assert part is not None
    coming: list[Coming] = []
    room = MAX_BRINGS_SPANS
    for one in part.brings:  # what does not fit is not told: somebody may bring it as well
        if one.name in want.names:
            room -= _coming_weight(one)
            if room < 0 or len(coming) == MAX_NAMES:
                break
            coming.append(one)
    return [Brings(number, part.intake_bytes_per_s, part.declines, tuple(coming))]


def _coming_weight(one: Coming) -> int:
    return min(max(1, len(one.blocks.spans)), MAX_COMING_SPANS)


def _weight(blocks: RangeSet | None) -> int:
    return 0 if blocks is None else len(blocks.spans)


def _parts(names: Sequence[bytes]) -> list[tuple[bytes, ...]]:
    return [tuple(names[i : i + MAX_NAMES]) for i in range(0, len(names), MAX_NAMES)]


def _weighed(entries: Sequence[Entry]) -> list[tuple[Entry, ...]]:
    """In parts that fit a frame."""
    out: list[tuple[Entry, ...]] = []
    part: list[Entry] = []
    spans = 0
    for entry in entries:
        weight = min(_weight(entry.blocks), MAX_SPANS)
        if part and (len(part) == MAX_NAMES or spans + weight > _FRAME_SPANS):
            out.append(tuple(part))
            part, spans = [], 0
        part.append(entry)
        spans += weight
    if part:
        out.append(tuple(part))
    return out
