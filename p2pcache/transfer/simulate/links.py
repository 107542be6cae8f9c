"""The origin's link: shared equally among its connections, each capped at the node's own link."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from p2pcache.transfer import events as ev


@dataclass(slots=True, eq=False)
class Flow:
    """One request on its way: grains of `job` arrive one by one."""

    job: ev.Job
    node: int  # that asked
    sender: int | None  # None: the origin
    grain: int
    arrived: int = 0  # bytes
    sent: int = 0  # bytes that left the sender
    begun: float = 0.0  # the origin's virtual clock when the current grain began

    @property
    def next_bytes(self) -> int:
        """Of the next grain that its sender sends; 0 at the end."""
        return min(self.grain, self.job.end - self.job.start - self.sent)


class Origin:
    """Processor sharing by a virtual clock in bytes: every flow that is served sees it run alike.

    `at` plans a call at a time, `delivers` is told of every grain that has left.
    """

    def __init__(
        self,
        rate: float,
        cap: float,
        at: Callable[[float, Callable[[], None]], None],
        delivers: Callable[[Flow, int], None],
    ) -> None:
        self._rate = rate
        self._cap = cap
        self._at = at
        self._delivers = delivers
        self._flows: set[Flow] = set()
        self._due: list[tuple[float, int, Flow]] = []  # by the clock
        self._number = 0
        self._clock = self._clock_at = 0.0
        self._version = 0
        self.sent_bytes = 0.0

    def ask(self, flow: Flow, now: float) -> None:
        """One more connection."""
        self._advance(now)
        self._flows.add(flow)
        self._begin(flow)
        self._plan(now)

    def stop(self, flow: Flow, now: float) -> None:
        """A connection is closed; what was under way is lost, and counts."""
        self._advance(now)
        if flow in self._flows:
            self._flows.discard(flow)
            self.sent_bytes += min(self._clock - flow.begun, flow.next_bytes)
        self._plan(now)

    def of(self, node: int) -> list[Flow]:
        """A node's connections."""
        return [flow for flow in self._flows if flow.node == node]

    def _share(self) -> float:
        return min(self._rate / max(1, len(self._flows)), self._cap)

    def _advance(self, now: float) -> None:
        if self._flows:
            self._clock += (now - self._clock_at) * self._share()
        self._clock_at = now

    def _begin(self, flow: Flow) -> None:
        flow.begun = self._clock
        self._number += 1
        heapq.heappush(self._due, (self._clock + flow.next_bytes, self._number, flow))

    def _plan(self, now: float) -> None:
        while self._due and self._due[0][2] not in self._flows:
            heapq.heappop(self._due)
        self._version += 1
        if self._due:
            version, left = self._version, max(0.0, self._due[0][0] - self._clock)
            at = now + left / self._share()
            self._at(at, lambda: self._sent(version, at))

    def _sent(self, version: int, now: float) -> None:
        if version != self._version:
            return
        self._advance(now)
        while self._due and self._due[0][0] <= self._clock + 1:
            flow = heapq.heappop(self._due)[2]
            if flow not in self._flows:
                continue
            size = flow.next_bytes
            self.sent_bytes += size
            flow.sent += size
            if flow.next_bytes:
                self._begin(flow)
            else:
                self._flows.discard(flow)
            self._delivers(flow, size)
        self._plan(now)
