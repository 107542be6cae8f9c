"""Pulls that several callers share: two `get`s of one thread of bytes are one download.

A caller that goes away takes nothing from the others; when the last one leaves, the pull is
cancelled, and what it had verified stays for the next.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Hashable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field

import trio

from p2pcache.agent.priority import Priority
from p2pcache.errors import Interrupted, P2PCacheError, bug, from_wire
from p2pcache.store.store import Hold
from p2pcache.transfer.progress import Progress
from p2pcache.transfer.want import PullReport

_log = logging.getLogger(__name__)

Watch = Callable[[Progress], None]
Start = Callable[[Watch, Hold], Awaitable[PullReport]]
Running = Callable[[], AbstractContextManager[Hold]]

EMIT_BEAT_S = 0.2
END_S = 5.0  # for a pull that nobody waits for: kill its workers, flush what they verified


@dataclass(slots=True, eq=False)
class SharedPull:
    """A running pull and how many wait for it."""

    ref: str
    started_at: float
    progress: Progress = field(default_factory=lambda: Progress("resolving"))
    waiters: int = 0
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    done: trio.Event = field(default_factory=trio.Event)
    report: PullReport | None = None
    error: P2PCacheError | None = None
    held: ExitStack = field(default_factory=ExitStack)

    def watch(self, progress: Progress) -> None:
        """Keep the newest progress; bytes never go backwards."""
        if progress.done_bytes >= self.progress.done_bytes or progress.phase != self.progress.phase:
            self.progress = progress


class Pulls:
    """The pulls of one agent. Their tasks live in the nursery that is given here.

    `running` (of the store) holds the blobs of a pull until its last waiter is told.
    """

    def __init__(self, nursery: trio.Nursery, now: Callable[[], float], running: Running) -> None:
        self._nursery = nursery
        self._now = now
        self._hold = running
        self._running: dict[Hashable, SharedPull] = {}
        self._stopping = False
        self.priority = Priority()

    def running(self) -> list[SharedPull]:
        """What runs now, oldest first."""
        return list(self._running.values())

    def stop(self) -> None:
        """End every pull, now and later: waiters are told so. What is verified stays."""
        self._stopping = True
        for shared in self._running.values():
            shared.scope.cancel()

    async def wait_none(self) -> None:
        """Until no pull runs."""
        while self._running:
            await next(iter(self._running.values())).done.wait()

    async def wait_pulled(
        self,
        key: Hashable,
        ref: str,
        start: Start,
        emit: Callable[[Progress], Awaitable[None]],
        hold: Hold,
    ) -> PullReport:
        """Join the pull of this key, or start it. Raises what the pull raised.

        `hold` is this caller's own: its blobs are not evicted before the caller is done with them.
        If cancelled, this caller leaves; the pull ends only with its last waiter, who stays until
        it has ended (END_S at most). What pulls in the background waits meanwhile.
        """
        async with self.priority.foreground():
            return await self._wait_pulled(key, ref, start, emit, hold)

    async def _wait_pulled(
        self,
        key: Hashable,
        ref: str,
        start: Start,
        emit: Callable[[Progress], Awaitable[None]],
        hold: Hold,
    ) -> PullReport:
        shared = self._running.get(key)
        if self._stopping:
            raise Interrupted("the agent is stopping", hint="run it again: a new one is started")
        if shared is None:
            shared = self._running[key] = SharedPull(ref, self._now())
            held = shared.held.enter_context(self._hold())
            self._nursery.start_soon(self._run, key, shared, start, held)
        shared.waiters += 1
        try:
            while not shared.done.is_set():
                await emit(shared.progress)
                with trio.move_on_after(EMIT_BEAT_S):
                    await shared.done.wait()
            if shared.report is not None:
                hold(blob.key for blob in shared.report.blobs.values())
            await emit(shared.progress)
        finally:
            shared.waiters -= 1
            if shared.waiters == 0:
                shared.scope.cancel()
                if self._running.get(key) is shared:
                    del self._running[key]
                with trio.move_on_after(END_S, shield=True):  # or its receipt would lack the bytes
                    await shared.done.wait()
                shared.held.close()
        if shared.error is not None:
            raise from_wire(shared.error.to_wire()) from shared.error
        if shared.report is None:
            raise Interrupted(
                "the pull was stopped", hint="run it again: what was verified is kept"
            )
        return shared.report

    async def _run(self, key: Hashable, shared: SharedPull, start: Start, hold: Hold) -> None:
        try:
            with shared.scope:
                shared.report = await start(shared.watch, hold)
        except P2PCacheError as exc:
            shared.error = exc
        except Exception as exc:  # noqa: BLE001  (the border: one pull's bug is not everybody's)
            shared.error = bug(exc, _log)
        finally:
            if self._running.get(key) is shared:
                del self._running[key]
            shared.done.set()
