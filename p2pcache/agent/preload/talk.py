"""What members say of preloads, and what this agent says of itself: the words, not the work.

Nothing that a member says is waited for, and what it costs is bounded by the link's rates, the
book's limits, and a bucket for the questions of each.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Protocol, TypeVar

import trio

from p2pcache.agent.preload.reports import LEAVING
from p2pcache.errors import Denied
from p2pcache.net.sync import preloads as wire
from p2pcache.net.sync.limits import Bucket
from p2pcache.net.sync.preloads import Stage, State

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from p2pcache.agent.network import AgentNetwork
    from p2pcache.agent.preload.book import Book
    from p2pcache.agent.preload.job import Job
    from p2pcache.agent.preload.reports import Attendance, Reports
    from p2pcache.content.peerid import PeerId

T = TypeVar("T")


class Wake(Protocol):
    """See Talk."""

    def __call__(self, *, check: bool = False) -> None:
        """Returns at once."""
        ...


TELL_S = 1.0  # between two words on bytes, to those who watch
RETELL_S = 15.0  # everything again: a word that found no room was left out
WATCH_S = 60.0  # that a watcher is told without asking again
MAX_WATCHERS = 64  # of one preload
ASK_AGAIN_S = 60.0  # who told more than its bucket allowed: 300 more then
QUESTIONS_PER_S, QUESTIONS_BURST = 1.0, 16.0  # of one member: some watch several preloads


class Talk:
    """The conversation of one open network. `wake`: something is new, `check`: which makes a look
    into the store worth while. For the trio thread.
    """

    def __init__(
        self,
        opened: AgentNetwork,
        book: Book,
        reports: Reports,
        attendance: Attendance,
        jobs: Mapping[bytes, Job],
        wake: Wake,
    ) -> None:
        self._opened = opened
        self._book = book
        self._reports = reports
        self._attendance = attendance
        self._jobs = jobs
        self._wake = wake
        self._questions: dict[PeerId, Bucket] = {}
        self._told_at = self._retold_at = float("-inf")
        self._asked_at = trio.current_time()

    # -- what members say ------------------------------------------------------------------------

    def heard(self, peer: PeerId, message: wire.Message) -> None:
        """See Network.on_preload. Raises Untrusted."""
        match message:
            case wire.Records(records):
                new = self._book.hear(peer, records, self._welcome)
                for part in _parts(new, wire.MAX_RECORDS):
                    self._opened.network.tell_preload(wire.Records(part), but=peer)
                if new:
                    self._wake()
            case wire.States(entries):
                for state in entries:
                    if self._book.find(state.id) is not None:
                        self._reports.hear(peer, state, trio.current_time())
                self._wake(check=any(state.code == LEAVING for state in entries))
            case wire.Watch(ids):
                if self._may_ask(peer):
                    self._watched(peer, ids)
                    if not ids:
                        self.tell_records(peer)

    def _welcome(self, signer: PeerId) -> bool:
        opened = self._opened
        if opened.is_banned(signer):
            return False
        return self._book.takes_part(signer, opened.peer_id, opened.admin)

    def _may_ask(self, peer: PeerId) -> bool:
        now = trio.current_time()
        if peer not in self._questions:
            here = self._attendance.here | {peer}
            self._questions = {who: b for who, b in self._questions.items() if who in here}
            self._questions[peer] = Bucket(QUESTIONS_PER_S, QUESTIONS_BURST, now)
        return self._questions[peer].take(1, now)

    def _watched(self, peer: PeerId, ids: Iterable[bytes]) -> None:
        told = []
        for id_ in ids:
            job = self._jobs.get(id_)
            if job is not None and self._may_hear(peer, job):
                job.watchers.pop(peer, None)
                job.watchers[peer] = trio.current_time() + WATCH_S
                if len(job.watchers) > MAX_WATCHERS:
                    del job.watchers[next(iter(job.watchers))]
                told.append(_shown(job))
            elif job is None and not self._welcome(peer):
                told.append(State(id_, Stage.REFUSED, 0, 0, 0, 0.0, Denied.code, ""))
        if told:
            self._opened.network.tell_preload(wire.States(tuple(told)), to=peer)

    # -- what is said of this agent --------------------------------------------------------------

    def greet(self, peer: PeerId) -> None:
        """Tell a newcomer what we know, and how far we are."""
        self.tell_records(peer)
        self._tell_states(peer, self._jobs.values())

    def tell_records(self, peer: PeerId) -> None:
        """All that we know."""
        for part in _parts(self._book.records(), wire.MAX_RECORDS):
            self._opened.network.tell_preload(wire.Records(part), to=peer)

    def tell(self) -> None:
        """Stages to everybody as they change, bytes to those who watch, all now and then."""
        now = trio.current_time()
        again = now >= self._retold_at + RETELL_S
        bytes_too = now >= self._told_at + TELL_S
        news: dict[PeerId, list[Job]] = {}
        for job in self._jobs.values():
            job.watchers = {peer: until for peer, until in job.watchers.items() if until > now}
            if again or job.turned:
                to = self._attendance.here
            elif bytes_too and job.told != job.state:
                to = self._attendance.here & {job.intent.signer, *job.watchers}
            else:
                continue
            job.told = job.state
            for peer in to:
                news.setdefault(peer, []).append(job)
        self._retold_at = now if again else self._retold_at
        self._told_at = now if bytes_too else self._told_at
        for peer, jobs in news.items():
            self._tell_states(peer, jobs)
        if now >= self._asked_at + ASK_AGAIN_S:
            self._asked_at = now
            for peer in self._book.missed:
                self._opened.network.tell_preload(wire.Watch(()), to=peer)
            self._book.missed.clear()

    def _tell_states(self, peer: PeerId, jobs: Iterable[Job]) -> None:
        shown = [_shown(job) for job in jobs if self._may_hear(peer, job)]
        for part in _parts(shown, wire.MAX_STATES):
            self._opened.network.tell_preload(wire.States(part), to=peer)

    def _may_hear(self, peer: PeerId, job: Job) -> bool:
        """Who has restricted content is nobody's business but whose wish it is."""
        return job.intent.signer == peer or not job.hidden


def _shown(job: Job) -> State:
    """Our state as those may see it who may hear of it: of restricted content that is the signer,
    which is told no sizes unless it may read it.
    """
    if not job.hidden or job.signer_reads:
        return job.state
    return replace(job.state, done_bytes=0, total_bytes=0, origin_bytes=0, bytes_per_s=0.0)


def _parts(entries: Sequence[T], most: int) -> list[tuple[T, ...]]:
    return [tuple(entries[at : at + most]) for at in range(0, len(entries), most)]
