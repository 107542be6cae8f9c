"""One agent: its machine, its two link directions, what it hears and what it says."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from p2pcache.sources.port import SourceKind
from p2pcache.transfer import events as ev
from p2pcache.transfer.machine import Download, bits
from p2pcache.transfer.machine.owners import Owners
from p2pcache.transfer.machine.zones import FAR
from p2pcache.transfer.policy import piece_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from p2pcache.transfer.simulate.case import Case
    from p2pcache.transfer.simulate.links import Flow

KEY = b"\x12\x20" + bytes(32)  # the blob's name
PEER_STREAMS = 8


class Node:
    """`rate`: bytes/s each way. `links`: the numbers of those it is linked with."""

    def __init__(self, number: int, rate: float, starts: float, *, late: bool = False) -> None:
        self.number = number
        self.name = f"node{number:04}"
        self.rate = rate
        self.starts = starts
        self.is_late = late
        self.links: set[int] = set()
        self.machine: Download | None = None
        self.have = self.held = 0  # blocks, and how many
        self.flows: dict[int, Flow] = {}
        self.up_free = self.down_free = 0.0
        self.sent = self.brought = 0
        self.ended: float | None = None
        self.dead: float | None = None
        self.wake: float | None = None  # what the machine asked for
        self.armed: float | None = None  # the earliest call that is planned for it
        self.inbox: deque[tuple[float, ev.Event]] = deque()  # with the time it arrives
        self.said: ev.Say | None = None
        self.said_queue_s = 0.0
        self.fresh = 0  # blocks that were not said yet
        self.boasts = False
        self.lies = False
        self.zone = 0
        self.failed = False
        self.met: set[int] = set()  # whom it is linked with and heard of
        self.banned: set[int] = set()

    @property
    def works(self) -> bool:
        """Whether it is still to be waited for."""
        over = self.ended is not None or self.dead is not None or self.failed
        return not over and not self.boasts and not self.lies

    @property
    def hears(self) -> bool:
        """Whether what is said to it changes anything."""
        return self.machine is not None and self.works

    def start(
        self,
        case: Case,
        everyone: frozenset[str],
        order: Callable[[bytes, frozenset[str]], Sequence[str]],
        chance: Callable[[], float],
        now: float,
    ) -> None:
        """Its machine begins; `everyone`: the members that are known before."""
        owners = Owners(self.name, everyone, case.owners, now, order)
        owners.add_blob(0, KEY)
        self.machine = Download(
            [ev.BlobSpec(0, case.size, small=False)],
            piece_bytes=piece_bytes(case.size), streams=case.streams, options=case.options,
            chance=chance, now=now, hopeful=True, owners=owners,
        )  # fmt: skip

    def places(self, others: Sequence[Node]) -> list[ev.Event]:
        """Who of the others is in another zone."""
        return [ev.Placed(other.name, FAR) for other in others if other.zone != self.zone]

    def got(self, blocks: int) -> None:
        """Blocks arrived and verified."""
        self.have |= blocks
        self.held = self.have.bit_count()
        self.fresh |= blocks

    def greeting(self) -> list[ev.Event]:
        """What one that links it is told at first."""
        events: list[ev.Event] = [
            ev.SourceUp(self.name, SourceKind.PEER, PEER_STREAMS, frozenset())
        ]
        if self.have:
            events.append(self.has(self.have))
        if self.said is not None:
            events.append(self.partner())
        return events

    def has(self, mask: int) -> ev.SourceHas:
        """Its word for some blocks."""
        return ev.SourceHas(self.name, 0, bits.to_ranges(mask))

    def partner(self) -> ev.Partner:
        """What it said of its part in the pull, as the others hear it; it may have ended it."""
        if self.said is None:
            return ev.Partner(self.name, None, True, ())
        said = self.said
        return ev.Partner(self.name, said.intake_bytes_per_s, said.declines, said.brings)

    def news(self, now: float, least_queue_s: float) -> list[ev.Event]:
        """What is new since the last beat."""
        news: list[ev.Event] = []
        if self.fresh:
            news.append(self.has(self.fresh))
            self.fresh = 0
        queue_s = max(0.0, self.up_free - now)
        if abs(queue_s - self.said_queue_s) > least_queue_s:
            self.said_queue_s = queue_s
            news.append(ev.SourceQueue(self.name, queue_s))
        return news

    def heard(self, now: float) -> list[ev.Event]:
        """What has arrived by now."""
        events: list[ev.Event] = []
        inbox = self.inbox
        while inbox and inbox[0][0] <= now:
            events.append(inbox.popleft()[1])
        return events
