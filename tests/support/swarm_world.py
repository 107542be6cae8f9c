"""A world for the pull machine as one member of a swarm: the others take part, promise, decline,
break their word, freeze, lie, leave and come back; what they say comes late, twice, out of order.

What the driver sees to holds here too: a source is up before it tells of anything, a request ends
once, and one that brings nothing for `SILENT_S` is ended by its worker.
"""

from __future__ import annotations

import os

from p2pcache.content.ranges import RangeSet
from p2pcache.lanes.orders import Fault, FaultKind
from p2pcache.transfer import events as ev
from p2pcache.transfer.machine import Download
from p2pcache.transfer.machine.owners import OwnerOptions, Owners, Unit
from p2pcache.transfer.machine.shares import STREAMS_EACH
from tests.support.machine_world import MIB, World, blocks_of, specs

ME = "me"
PIECE = 2 * MIB
SILENT_S = 30.0
PARKED_S = 330.0  # the longest Retry-After that is honoured, and its jitter


HISTORIES = "P2PCACHE_TEST_HISTORIES"


def histories(count: int) -> int:
    """Examples of a test. P2PCACHE_TEST_HISTORIES=20 in the environment: twenty times as many."""
    return int(count * float(os.environ.get(HISTORIES, "1")))


class SwarmWorld(World):
    """`ghosts`: members that take part and hold nothing. `dies`: at the end nobody is left."""

    def __init__(
        self,
        seed: int,
        sizes: list[int],
        sources: int,
        faults: float,
        peers: int,
        ghosts: int = 1,
        *,
        dies: bool = False,
    ) -> None:
        self.ghosts = [f"g{n}" for n in range(ghosts)]
        self.takes_part: dict[str, bool] = {}
        self.frozen: set[str] = set()
        self.stale: list[ev.Event] = []
        self.barred: set[tuple[str, int, int]] = set()
        self.disturbed: set[tuple[int, int]] = set()  # units that some request did not bring
        self.verified: set[tuple[str, int, int]] = set()  # who sent which block that was kept
        self.asked_at: dict[int, float] = {}
        self.twice: set[int] = set()
        self.dies = dies
        self.is_settling = False
        self.settled_at = 0.0
        super().__init__(seed, sizes, sources, faults, peers)
        self.origins = [f"s{n}" for n in range(sources)]
        for name in (*self.peers, *self.ghosts):
            if self.random.random() < 0.7:
                self.say(name)

    def make(self, peers: int) -> Download:
        names = [f"p{n}" for n in range(peers)] + self.ghosts
        known = [name for name in names if self.random.random() < 0.7]
        self.owners = Owners(ME, [ME, *known], OwnerOptions(), 0.0)
        self.known = bool(known)
        for index in range(len(self.sizes)):
            if self.random.random() < 0.9:  # one that others know by no name is ours alone
                self.owners.add_blob(index, bytes([index]) * 34)
        return Download(
            specs(*self.sizes), piece_bytes=PIECE, streams=self.streams, options=self.options,
            chance=self.random.random, now=0.0, hopeful=True, owners=self.owners,
        )  # fmt: skip

    # -- what others say ----------------------------------------------------------------------

    def say(self, name: str) -> None:
        brings = tuple(
            (blob, RangeSet.of((start, start + 1 + self.random.randrange(4))))
            for blob, size in enumerate(self.sizes)
            if self.random.random() < 0.6
            for start in [self.random.randrange(max(1, -(-size // MIB)))]
        )
        intake = None if self.random.random() < 0.1 else self.random.choice([1.0, 1e6, 1e15])
        said = ev.Partner(name, intake, self.random.random() < 0.2, brings)
        self.tell(said)

    def tell(self, event: ev.Event) -> None:
        again = ev.SourceHas | ev.SourceLost | ev.Partner | ev.PartnerLeft | ev.Progress | ev.Tick
        if isinstance(event, again) and self.random.random() < 0.1 and len(self.stale) < 50:
            self.stale.append(event)
        match event:
            case ev.Partner(name, intake):
                self.takes_part[name] = intake is not None
            case ev.PartnerLeft(name):
                self.takes_part.pop(name, None)
            case ev.SourceHas(name, blob, blocks):
                count = -(-self.sizes[blob] // MIB)
                told = (
                    range(count) if blocks is None else (b for span in blocks for b in range(*span))
                )
                self.told.setdefault((name, blob), set()).update(told)
            case ev.SourceLost(name, blob):
                self.told[name, blob] = set()
            case ev.Ended(job, done, fault=Fault(kind=FaultKind.UNTRUSTED, arrived=bytes())):
                if event.blame and job.source in self.peers:
                    self.barred.add((job.source, job.blob, done // MIB))
            case ev.Digested(blob, ok=False):  # the map may be wrong: who differed from it compares
                self.barred = {one for one in self.barred if one[1] != blob}
        super().tell(event)

    @property
    def is_shared(self) -> bool:
        """Whether others may bring some of it, as the machine was told."""
        if any(self.takes_part.values()):
            return True
        return self.known and self.owners.has_partners and self.owners.is_blind(self.now)

    # -- what must hold -----------------------------------------------------------------------

    def check(self, action: ev.Action) -> None:
        super().check(action)
        if isinstance(action, ev.Fetch):
            self.asked_at[action.job.id] = self.now
            self.check_twice(action.job)
            self.check_share(action.job)
        elif isinstance(action, ev.FetchBatch):
            self.asked_at[action.batch.id] = self.now
            same = [a for a in self.pending if isinstance(a, ev.FetchBatch)]
            busy = [a for a in same if a.batch.source == action.batch.source]
            assert len(busy) < 8, "the limit of a source is kept, with batches"
            assert all(self.phase_small(b) for b in action.batch.blobs)
            taken = {b for a in same for b in a.batch.blobs}
            assert not taken & set(action.batch.blobs), "a small blob is asked for once"

    def phase_small(self, blob: int) -> bool:
        return self.sizes[blob] <= MIB

    def check_twice(self, job: ev.Job) -> None:
        for block in blocks_of(job):
            if not job.whole and not job.compare:
                mine = (job.source, job.blob, block) in self.verified
                assert not mine, "asked the same source twice for what it brought, verified"
            if (job.source, job.blob, block) in self.barred:
                able = self.others(job.source, job.blob, block)
                assert not able, f"asked again who sent other bytes, though {able} have it"
                self.barred = {one for one in self.barred if one[1:] != (job.blob, block)}

    def others(self, but: str, blob: int, block: int) -> list[str]:
        """Who else could be asked, as the machine has it: what is told, and who is left alone."""
        state = self.machine._blobs[blob]
        sources = self.machine._sources.values()
        able = [s.name for s in sources if s.name != but and s.held(state) >> block & 1]
        return [name for name in able if (name, blob, block) not in self.barred]

    def check_share(self, job: ev.Job) -> None:
        if job.source in self.peers or job.whole or not self.is_shared:
            return
        if not self.owners.knows(job.blob):
            return
        asked = [self.source(a) for a in self.pending if self.number(a)]
        busy = sum(name not in self.peers and name not in self.gone for name in asked)
        assert busy < max(1, self.streams // STREAMS_EACH), "requests to origins are few"
        for running in self.pending:
            if self.number(running) in self.aborted and isinstance(running, ev.Fetch):
                self.disturb(running.job)
        pieces = {block * MIB // PIECE for block in blocks_of(job)}
        if not busy and not self.was_measured and job.end - job.start <= PIECE:
            return  # the one piece that tries an origin when all peers are slow begins anywhere
        assert len(pieces) == 1, "a unit of an origin is asked for alone"
        (piece,) = pieces
        ours = self.owners.declines or self.owners.owner(Unit(job.blob, piece), self.now) == ME
        assert ours or (job.blob, piece) in self.disturbed, "it is another member's"

    @property
    def was_measured(self) -> bool:
        """Whether an origin brought anything: before, it may be tried where peers are slow."""
        sources = self.machine._sources.values()
        return any(s.block_s is not None for s in sources if not s.is_peer)

    def disturb(self, job: ev.Job) -> None:
        self.disturbed |= {(job.blob, block * MIB // PIECE) for block in blocks_of(job)}

    # -- what happens -------------------------------------------------------------------------

    def shake(self) -> None:
        what = self.random.random()
        if what < 0.3:
            self.say(self.random.choice([*self.peers, *self.ghosts]))
        elif what < 0.4:
            self.tell(ev.PartnerLeft(self.random.choice([*self.peers, *self.ghosts])))
        elif what < 0.6 and self.stale:
            again = self.stale[self.random.randrange(len(self.stale))]
            if not (isinstance(again, ev.SourceHas | ev.SourceLost) and again.name in self.gone):
                self.tell(again)
        elif what < 0.7:
            self.frozen ^= {self.random.choice([*self.peers, "s0"])}
        elif what < 0.75:
            self.tell(ev.SourceQueue(self.random.choice(self.peers), 3 * self.random.random()))
        elif what < 0.8:
            self.streams = self.random.choice([1, 2, 5, 9])
            self.tell(ev.Streams(self.streams))
        elif what < 0.85 and self.sizes:
            blob = self.random.randrange(len(self.sizes))
            self.barred = {one for one in self.barred if one[1] != blob}
            self.tell(ev.Cleared(blob))
        else:
            super().shake()

    def step(self) -> None:
        if not self.is_settling and self.random.random() < 0.3:
            self.shake()
            if self.end is not None:
                return
        able = [a for a in self.pending if self.answers(a)]
        if not able:
            due = [self.now + 0.05] if self.wake is None else [self.wake]
            due += [
                self.asked_at[self.number(a)] + SILENT_S for a in self.pending if self.number(a)
            ]
            assert self.wake is not None or self.pending, "nothing to wait for: a hang"
            self.now = max(self.now, min(due))
            self.woken()
            return
        self.now += self.random.random() * self.random.choice([0.01, 0.1, 1.0])
        self.woken()
        if self.end is not None:
            return
        able = [a for a in self.pending if self.answers(a)]
        action = self.random.choice(able) if able else None
        if action is None:
            return
        if isinstance(action, ev.Fetch) and self.random.random() < 0.4:
            before = self.arrived.get(action.job.id, 0)
            self.move(action.job)
            if self.arrived.get(action.job.id, 0) != before:
                self.asked_at[action.job.id] = self.now
            return
        self.pending.remove(action)
        self.answer(action)

    def woken(self) -> None:
        if self.wake is not None and self.wake <= self.now:
            self.wake = None
            self.tell(ev.Tick())

    def answers(self, action: ev.Action) -> bool:
        """Whether it may be answered now: of a frozen source, only by our own giving up."""
        number = self.number(action)
        if number == 0 or number in self.aborted:
            return True
        return (
            self.source(action) not in self.frozen or self.now >= self.asked_at[number] + SILENT_S
        )

    @staticmethod
    def source(action: ev.Action) -> str:
        return action.job.source if isinstance(action, ev.Fetch) else action.batch.source

    @staticmethod
    def number(action: ev.Action) -> int:
        match action:
            case ev.Fetch(job):
                return job.id
            case ev.FetchBatch(batch):
                return batch.id
            case _:
                return 0

    def answer(self, action: ev.Action) -> None:
        before = {blob: set(held) for blob, held in self.held.items()}
        match action:
            case ev.Fetch(job):
                if job.id in self.aborted or self.faults or job.source in self.frozen:
                    self.disturb(job)
                if job.source in self.frozen and job.id not in self.aborted:
                    done = self.arrived.get(job.id, job.start)
                    silent = Fault(FaultKind.UNAVAILABLE, "silent")
                    self.tell(ev.Ended(job, done, done - job.start, SILENT_S, silent))
                    return
            case ev.Digest(blob):
                self.verified = {one for one in self.verified if one[1] != blob}
        super().answer(action)
        if isinstance(action, ev.Fetch) and not action.job.whole and not action.job.compare:
            for block in self.held[action.job.blob] - before[action.job.blob]:
                self.verified.add((action.job.source, action.job.blob, block))

    # -- the end ------------------------------------------------------------------------------

    def settle(self) -> None:
        """From now on nothing more happens by itself; where it `dies`, nobody is left."""
        self.is_settling, self.settled_at = True, self.now
        if not self.dies:
            self.faults = 0.0
            self.frozen.clear()
            return
        for name in [*self.origins, *self.peers]:
            if name not in self.gone:
                self.gone.add(name)
                self.tell(ev.SourceDown(name, "died", may_return=name in self.peers))
        for name in [*self.peers, *self.ghosts]:
            self.tell(ev.PartnerLeft(name))

    def check_end(self) -> None:
        """Nobody who is well, and would be asked if he were told of, was left out until the end."""
        if self.dies or not isinstance(self.end, ev.Failed):
            return
        for source in self.machine._sources.values():
            for blob in self.end.blobs:
                state = self.machine._blobs[blob]
                left = state.full if state.spec.small else state.missing
                assert not source.held(state) & left, f"{source.name} has it and was not asked"

    def run(self, most_steps: int = 20_000) -> None:
        for _ in range(self.random.choice([0, 10, 40, 150])):
            if self.end is not None:
                return
            self.step()
        if self.end is None:
            self.settle()
        if self.end is None:
            super().run(most_steps)
            self.check_end()
        waited_s = self.now - self.settled_at
        assert waited_s < self.options.patience_s + 2 * PARKED_S, "it waits for ever"
