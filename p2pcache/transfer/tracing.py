"""Who listens to running pulls. A listener that is too slow loses steps and is told how many."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import trio

from p2pcache.transfer import trace

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from p2pcache.transfer import events as ev
    from p2pcache.transfer.account import Tally
    from p2pcache.transfer.steps import Setup

MAX_QUEUED = 4096  # steps of one listener; at 20 a second and node, seconds of a large swarm
MAX_LINE_CHARS = 1 << 19  # half of the local socket's frame

Records = Callable[[], "Iterable[dict[str, Any]]"]


class Listener:
    """A bounded queue of what is not encoded yet: a pull never waits for it, nor works for it."""

    def __init__(self, ref: str | None) -> None:
        self.ref = ref  # None: every pull
        self.ended = 0  # pulls whose end was handed out
        self._queue: deque[Records | int] = deque()
        self._lost = 0
        self._news = trio.Event()
        self._closed = False

    def put(self, records: Records, *, keep: bool = False) -> None:
        """Queue a step; `keep` is for the few that tell a pull's beginning and end."""
        if len(self._queue) >= MAX_QUEUED and not keep:
            self._lost += 1
        else:
            self._tell_lost()
            self._queue.append(records)
        self._news.set()

    def close(self) -> None:
        """Nothing follows."""
        self._closed = True
        self._news.set()

    async def wait_lines(self) -> list[str]:
        """The next lines, waiting for some; none: it is closed. If cancelled, nothing is lost."""
        while not self._queue and not self._lost and not self._closed:
            self._news = trio.Event()
            await self._news.wait()
        await trio.lowlevel.checkpoint()
        if not self._queue:
            self._tell_lost()
        return list(self._encoded(self._queue.popleft())) if self._queue else []

    def _tell_lost(self) -> None:
        if self._lost:
            self._queue.append(self._lost)
            self._lost = 0

    def _encoded(self, item: Records | int) -> Iterator[str]:
        if isinstance(item, int):
            yield trace.line({"type": "lost", "steps": item})
            return
        for record in item():
            self.ended += record["type"] == "end"
            text = trace.line(record)
            fits = len(text) <= MAX_LINE_CHARS
            yield text if fits else trace.line({"type": "lost", "steps": 1})


class PullTrace:
    """One pull, for those who listen to it. See `steps.Watcher`."""

    def __init__(self, number: int, ref: str, listeners: Sequence[Listener]) -> None:
        self._number = number
        self.ref = ref
        self._listeners = list(listeners)
        self._step = 0
        self._now = 0.0

    def began(self, setup: Setup, paths: Sequence[str]) -> None:
        """Told in full: without it nothing can be replayed."""
        for listener in self._listeners:
            listener.put(
                lambda: trace.began_records(self._number, self.ref, setup, paths), keep=True
            )

    def step(self, now: float, events: Sequence[ev.Event], actions: Sequence[ev.Action]) -> None:
        """Costs a comparison when nobody listens."""
        self._step += 1
        self._now = now
        if self._listeners:
            number, step, came = self._number, self._step, tuple(events)
            for listener in self._listeners:
                listener.put(lambda: trace.step_records(number, step, now, came, actions))

    def ended(self, now: float, tally: Tally) -> None:
        """The last of this pull."""
        for listener in self._listeners:
            listener.put(lambda: [trace.end_record(self._number, now, tally)], keep=True)

    def join(self, listener: Listener) -> None:
        """From the middle: what follows can be read, and not replayed."""
        record = {
            "type": "joined", "format": trace.FORMAT, "pull": self._number, "t": self._now,
            "ref": trace.cleaned(self.ref),
        }  # fmt: skip
        listener.put(lambda: [record], keep=True)
        self._listeners.append(listener)

    def leave(self, listener: Listener) -> None:
        """It listens no more."""
        if listener in self._listeners:
            self._listeners.remove(listener)


class Traces:
    """The pulls that run in this agent, and who listens to any of them."""

    def __init__(self) -> None:
        self._listeners: list[Listener] = []
        self._running: set[PullTrace] = set()
        self._count = 0
        self._closed = False

    @contextmanager
    def pull(self, ref: str) -> Iterator[PullTrace]:
        """A pull begins; `ref`: its canonical text."""
        self._count += 1
        heard = [x for x in self._listeners if x.ref in (None, ref)]
        made = PullTrace(self._count, ref, heard)
        self._running.add(made)
        try:
            yield made
        finally:
            self._running.discard(made)

    @contextmanager
    def listen(self, ref: str | None = None) -> Iterator[Listener]:
        """From now on; `ref` None: to every pull, those that run among them."""
        listener = Listener(ref)
        if self._closed:
            listener.close()
        self._listeners.append(listener)
        for running in self._running:
            if ref in (None, running.ref):
                running.join(listener)
        try:
            yield listener
        finally:
            self._listeners.remove(listener)
            for running in self._running:
                running.leave(listener)

    def close(self) -> None:
        """The agent stops: every listener is told what there is, and nothing more."""
        self._closed = True
        for listener in self._listeners:
            listener.close()
