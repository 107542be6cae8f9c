"""Questions to servers of the DHT. Nobody who asks ever waits longer than `query_s`.

The I/O of a question lives in a task of its own (libp2p I/O is not cancelled by whoever waits: a
frozen peer may hold a shielded write until the host cuts it); the asker waits for its outcome. Who
did not answer is left alone for a while, and comes back when it is heard of again.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import trio
from libp2p.kad_dht.common import PROTOCOL_ID
from libp2p.network.stream.exceptions import StreamError
from libp2p.peer.id import ID

from p2pcache.content.peerid import format_peer_id
from p2pcache.errors import P2PCacheError, Unavailable
from p2pcache.net.dht.wire import Frames

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from p2pcache.content.peerid import PeerId
    from p2pcache.net.dht.kad_host import KadHost

MAX_RUNNING_PER_PEER = 8  # a frozen peer keeps no more tasks than this
SHUN_S = 30.0  # after no answer; a restart or a thaw is heard of sooner (a connection, a question)
MAX_SHUNNED = 4096

log = logging.getLogger(__name__)


class Connect(Protocol):
    """`Host.connect` of net/port."""

    async def __call__(self, peer: PeerId, addresses: Sequence[str], *, timeout_s: float) -> None:
        """Raises Unavailable, Denied or Untrusted; returns at once when connected."""
        ...


@dataclass(slots=True, eq=False)
class Question:
    """On its way, or answered: `answers` is None when no (whole) answer came."""

    done: trio.Event = field(default_factory=trio.Event)
    answers: list[bytes] | None = None
    received_count: int = 0

    async def wait(self, timeout_s: float) -> bool:
        """Whether it is over. Cancel-safe: the I/O goes on."""
        with trio.move_on_after(timeout_s):
            await self.done.wait()
        return self.done.is_set()


class Asker:
    """Asks over `host`; tasks run in `nursery`. `on_dead(peer)` hears of those without answer."""

    def __init__(
        self,
        host: KadHost,
        connect: Connect,
        nursery: trio.Nursery,
        *,
        query_s: float,
        on_dead: Callable[[PeerId], None],
    ) -> None:
        self._host = host
        self._connect = connect
        self._nursery = nursery
        self.query_s = query_s
        self._on_dead = on_dead
        self._running: Counter[PeerId] = Counter()
        self._shunned: dict[PeerId, float] = {}
        self.asked_count = 0
        self.failed_count = 0

    def shuns(self, peer: PeerId) -> bool:
        """Whether somebody gave no answer lately."""
        until = self._shunned.get(peer)
        return until is not None and trio.current_time() < until

    def heard(self, peer: PeerId) -> None:
        """Somebody is there (again)."""
        self._shunned.pop(peer, None)

    def ask(
        self, peer: PeerId, addresses: Sequence[str], frames: bytes, answer_count: int = 1
    ) -> Question:
        """Send frames and wait for so many answers; never blocks."""
        question = Question()
        if self._running[peer] >= MAX_RUNNING_PER_PEER:
            question.done.set()
            return question
        self._running[peer] += 1
        self.asked_count += 1
        self._nursery.start_soon(self._run, question, peer, addresses, frames, answer_count)
        return question

    async def _run(
        self,
        question: Question,
        peer: PeerId,
        addresses: Sequence[str],
        frames: bytes,
        answer_count: int,
    ) -> None:
        problem: object = "no answer in time"
        try:
            with trio.move_on_after(self.query_s):
                question.answers = await self._talk(question, peer, addresses, frames, answer_count)
        except P2PCacheError as exc:
            problem = exc
        except Exception as exc:  # noqa: BLE001 - whatever libp2p raises: this question failed
            problem = repr(exc)
        finally:
            self._running[peer] -= 1
            if not self._running[peer]:
                del self._running[peer]
            if question.answers is None:
                self.failed_count += 1
                self._shun(peer)
            else:
                self.heard(peer)
            question.done.set()
        if question.answers is None:
            log.debug("no DHT answer from %s: %s", format_peer_id(peer), problem)

    async def _talk(
        self,
        question: Question,
        peer: PeerId,
        addresses: Sequence[str],
        frames: bytes,
        answer_count: int,
    ) -> list[bytes]:
        known = ID(peer)
        if known not in self._host.get_connected_peers():
            await self._connect(peer, addresses, timeout_s=self.query_s)
        stream = await self._host.new_stream(known, [PROTOCOL_ID])
        whole = False
        try:
            await stream.write(frames)
            answers: list[bytes] = []
            cut = Frames()
            while len(answers) < answer_count:
                try:
                    answers += cut.feed(await stream.read(64 * 1024))
                except StreamError as exc:
                    raise Unavailable("the stream ended") from exc
                question.received_count = len(answers)
            whole = True
            return answers
        finally:
            with trio.move_on_after(1, shield=True):
                await (stream.close() if whole else stream.reset())

    def _shun(self, peer: PeerId) -> None:
        if len(self._shunned) >= MAX_SHUNNED:
            del self._shunned[next(iter(self._shunned))]
        self._shunned[peer] = trio.current_time() + SHUN_S
        self._on_dead(peer)
