"""Preloads at work: what members tell of them, this agent's own pulls, and what it tells of itself.

One task looks at every preload twice a second and whenever something changed: is it time, is this
agent one of those that are to fetch, is it there already? Two pulls run at a time, each as a
background turn (agent/priority). Nothing that a member says makes this task wait for anybody.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING

import trio

from p2pcache.agent.preload.book import Book
from p2pcache.agent.preload.handover import HURRY_S, WAIT_S, Handovers, is_possible
from p2pcache.agent.preload.holdings import Holdings
from p2pcache.agent.preload.job import LAST_RETRY_S, Job
from p2pcache.agent.preload.pull import PreloadPull
from p2pcache.agent.preload.reports import LEAVING, Attendance, Reports, View
from p2pcache.agent.preload.saver import Saver
from p2pcache.agent.preload.talk import Talk
from p2pcache.config.preload import format_labels
from p2pcache.content.preload import is_chosen
from p2pcache.errors import (
    LocalFault,
    P2PCacheError,
    bug,
)
from p2pcache.net.sync import preloads as wire
from p2pcache.net.sync.preloads import Stage, State

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Set

    from p2pcache.agent.network import AgentNetwork
    from p2pcache.agent.network_slot import NetworkSlot
    from p2pcache.agent.parts import Parts
    from p2pcache.config.preload import PreloadSettings
    from p2pcache.content.preload import Cancel, Intent
    from p2pcache.store.preloads import PreloadRow
    from p2pcache.store.store import Store
    from p2pcache.transfer.progress import Progress

_log = logging.getLogger(__name__)
LOOK_S = 0.5  # between two looks at everything, when nothing happens
CHECK_S = 5.0  # between two looks into the store: what was evicted, what a `get` brought
ASK_S = 1.0  # between two questions who has taken a copy over
MAX_PULLS = 2  # one that waits for a slow origin must not hold up all others


class Preloads:
    """See the module. `run` does the work; everything else is quick. For the trio thread."""

    def __init__(
        self,
        store: Store,
        slot: NetworkSlot,
        settings: PreloadSettings,
        now: Callable[[], float],
    ) -> None:
        self.book = Book(store.preloads, settings, now)
        self.reports = Reports()
        self.attendance = Attendance()
        self.changed = trio.Event()  # replaced with each change
        self._slot = slot
        self._labels = settings.labels
        self._now = now
        self._jobs: dict[bytes, Job] = {}
        self._store = store
        self._holdings = Holdings(store)
        self._handovers = Handovers()
        self._look = trio.Event()
        self._checked_at = float("-inf")
        self._hurry = False
        self._watching: set[trio.CancelScope] = set()
        self._stopping = False
        self._saver = Saver(self.book)

    # -- operations ------------------------------------------------------------------------------

    async def issue(self, opened: AgentNetwork, intent: Intent) -> None:
        """Keep a preload of our own and tell everybody. Raises Unavailable."""
        self.book.issue(intent)
        opened.network.tell_preload(wire.Records((intent.record,)))
        self._wake()
        await self._saver.save()

    async def cancel(self, opened: AgentNetwork, cancel: Cancel) -> None:
        """End one of our own, everywhere."""
        self.book.cancel(cancel)
        opened.network.tell_preload(wire.Records((cancel.record,)))
        self._wake()
        await self._saver.save()

    def view(self, opened: AgentNetwork, row: PreloadRow, asked_s: float) -> View:
        """What is known of a preload now."""
        assert row.intent is not None
        job = self._jobs.get(row.id)
        labels = format_labels(self._labels)
        mine = State(row.id, Stage.WAITING, 0, 0, row.origin_bytes, 0.0, "", labels)
        return View(
            row.intent,
            opened.peer_id,
            mine if job is None else job.state,
            self.reports.of(row.id),
            self.attendance.here,
            self.attendance.alive(),
            frozenset(opened.network.hearsay()),
            trio.current_time(),
            asked_s,
            self._holdings.sizes.get(row.intent.manifest),
        )

    @contextmanager
    def watching(self) -> Iterator[None]:
        """What is done inside ends, without an exception, as soon as the agent stops."""
        scope = trio.CancelScope()
        self._watching.add(scope)
        if self._stopping:
            scope.cancel()
        try:
            with scope:
                yield
        finally:
            self._watching.discard(scope)

    def stop(self) -> None:
        """The agent stops: nobody watches on, or its end would wait for that."""
        self._stopping = True
        for scope in self._watching:
            scope.cancel()

    # -- copies that are in the way --------------------------------------------------------------

    def hand_over(self, sha256s: Collection[bytes]) -> None:
        """Have others take over what preloads keep of these blobs (raw sha2-256), and wait WAIT_S
        for it at most; not at all where somebody would have to who cannot. For worker threads of
        trio.
        """
        listed = set().union(*self._store.manifests_of_blobs(sha256s).values())
        kept = listed & self._store.replica_manifests
        if kept:
            trio.from_thread.run(self._hand_over, kept)

    @property
    def spared(self) -> frozenset[bytes]:
        """Manifests of which preloads keep copies, enough of them elsewhere."""
        return self._holdings.spared

    async def _hand_over(self, manifests: Set[bytes]) -> None:
        opened = self._slot.current
        if opened is None:
            return
        possible = {
            row.id: is_possible(self.view(opened, row, 0.0).lines(), row.intent.replicas)
            for row in self.book.intents()
            if row.intent is not None and row.intent.manifest in manifests
            and row.intent.replicas and row.cancel is None
        }  # fmt: skip
        if not possible or not all(possible.values()):  # or it expired since the last look
            return
        self._handovers.begin(possible, trio.current_time())
        with trio.move_on_after(WAIT_S):
            while manifests & self._store.replica_manifests:
                for id_ in possible.keys() & self._jobs.keys():
                    self._jobs[id_].told = None  # said again: a word may be left out
                now = trio.current_time()
                settled = [id_ for id_ in possible if self._handovers.settled(id_, now)]
                if settled:  # words that are heard from now on count
                    opened.network.tell_preload(wire.Watch(tuple(settled[: wire.MAX_WATCHED])))
                self._wake(check=True)
                await trio.sleep(ASK_S)

    # -- work ------------------------------------------------------------------------------------

    async def run(self, parts: Parts) -> None:
        """Until cancelled: whenever there is a network, take part in its preloads."""
        try:
            await self._run(parts)
        finally:
            with trio.CancelScope(shield=True):  # what stopped pulls took from origins
                await self._saver.save()

    async def _run(self, parts: Parts) -> None:
        await self._saver.load()
        while True:
            try:
                await self._keep_replicas(None)  # nobody can be heard: all that is kept stays
            except LocalFault as exc:  # tried again with each look into the store
                _log.warning("copies that are to stay may be evicted: %s", exc.message)
            opened = await self._slot.wait_any()
            async with trio.open_nursery() as nursery:
                talk = Talk(
                    opened, self.book, self.reports, self.attendance, self._jobs, self._wake
                )
                nursery.start_soon(self._follow_members, opened, talk)
                nursery.start_soon(self._work, parts, opened, talk)
                await self._slot.wait_closed(opened)
                nursery.cancel_scope.cancel()
            self._jobs.clear()
            self.attendance.see((), trio.current_time())

    async def _follow_members(self, opened: AgentNetwork, talk: Talk) -> None:
        """Tell who comes what we know, and ask those who came before we listened."""
        from p2pcache.net.member import MemberUp

        opened.network.on_preload = talk.heard
        opened.network.tell_preload(wire.Watch(()))
        async with opened.network.watch() as changes:
            async for change in changes:
                self._see_members(opened)
                if isinstance(change, MemberUp):
                    talk.greet(change.member.peer)
                self._wake()

    def _see_members(self, opened: AgentNetwork) -> None:
        """Who could take part: an agent of an older minor version brings nothing."""
        members = opened.network.members()
        able = (member.peer for member in members if member.version >= (1, wire.MINOR))
        self.attendance.see(able, trio.current_time())

    async def _work(self, parts: Parts, opened: AgentNetwork, talk: Talk) -> None:
        async with trio.open_nursery() as nursery:
            while True:
                self._look = trio.Event()
                try:
                    await self._look_at_all(parts, opened, nursery)
                except LocalFault as exc:  # a full disk; everything is looked at again
                    _log.warning("preloads: %s", exc.message)
                talk.tell()
                await self._saver.tick()
                self.changed.set()
                self.changed = trio.Event()
                with trio.move_on_after(LOOK_S):
                    await self._look.wait()
                await trio.sleep(0.05)  # however it is woken, this is no busy loop

    async def _look_at_all(self, parts: Parts, opened: AgentNetwork, nursery: trio.Nursery) -> None:
        self._see_members(opened)
        for id_ in self.book.drop(opened.is_banned):
            self._forget(id_)
        rows = self.book.intents()
        for row in rows:
            job = self._jobs.get(row.id)
            if job is None:
                state = State(
                    row.id, Stage.WAITING, 0, 0, row.origin_bytes, 0.0, "",
                    format_labels(self._labels),
                )  # fmt: skip
                job = Job(row, state, earlier_bytes=row.origin_bytes)
                self._jobs[row.id] = job
                self._checked_at = float("-inf")
            job.row = row
        every_s = HURRY_S if self._hurry else CHECK_S
        if trio.current_time() >= self._checked_at + every_s:
            self._checked_at, self._hurry = trio.current_time(), False
            if rows:
                jobs = list(self._jobs.values())
                await trio.to_thread.run_sync(self._holdings.check, opened, jobs)
            await self._keep_replicas(opened)  # also after the last one: its copies may go
        for job in list(self._jobs.values()):
            self._look_at(parts, opened, nursery, job)

    def _look_at(self, parts: Parts, opened: AgentNetwork, nursery: trio.Nursery, job: Job) -> None:
        intent, now = job.intent, self._now()
        runs = job.scope is not None
        there = intent.manifest in self._holdings.complete
        if not there:
            self._handovers.end(intent.id)
        if job.row.cancel is not None:
            self._stop(job, Stage.CANCELLED)
        elif there and not runs:
            if not job.row.done:
                self._note(job, done=True)
            job.has(self._holdings.sizes.get(intent.manifest, 0))
            leaves = self._handovers.leaves(intent.id, trio.current_time())
            job.turn(Stage.IDLE if leaves else Stage.COMPLETE, LEAVING if leaves else "")
        elif not self._is_wanted(opened, job):
            self._stop(job, Stage.IDLE)
            if not runs:
                job.has(0)
        elif now >= intent.deadline_at:
            self._stop(job, Stage.FAILED, "deadline")
        elif runs:
            return
        elif now < intent.start_at:
            job.turn(Stage.WAITING, "")
        elif self._is_time(job) and self._running() < MAX_PULLS:
            job.scope, job.cut = trio.CancelScope(), False
            job.answered = self.reports.leaving(intent.id, self.attendance.here)
            nursery.start_soon(self._pull, parts, opened, job, job.scope)
        elif job.state.stage in (Stage.IDLE, Stage.CANCELLED, Stage.COMPLETE):
            job.turn(Stage.WAITING, "")

    def _is_wanted(self, opened: AgentNetwork, job: Job) -> bool:
        """Whether this agent is to fetch it. What was evicted since is not fetched again, unless
        there are too few copies.
        """
        intent = job.intent
        others = self.attendance.alive() | opened.network.hearsay()
        if not is_chosen(intent, opened.peer_id, others, self._labels):
            return False
        if not job.row.done:
            return True
        return len(self.reports.holders(intent.id, self.attendance.here)) < intent.replicas

    def _is_time(self, job: Job) -> bool:
        """Whether it is tried now: also, once for each, when somebody wants its copy taken over."""
        if trio.current_time() >= job.at:
            return True
        leaving = self.reports.leaving(job.intent.id, self.attendance.here)
        return job.tries == 0 and not leaving <= job.answered

    def _running(self) -> int:
        return sum(job.scope is not None for job in self._jobs.values())

    def _stop(self, job: Job, stage: Stage, code: str = "") -> None:
        if job.scope is not None:
            job.cut = True
            job.scope.cancel()
        job.turn(stage, code)

    def _forget(self, id_: bytes) -> None:
        job = self._jobs.pop(id_, None)
        if job is not None and job.scope is not None:
            job.scope.cancel()
        self.reports.forget(id_)

    async def _pull(
        self, parts: Parts, opened: AgentNetwork, job: Job, scope: trio.CancelScope
    ) -> None:
        """One try, as often as others' turns interrupt it; its end is in the job's state."""
        intent = job.intent
        own = intent.signer == opened.peer_id
        trusted = own or intent.signer == opened.admin

        async def once() -> None:
            def watch(progress: Progress) -> None:
                job.hidden = one.hidden
                job.turn(Stage.PULLING, "")
                job.progress(progress)

            one = PreloadPull(parts, intent, own=own, trusted=trusted, watch=watch)
            try:
                await one.run()
            finally:
                job.count(one.origin_bytes)
                self._note(job, done=job.row.done)
                if parts.pulls.priority.busy:
                    job.turn(Stage.WAITING, "foreground")

        error: P2PCacheError | None = None
        try:
            with scope:
                await parts.pulls.priority.background(once)
        except P2PCacheError as exc:
            error = exc
        except Exception as exc:  # noqa: BLE001  # the border: one preload's bug is not everybody's
            error = bug(exc, _log)
        finally:
            job.scope = None
            self._checked_at = float("-inf")
        if error is None and not job.cut:
            # Also if the store has no room for it and evicts it at once: that is no reason to
            # fetch it again and again.
            self._note(job, done=True)
            job.tries, job.at = 0, trio.current_time() + LAST_RETRY_S
        elif error is not None and not job.cut:
            _log.info("preload of %s: %s", job.intent.ref, error.message)
            job.failed(error, trio.current_time())
        self._wake()

    def _note(self, job: Job, *, done: bool) -> None:
        self.book.note(job.intent.id, origin_bytes=job.earlier_bytes, done=done)

    async def _keep_replicas(self, opened: AgentNetwork | None) -> None:
        await self._holdings.keep_replicas(
            self.book.intents(),
            None if opened is None else opened.peer_id,
            self.reports,
            self.attendance.here,
            self._handovers,
        )

    def _wake(self, *, check: bool = False) -> None:
        """Look at everything; with a look into the store, where that is not a moment ago."""
        self._hurry = self._hurry or check
        self._look.set()
