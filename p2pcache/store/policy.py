"""Which blobs go when room is needed. Pure: what is there, what is held, what is needed -> a plan.

Least recently used first. Two needs are told apart: the *store* must shrink to its byte budget, or
the *disk* must get free space. A blob that a hard link keeps alive elsewhere (the HF cache) counts
for the first and not for the second: removing it frees nothing.
"""

from __future__ import annotations

import enum
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


class Hold(enum.Enum):
    """Why something is not evicted. The value is shown to the user."""

    PINNED = "pinned"
    LEASED = "in use by another process"
    RUNNING = "part of a running pull"
    LAST_COPY = "the last known copy: no origin that answers has it"
    LAST_OF_ALL = (
        "the copy that others rely on when they evict theirs: no origin that answers has it"
    )
    REPLICA = "one of the copies that a preload keeps"
    LINKED = "also linked elsewhere: removing it would free nothing"
    NOT_NEEDED = "enough is free without it"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A blob, an unfinished partial or a loose block. Sizes in bytes, times in unix seconds."""

    key: bytes
    store_bytes: int
    disk_bytes: int
    last_used: float
    partial: bool = False
    loose: bool = False


@dataclass(frozen=True, slots=True)
class Need:
    """How much less the store must hold, and how much more the disk must have free."""

    store_bytes: int = 0
    disk_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """`missing` is what the victims do not give; `kept` counts bytes by reason."""

    victims: tuple[Candidate, ...]
    missing: Need
    kept: Mapping[Hold, int]

    @property
    def met(self) -> bool:
        """Whether the victims are enough."""
        return self.missing.store_bytes <= 0 and self.missing.disk_bytes <= 0


def watermark_need(used: int, capacity: int | None, high: float, low: float) -> Need:
    """Nothing below the high watermark; above it, down to the low one."""
    if capacity is None or used <= capacity * high:
        return Need()
    return Need(store_bytes=used - int(capacity * low))


def room_need(
    incoming: int, *, used: int, capacity: int | None, promised: int, disk_free: int, reserve: int
) -> Need:
    """What must go before `incoming` more bytes fit.

    `promised`: bytes that other running downloads will still write (their files are sparse).
    """
    store = 0 if capacity is None else used + promised + incoming - capacity
    disk = incoming + promised + reserve - disk_free
    return Need(max(store, 0), max(disk, 0))


def plan_eviction(candidates: Iterable[Candidate], holds: Mapping[bytes, Hold], need: Need) -> Plan:
    """Victims in order of last use until the need is met; never one that is held.

    A candidate that gives nothing of what is still missing stays.
    """
    store, disk = need.store_bytes, need.disk_bytes
    victims: list[Candidate] = []
    kept: Counter[Hold] = Counter()
    for candidate in sorted(candidates, key=lambda c: (c.last_used, c.key)):
        hold = holds.get(candidate.key)
        if hold is None:
            hold = _useless(candidate, store, disk)
        if hold is not None:
            kept[hold] += candidate.store_bytes
            continue
        victims.append(candidate)
        store -= candidate.store_bytes
        disk -= candidate.disk_bytes
    return Plan(tuple(victims), Need(max(store, 0), max(disk, 0)), dict(kept))


def _useless(candidate: Candidate, store: int, disk: int) -> Hold | None:
    if store <= 0 and disk <= 0:
        return Hold.NOT_NEEDED
    gives = (store > 0 and candidate.store_bytes > 0) or (disk > 0 and candidate.disk_bytes > 0)
    return None if gives else Hold.LINKED
