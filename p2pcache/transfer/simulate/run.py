"""One case, event by event."""

from __future__ import annotations

import heapq
import itertools
import math
import random
import statistics
from functools import cache, partial
from typing import TYPE_CHECKING

from p2pcache.lanes.orders import BLOCK_BYTES, Fault, FaultKind
from p2pcache.sources.port import SourceKind
from p2pcache.transfer import events as ev
from p2pcache.transfer.machine import bits
from p2pcache.transfer.machine.owners import rendezvous
from p2pcache.transfer.policy import piece_bytes
from p2pcache.transfer.simulate.case import Case, Outcome, Sample
from p2pcache.transfer.simulate.faults import first_block, half_of, make_nodes
from p2pcache.transfer.simulate.links import Flow, Origin

if TYPE_CHECKING:
    from collections.abc import Callable

    from p2pcache.transfer.simulate.nodes import Node

ORIGIN = "origin"
ORIGIN_STREAMS = 16
LIMIT, LIMIT_S = 30, 120.0  # bounds, and patience: then whoever has not ended never will
SAMPLES = 100  # in one bound
HEARD = 0.5  # of a beat, after it was said
WRONG = b"x" * 32
SILENT_S = 10.0  # until a request to an origin that cannot be reached is over


class Simulation:
    """Runs one case once."""

    def __init__(self, case: Case, seed: int) -> None:
        self.case = case
        self.now = 0.0
        self._random = random.Random(seed)
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._number = itertools.count()
        self._exists = 0
        self._killed: int | None = None
        self._origin = Origin(case.origin, case.link, self._at, self._deliver)
        self._order = cache(rendezvous)
        self.nodes, self._kills = make_nodes(case, self._random)
        self._left = sum(node.works for node in self.nodes)
        self._everyone = frozenset(node.name for node in self.nodes)
        self._borders: dict[tuple[int, int], float] = {}  # when each is free
        self._cut_from = self._cut_until = math.inf
        self._samples: list[Sample] = []
        self._duplicate_bytes = self._wrong_bytes = self._crossed_bytes = self._pieces = 0

    def run(self) -> Outcome:
        """Until every node that lives has ended."""
        for node in self.nodes:
            self._at(node.starts, partial(self._start, node))
        for number, when in self._kills.items():
            self._at(when, partial(self._kill, self.nodes[number]))
        self._at(0.0, self._sample)
        limit = LIMIT * self.case.bound_s + LIMIT_S
        while self._heap and self.now < limit and self._left:
            self.now, _, what = heapq.heappop(self._heap)
            what()
        self._sample()
        return self._outcome()

    def _outcome(self) -> Outcome:
        case = self.case
        counted = [
            n for n in self.nodes
            if n.dead is None and not n.boasts and not n.lies and n.rate == case.link
        ]  # fmt: skip
        took = sorted(
            n.ended - (n.starts if n.is_late else 0.0) for n in counted if n.ended is not None
        )
        whole = len(took) == len(counted)
        sent = [n.sent for n in self.nodes if not n.lies and not n.boasts]
        liars = {n.number for n in self.nodes if n.lies}
        found = set().union(*(n.banned for n in self.nodes)) & liars
        return Outcome(
            last=took[-1] / case.bound_s if whole and took else float("inf"),
            median=statistics.median(took) / case.bound_s if took else float("inf"),
            copies=self._origin.sent_bytes / case.size,
            duplicates=self._duplicate_bytes / (case.size * case.nodes),
            skew=max(sent, default=0) / max(1e-9, sum(sent) / max(1, len(sent))),
            killed=self._killed,
            banned=len(found),
            unbanned=len(liars - found),
            wrong_bytes=self._wrong_bytes,
            kept_wrong_bytes=self._kept_wrong_bytes(),
            crossings=self._crossed_bytes / case.size / max(1, case.zones - 1),
            cut_off=sum(n.failed for n in self.nodes),
            pieces=self._pieces,
            samples=tuple(self._samples),
        )

    def _kept_wrong_bytes(self) -> int:
        """Of those whose machine calls the file complete: what never came as it should be."""
        ended = (n for n in self.nodes if n.ended is not None)
        return sum((self.case.blocks - n.held) * BLOCK_BYTES for n in ended)

    def _at(self, when: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._heap, (when, next(self._number), what))

    def _sample(self) -> None:
        alive = [n for n in self.nodes if n.dead is None and not n.boasts and not n.lies]
        if not alive:
            return
        shares = [n.held / self.case.blocks for n in alive]
        self._samples.append(
            Sample(
                self.now, self._exists.bit_count() / self.case.blocks, min(shares),
                sum(shares) / len(shares), sum(n.ended is not None for n in alive) / len(alive),
            )
        )  # fmt: skip
        self._at(self.now + self.case.bound_s / SAMPLES, self._sample)

    # -- nodes ----------------------------------------------------------------------------------

    def _start(self, node: Node) -> None:
        case = self.case
        node.start(case, self._everyone, self._order, self._random.random, self.now)
        if node.works:
            self._tell(node, *node.places(self.nodes), ev.Tick())
            origin = ev.SourceUp(ORIGIN, SourceKind.ORIGIN, ORIGIN_STREAMS)
            self._at(self.now + case.hello_s, lambda: self._tell(node, origin))
        for other in self.nodes:
            if other is node or other.machine is None or other.dead is not None:
                continue
            if other.number in node.links:
                self._introduce(node, other)
                self._introduce(other, node)
            elif half_of(other, case) == half_of(node, case) and other.said is not None:
                node.inbox.append((self.now, other.partner()))
        self._at(self.now + case.beat_s * self._random.random(), lambda: self._beat(node))

    def _introduce(self, node: Node, other: Node) -> None:
        """`node` hears of `other` soon, and from then on."""

        def meet() -> None:
            node.met.add(other.number)
            self._tell(node, *other.greeting())

        heard_s = 0.005 + self.case.beat_s * self._random.random()
        self._at(self.now + heard_s + self._away_s(node, other), meet)

    def _away_s(self, node: Node, other: Node) -> float:
        return self.case.zone_latency_s if node.zone != other.zone else 0.0

    def _is_cut(self, zone: int, other: int | None = None) -> bool:
        """Whether nothing passes between two zones now; None: the origin."""
        last = self.case.zones - 1
        is_off = self._cut_from <= self.now < self._cut_until
        return is_off and zone != other and last in (zone, other)

    def _beat(self, node: Node) -> None:
        """Say what is new; hear what the others said."""
        if node.dead is not None:
            return
        self._at(self.now + self.case.beat_s, lambda: self._beat(node))
        news = node.news(self.now, piece_bytes(self.case.size) / node.rate)
        if news:
            at = self.now + HEARD * self.case.beat_s
            for number in node.links:
                other = self.nodes[number]
                if other.hears and node.number in other.met:
                    heard_at = at + self._away_s(node, other)
                    other.inbox.extend((heard_at, event) for event in news)
        if node.inbox and node.inbox[0][0] <= self.now:
            self._tell(node)

    def _tell(self, node: Node, *events: ev.Event) -> None:
        if node.machine is None or not node.works:
            return
        heard = node.heard(self.now)
        node.wake = None
        for action in node.machine.handle_all((*heard, *events), self.now):
            self._do(node, action)

    def _do(self, node: Node, action: ev.Action) -> None:
        match action:
            case ev.Open(blob):
                live = bytes(self.case.blocks)
                self._at(self.now, lambda: self._tell(node, ev.Opened(blob, live)))
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
                self._arm(node, at)
            case ev.Failed():
                node.failed = True
                self._left -= 1
                self._say(node, None)
            case ev.Finished():
                node.ended = self.now
                self._left -= 1
                self._say(node, None)
            case _:
                pass

    def _arm(self, node: Node, at: float) -> None:
        if node.armed is None or at < node.armed:
            node.armed = at
            self._at(at, lambda: self._woken(node, at))

    def _woken(self, node: Node, at: float) -> None:
        if node.armed != at:
            return
        node.armed = None
        if node.wake is None:
            return
        if node.wake <= self.now:
            self._tell(node, ev.Tick())
        else:
            self._arm(node, node.wake)

    def _say(self, node: Node, said: ev.Say | None) -> None:
        """To all, also those that it is not linked with."""
        node.said = said
        partner = node.partner()
        at = self.now + HEARD * self.case.beat_s
        for other in self.nodes:
            if (
                not other.hears
                or other is node
                or half_of(other, self.case) != half_of(node, self.case)
            ):
                continue
            heard = node.number in other.met or node.number not in other.links
            if heard and not self._is_cut(node.zone, other.zone):
                other.inbox.append((at + self._away_s(node, other), partner))

    # -- requests -------------------------------------------------------------------------------

    def _fetch(self, node: Node, job: ev.Job) -> None:
        if job.source == ORIGIN:
            flow = node.flows[job.id] = Flow(job, node.number, None, self.case.grain_bytes)
            if self._is_cut(node.zone):
                silent = Fault(FaultKind.UNAVAILABLE, "the origin is silent")
                self._at(self.now + SILENT_S, lambda: self._end(node, job, silent))
            else:
                self._origin.ask(flow, self.now)
            return
        sender = self.nodes[int(job.source[4:])]
        flow = node.flows[job.id] = Flow(job, node.number, sender.number, self.case.grain_bytes)
        if sender.dead is not None or self._is_cut(node.zone, sender.zone):
            return  # nothing comes; noticed when its link ends
        unit_s = (job.end - job.start) / sender.rate
        if sender.up_free - self.now > self.case.busy_s * unit_s:
            busy = Fault(FaultKind.UNAVAILABLE, "busy", None, 503)
            self._at(self.now + self.case.request_s, lambda: self._end(node, job, busy))
            return
        self._send(sender, flow)

    def _send(self, sender: Node, flow: Flow) -> None:
        size = flow.next_bytes
        begins = max(self.now + (self.case.request_s if not flow.sent else 0), sender.up_free)
        sender.up_free = begins + size / sender.rate
        self._at(sender.up_free, lambda: self._sent(sender, flow, size))

    def _sent(self, sender: Node, flow: Flow, size: int) -> None:
        node = self.nodes[flow.node]
        if sender.dead is not None or node.flows.get(flow.job.id) is not flow:
            return
        sender.sent += size
        flow.sent += size
        if flow.next_bytes:
            self._send(sender, flow)
        if sender.zone == node.zone:
            self._deliver(flow, size)
            return
        if self._is_cut(node.zone, sender.zone):
            return
        self._crossed_bytes += size
        border = (sender.zone, node.zone)
        free = max(self.now, self._borders.get(border, 0.0)) + size / self.case.zone_link
        self._borders[border] = free
        self._at(free + self.case.zone_latency_s, lambda: self._deliver(flow, size))

    def _deliver(self, flow: Flow, size: int) -> None:
        node = self.nodes[flow.node]
        node.down_free = max(self.now, node.down_free + size / node.rate)
        self._at(node.down_free, lambda: self._arrived(node, flow, size))

    def _arrived(self, node: Node, flow: Flow, size: int) -> None:
        if node.dead is not None or node.flows.get(flow.job.id) is not flow:
            return
        job = flow.job
        if flow.sender is not None and self.nodes[flow.sender].lies:
            self._find_out(node, flow, size)
            return
        start = first_block(job, flow.arrived)
        blocks = bits.span(start, start + -(-size // BLOCK_BYTES))
        self._duplicate_bytes += size if node.have & blocks else 0
        flow.arrived += size
        node.got(blocks)
        self._exists |= blocks
        if flow.sender is None:
            node.brought += size
        if self.case.kill_at:
            self._maybe_kill()
        if self.case.cut_at and self._cut_from == math.inf:
            self._maybe_cut()
        if job.start + flow.arrived >= job.end:
            self._pieces += 1
            self._end(node, job, None)
        else:
            self._tell(node, ev.Progress(job, job.start + flow.arrived))

    def _find_out(self, node: Node, flow: Flow, size: int) -> None:
        """Bytes that differ from the map: nothing is kept, and trust bans the sender."""
        liar = self.nodes[flow.sender or 0]
        self._wrong_bytes += size
        node.banned.add(liar.number)
        wrong = Fault(FaultKind.UNTRUSTED, "other bytes", arrived=WRONG)
        job = node.flows.pop(flow.job.id).job
        ended = ev.Ended(job, job.start + flow.arrived, flow.arrived, 0.0, wrong)
        self._tell(node, ended, ev.SourceDown(liar.name, "banned"), ev.PartnerLeft(liar.name))

    def _end(self, node: Node, job: ev.Job, fault: Fault | None, *, blame: bool = True) -> None:
        flow = node.flows.pop(job.id, None)
        if flow is None:
            return
        done = job.start + flow.arrived
        self._tell(node, ev.Ended(job, done, flow.arrived, 0.0, fault, blame=blame))

    def _stop(self, node: Node, job: ev.Job) -> None:
        flow = node.flows.get(job.id)
        if flow is None:
            return
        if flow.sender is None:
            self._origin.stop(flow, self.now)
        self._at(self.now, lambda: self._end(node, job, None, blame=False))

    # -- cables, death --------------------------------------------------------------------------

    def _maybe_cut(self) -> None:
        """The last zone is alone: what is under way is lost, and links end after `dead_s`."""
        if self._exists.bit_count() < self.case.cut_at * self.case.blocks:
            return
        self._cut_from, self._cut_until = self.now, self.now + self.case.cut_s
        last = self.case.zones - 1
        silent = Fault(FaultKind.UNAVAILABLE, "the origin is silent")
        for node in [n for n in self.nodes if n.zone == last]:
            for flow in self._origin.of(node.number):
                self._origin.stop(flow, self.now)
                self._at(self.now + SILENT_S, partial(self._end, node, flow.job, silent))
        self._at(self.now + self.case.dead_s, lambda: self._part(last))
        if math.isfinite(self._cut_until):
            self._at(self._cut_until, lambda: self._heal(last))

    def _across(self, zone: int) -> list[tuple[Node, Node]]:
        """Pairs of which one is in this zone, both ways."""
        inside = [n for n in self.nodes if n.zone == zone and n.dead is None]
        outside = [n for n in self.nodes if n.zone != zone and n.dead is None]
        pairs = [(one, other) for one in inside for other in outside]
        return pairs + [(other, one) for one, other in pairs]

    def _part(self, zone: int) -> None:
        for node, other in self._across(zone):
            if other.number in node.met:
                node.met.discard(other.number)
                down = ev.SourceDown(other.name, "its link ended", may_return=True)
                self._tell(node, down, ev.PartnerLeft(other.name))

    def _heal(self, zone: int) -> None:
        for node, other in self._across(zone):
            if other.number in node.links:
                self._introduce(node, other)

    def _maybe_kill(self) -> None:
        wanted = self.case.kill_at * self.case.blocks
        if self._killed is None and self._exists.bit_count() >= wanted:
            victim = max((n for n in self.nodes if n.works), key=lambda n: n.brought)
            self._killed = victim.number
            self._kill(victim)

    def _kill(self, victim: Node) -> None:
        self._left -= victim.works
        victim.dead = self.now
        for flow in self._origin.of(victim.number):
            self._origin.stop(flow, self.now)
        self._at(self.now + self.case.dead_s, lambda: self._bury(victim))

    def _bury(self, victim: Node) -> None:
        gone = ev.SourceDown(victim.name, "its link ended", may_return=True)
        left = ev.PartnerLeft(victim.name)
        for node in self.nodes:
            if node is victim or half_of(node, self.case) != half_of(victim, self.case):
                continue
            self._tell(node, *((gone, left) if victim.number in node.met else (left,)))
