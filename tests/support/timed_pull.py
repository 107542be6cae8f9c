"""The pull machine in virtual time, with sources that answer as a test says: how long it takes.

An answer is a list of (seconds from now, event); what a request that was stopped would still have
answered is dropped, and its end comes a moment later.
"""

from __future__ import annotations

import heapq
import itertools
import random
from typing import TYPE_CHECKING

from p2pcache.lanes.orders import Fault, FaultKind
from p2pcache.sources.port import SourceKind
from p2pcache.transfer import events as ev
from p2pcache.transfer.machine import Download
from p2pcache.transfer.machine.owners import OwnerOptions, Owners
from p2pcache.transfer.policy import TransferOptions
from tests.support.machine_world import MIB, specs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Answer = list[tuple[float, ev.Event]]
    Answers = Callable[[ev.Job | ev.Batch, float], Answer]

ORIGIN = "origin"
BLOCK_S = 0.05
BUSY = Fault(FaultKind.UNAVAILABLE, "busy", retry_after_s=1.0, http_status=503)


def brings(job: ev.Job | ev.Batch, block_s: float = BLOCK_S) -> Answer:
    """All of it, at an even pace."""
    if isinstance(job, ev.Batch):
        return [(block_s, ev.BatchEnded(job, (None,) * len(job.blobs), 100, block_s))]
    count = -(-job.end // MIB) - job.start // MIB
    moves: Answer = [(n * block_s, ev.Progress(job, job.start + n * MIB)) for n in range(1, count)]
    return [
        *moves,
        (count * block_s, ev.Ended(job, job.end, job.end - job.start, count * block_s, None)),
    ]


def refuses(job: ev.Job | ev.Batch, why: Fault = BUSY, after_s: float = 0.01) -> Answer:
    """Nothing, and a reason."""
    if isinstance(job, ev.Batch):
        return [(after_s, ev.BatchEnded(job, (why,) * len(job.blobs), 0, after_s))]
    return [(after_s, ev.Ended(job, job.start, 0, after_s, why))]


class TimedPull:
    """`partner`: another member of the swarm; without one, nobody shares anything."""

    def __init__(
        self, sizes: Sequence[int], answers: Answers, *, partner: str | None = None,
        origin: bool = True,
    ) -> None:  # fmt: skip
        owners = None
        if partner is not None:
            owners = Owners("me", ["me", partner], OwnerOptions(), 0.0)
            for index in range(len(sizes)):
                owners.add_blob(index, bytes([index]) * 34)
        self._machine = Download(
            specs(*sizes), piece_bytes=2 * MIB, streams=4, options=TransferOptions(),
            chance=random.Random(1).random, now=0.0, hopeful=True, owners=owners,
        )  # fmt: skip
        self._sizes = sizes
        self._answers = answers
        self._queue: list[tuple[float, int, ev.Event]] = []
        self._number = itertools.count()
        self._stopped: set[int] = set()
        self.end: ev.Action | None = None
        self.at(0.0, ev.Tick())
        if origin:
            self.at(0.1, ev.SourceUp(ORIGIN, SourceKind.ORIGIN, 8))

    def at(self, time: float, *events: ev.Event) -> None:
        """Something that happens then."""
        for event in events:
            heapq.heappush(self._queue, (time, next(self._number), event))

    def every(self, seconds: float, *events: ev.Event, until: float = 400.0) -> None:
        """The same again and again."""
        for n in range(int(until / seconds)):
            self.at(n * seconds, *events)

    def holds(self, peer: str) -> None:
        """A peer that says from the start that it has everything."""
        self.at(0.0, ev.SourceUp(peer, SourceKind.PEER, 8, frozenset()))
        self.at(0.0, *(ev.SourceHas(peer, index) for index in range(len(self._sizes))))

    def requests(self, source: str) -> int:
        """How often it was asked."""
        return next(s.requests for s in self._machine.statistics().sources if s.name == source)

    def run(self) -> float:
        """Until it ends: how many seconds that took. It has to end well."""
        now, wake = 0.0, None
        while self.end is None:
            times = [t for t in (self._queue[0][0] if self._queue else None, wake) if t is not None]
            assert times, "nothing to wait for: a hang"
            now = max(now, min(times))
            events: list[ev.Event] = []
            while self._queue and self._queue[0][0] <= now:
                events.append(heapq.heappop(self._queue)[2])
            if not events:
                wake = None
            heard = [event for event in events if not self._is_of_stopped(event)]
            for action in self._machine.handle_all(heard or [ev.Tick()], now):
                wake = action.at if isinstance(action, ev.Wake) else wake
                self._do(action, now)
        assert isinstance(self.end, ev.Finished), self.end
        return now

    def _is_of_stopped(self, event: ev.Event) -> bool:
        if isinstance(event, ev.Progress):
            return event.job.id in self._stopped
        return isinstance(event, ev.Ended) and event.blame and event.job.id in self._stopped

    def _do(self, action: ev.Action, now: float) -> None:
        match action:
            case ev.Open(blob):
                self.at(now + 0.001, ev.Opened(blob, bytes(-(-self._sizes[blob] // MIB))))
            case ev.Fetch(request) | ev.FetchBatch(request):
                for seconds, event in self._answers(request, now):
                    self.at(now + seconds, event)
            case ev.Digest(blob):
                self.at(now + 0.001, ev.Digested(blob, True))
            case ev.Abort(job) if isinstance(job, ev.Job):
                self._stopped.add(job.id)
                self.at(now + 0.01, ev.Ended(job, job.start, 0, 0.01, None, blame=False))
            case ev.Finished() | ev.Failed():
                self.end = action
