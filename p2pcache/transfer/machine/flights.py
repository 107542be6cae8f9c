"""Requests on their way: which stall, which are slow, and which may be asked for twice.

Times are of the machine's clock. A request is judged by the blocks that were seen to arrive
(`Progress`), never by its age alone: a long run on a thin link is no fault.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from p2pcache.lanes.orders import BLOCK_BYTES

if TYPE_CHECKING:
    from p2pcache.transfer import events as ev
    from p2pcache.transfer.machine.blobs import BlobState
    from p2pcache.transfer.machine.sources import SourceState
    from p2pcache.transfer.policy import TransferOptions


@dataclass(slots=True, eq=False)
class Flight:
    """One job. `mask`: its blocks; `moved_at`: when the last of them was seen to arrive."""

    job: ev.Job
    mask: int
    source: SourceState
    blob: BlobState
    started: float
    moved_at: float
    seen: int = 0  # blocks that arrived
    kept_bytes: int = 0
    twin: Flight | None = None  # the request that asks for the same blocks; none for most
    had_twin: bool = False
    is_aborted: bool = False
    stalled: bool = False
    stopped: ev.Cause | None = None
    is_watched: bool = field(init=False)  # its blocks can be seen to arrive

    def __post_init__(self) -> None:
        self.is_watched = not self.job.whole and not self.job.compare  # one body, or again

    @property
    def left(self) -> int:
        """Its blocks that are not here yet."""
        return self.mask & ~self.blob.done


OVERTAKEN = 3.0  # blocks a request that others bring meanwhile: then our own link is not the cause
CROWDED = 3  # times as long may a request wait whose source brings other blocks


class Pace:
    """Mean and mean deviation of the seconds a block takes (as RFC 6298 does for round trips)."""

    def __init__(self) -> None:
        self.mean_s: float | None = None
        self.deviation_s = 0.0

    def add(self, block_s: float) -> None:
        """A request needed so long for each of its blocks."""
        if self.mean_s is None:
            self.mean_s, self.deviation_s = block_s, block_s / 2
            return
        self.deviation_s += (abs(block_s - self.mean_s) - self.deviation_s) / 4
        self.mean_s += (block_s - self.mean_s) / 8

    def usual_s(self, blocks: int) -> float | None:
        """Mean and half a deviation of a request of so many blocks; None before any ended."""
        return None if self.mean_s is None else blocks * (self.mean_s + self.deviation_s / 2)


def median_block_s(sources: list[SourceState]) -> float | None:
    """At the median rate of all sources that were measured, at least two of them."""
    rates = [1.0 / s.block_s for s in sources if s.block_s]
    return 1.0 / statistics.median(rates) if len(rates) > 1 else None


def is_slow(source: SourceState, median_s: float | None, options: TransferOptions) -> bool:
    """Under a tenth of the median rate."""
    if median_s is None or source.block_s is None:
        return False
    return source.block_s * options.slow_share > median_s


def link_block_s(requests: int, intake_bytes_per_s: float, *, alone: bool) -> float | None:
    """How long a block takes when so many requests share what comes in; None: nothing came yet.

    `alone`: all requests are of one source, so that nothing tells its link from ours.
    """
    if intake_bytes_per_s <= 0:
        return 0.0 if alone else None
    return requests * BLOCK_BYTES / intake_bytes_per_s


class Stalls:
    """How long a request may be without a new block, at one moment.

    Where everybody is slow a block takes longer than `stall_s`: then three of the median's; where
    our own link is slow, three of the time that it needs for a block of each request (`link_s`).

    A source that brings others of our blocks meanwhile is crowded, not frozen: with 12 requests on
    an uplink of 100 Mbit/s a block takes a second, and TCP shares it unevenly. One that brought
    nothing while every request to others brought `OVERTAKEN` blocks has no such excuse: what comes
    in falls once those have ended, and then says nothing of our link.
    """

    def __init__(
        self, median_s: float | None, link_s: float | None, options: TransferOptions
    ) -> None:
        most_s = options.link_stall_s
        least_s = most_s if link_s is None else min(3.0 * link_s, most_s)
        if median_s is not None:
            least_s = max(least_s, 3.0 * median_s)
        self._is_measured = median_s is not None
        self._overtaken_s = max(options.stall_s, 3.0 * (median_s or 0.0))
        self._peer_s = max(options.stall_s, least_s)
        self._origin_s = max(options.origin_stall_s, least_s)

    def at(self, flight: Flight) -> float:
        """When it counts as stalled, unless a block arrives before."""
        source = flight.source
        most_s = self._origin_s
        if source.is_peer and not source.is_far:
            most_s = self._peer_s if source.behind < OVERTAKEN else self._overtaken_s
        if not self._is_measured and source.block_s is not None:
            most_s = max(most_s, 3.0 * source.block_s)
        patient = flight.moved_at + CROWDED * most_s
        return min(patient, max(flight.moved_at, source.moved_at) + most_s)


def lags(flight: Flight, median_s: float | None, now: float, options: TransferOptions) -> bool:
    """Whether this request has moved under a tenth of the median rate for long enough to tell."""
    spent = now - flight.started
    least = options.stall_s if flight.source.is_peer else options.origin_stall_s
    if median_s is None or spent < least or flight.source.is_far:  # its border is thin, not it
        return False
    return spent / max(flight.seen, 1) * options.slow_share > median_s
