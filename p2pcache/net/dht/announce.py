"""Tells servers what we provide: many records over one stream, paced, and again in time."""

from __future__ import annotations

import heapq
import itertools
import logging
from typing import TYPE_CHECKING

import trio

from p2pcache.net.dht import wire
from p2pcache.net.dht.lookup import key_of
from p2pcache.net.dht.plan import Batch, Plan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from p2pcache.content.peerid import PeerId
    from p2pcache.net.dht.asking import Asker

BATCH = 128  # records a stream: 25 ms of a server's time, so that a withdrawal is never far behind
MAX_TALKS = 8  # servers told at once
PACE_BURST = 1024  # records: an intent or a push goes out at once
SLICE = 64  # names aimed without a break: 4 ms with 64 servers
RETRY_S = 2.0  # a refused server, and the least time between two looks at a changed table

log = logging.getLogger(__name__)


class Announcer:
    """Owns the plan; `servers()` are the candidates now (peer and its key), without the shunned.

    `echoed`: they answer an announcement with itself.
    """

    def __init__(
        self,
        me: PeerId,
        provided: dict[bytes, None],
        asker: Asker,
        servers: Callable[[], Sequence[tuple[PeerId, int]]],
        addresses: Callable[[], Sequence[str]],
        *,
        replicas: int,
        refresh_s: float,
        records_per_s: float,
        echoed: bool,
    ) -> None:
        self._me = me
        self._echoed = echoed
        self._asker = asker
        self._servers = servers
        self._addresses = addresses
        self._replicas = replicas
        self._refresh_s = refresh_s
        self._records_per_s = records_per_s
        self._plan = Plan(provided)
        self._fresh: dict[bytes, None] = {}  # to be aimed
        self._wake = trio.Event()
        self._idle = trio.Event()
        self._talking: set[PeerId] = set()
        self._paced_until = 0.0
        self.sent_count = 0
        self.refresh_count = 0

    @property
    def names(self) -> dict[bytes, None]:
        """What we provide, live: the server answers from the same."""
        return self._plan.names

    def provide(self, names: Iterable[bytes]) -> None:
        """Provide from now on; the servers hear of it within milliseconds."""
        self._fresh.update(dict.fromkeys(self._plan.provide(names)))
        self._stir()

    def withdraw(self, names: Iterable[bytes]) -> None:
        """Provide no longer."""
        names = list(names)
        for name in names:
            self._fresh.pop(name, None)
        self._plan.withdraw(names)
        self._stir()

    def forget_server(self, peer: PeerId) -> None:
        """It left; should it come back it starts anew."""
        self._plan.forget(peer)
        self._stir()

    async def wait_idle(self) -> None:
        """Until every server that can be reached was told."""
        while self._talking or self._fresh or not self._idle.is_set():
            await self._idle.wait()
            await trio.lowlevel.checkpoint()

    def told_count(self) -> int:
        """Records of ours that servers hold."""
        return self._plan.told_count()

    async def run(self) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_aimed)
            while True:
                await self._aim_some(self._take_fresh())
                for peer in self._plan.waiting():
                    if len(self._talking) >= MAX_TALKS:
                        break
                    if peer not in self._talking and not self._asker.shuns(peer):
                        self._talking.add(peer)
                        self._idle = trio.Event() if self._idle.is_set() else self._idle
                        nursery.start_soon(self._talk, peer)
                if self._fresh:
                    continue
                if not self._talking:
                    self._idle.set()
                with trio.move_on_after(RETRY_S):
                    await self._wake.wait()
                self._wake = trio.Event()

    def _take_fresh(self) -> list[bytes]:
        taken = list(itertools.islice(self._fresh, SLICE))
        for name in taken:
            del self._fresh[name]
        return taken

    async def _aim_some(self, names: Sequence[bytes], *, again: bool = False) -> None:
        """Aim the names that are still provided, without holding up anybody."""
        for start in range(0, len(names), SLICE):
            part = names[start : start + SLICE]
            self._aim([name for name in part if name in self._plan.names], again=again)
            await trio.lowlevel.checkpoint()

    def _stir(self) -> None:
        if self._idle.is_set():
            self._idle = trio.Event()
        self._wake.set()

    def _aim(self, names: Iterable[bytes], *, again: bool) -> None:
        servers = self._servers()
        for name in names:
            key = key_of(name)
            closest = heapq.nsmallest(self._replicas, servers, key=lambda s: s[1] ^ key)
            self._plan.aim(name, [peer for peer, _ in closest], again=again)

    async def _keep_aimed(self) -> None:
        """Look at everything again when servers came or went, and when records grow old."""
        known: frozenset[PeerId] = frozenset()
        renewed_at = trio.current_time()
        while True:
            await trio.sleep(min(RETRY_S, self._refresh_s / 4))
            current = frozenset(peer for peer, _ in self._servers())
            if trio.current_time() - renewed_at >= self._refresh_s:
                renewed_at = trio.current_time()
                self.refresh_count += 1
                for peer in self._plan.waiting():
                    if self._asker.shuns(peer):
                        self._plan.forget(peer)  # it does not answer: what it has grows old
                self._plan.renew()
            elif current == known:
                continue
            known = current
            names = list(self._plan.names)
            await self._aim_some(names, again=True)
            if names:
                self._stir()

    async def _talk(self, peer: PeerId) -> None:
        try:
            while (batch := self._plan.take(peer, BATCH)) is not None:
                if not await self._send(peer, batch):
                    self._plan.failed(peer, batch)
                    return
        finally:
            self._talking.discard(peer)
            self._wake.set()

    async def _send(self, peer: PeerId, batch: Batch) -> bool:
        if batch.names:
            await self._pace(len(batch.names))
        mine = wire.own_addresses(self._addresses())
        frames = [wire.take_back(name, self._me) for name in batch.back]
        frames += [wire.announce(name, self._me, mine) for name in batch.names]
        echoes = len(frames) if self._echoed else 0
        question = self._asker.ask(
            peer, (), b"".join(frames), echoes, timeout_s=3 * self._asker.query_s
        )
        await question.done.wait()
        self.sent_count += len(frames) if question.answers is not None else question.received_count
        return question.answers is not None

    async def _pace(self, count: int) -> None:
        rate = max(self._records_per_s, self._plan.told_count() / max(self._refresh_s / 4, 1))
        now = trio.current_time()
        self._paced_until = max(self._paced_until, now - PACE_BURST / rate) + count / rate
        await trio.sleep(max(0.0, self._paced_until - now))
