"""The pull machine of many agents in virtual time: no sockets, no clock, the same rules.

The model, and what it hides: an uplink sends one block after another (FIFO, work-conserving), then
such a downlink; the origin shares its rate equally among connections, each capped at the link; what
a node says reaches the others one to two beats later; a request costs `request_s`. Hidden: TCP,
loss, back-pressure of a busy receiver, CPU, disks, bad bytes. Same seed, same figures.
"""

from __future__ import annotations

import heapq
import itertools
import random
import statistics
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from p2pcache.content.ranges import RangeSet
from p2pcache.lanes.orders import BLOCK_BYTES, Fault, FaultKind
from p2pcache.sources.port import SourceKind
from p2pcache.transfer import events as ev
from p2pcache.transfer.machine import Download, bits
from p2pcache.transfer.machine.owners import OwnerOptions, Owners
from p2pcache.transfer.policy import TransferOptions, piece_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

MIB = 1 << 20
ORIGIN = "origin"
KEY = b"\x12\x20" + bytes(32)  # the blob's name


@dataclass(frozen=True, slots=True)
class Case:
    """`link`, `origin`: bytes/s. Shares are of the nodes; `kill_at`: of the file in the swarm."""

    nodes: int = 8
    size: int = 256 * MIB
    link: float = 12.5e6
    origin: float = 12.5e6
    streams: int = 9
    beat_s: float = 0.05
    hello_s: float = 0.1
    jitter_s: float = 0.2  # of the starts
    request_s: float = 0.002
    busy_s: float = 3.0  # blocks queued at a holder, in units of their time, above which it refuses
    dead_s: float = 2.0  # until a killed node is noticed
    kill_at: float = 0.0
    slow_share: float = 0.0  # with a tenth of the link
    late_share: float = 0.0  # that start at 30 % of the bound
    liars: int = 0  # of the nodes: they announce to bring, and bring nothing
    options: TransferOptions = field(default_factory=TransferOptions)
    owners: OwnerOptions = field(default_factory=OwnerOptions)

    @property
    def bound_s(self) -> float:
        """The least time that physics allows for the last node (DESIGN 11)."""
        shared = self.nodes * self.size / (self.origin + self.nodes * self.link)
        return max(self.size / self.origin, self.size / self.link, shared)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Ratios to the bound (`last` is infinite when a node never ended), copies, and shares."""

    last: float
    median: float
    copies: float
    duplicates: float
    skew: float  # the busiest node's upload over the mean
    killed: int | None


@dataclass(slots=True)
class _Flow:
    """One request on its way: blocks of `job` arrive one by one."""

    job: ev.Job
    sender: int | None  # None: the origin
    arrived: int  # bytes
    sent: int = 0  # bytes that left the sender
    begun: float = 0.0  # the origin's virtual clock when the current block began


class _Node:
    """One agent: its machine, and its two link directions."""

    def __init__(self, number: int, case: Case, rate: float, starts: float) -> None:
        self.number = number
        self.name = f"node{number:04}"
        self.rate = rate
        self.starts = starts
        self.machine: Download | None = None
        self.have = 0
        self.flows: dict[int, _Flow] = {}
        self.up_free = self.down_free = 0.0
        self.sent = self.brought = 0
        self.ended: float | None = None
        self.dead: float | None = None
        self.wake: float | None = None
        self.inbox: list[ev.Event] = []
        self.said: ev.Say | None = None
        self.fresh = 0  # blocks that were not said yet
        self.liar = False
        self.met: set[int] = set()  # whose words reach it

    def hear(self, news: list[ev.Event]) -> None:
        """For the next beat."""
        self.inbox += news


class Simulation:
    """Runs one case once."""

    def __init__(self, case: Case, seed: int) -> None:
        self.case = case
        self.now = 0.0
        self._random = random.Random(seed)
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._number = itertools.count()
        self._blocks = -(-case.size // BLOCK_BYTES)
        self._full = (1 << self._blocks) - 1
        self._exists = 0
        self._killed: int | None = None
        # the origin: processor sharing by a virtual clock in bytes
        self._pulls: dict[tuple[int, int], _Flow] = {}
        self._clock = self._clock_at = 0.0
        self._version = 0
        self.origin_bytes = 0.0
        self.duplicate_bytes = 0
        slow = set(self._random.sample(range(case.nodes), round(case.nodes * case.slow_share)))
        late = round(case.nodes * case.late_share)
        self.nodes = []
        for number in range(case.nodes):
            starts = case.jitter_s * self._random.random()
            if number >= case.nodes - late:
                starts += 0.3 * case.bound_s
            rate = case.link / 10 if number in slow else case.link
            self.nodes.append(_Node(number, case, rate, starts))
        for node in self.nodes[: case.liars]:
            node.liar = True

    def run(self) -> Outcome:
        """Until every node that lives has ended."""
        for node in self.nodes:
            self._at(node.starts, partial(self._start, node))
        limit = 30 * self.case.bound_s
        while self._heap and self.now < limit and any(self._works(n) for n in self.nodes):
            self.now, _, what = heapq.heappop(self._heap)
            what()
        return self._outcome()

    def _works(self, node: _Node) -> bool:
        return node.ended is None and node.dead is None and not node.liar

    def _outcome(self) -> Outcome:
        case = self.case
        counted = [n for n in self.nodes if n.dead is None and not n.liar and n.rate == case.link]
        took = sorted(
            n.ended - (n.starts if n.starts > case.jitter_s else 0.0)
            for n in counted
            if n.ended is not None
        )
        whole = len(took) == len(counted)
        sent = [n.sent for n in self.nodes]
        return Outcome(
            last=took[-1] / case.bound_s if whole and took else float("inf"),
            median=statistics.median(took) / case.bound_s if took else float("inf"),
            copies=self.origin_bytes / case.size,
            duplicates=self.duplicate_bytes / (case.size * case.nodes),
            skew=max(sent) / max(1e-9, sum(sent) / len(sent)),
            killed=self._killed,
        )

    def _at(self, when: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._heap, (when, next(self._number), what))

    # -- nodes ----------------------------------------------------------------------------------

    def _start(self, node: _Node) -> None:
        case = self.case
        owners = Owners(node.name, [n.name for n in self.nodes], case.owners, self.now)
        owners.add_blob(0, KEY)
        node.machine = Download(
            [ev.BlobSpec(0, case.size, small=False)],
            piece_bytes=piece_bytes(case.size), streams=case.streams, options=case.options,
            chance=self._random.random, now=self.now, hopeful=True, owners=owners,
        )  # fmt: skip
        if node.liar:
            lie = RangeSet.of((0, self._blocks))
            node.said = ev.Say(case.link, declines=False, brings=((0, lie),))
        else:
            self._tell(node, ev.Tick())
            origin = ev.SourceUp(ORIGIN, SourceKind.ORIGIN, 16)
            self._at(self.now + case.hello_s, lambda: self._tell(node, origin))
        for other in self.nodes:
            if other is not node and other.machine is not None and other.dead is None:
                self._introduce(node, other)
                self._introduce(other, node)
        self._at(self.now + case.beat_s, lambda: self._beat(node))

    def _introduce(self, node: _Node, other: _Node) -> None:
        """`node` hears of `other` with the next says, and from then on."""

        def meet() -> None:
            events: list[ev.Event] = [ev.SourceUp(other.name, SourceKind.PEER, 8, frozenset())]
            if other.have:
                events.append(self._has(other, other.have))
            if other.said is not None:
                events.append(_partner(other.name, other.said))
            node.met.add(other.number)
            self._tell(node, *events)

        self._at(self.now + 0.005 + self.case.beat_s * self._random.random(), meet)

    def _has(self, node: _Node, mask: int) -> ev.SourceHas:
        if mask == self._full:
            return ev.SourceHas(node.name, 0, None)
        return ev.SourceHas(node.name, 0, _ranges(mask))

    def _beat(self, node: _Node) -> None:
        """Say what is new; hear what the others said."""
        if node.dead is not None:
            return
        self._at(self.now + self.case.beat_s, lambda: self._beat(node))
        news: list[ev.Event] = []
        if node.fresh:
            news.append(self._has(node, node.fresh))
            node.fresh = 0
        queue_s = max(0.0, node.up_free - self.now)
        news.append(ev.SourceQueue(node.name, queue_s))
        for other in self.nodes:
            if node.number in other.met and other.dead is None and other.ended is None:
                self._at(
                    self.now + self.case.beat_s * self._random.random(),
                    partial(other.hear, list(news)),
                )
        if node.inbox and node.ended is None:
            heard, node.inbox = node.inbox, []
            self._tell(node, *heard)
        elif node.wake is not None and node.wake <= self.now:
            self._tell(node, ev.Tick())

    def _tell(self, node: _Node, *events: ev.Event) -> None:
        if node.machine is None or node.ended is not None or node.dead is not None or node.liar:
            return
        node.wake = None
        for action in node.machine.handle_all(events, self.now):
            self._do(node, action)

    def _do(self, node: _Node, action: ev.Action) -> None:
        match action:
            case ev.Open(blob):
                self._at(self.now, lambda: self._tell(node, ev.Opened(blob, bytes(self._blocks))))
            case ev.Fetch(job):
                self._fetch(node, job)
            case ev.Abort(job):
                if isinstance(job, ev.Job):
                    self._stop(node, job)
            case ev.Digest(blob, _):
                self._at(self.now, lambda: self._tell(node, ev.Digested(blob, ok=True)))
            case ev.Say():
                self._say(node, action)
            case ev.Wake(at):
                node.wake = at
                self._at(at, lambda: self._woken(node, at))
            case ev.Finished():
                node.ended = self.now
                self._say(node, None)
            case _:
                pass

    def _woken(self, node: _Node, at: float) -> None:
        if node.wake == at:
            self._tell(node, ev.Tick())

    def _say(self, node: _Node, said: ev.Say | None) -> None:
        node.said = said
        partner = (
            ev.Partner(node.name, None, True, ()) if said is None else _partner(node.name, said)
        )
        for other in self.nodes:
            if node.number in other.met and other.ended is None:
                delay_s = 0.4 * self.case.beat_s * (0.5 + self._random.random())
                self._at(self.now + delay_s, partial(self._tell, other, partner))

    # -- requests -------------------------------------------------------------------------------

    def _fetch(self, node: _Node, job: ev.Job) -> None:
        if job.source == ORIGIN:
            flow = _Flow(job, None, 0)
            node.flows[job.id] = flow
            self._advance()
            flow.begun = self._clock
            self._pulls[node.number, job.id] = flow
            self._reschedule()
            return
        sender = self.nodes[int(job.source[4:])]
        flow = _Flow(job, sender.number, 0)
        node.flows[job.id] = flow
        unit_s = BLOCK_BYTES / sender.rate
        if sender.dead is not None:
            return  # nothing comes; noticed when its link ends
        if sender.up_free - self.now > self.case.busy_s * unit_s * max(
            1, (job.end - job.start) // BLOCK_BYTES
        ):
            busy = Fault(FaultKind.UNAVAILABLE, "busy", None, 503)
            self._at(self.now + self.case.request_s, lambda: self._end(node, job, busy))
            return
        self._send_block(node, sender, flow)

    def _send_block(self, node: _Node, sender: _Node, flow: _Flow) -> None:
        size = _next(flow)
        begins = max(self.now + (self.case.request_s if not flow.sent else 0), sender.up_free)
        sender.up_free = begins + size / sender.rate
        self._at(sender.up_free, lambda: self._sent(node, sender, flow, size))

    def _sent(self, node: _Node, sender: _Node, flow: _Flow, size: int) -> None:
        if sender.dead is not None or node.flows.get(flow.job.id) is not flow:
            return
        sender.sent += size
        flow.sent += size
        if _next(flow):
            self._send_block(node, sender, flow)
        self._deliver(node, flow, size)

    def _deliver(self, node: _Node, flow: _Flow, size: int) -> None:
        node.down_free = max(self.now, node.down_free + size / node.rate)
        self._at(node.down_free, lambda: self._arrived(node, flow, size))

    def _arrived(self, node: _Node, flow: _Flow, size: int) -> None:
        if node.dead is not None or node.flows.get(flow.job.id) is not flow:
            return
        job = flow.job
        block = 1 << ((job.start + flow.arrived) // BLOCK_BYTES)
        self.duplicate_bytes += size if node.have & block else 0
        flow.arrived += size
        node.have |= block
        node.fresh |= block
        self._exists |= block
        if flow.sender is None:
            node.brought += size
        self._maybe_kill()
        if job.start + flow.arrived >= job.end:
            self._end(node, job, None)
        else:
            self._tell(node, ev.Progress(job, job.start + flow.arrived))

    def _end(self, node: _Node, job: ev.Job, fault: Fault | None, *, blame: bool = True) -> None:
        flow = node.flows.pop(job.id, None)
        if flow is None:
            return
        done = job.start + flow.arrived
        self._tell(node, ev.Ended(job, done, flow.arrived, 0.0, fault, blame=blame))

    def _stop(self, node: _Node, job: ev.Job) -> None:
        flow = node.flows.get(job.id)
        if flow is None:
            return
        if flow.sender is None:
            self._advance()
            if self._pulls.pop((node.number, job.id), None) is not None:
                lost = min(self._clock - flow.begun, BLOCK_BYTES)
                self.origin_bytes += lost
            self._reschedule()
        self._at(self.now, lambda: self._end(node, job, None, blame=False))

    # -- the origin -----------------------------------------------------------------------------

    def _share(self) -> float:
        return min(self.case.origin / max(1, len(self._pulls)), self.case.link)

    def _advance(self) -> None:
        if self._pulls:
            self._clock += (self.now - self._clock_at) * self._share()
        self._clock_at = self.now

    def _reschedule(self) -> None:
        self._version += 1
        if self._pulls:
            version = self._version
            left = min(f.begun + _next(f) for f in self._pulls.values()) - self._clock
            self._at(self.now + max(0.0, left) / self._share(), lambda: self._origin_sent(version))

    def _origin_sent(self, version: int) -> None:
        if version != self._version:
            return
        self._advance()
        for (number, job_id), flow in list(self._pulls.items()):
            size = _next(flow)
            if flow.begun + size > self._clock + 1:
                continue
            node = self.nodes[number]
            self.origin_bytes += size
            flow.sent += size
            self._deliver(node, flow, size)
            if not _next(flow):
                del self._pulls[number, job_id]
            else:
                flow.begun = self._clock
        self._reschedule()

    # -- death ----------------------------------------------------------------------------------

    def _maybe_kill(self) -> None:
        share = self.case.kill_at
        if not share or self._killed is not None:
            return
        if self._exists.bit_count() >= share * self._blocks:
            alive = [n for n in self.nodes if n.ended is None and n.dead is None]
            victim = max(alive, key=lambda n: n.brought)
            self._killed = victim.number
            victim.dead = self.now
            self._advance()
            for key in [key for key in self._pulls if key[0] == victim.number]:
                flow = self._pulls.pop(key)
                self.origin_bytes += min(self._clock - flow.begun, BLOCK_BYTES)
            self._reschedule()
            self._at(self.now + self.case.dead_s, lambda: self._bury(victim))

    def _bury(self, victim: _Node) -> None:
        for node in self.nodes:
            if node is victim:
                continue
            self._tell(
                node,
                ev.SourceDown(victim.name, "its link ended", may_return=True),
                ev.PartnerLeft(victim.name),
            )


def _next(flow: _Flow) -> int:
    """Bytes of the next block that its sender sends; 0 at the end."""
    return min(BLOCK_BYTES, flow.job.end - flow.job.start - flow.sent)


def _partner(name: str, said: ev.Say) -> ev.Partner:
    return ev.Partner(name, said.intake_bytes_per_s, said.declines, said.brings)


def _ranges(mask: int) -> RangeSet:
    return bits.to_ranges(mask)
