"""Preloads at work: what members tell of them, this agent's own pulls, and what it tells of itself.

One task looks at every preload twice a second and whenever something changed: is it time, is this
agent one of those that are to fetch, is it there already? Two pulls run at a time, each as a
background turn (agent/turns). Nothing that a member says makes this task wait for anybody.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

import trio

from p2pcache.agent.preload_book import Book
from p2pcache.agent.preload_pull import PreloadPull
from p2pcache.agent.preload_states import Roster, States, View
from p2pcache.config.preload import format_labels
from p2pcache.content.preload import is_chosen, may_evict
from p2pcache.errors import (
    Denied,
    Interrupted,
    LocalFault,
    NotFound,
    P2PCacheError,
    Unavailable,
    bug,
)
from p2pcache.net.sync import preloads as wire
from p2pcache.net.sync.preloads import Stage, State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from p2pcache.agent.network import AgentNetwork
    from p2pcache.agent.network_slot import NetworkSlot
    from p2pcache.agent.parts import Parts
    from p2pcache.config.preload import PreloadSettings
    from p2pcache.content.peerid import PeerId
    from p2pcache.content.preload import Cancel, Intent
    from p2pcache.store.preloads import PreloadRow
    from p2pcache.store.store import Store
    from p2pcache.transfer.progress import Progress

_log = logging.getLogger(__name__)

T = TypeVar("T")

LOOK_S = 0.5  # between two looks at everything, when nothing happens
TELL_S = 1.0  # between two words on bytes, to those who watch
CHECK_S = 5.0  # between two looks into the store: what was evicted, what a `get` brought
RETELL_S = 15.0  # everything again: a word that found no room was left out
WATCH_S = 60.0  # that a watcher is told without asking again
MAX_WATCHERS = 64  # of one preload
MAX_PULLS = 2  # one that waits for a slow origin must not hold up all others
FIRST_RETRY_S, LAST_RETRY_S = 2.0, 300.0
TRIES = 5  # then it is called a failure; it is tried on all the same


@dataclass(slots=True)
class Job:
    """One preload here. `at`: when it is tried (again), on trio's clock."""

    row: PreloadRow
    state: State
    at: float = 0.0
    tries: int = 0
    cut: bool = False  # its pull is stopped because it is no longer to be
    scope: trio.CancelScope | None = None  # of the pull that runs
    earlier_bytes: int = 0  # from origins, by pulls before this one
    watchers: dict[PeerId, float] = field(default_factory=dict)  # until when
    told: State | None = None  # the last that everybody was told
    hidden: bool = True  # restricted content: who has it is not told to everybody

    @property
    def intent(self) -> Intent:
        """What is wished."""
        assert self.row.intent is not None
        return self.row.intent


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
        self.states = States()
        self.roster = Roster()
        self.changed = trio.Event()  # replaced with each change
        self._store = store
        self._slot = slot
        self._labels = settings.labels
        self._now = now
        self._jobs: dict[bytes, Job] = {}
        self._complete: set[bytes] = set()
        self._look = trio.Event()
        self._told_at = self._retold_at = self._checked_at = float("-inf")

    # -- operations ------------------------------------------------------------------------------

    def issue(self, opened: AgentNetwork, intent: Intent) -> None:
        """Keep a preload of our own and tell everybody. Raises Unavailable, LocalFault."""
        self.book.issue(intent)
        opened.network.tell_preload(wire.Records((intent.record,)))
        self._wake()

    def cancel(self, opened: AgentNetwork, cancel: Cancel) -> None:
        """End one of our own, everywhere. Raises LocalFault."""
        self.book.cancel(cancel)
        opened.network.tell_preload(wire.Records((cancel.record,)))
        self._wake()

    def view(self, opened: AgentNetwork, row: PreloadRow, asked_s: float) -> View:
        """What is known of a preload now."""
        assert row.intent is not None
        job = self._jobs.get(row.id)
        mine = State(row.id, Stage.WAITING, 0, 0, row.origin_bytes, 0.0, "", "")
        members = opened.network.members()
        able = {m.peer for m in members if m.version >= (1, wire.MINOR)}
        return View(
            row.intent,
            opened.peer_id,
            mine if job is None else job.state,
            self.states.of(row.id),
            self.roster.here & able,
            self.roster.alive(),
            trio.current_time(),
            asked_s,
        )

    # -- what members say ------------------------------------------------------------------------

    def _heard(self, opened: AgentNetwork, peer: PeerId, message: wire.Message) -> None:
        """See Network.on_preload. Raises Untrusted."""
        match message:
            case wire.Records(records):
                try:
                    new = self.book.hear(peer, records, lambda who: self._welcome(opened, who))
                except LocalFault as exc:
                    _log.warning("a preload is not kept: %s", exc.message)
                    return
                if new:
                    for part in _parts(new, wire.MAX_RECORDS):
                        opened.network.tell_preload(wire.Records(part), but=peer)
                    self._wake()
            case wire.States(entries):
                for state in entries:
                    if self.book.find(state.id) is not None:
                        self.states.hear(peer, state, trio.current_time())
                self._wake()
            case wire.Watch(()):
                self._tell_records(opened, peer)
            case wire.Watch(ids):
                self._watched(opened, peer, ids)

    def _welcome(self, opened: AgentNetwork, signer: PeerId) -> bool:
        if opened.is_banned(signer):
            return False
        return self.book.takes_part(signer, opened.peer_id, opened.admin)

    def _watched(self, opened: AgentNetwork, peer: PeerId, ids: Iterable[bytes]) -> None:
        told = []
        for id_ in ids:
            job = self._jobs.get(id_)
            if job is not None and self._may_hear(opened, peer, job):
                job.watchers.pop(peer, None)
                job.watchers[peer] = trio.current_time() + WATCH_S
                if len(job.watchers) > MAX_WATCHERS:
                    del job.watchers[next(iter(job.watchers))]
                told.append(self._shown(opened, peer, job))
            elif job is None and not self._welcome(opened, peer):
                told.append(State(id_, Stage.REFUSED, 0, 0, 0, 0.0, Denied.code, ""))
        if told:
            opened.network.tell_preload(wire.States(tuple(told)), to=peer)

    # -- what is said of this agent --------------------------------------------------------------

    def _may_hear(self, opened: AgentNetwork, peer: PeerId, job: Job) -> bool:
        """Who has restricted content is nobody's business but whose wish it is."""
        return job.intent.signer == peer or not job.hidden

    def _shown(self, opened: AgentNetwork, peer: PeerId, job: Job) -> State:
        """Our state as this member may see it: of restricted content no sizes, unless it may read
        it or is the network's admin.
        """
        state = job.state
        if not job.hidden or peer == opened.admin or opened.access.may(peer, job.intent.manifest):
            return state
        return replace(state, done_bytes=0, total_bytes=0, origin_bytes=0, bytes_per_s=0.0)

    def _tell_records(self, opened: AgentNetwork, peer: PeerId) -> None:
        for part in _parts(self.book.records(), wire.MAX_RECORDS):
            opened.network.tell_preload(wire.Records(part), to=peer)

    def _tell_states(self, opened: AgentNetwork, peer: PeerId, jobs: Iterable[Job]) -> None:
        shown = [
            self._shown(opened, peer, job) for job in jobs if self._may_hear(opened, peer, job)
        ]
        for part in _parts(shown, wire.MAX_STATES):
            opened.network.tell_preload(wire.States(part), to=peer)

    def _tell(self, opened: AgentNetwork) -> None:
        """Stages to everybody as they change, bytes to those who watch, all now and then."""
        now = trio.current_time()
        again = now >= self._retold_at + RETELL_S
        bytes_too = now >= self._told_at + TELL_S
        news: dict[PeerId, list[Job]] = {}
        for job in self._jobs.values():
            job.watchers = {peer: until for peer, until in job.watchers.items() if until > now}
            turned = job.told is None or _stage(job.told) != _stage(job.state)
            if again or turned:
                to = self.roster.here
            elif bytes_too and job.told != job.state:
                to = self.roster.here & {job.intent.signer, *job.watchers}
            else:
                continue
            job.told = job.state
            for peer in to:
                news.setdefault(peer, []).append(job)
        if again:
            self._retold_at = now
        if bytes_too:
            self._told_at = now
        for peer, jobs in news.items():
            self._tell_states(opened, peer, jobs)

    # -- work ------------------------------------------------------------------------------------

    async def run(self, parts: Parts) -> None:
        """Until cancelled: whenever there is a network, take part in its preloads."""
        rows = await trio.to_thread.run_sync(self._store.preloads.all)
        self.book.load(rows)
        await self._keep_replicas(None)
        while True:
            opened = await self._slot.wait_any()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._greet, opened)
                nursery.start_soon(self._work, parts, opened)
                await self._slot.wait_closed(opened)
                nursery.cancel_scope.cancel()
            self._jobs.clear()
            self.roster.see((), trio.current_time())

    async def _greet(self, opened: AgentNetwork) -> None:
        """Tell who comes what we know, and ask those who came before we listened."""
        from p2pcache.net.member import MemberUp

        def heard(peer: PeerId, message: wire.Message) -> None:
            self._heard(opened, peer, message)

        opened.network.on_preload = heard
        opened.network.tell_preload(wire.Watch(()))
        async with opened.network.watch() as changes:
            async for change in changes:
                self.roster.see((m.peer for m in opened.network.members()), trio.current_time())
                if isinstance(change, MemberUp):
                    peer = change.member.peer
                    self._tell_records(opened, peer)
                    self._tell_states(opened, peer, self._jobs.values())
                self._wake()

    async def _work(self, parts: Parts, opened: AgentNetwork) -> None:
        async with trio.open_nursery() as nursery:
            while True:
                self._look = trio.Event()
                try:
                    await self._look_at_all(parts, opened, nursery)
                except LocalFault as exc:  # a full disk; everything is looked at again
                    _log.warning("preloads: %s", exc.message)
                self._tell(opened)
                self.changed.set()
                self.changed = trio.Event()
                with trio.move_on_after(LOOK_S):
                    await self._look.wait()
                await trio.sleep(0.05)  # however it is woken, this is no busy loop

    async def _look_at_all(self, parts: Parts, opened: AgentNetwork, nursery: trio.Nursery) -> None:
        members = (member.peer for member in opened.network.members())
        self.roster.see(members, trio.current_time())
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
        if rows and trio.current_time() >= self._checked_at + CHECK_S:
            self._checked_at = trio.current_time()
            await trio.to_thread.run_sync(self._check_store)
            await self._keep_replicas(opened)
        for job in list(self._jobs.values()):
            self._look_at(parts, opened, nursery, job)

    def _check_store(self) -> None:
        """What is here, and what of it is restricted; in a thread."""
        jobs = list(self._jobs.values())
        self._complete = self._store.complete_manifests()
        hidden = self._store.hidden_manifests([job.intent.manifest for job in jobs])
        for job in jobs:
            job.hidden = job.intent.manifest in hidden

    def _look_at(self, parts: Parts, opened: AgentNetwork, nursery: trio.Nursery, job: Job) -> None:
        intent, now = job.intent, self._now()
        runs = job.scope is not None
        there = intent.manifest in self._complete
        if job.row.cancel is not None:
            self._stop(job, Stage.CANCELLED)
        elif there and not runs:
            if not job.row.done:
                self.book.note(intent.id, origin_bytes=job.state.origin_bytes, done=True)
            size = self._size(intent.manifest)
            job.state = replace(job.state, done_bytes=size, total_bytes=size)
            self._turn(job, Stage.COMPLETE, "")
        elif not self._is_wanted(opened, job):
            self._stop(job, Stage.IDLE)
        elif now >= intent.deadline_at:
            self._stop(job, Stage.FAILED, "deadline")
        elif runs:
            return
        elif now < intent.start_at:
            self._turn(job, Stage.WAITING, "")
        elif trio.current_time() >= job.at and self._running() < MAX_PULLS:
            job.scope, job.cut = trio.CancelScope(), False
            nursery.start_soon(self._pull, parts, opened, job, job.scope)
        elif job.state.stage in (Stage.IDLE, Stage.CANCELLED, Stage.COMPLETE):
            self._turn(job, Stage.WAITING, "")

    def _is_wanted(self, opened: AgentNetwork, job: Job) -> bool:
        """Whether this agent is to fetch it. What was evicted since is not fetched again, unless
        there are too few copies.
        """
        intent = job.intent
        others = (self.roster.alive() | opened.network.known_peers()) - {opened.peer_id}
        if not is_chosen(intent, opened.peer_id, others, self._labels):
            return False
        if not job.row.done:
            return True
        return len(self.states.holders(intent.id, self.roster.here)) < intent.replicas

    def _running(self) -> int:
        return sum(job.scope is not None for job in self._jobs.values())

    def _stop(self, job: Job, stage: Stage, code: str = "") -> None:
        if job.scope is not None:
            job.cut = True
            job.scope.cancel()
        self._turn(job, stage, code)

    def _forget(self, id_: bytes) -> None:
        job = self._jobs.pop(id_, None)
        if job is not None and job.scope is not None:
            job.scope.cancel()
        self.states.forget(id_)

    def _turn(self, job: Job, stage: Stage, code: str) -> None:
        if (job.state.stage, job.state.code) != (stage, code):
            job.state = replace(job.state, stage=stage, code=code, bytes_per_s=0.0)

    def _size(self, manifest: bytes) -> int:
        body = self._store.get_manifest(manifest)
        return 0 if body is None else body.total_bytes

    async def _pull(
        self, parts: Parts, opened: AgentNetwork, job: Job, scope: trio.CancelScope
    ) -> None:
        """One try, as often as others' turns interrupt it; its end is in the job's state."""
        intent = job.intent
        trusted = intent.signer in (opened.peer_id, opened.admin)

        async def once() -> None:
            def watch(progress: Progress) -> None:
                job.hidden = one.hidden
                self._turn(job, Stage.PULLING, "")
                self._progress(job, progress)

            one = PreloadPull(parts, intent, trusted=trusted, watch=watch)
            try:
                await one.run()
            finally:
                self._count(job, one.origin_bytes)
                if parts.pulls.turns.busy:
                    self._turn(job, Stage.WAITING, "foreground")

        error: P2PCacheError | None = None
        try:
            with scope:
                await parts.pulls.turns.background(once)
        except P2PCacheError as exc:
            error = exc
        except Exception as exc:  # noqa: BLE001  # the border: one preload's bug is not everybody's
            error = bug(exc, _log)
        finally:
            job.scope = None
            self._checked_at = float("-inf")
        if error is None:
            job.tries = 0
        elif not job.cut:
            self._failed(job, error)
        self._wake()

    def _progress(self, job: Job, progress: Progress) -> None:
        """What the pull that runs has of it. Before it looked, it knows less than the last one."""
        kept = sum(
            count for name, count in progress.sources.items() if not name.startswith("12D3KooW")
        )
        job.state = replace(
            job.state,
            done_bytes=max(progress.done_bytes, 0),
            total_bytes=max(progress.total_bytes, job.state.total_bytes),
            origin_bytes=job.earlier_bytes + kept,
            bytes_per_s=progress.bytes_per_s,
        )

    def _count(self, job: Job, origin_bytes: int) -> None:
        job.earlier_bytes += origin_bytes
        job.state = replace(job.state, origin_bytes=job.earlier_bytes, bytes_per_s=0.0)
        try:
            self.book.note(job.intent.id, origin_bytes=job.earlier_bytes, done=job.row.done)
        except LocalFault as exc:
            _log.warning("a preload's count is not kept: %s", exc.message)

    def _failed(self, job: Job, error: P2PCacheError) -> None:
        job.tries += 1
        wait_s = min(LAST_RETRY_S, FIRST_RETRY_S * 2.0 ** (job.tries - 1))
        match error:
            case Denied():
                stage = Stage.REFUSED
            case NotFound() | Unavailable() | Interrupted() if job.tries < TRIES:
                stage = Stage.WAITING
            case _:
                stage = Stage.FAILED
        _log.info("preload of %s: %s", job.intent.ref, error.message)
        job.at = trio.current_time() + wait_s
        self._turn(job, stage, error.code)

    async def _keep_replicas(self, opened: AgentNetwork | None) -> None:
        """Before others can be heard, everything that a preload may need stays."""
        here = self.roster.here
        kept = {
            row.intent.manifest
            for row in self.book.intents()
            if row.intent is not None
            and row.intent.replicas
            and row.cancel is None
            and (
                opened is None
                or not may_evict(row.intent, opened.peer_id, self.states.holders(row.id, here))
            )
        }
        await trio.to_thread.run_sync(self._store.keep_replicas, kept)

    def _wake(self) -> None:
        self._look.set()


def _stage(state: State) -> tuple[Stage, str]:
    return state.stage, state.code


def _parts(entries: Sequence[T], most: int) -> list[tuple[T, ...]]:
    return [tuple(entries[at : at + most]) for at in range(0, len(entries), most)]
