"""What the machine knows of each source, and what it tells of it afterwards."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from p2pcache.sources.port import SourceKind
from p2pcache.transfer.machine.zones import FAR

if TYPE_CHECKING:
    from collections.abc import Mapping

    from p2pcache.lanes.orders import Fault
    from p2pcache.transfer.machine.blobs import BlobState
    from p2pcache.transfer.policy import TransferOptions

BLOCK_S_WEIGHT = 0.25  # of the newest block in the mean; four blocks make a new opinion


@dataclass(slots=True, eq=False)
class SourceState:
    """One source. `holds` None: everything; else the blocks (`bits`) of each blob it told of.

    `barred`: blocks it is not asked for again: it sent other bytes than the map wants, or it sent
    what is being compared. `block_s`: seconds that a request of its takes for a block, measured.
    """

    name: str
    kind: SourceKind
    streams: int
    holds: dict[int, int] | None
    told: dict[int, int] = field(default_factory=dict)  # `holds`, and what was taken back
    in_flight: int = 0
    failures: int = 0
    misses: int = 0  # it did not have what it told
    not_before: float = 0.0
    busy_until: float = 0.0  # its queue is full: no fault, and what it holds is there
    limited_until: float = -math.inf  # of an origin: one request at a time (words)
    refuses_since: float | None = None  # a full queue, and nothing came of it since
    preferred_until: float = 0.0  # a busy holder named it in its place
    asked_s: float = 0.0  # the longest Retry-After that is honoured
    queue_s: float = 0.0  # its own word...
    queue_at: float = 0.0  # ... of this time
    block_s: float | None = None
    asked_at: float = 0.0  # when the first of the requests that it has now was made
    moved_at: float = 0.0  # when a block of its last arrived here
    behind: float = 0.0  # blocks that each request to others brought since, on average
    stalled_at: float = -math.inf  # when a request of its was last given to another
    ranged: bool = True
    gone: str | None = None
    distance: int = 0  # `zones`
    left_at: float | None = None  # its connection ended; it may come back with what it holds
    last_fault: Fault | None = None
    excluded: dict[int, Fault] = field(default_factory=dict)
    barred: dict[int, int] = field(default_factory=dict)
    strikes: dict[int, int] = field(default_factory=dict)
    # for the receipt
    wire_bytes: int = 0
    kept_bytes: int = 0
    seconds: float = 0.0
    requests: int = 0
    retries: int = 0
    is_peer: bool = field(init=False)  # not an origin: asked first, and for what it told to hold

    def __post_init__(self) -> None:
        self.is_peer = self.kind is not SourceKind.ORIGIN

    @property
    def is_far(self) -> bool:
        """In another zone than ours."""
        return self.distance == FAR

    def asked_again_at(self) -> float:
        """When it may be asked, as far as time alone decides."""
        return max(self.not_before, self.busy_until)

    def is_silent(self, now: float, options: TransferOptions) -> bool:
        """A peer that was asked some time ago and never brought a block: nobody knows its rate."""
        if not self.is_peer or not self.in_flight or self.block_s is not None:
            return False
        return now >= self.asked_at + options.first_block_s

    def asked(self, now: float) -> None:
        """A request is made."""
        if not self.in_flight:
            self.asked_at, self.behind = now, 0.0
        self.in_flight += 1
        self.requests += 1

    def held(self, blob: BlobState) -> int:
        """Blocks of a blob that it can be asked for, ever."""
        index = blob.spec.index
        if self.gone is not None or index in self.excluded:
            return 0
        mask = self.has(blob)
        return mask & ~self.barred[index] if index in self.barred else mask

    def has(self, blob: BlobState) -> int:
        """Blocks of a blob that it says it has."""
        return blob.full if self.holds is None else self.holds.get(blob.spec.index, 0)

    def may(self, blob: int) -> bool:
        """Whether it could bring some of this blob."""
        return (
            self.gone is None
            and blob not in self.excluded
            and (self.holds is None or blob in self.holds)
        )

    def has_room(self, now: float) -> bool:
        """Whether it may be asked at this moment: less after it failed or lacked what it told."""
        if now < self.busy_until or now < self.not_before:
            return False
        if self.is_peer and self.failures:
            return self.in_flight < 1
        if now < self.limited_until:
            return self.in_flight < 1
        return self.in_flight < (self.streams >> self.misses or 1)

    def measured(self, seconds: float, blocks: int) -> None:
        """A request brought so many blocks in so long."""
        if blocks > 0 and seconds > 0:
            each = seconds / blocks
            old = each if self.block_s is None else self.block_s
            self.block_s = old + BLOCK_S_WEIGHT * (each - old)

    def queue_now_s(self, now: float) -> float:
        """How long its queue is, by its last word."""
        return max(0.0, self.queue_s - (now - self.queue_at)) if self.queue_s else 0.0

    def wait_s(self, typical_block_s: float, now: float) -> float:
        """About how long one more request would wait: its own word and what we asked already."""
        each = typical_block_s if self.block_s is None else self.block_s
        if now < self.preferred_until:
            return self.in_flight * each
        return self.queue_now_s(now) + (self.in_flight + 1) * each


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
    """Counters of a pull so far. `duplicates`: `duplicate_bytes` by cause (`blame.cause_of`)."""

    sources: tuple[SourceStatistics, ...]
    fetched_bytes: int
    duplicate_bytes: int
    retries: int
    complete_blobs: int
    duplicates: Mapping[str, int] = field(default_factory=dict)


def statistics_of(source: SourceState) -> SourceStatistics:
    """For receipts."""
    return SourceStatistics(
        source.name, source.kind, source.wire_bytes, source.kept_bytes, source.seconds,
        source.requests, source.retries,
        source.gone or next((f.message for f in source.excluded.values()), None),
    )  # fmt: skip
