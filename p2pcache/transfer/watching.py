"""How far a pull is, for those who watch it, and how many requests at once pay."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from p2pcache.transfer import events as ev
from p2pcache.transfer.progress import Meter, Progress
from p2pcache.transfer.workers import idle_cpu_s, machine_core_count

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from p2pcache.store.rooted import AnyBlob
    from p2pcache.transfer.growing import GrowingBlob
    from p2pcache.transfer.machine import Statistics
    from p2pcache.transfer.policy import StreamTuner
    from p2pcache.transfer.want import Wanted

PROGRESS_BEAT_S = 0.2
TUNE_BEAT_S = 2.0  # a TCP connection over a far link is at full rate by then
FIRST_TUNE_S = 0.5  # a fast source is known by then; until then requests are as few as the cores


class Watching:
    """Reads what the driver has: `blobs` that are complete, and those that are `growing`.

    `here_bytes`: what an earlier pull had left, told by the driver: it was not brought by this one.
    """

    def __init__(
        self,
        wanted: Sequence[Wanted],
        blobs: Mapping[int, AnyBlob],
        growing: Mapping[int, GrowingBlob],
        statistics: Callable[[], Statistics],
        watch: Callable[[Progress], None],
    ) -> None:
        self.here_bytes = 0
        self._wanted = wanted
        self._blobs = blobs
        self._growing = growing
        self._statistics = statistics
        self._watch = watch
        self._meter = Meter()

    @property
    def best_bytes_per_s(self) -> float:
        """The best second of this pull."""
        return self._meter.best_bytes_per_s

    def progress(self) -> Progress:
        """How far it is now: verified bytes, of complete and of growing blobs."""
        complete = sum(self._wanted[i].size_bytes for i in self._blobs)
        growing = sum(g.live_bytes() for g in self._growing.values())
        done = complete + growing
        statistics = self._statistics()
        by_source = {s.name: s.kept_bytes for s in statistics.sources if s.requests}
        waits = next((g.waits_for for g in self._growing.values() if g.waits_for), None)
        return Progress(
            "fetching" if waits is None else f"waiting for {waits}",
            None if waits else next((g.wanted.path for g in self._growing.values()), None),
            done,
            sum(w.size_bytes for w in self._wanted),
            len(self._blobs),
            len(self._wanted),
            self._meter.add(trio.current_time(), max(0, done - self.here_bytes)),
            by_source,
        )

    async def beat(self) -> None:
        """Tell the watcher, until cancelled."""
        while True:
            self._watch(self.progress())
            await trio.sleep(PROGRESS_BEAT_S)

    async def adapt(self, tuner: StreamTuner, send: trio.MemorySendChannel[ev.Event]) -> None:
        """Every two seconds, see whether cores or the network are the limit."""
        idle_s, done = idle_cpu_s(), 0
        streams, beat_s = tuner.streams, FIRST_TUNE_S
        while True:
            await trio.sleep(beat_s)
            idle_before_s, done_before, before = idle_s, done, streams
            idle_s, done = idle_cpu_s(), self.progress().done_bytes
            idle_share = (idle_s - idle_before_s) / (beat_s * machine_core_count())
            streams = tuner.next((done - done_before) / beat_s, idle_share)
            beat_s = TUNE_BEAT_S
            if streams != before:
                await send.send(ev.Streams(streams))
