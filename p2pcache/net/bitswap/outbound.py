"""What we have to say to peers: one task and one stream for each to whom there is something.

It lies in the two machines, which are bounded, until a stream takes it: a peer that reads slowly
holds up nobody, and is let go after `send_s`.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from p2pcache.content import cid as cids
from p2pcache.content.peerid import format_peer_id
from p2pcache.errors import P2PCacheError, Unavailable
from p2pcache.net.bitswap import wire
from p2pcache.net.bitswap.ledger import Batch
from p2pcache.net.bitswap.wire import Block, Entry, Kind, Message

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from p2pcache.content.peerid import PeerId
    from p2pcache.net.bitswap.ledger import Ledgers
    from p2pcache.net.bitswap.machine import Wants
    from p2pcache.net.bitswap.options import BitswapOptions, Served
    from p2pcache.net.port import Host, Stream

log = logging.getLogger(__name__)

MAX_FAILURES = 3  # streams to a peer that broke one after the other
_ACLOSE_S = 2.0


class Outbound:
    """For the trio thread. `look`: have wants of a peer looked up again; `let_go`: nothing more is
    said to it. `counts` are those of `Bitswap.statistics`.
    """

    def __init__(
        self,
        host: Host,
        blocks: Served,
        nursery: trio.Nursery,
        options: BitswapOptions,
        ledgers: Ledgers,
        wants: Wants,
        *,
        look: Callable[[PeerId, Iterable[bytes]], Awaitable[None]],
        let_go: Callable[[PeerId], None],
        counts: Counter[str],
    ) -> None:
        self._host = host
        self._blocks = blocks
        self._nursery = nursery
        self._options = options
        self._ledgers = ledgers
        self._wants = wants
        self._look = look
        self._let_go = let_go
        self._counts = counts
        self._scopes: dict[PeerId, trio.CancelScope] = {}
        self._wakes: dict[PeerId, trio.Event] = {}  # of the task that writes to a peer

    def stir(self, peers: Iterable[PeerId]) -> None:
        """There may be something to say to these."""
        for peer in peers:
            if peer in self._wakes:
                self._wakes[peer].set()
            elif self._has_more(peer):
                self._wakes[peer] = trio.Event()
                self._nursery.start_soon(self._write, peer)

    def end(self, peer: PeerId) -> None:
        """It left: what its task waits for is not wanted any more."""
        if peer in self._scopes:
            self._scopes[peer].cancel()

    def _has_more(self, peer: PeerId) -> bool:
        return self._wants.has_more(peer) or self._ledgers.has_more(peer)

    async def _write(self, peer: PeerId) -> None:
        """One task for each peer to whom there is something to say."""
        self._scopes[peer] = scope = trio.CancelScope()
        with scope:
            await self._write_until_silent(peer)

    async def _write_until_silent(self, peer: PeerId) -> None:
        failures = 0
        try:
            while self._has_more(peer) and failures < MAX_FAILURES:
                stream, old = await self._open(peer)
                try:
                    await self._write_all(peer, stream, old=old)
                    failures = 0
                except Unavailable as exc:
                    failures += 1
                    log.debug("writing to %s: %s", format_peer_id(peer), exc.message)
                    self._wants.restart(peer)
                finally:
                    with trio.move_on_after(_ACLOSE_S, shield=True):
                        await stream.aclose()
            if failures:
                self._let_go(peer)
        except P2PCacheError as exc:
            log.debug("no bitswap with %s: %s", format_peer_id(peer), exc.message)
            self._let_go(peer)
        finally:
            del self._wakes[peer], self._scopes[peer]

    async def _open(self, peer: PeerId) -> tuple[Stream, bool]:
        """A stream, and whether its other end knows no presences."""
        new, old = wire.PROTOCOLS
        try:
            return await self._host.open_stream(peer, new, timeout_s=self._options.open_s), False
        except Unavailable:
            return await self._host.open_stream(peer, old, timeout_s=self._options.open_s), True

    async def _write_all(self, peer: PeerId, stream: Stream, *, old: bool) -> None:
        """Until there was nothing to say for a while. Raises Unavailable: what was taken last may
        be lost.
        """
        while True:
            if not self._has_more(peer):
                self._wakes[peer] = trio.Event()
                with trio.move_on_after(self._options.idle_s):
                    await self._wakes[peer].wait()
                if not self._has_more(peer):
                    return
            entries, batch = self._wants.take(peer), self._ledgers.take(peer)
            try:
                data = await self._message(peer, entries, batch, old=old)
                with trio.move_on_after(self._options.send_s) as patience:
                    await stream.send_all(data)
            except Unavailable:
                if batch is not None:
                    await self._look(peer, self._ledgers.unsent(peer, batch))
                raise
            if patience.cancelled_caught:
                raise P2PCacheError("it takes no bytes")

    async def _message(
        self, peer: PeerId, entries: Sequence[Entry], batch: Batch | None, *, old: bool
    ) -> bytes:
        if batch is None:
            batch = Batch((), (), ())
        blocks = []
        for entry in batch.blocks:
            try:
                data = await self._blocks.get(cids.as_v1(entry.cid), local=True)
            except P2PCacheError as exc:  # gone, or a disk that cannot be read now
                log.debug("not served: %s", exc.message)
                for cid in self._ledgers.unsent(peer, Batch((entry,), (), ())):
                    self._ledgers.looked(peer, cid, None)
                continue
            blocks.append(Block(wire.prefix_of(entry.cid), data))
            self._counts["blocks_sent_total"] += 1
            self._counts["bytes_sent_total"] += len(data)
        if old:
            whole = [Entry(e.cid, e.priority, Kind.BLOCK, cancel=e.cancel) for e in entries]
            return wire.frame(Message(tuple(whole), blocks=tuple(blocks)))
        return wire.frame(
            Message(
                tuple(entries),
                blocks=tuple(blocks),
                haves=batch.haves,
                dont_haves=batch.dont_haves,
            )
        )
