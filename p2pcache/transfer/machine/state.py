"""All that a pull knows at one moment, and the few steps that events and plans share."""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING

from p2pcache.transfer import events as ev
from p2pcache.transfer.machine.blobs import BlobState, Phase
from p2pcache.transfer.machine.choose import Chooser
from p2pcache.transfer.machine.flights import Flight, Pace
from p2pcache.transfer.machine.roster import Roster
from p2pcache.transfer.machine.shares import Shares

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from p2pcache.transfer.machine.owners import Owners
    from p2pcache.transfer.machine.sources import SourceState
    from p2pcache.transfer.machine.words import Words
    from p2pcache.transfer.policy import TransferOptions


INTAKE_BEAT_S = 0.1
GAP_WEIGHT = 0.1
GAPS = 6.0  # usual times between two blocks: they arrive in bursts, as many as requests
INTAKE_S = 1.0  # the mean of a rate forgets in this time


class PullState:
    """The lowest of three layers: what is known (here), what to do (`planning`), what happened
    (`download`). See `Download` for the arguments.
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
        origins: Collection[str] = (),
        owners: Owners | None = None,
    ) -> None:
        self._blobs = {spec.index: BlobState(spec) for spec in blobs}
        self._small = deque(b.spec.index for b in self._blobs.values() if b.spec.small)
        # large ones that are not opened yet, in order, and those that are, until they are complete
        large = (b.spec.index for b in self._blobs.values() if not b.spec.small)
        self._unopened = dict.fromkeys(large)
        self._open: dict[int, BlobState] = {}
        self._left = set(self._blobs)
        self._doubtful = set(self._blobs)  # may be without a source: found out since the last look
        self._sources: dict[str, SourceState] = {}
        self._piece_bytes = piece_bytes
        self._streams = streams
        self._options = options
        self._chance = chance
        self._hopeful = hopeful
        self._to_come = set(origins)
        self._owners = owners
        self._said_intake = 0.0
        self._said_of: tuple[object, ...] | None = None  # what ran then, and whether we declined
        self._origin_turn = 0  # grows when a request to an origin begins or ends
        self._said_at = self._told_at = self._counted_at = now
        self._counted_bytes = 0
        self._intake = 0.0
        self._distances: dict[str, int] = {}  # of members: see `zones`
        self._flights: dict[int, Flight] = {}
        self._running = 0  # of them, those that are not aborted...
        self._asked_peers = 0  # ... and those of these that peers bring
        self._appetite = math.inf  # how many peers take: see `planning`
        self._roster = Roster(self._sources, options)
        self._paused: dict[str, SourceState] = {}  # left alone until a time that may be over
        self._has_barred = False  # some source is not asked for some block again
        self._batches: dict[int, tuple[ev.Batch, float, float]] = {}  # begun, and until when
        self._aborted_batches: set[int] = set()
        self._next_id = 0
        self._words: dict[str, Words] = {}  # of members, by origin
        self._progress_at = now
        self._gap_s = 0.0  # mean of the times from one block that arrived to the next
        self._last_try_at = -math.inf  # the first request after the patience began
        self._relieved_at = now  # when one request was last tried elsewhere, as nothing moved
        self._heard_at = now  # when a source last came or told of something
        self._over = False
        self._pace = Pace()
        self._twin_at = now
        total = sum(b.spec.size_bytes for b in self._blobs.values())
        self._twin_budget = max(piece_bytes, int(total * options.duplicate_share))
        self._fetched_bytes = 0
        self._duplicate_bytes = 0
        self._duplicates: dict[str, int] = {}  # the same by cause

    def _measure_intake(self, now: float) -> None:
        """What arrives, in bytes/s, over about a second."""
        passed_s = now - self._counted_at
        if passed_s >= INTAKE_BEAT_S:
            rate = (self._fetched_bytes - self._counted_bytes) / passed_s
            self._counted_at, self._counted_bytes = now, self._fetched_bytes
            self._intake += (1.0 - math.exp(-passed_s / INTAKE_S)) * (rate - self._intake)

    def _settle_claims(self, blob: BlobState) -> None:
        claimed = 0
        for flight in self._flights.values():
            if flight.blob is blob and not flight.is_aborted:
                claimed |= flight.mask
        blob.claimed = claimed & ~blob.done

    def _troubled(self, source: SourceState, *, standing: bool = True) -> None:
        """A source is left alone for a while; `standing`: it is thought of less, too."""
        self._paused[source.name] = source
        self._has_barred = self._has_barred or bool(source.barred)
        if standing:
            self._roster.changed()

    def _abort(
        self, flight: Flight, out: list[ev.Action], why: ev.Cause = ev.Cause.STALLED
    ) -> None:
        """Stop a request; its blocks may be asked for elsewhere at once."""
        if not flight.is_aborted:
            flight.is_aborted, flight.is_watched, flight.stopped = True, False, why
            self._running -= 1
            self._asked_peers -= flight.source.is_peer
            self._origin_turn += not flight.source.is_peer
            self._settle_claims(flight.blob)
            out.append(ev.Abort(flight.job, why))

    def _abort_batch(self, batch: ev.Batch, out: list[ev.Action]) -> None:
        if batch.id not in self._aborted_batches:
            self._aborted_batches.add(batch.id)
            out.append(ev.Abort(batch))

    def _chooser(self, now: float) -> Chooser:
        return Chooser(
            self._roster.at(now),
            piece_bytes=self._piece_bytes,
            streams=self._streams,
            options=self._options,
            chance=self._chance,
            now=now,
            intake=self._intake,
            standing=now >= self._progress_at + self._standing_s,
            shares=self._shares(now),
        )

    def _progressed(self, now: float) -> None:
        """Something arrived, of anybody."""
        self._gap_s += GAP_WEIGHT * (now - self._progress_at - self._gap_s)
        self._progress_at = now

    @property
    def _standing_s(self) -> float:
        """After so long without anything of anybody, something is tried elsewhere: on a thin link
        blocks are seldom.
        """
        return max(self._options.stall_s, min(GAPS * self._gap_s, self._options.link_stall_s))

    def _shares(self, now: float) -> Shares | None:
        if self._owners is None:
            return None
        return Shares(self._owners, self._piece_bytes, self._streams, now)

    @property
    def _idle_streams(self) -> int:
        return self._streams - self._running - len(self._batches)

    def _needs_source(self, blob: BlobState) -> bool:
        if blob.spec.small:
            return blob.phase is Phase.WAITING
        return blob.phase is Phase.FETCHING and bool(blob.missing)

    def _has_source(self, blob: int) -> bool:
        """Whether anybody could ever bring it: without, not even room is made for it."""
        return any(s.may(blob) for s in self._sources.values())

    def _waits(self) -> bool:
        """Whether anything needs a source now."""
        return bool(self._small) or any(map(self._needs_source, self._open.values()))
