"""A world for the pull machine: random answers to its actions, every promise checked on the way."""

from __future__ import annotations

import random

from p2pcache.content.ranges import RangeSet
from p2pcache.lanes.orders import BLOCK_BYTES, Fault, FaultKind
from p2pcache.sources.port import SourceKind
from p2pcache.transfer import events as ev
from p2pcache.transfer.machine import Download
from p2pcache.transfer.policy import TransferOptions

MIB = BLOCK_BYTES


def specs(*sizes: int) -> list[ev.BlobSpec]:
    return [ev.BlobSpec(i, size, size <= MIB) for i, size in enumerate(sizes)]


def blocks_of(job: ev.Job) -> set[int]:
    return set(range(job.start // MIB, -(-job.end // MIB)))


class World:
    """`peers` tell what they hold as they like, lack it, stall, leave and come back."""

    def __init__(
        self, seed: int, sizes: list[int], sources: int, faults: float, peers: int = 0
    ) -> None:
        self.random = random.Random(seed)
        self.sizes = sizes
        self.faults = faults
        self.now = 0.0
        self.pending: list[ev.Action] = []
        self.wake: float | None = None
        self.end: ev.Action | None = None
        self.held: dict[int, set[int]] = {i: set() for i in range(len(sizes))}
        self.excluded: set[tuple[str, int]] = set()
        self.gone: set[str] = set()
        self.told: dict[tuple[str, int], set[int]] = {}
        self.aborted: set[int] = set()
        self.twin_bytes = 0
        self.arrived: dict[int, int] = {}  # of a job that runs, seen so far
        self.streams = self.random.choice([1, 2, 5])
        self.options = TransferOptions(patience_s=1000.0)
        self.machine = self.make(peers)
        for n in range(sources):
            self.tell(ev.SourceUp(f"s{n}", SourceKind.ORIGIN, 3))
        self.peers = [f"p{n}" for n in range(peers)]
        for peer in self.peers:
            self.up(peer)

    def make(self, peers: int) -> Download:
        return Download(
            specs(*self.sizes), piece_bytes=2 * MIB, streams=self.streams, options=self.options,
            chance=self.random.random, now=0.0, hopeful=peers > 0,
        )  # fmt: skip

    def up(self, peer: str) -> None:
        self.gone.discard(peer)
        for blob in range(len(self.sizes)):
            self.told.pop((peer, blob), None)
        self.tell(ev.SourceUp(peer, SourceKind.PEER, 8, frozenset()))
        for blob in range(len(self.sizes)):
            self.has(peer, blob)

    def has(self, peer: str, blob: int) -> None:
        count = -(-self.sizes[blob] // MIB)
        if self.random.random() < 0.3:
            told, blocks = set(range(count)), None
        else:
            told = {b for b in range(count) if self.random.random() < 0.4}
            blocks = RangeSet.of(*((b, b + 1) for b in told))
        self.told.setdefault((peer, blob), set()).update(told)
        self.tell(ev.SourceHas(peer, blob, blocks))

    def tell(self, event: ev.Event) -> None:
        if self.end is not None:
            return
        for action in self.machine.handle(event, self.now):
            assert self.end is None, "an action after the end"
            if isinstance(action, ev.Wake):
                assert action.at > self.now, "a wake that is not in the future"
                self.wake = action.at
            elif isinstance(action, ev.Finished | ev.Failed):
                self.end = action
            elif isinstance(action, ev.Abort):
                assert any(
                    (isinstance(a, ev.Fetch) and a.job == action.job)
                    or (isinstance(a, ev.FetchBatch) and a.batch == action.job)
                    for a in self.pending
                ), "an abort of something that does not run"  # fmt: skip
                self.aborted.add(action.job.id)
            elif not isinstance(action, ev.Banned | ev.Doubt | ev.Say | ev.Suspect):
                self.check(action)
                self.pending.append(action)

    def flying(self) -> list[ev.Job]:
        return [
            a.job for a in self.pending if isinstance(a, ev.Fetch) and a.job.id not in self.aborted
        ]

    def check(self, action: ev.Action) -> None:
        flying = self.flying()
        batches = [a for a in self.pending if isinstance(a, ev.FetchBatch)]
        if isinstance(action, ev.Fetch):
            job = action.job
            assert len(flying) + len(batches) < self.streams, "the limit in flight is kept"
            same = [j for j in flying if j.source == job.source]
            assert len(same) < 8, "the limit of a source is kept"
            assert (job.source, job.blob) not in self.excluded, "never ask who was excluded"
            assert job.source not in self.gone, "never ask who is gone or banned"
            assert job.start % MIB == 0
            assert job.start < job.end <= self.sizes[job.blob]
            if job.source in self.peers:
                assert blocks_of(job) <= self.told[job.source, job.blob], "only what it told"
            if job.whole:
                return
            others = [j for j in flying if j.blob == job.blob and blocks_of(j) & blocks_of(job)]
            assert len(others) <= 1, "never three owners of a block"
            for other in others:
                assert other.source != job.source
                left = blocks_of(job) - self.held[job.blob]
                self.twin_bytes += len(left) * MIB
            if not job.compare:
                assert not blocks_of(job) & self.held[job.blob], "never ask for what is here"
        elif isinstance(action, ev.FetchBatch):
            assert len(flying) + len(batches) < self.streams, "the limit in flight is kept"
            assert action.batch.blobs
            for blob in action.batch.blobs:
                assert (action.batch.source, blob) not in self.excluded
                assert action.batch.source not in self.gone
        elif isinstance(action, ev.Digest):
            blocks = -(-self.sizes[action.blob] // MIB)
            assert len(self.held[action.blob]) == blocks, "digest only when all is here"
            running = [a for a in self.pending if isinstance(a, ev.Fetch)]
            assert all(a.job.blob != action.blob for a in running), "nobody writes any more"

    def a_fault(self, source: str, blob: int, *, batch: bool = False) -> Fault:
        kinds = [k for k in FaultKind if k.value not in ("local", "disk-full")]
        kind = self.random.choice(kinds)
        peer = source in self.peers
        http_status, arrived = None, None
        if peer and kind is FaultKind.NOT_FOUND:
            http_status = self.random.choice([404, 409, 410, 416])
        elif peer and kind is FaultKind.UNAVAILABLE:
            http_status = self.random.choice([None, 503])
        elif peer and kind is FaultKind.UNTRUSTED:
            arrived = self.random.choice([None, b"x" * 32])
        permanent = (FaultKind.DENIED,) if peer else (FaultKind.NOT_FOUND, FaultKind.DENIED)
        if peer and (kind is FaultKind.RANGE_IGNORED or (batch and arrived)):
            permanent = (kind,)
        if kind in permanent:
            self.excluded.add((source, blob))
        retry_after_s = self.random.choice([None, 1.0, 1e6])
        return Fault(kind, kind.value, retry_after_s, http_status, arrived)

    def step(self) -> None:
        if self.peers and self.random.random() < 0.1:
            self.shake()
            if self.end is not None:
                return
        if not self.pending:
            assert self.wake is not None, "nothing in flight and nothing to wait for: a hang"
            self.now, self.wake = max(self.now, self.wake), None
            self.tell(ev.Tick())
            return
        self.now += self.random.random()
        if self.wake is not None and self.wake <= self.now:
            self.wake = None
            self.tell(ev.Tick())
            if self.end is not None:
                return
        action = self.random.choice(self.pending)
        if isinstance(action, ev.Fetch) and self.random.random() < 0.4:
            self.move(action.job)
            return
        self.pending.remove(action)
        self.answer(action)

    def move(self, job: ev.Job) -> None:
        if job.whole or job.compare or job.id in self.aborted:
            return
        done = self.random.randrange(self.arrived.get(job.id, job.start), job.end + 1)
        done -= done % MIB
        if done > self.arrived.get(job.id, job.start):
            self.arrived[job.id] = done
            self.held[job.blob] |= set(range(job.start // MIB, done // MIB))
            self.tell(ev.Progress(job, done))

    def shake(self) -> None:
        peer = self.random.choice(self.peers)
        if peer in self.gone:
            self.up(peer)
        elif self.random.random() < 0.3:
            self.gone.add(peer)
            self.tell(ev.SourceDown(peer, "left"))
        elif self.sizes:
            blob = self.random.randrange(len(self.sizes))
            if self.random.random() < 0.3:
                self.told[peer, blob] = set()
                self.tell(ev.SourceLost(peer, blob))
            else:
                self.has(peer, blob)

    def answer(self, action: ev.Action) -> None:
        match action:
            case ev.Open(blob):
                if self.random.random() < 0.1:
                    self.tell(ev.Settled(blob))
                    return
                blocks = -(-self.sizes[blob] // MIB)
                live = bytes(self.random.random() < 0.3 for _ in range(blocks))
                self.held[blob] = {i for i, have in enumerate(live) if have}
                self.tell(ev.Opened(blob, live))
            case ev.Fetch(job):
                why, done = None, job.end
                at = self.arrived.get(job.id, job.start)
                ours = job.id in self.aborted
                if ours or self.random.random() < self.faults:
                    why = None if ours else self.a_fault(job.source, job.blob)
                    done = self.random.randrange(at, job.end + 1)
                    done -= done % MIB if done != job.end else 0
                    done = max(done, at)
                last = -(-done // MIB) if done == job.end else done // MIB
                self.held[job.blob] |= set(range(job.start // MIB, last))
                wire = 0 if ours else done - job.start
                changed = ()
                if job.compare and done > job.start:
                    changed = (job.start // MIB,)
                self.tell(ev.Ended(job, done, wire, 0.1, why, changed, blame=not ours))
            case ev.FetchBatch(batch):
                ours = batch.id in self.aborted
                stop = Fault(FaultKind.UNAVAILABLE, "stopped") if ours else None
                faults = tuple(
                    stop
                    or (
                        self.a_fault(batch.source, b, batch=True)
                        if self.random.random() < self.faults
                        else None
                    )
                    for b in batch.blobs
                )
                self.tell(ev.BatchEnded(batch, faults, 10, 0.1, blame=not ours))
            case ev.Digest(blob):
                ok = self.random.random() > self.faults / 3
                suspects = None
                if not ok:
                    blocks = -(-self.sizes[blob] // MIB)
                    if self.random.random() < 0.3:
                        suspects = RangeSet.of((0, self.random.randrange(1, blocks + 1)))
                    # what is compared is as good as missing; when nothing helped, that is all
                    again = set(range(blocks)) if suspects is None else set()
                    for start, end in suspects or ():
                        again |= set(range(start, end))
                    self.held[blob] -= again
                self.tell(ev.Digested(blob, ok, "differs", suspects))

    def run(self, most_steps: int = 20_000) -> None:
        steps = 0
        while self.end is None:
            self.step()
            steps += 1
            assert steps < most_steps, "the pull never ends"
