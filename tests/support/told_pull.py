"""A pull machine that a test tells by hand what happens, in a time that the test moves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2pcache.sources.port import SourceKind
from p2pcache.transfer import events as ev
from p2pcache.transfer.machine import Download
from p2pcache.transfer.policy import TransferOptions
from tests.support.machine_world import MIB, specs

if TYPE_CHECKING:
    from p2pcache.lanes.orders import Fault

OPTIONS = TransferOptions(patience_s=60.0)
HALF = 0.5


class Pull:
    """A machine with peers, told by hand. `now` is moved by the test."""

    def __init__(
        self,
        *sizes: int,
        streams: int = 2,
        origin: bool = True,
        peers: int = 2,
        hopeful: bool = True,
        piece: int = 2,
        to_come: tuple[str, ...] = (),
    ) -> None:
        self.now = 0.0
        self.running: dict[int, ev.Job] = {}
        self.out: list[ev.Action] = []
        self.stopped: list[int] = []
        self.machine = Download(
            specs(*sizes), piece_bytes=piece * MIB, streams=streams, options=OPTIONS,
            chance=lambda: HALF, now=0.0, hopeful=hopeful,
            origins=to_come,
        )  # fmt: skip
        if origin:
            self.tell(ev.SourceUp("origin", SourceKind.ORIGIN, 8))
        for n in range(peers):
            self.tell(ev.SourceUp(f"p{n}", SourceKind.PEER, 8, frozenset()))

    def tell(self, event: ev.Event) -> list[ev.Job]:
        """The new jobs."""
        self.out = self.machine.handle(event, self.now)
        made = [a.job for a in self.out if isinstance(a, ev.Fetch)]
        self.running |= {job.id: job for job in made}
        for action in self.out:
            if isinstance(action, ev.Abort):
                self.stopped.append(action.job.id)
                self.running.pop(action.job.id, None)
        return made

    def open(self, blob: int = 0, blocks: int = 0) -> list[ev.Job]:
        return self.tell(ev.Opened(blob, bytes(blocks)))

    def end(self, job: ev.Job, done: int | None = None, why: Fault | None = None, **more: bool):
        self.running.pop(job.id, None)
        done = job.end if done is None else done
        return self.tell(ev.Ended(job, done, done - job.start, 0.01, why, **more))

    def source(self, name: str):
        return next(s for s in self.machine.statistics().sources if s.name == name)
