"""A `World` among members that say what they bring, every step of it kept as a trace has it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2pcache.content.ranges import RangeSet
from p2pcache.transfer import events as ev
from p2pcache.transfer import trace
from p2pcache.transfer.account import Account
from p2pcache.transfer.machine.owners import OwnerOptions
from p2pcache.transfer.steps import Setup
from tests.support.machine_world import MIB, World, specs

if TYPE_CHECKING:
    from p2pcache.transfer.machine import Download, Statistics


class Recorder:
    """Stands where the machine does: the same calls, noted."""

    def __init__(self, setup: Setup, machine: Download) -> None:
        self.setup = setup
        self.account = Account(setup.blobs)
        self.steps: list[tuple[float, tuple[ev.Event, ...], list[ev.Action]]] = []
        self._machine = machine

    def handle(self, event: ev.Event, now: float) -> list[ev.Action]:
        actions = self._machine.handle(event, now)
        self.account.note((event,), actions, now)
        self.steps.append((now, (event,), actions))
        return actions

    def statistics(self) -> Statistics:
        return self._machine.statistics()

    def lines(self) -> list[str]:
        """As `p2pcache trace --json` prints them."""
        paths = [f"file-{blob.index}" for blob in self.setup.blobs]
        records = [*trace.began_records(1, "hf://org/model@main", self.setup, paths)]
        for number, (now, events, actions) in enumerate(self.steps, 1):
            records += trace.step_records(1, number, now, events, actions)
        self.account.close(now)
        records.append(trace.end_record(1, now, self.account.tally()))
        return [trace.line(record) for record in records]


class RecordedWorld(World):
    """Its peers take part too: what they say is at random."""

    def make(self, peers: int) -> Recorder:  # type: ignore[override]
        setup = Setup(
            blobs=tuple(specs(*self.sizes)),
            names=tuple(bytes([0x12, 0x20, n]) for n in range(len(self.sizes))),
            piece_bytes=2 * MIB, streams=self.streams, options=self.options,
            seed=self.random.randrange(1 << 53), hopeful=peers > 0, origins=(),
            me="me" if peers else None, members=tuple(f"p{n}" for n in range(peers)),
            owners=OwnerOptions(blind_s=0.2),
        )  # fmt: skip
        return Recorder(setup, setup.machine())

    def run(self, most_steps: int = 20_000) -> None:
        self.tell(ev.Tick())  # as the driver does: there may be no source at all
        super().run(most_steps)

    def step(self) -> None:
        if self.peers and self.sizes and self.random.random() < 0.3:
            blob = self.random.randrange(len(self.sizes))
            count = max(1, -(-self.sizes[blob] // MIB))
            brings = ((blob, RangeSet.of((0, self.random.randrange(count + 1)))),)
            intake = self.random.choice([None, 0.0, 1e6])
            declines = self.random.random() < 0.3
            self.tell(ev.Partner(self.random.choice(self.peers), intake, declines, brings))
            if self.end is not None:
                return
        super().step()
