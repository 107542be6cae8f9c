"""Questions to servers of the DHT. Nobody who asks ever waits longer than `query_s`.

A question is a task of its own that ends when whoever asked leaves. Who did not answer is left
alone for a while, and comes back when it is heard of.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

from p2pcache.content.peerid import format_peer_id
from p2pcache.errors import P2PCacheError, Untrusted
from p2pcache.net.dht.wire import MAX_FRAME_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from p2pcache.content.peerid import PeerId
    from p2pcache.net.port import Host, Stream

MAX_AT_ONCE = 8  # conversations with one peer; it serves 16
MAX_WAITING = 128  # questions to one peer; a frozen one keeps no more tasks than this
SHUN_S = (2.0, 8.0, 30.0)  # after no answer, once, twice, more often: a loaded machine is no frozen
# one; and a restart is heard of sooner (a connection)
MAX_SHUNNED = 4096

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Question:
    """On its way, or answered: `answers` is None when no (whole) answer came."""

    done: trio.Event = field(default_factory=trio.Event)
    answers: list[bytes] | None = None
    received_count: int = 0
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)

    async def wait(self, timeout_s: float) -> bool:
        """Whether it is over. If cancelled, the question is dropped (its stream is reset)."""
        with trio.move_on_after(timeout_s) as patience:
            try:
                await self.done.wait()
            except trio.Cancelled:
                if not patience.cancel_called:
                    self.scope.cancel()
                raise
        return self.done.is_set()


class Asker:
    """Asks over `host`; tasks run in `nursery`. `on_dead(peer)` hears of those without answer."""

    def __init__(
        self,
        host: Host,
        nursery: trio.Nursery,
        *,
        protocol: str,
        query_s: float,
        on_dead: Callable[[PeerId], None],
    ) -> None:
        self._host = host
        self._protocol = protocol
        self._nursery = nursery
        self.query_s = query_s
        self._on_dead = on_dead
        self._waiting: Counter[PeerId] = Counter()
        self._slots: dict[PeerId, trio.CapacityLimiter] = {}
        self._shunned: dict[PeerId, tuple[float, int]] = {}  # until when, after how many failures
        self.asked_count = 0
        self.failed_count = 0

    def shuns(self, peer: PeerId) -> bool:
        """Whether somebody gave no answer lately."""
        until, _ = self._shunned.get(peer, (0.0, 0))
        return trio.current_time() < until

    def heard(self, peer: PeerId) -> None:
        """Somebody is there (again)."""
        self._shunned.pop(peer, None)

    def ask(
        self,
        peer: PeerId,
        addresses: Sequence[str],
        frames: bytes,
        answer_count: int = 1,
        *,
        timeout_s: float | None = None,
    ) -> Question:
        """Send frames and wait for so many answers, perhaps none; never blocks.

        `timeout_s`: `query_s` if not said.
        """
        question = Question()
        if self._waiting[peer] >= MAX_WAITING:
            question.done.set()
            return question
        self._waiting[peer] += 1
        self.asked_count += 1
        limit_s = timeout_s or self.query_s
        self._nursery.start_soon(
            self._run, question, peer, addresses, frames, answer_count, limit_s
        )
        return question

    async def _run(
        self,
        question: Question,
        peer: PeerId,
        addresses: Sequence[str],
        frames: bytes,
        answer_count: int,
        limit_s: float,
    ) -> None:
        slots = self._slots.setdefault(peer, trio.CapacityLimiter(MAX_AT_ONCE))
        try:
            question.scope.deadline = trio.current_time() + 2 * limit_s
            with question.scope:
                async with slots:
                    await self._put(question, peer, addresses, frames, answer_count, limit_s)
        finally:
            self._waiting[peer] -= 1
            if not self._waiting[peer]:
                del self._waiting[peer], self._slots[peer]
            question.done.set()

    async def _put(
        self,
        question: Question,
        peer: PeerId,
        addresses: Sequence[str],
        frames: bytes,
        answer_count: int,
        limit_s: float,
    ) -> None:
        problem = "no answer in time"
        try:
            with trio.move_on_after(limit_s):
                await self._host.connect(peer, addresses, timeout_s=self.query_s)
                stream = await self._host.open_stream(peer, self._protocol, timeout_s=self.query_s)
                try:
                    await stream.send_all(frames)
                    answers = []
                    for _ in range(answer_count):
                        answers.append(await _receive(stream))
                        question.received_count += 1
                    question.answers = answers
                finally:
                    await stream.aclose()
        except P2PCacheError as exc:
            problem = exc.message
        if question.answers is None:
            self.failed_count += 1
            if not question.received_count:  # else it is slow, or we are
                self._shun(peer)
            log.debug("no DHT answer from %s: %s", format_peer_id(peer), problem)
        else:
            self.heard(peer)

    def _shun(self, peer: PeerId) -> None:
        if len(self._shunned) >= MAX_SHUNNED:
            del self._shunned[next(iter(self._shunned))]
        now = trio.current_time()
        until, failures = self._shunned.pop(peer, (0.0, 0))
        if now >= until:  # questions that were on their way together count once
            until = now + SHUN_S[min(failures, len(SHUN_S) - 1)]
            failures += 1
        self._shunned[peer] = until, failures
        self._on_dead(peer)


async def _receive(stream: Stream) -> bytes:
    size = 0
    for shift in (0, 7, 14):
        byte = (await stream.receive_exactly(1))[0]
        size |= (byte & 127) << shift
        if not byte & 128:
            if size <= MAX_FRAME_BYTES:
                return await stream.receive_exactly(size)
            break
    raise Untrusted("a DHT answer is too long")
