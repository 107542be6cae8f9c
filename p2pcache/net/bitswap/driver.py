"""Bitswap over `net.port.Host`: who is there, who waits for what, and who may have it.

Messages are read from streams that the peer opened (`inbound`) and written to streams of our own
(`outbound`), one of each and long-lived (Kubo and Helia close the other direction). What we want
and what others want of us is decided by `machine` and `ledger`. Blocks that come are hashed before
anybody sees them.
"""

from __future__ import annotations

import logging
from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from p2pcache.content import cid as cids
from p2pcache.content.blocks import MAX_BLOCK_BYTES
from p2pcache.content.dag.hashes import check_hash, raw_hash
from p2pcache.content.peerid import format_peer_id
from p2pcache.errors import NotFound, P2PCacheError, Unavailable, Untrusted, plain_errors
from p2pcache.net.bitswap import wire
from p2pcache.net.bitswap.inbound import Inbound
from p2pcache.net.bitswap.ledger import Ledgers
from p2pcache.net.bitswap.machine import Came, Wants
from p2pcache.net.bitswap.mutes import Mutes
from p2pcache.net.bitswap.options import BitswapOptions
from p2pcache.net.bitswap.outbound import Outbound
from p2pcache.net.port import Down, Up

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from p2pcache.content.peerid import PeerId
    from p2pcache.net.bitswap.inbound import Named
    from p2pcache.net.bitswap.options import Find, Served
    from p2pcache.net.bitswap.wire import Message
    from p2pcache.net.port import Host

log = logging.getLogger(__name__)


class _Waiter:
    """One `get`. `patient`: it waits although everybody said no."""

    def __init__(self, *, patient: bool) -> None:
        self.done = trio.Event()
        self.patient = patient
        self.data: bytes | None = None
        self.error: P2PCacheError | None = None


class Session:
    """Blocks that belong together: who gave one is asked for the next."""

    def __init__(self, bitswap: Bitswap, number: int) -> None:
        self._bitswap = bitswap
        self._number = number
        self._places = trio.CapacityLimiter(bitswap.options.max_gets)

    async def get(self, cid: bytes, *, timeout_s: float, patient: bool = False) -> bytes:
        """A block (CID of version 0 or 1), verified, from whoever has it.

        Raises Untrusted (no CID that can be verified, a block of more than 2 MiB), NotFound as soon
        as everybody that can be asked said no (unless `patient`: it may come later), Unavailable
        after `timeout_s`. If cancelled, all who were asked are told.
        """
        async with self._places:
            return await self._bitswap._get(cid, self._number, timeout_s, patient=patient)


class Bitswap:
    """Made by `open_bitswap`. For the trio thread."""

    def __init__(
        self,
        host: Host,
        blocks: Served,
        nursery: trio.Nursery,
        options: BitswapOptions,
        find: Find | None,
    ) -> None:
        self.options = options
        self._host = host
        self._blocks = blocks
        self._nursery = nursery
        self._find = find
        self._ledgers = Ledgers()
        self._wants = Wants(options.want)
        self._waiters: dict[bytes, list[_Waiter]] = {}
        self._mutes = Mutes(options.mute_s)
        self._inbound = Inbound(self, options)
        self._found_at: dict[bytes, float] = {}
        self._looking: set[bytes] = set()  # whose providers are being looked up, or will be
        self._finding = trio.CapacityLimiter(options.max_finds)
        self._came: dict[bytes | None, None] = {}  # multihashes, None: look at all
        self._news = trio.Event()
        self._session_count = 0
        self._counts: Counter[str] = Counter()
        self._outbound = Outbound(
            host, blocks, nursery, options, self._ledgers, self._wants,
            look=self._look, let_go=self._let_go, counts=self._counts,
        )  # fmt: skip

    # -- for others

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Session]:
        """A fetch of several blocks; ends with the block."""
        self._session_count += 1
        number = self._session_count
        try:
            yield Session(self, number)
        finally:
            self._wants.end_session(number)

    def arrived(self, multihash: bytes | None) -> None:
        """A block is here now (None: many): whoever waits for it is served at once. As
        `Blocks.watch` tells it.
        """
        if multihash is None or self._ledgers.waiting_as(multihash):
            self._came[multihash] = None
            self._news.set()

    def statistics(self) -> dict[str, int]:
        """For `status`: all counts."""
        return {
            "wants": self._wants.count(),
            "wants_of_peers": self._ledgers.count(),
            "wants_refused_total": self._ledgers.refused_count,
            "blocks_received_again_total": self._wants.again_count,
            "blocks_not_asked_for_total": self._wants.unasked_count,
            "muted": self._mutes.count(),
            **self._counts,
        }

    async def run(self) -> None:
        """Follow who is there; until cancelled."""
        events = self._host.watch()
        for protocol in wire.PROTOCOLS:
            self._host.set_handler(protocol, self._inbound.answer)
        for peer in self._host.connected():
            self._up(peer)
        self._nursery.start_soon(self._tick)
        self._nursery.start_soon(self._serve_late)
        async for event in events:
            match event:
                case Up(peer):
                    self._up(peer)
                case Down(peer):
                    self._wants.down(peer, trio.current_time())
                    self._ledgers.forget(peer)
                    self._outbound.end(peer)
            self._follow()

    # -- what we want

    async def _get(self, cid: bytes, session: int, timeout_s: float, *, patient: bool) -> bytes:
        check_hash(cid)
        parts = cids.parts(cid)
        if raw_hash(parts.hash_code, b"") == parts.digest:
            return b""  # everybody knows it, and Kubo says that it has no such block
        waiter = _Waiter(patient=patient)
        self._waiters.setdefault(cid, []).append(waiter)
        self._wants.want(cid, session, trio.current_time())
        self._follow()
        try:
            with trio.move_on_after(timeout_s):
                await waiter.done.wait()
        finally:
            waiting = self._waiters.get(cid, [])
            if waiter in waiting:
                waiting.remove(waiter)
                if not waiting:
                    del self._waiters[cid]
                self._wants.unwant(cid, session)
                self._follow()
        if waiter.data is not None:
            return waiter.data
        raise waiter.error or Unavailable(
            f"no peer sent the block `{cids.format_cid(cids.as_v1(cid))}` in {timeout_s:.0f} s"
        )

    def _give(self, cid: bytes, data: bytes) -> None:
        for waiter in self._waiters.pop(cid, ()):
            waiter.data = data
            waiter.done.set()

    def _fail(self, cid: bytes, error: P2PCacheError, *, patient: bool) -> None:
        for waiter in self._waiters.get(cid, ()):
            if patient or not waiter.patient:
                waiter.error = error
                waiter.done.set()

    def _follow(self) -> None:
        """After anything happened to the wants: look up providers, wake writers."""
        for cid in self._wants.take_hopeless():
            now = trio.current_time()
            looked_up = now - self._found_at.get(cid, -self.options.find_again_s)
            again = looked_up >= self.options.find_again_s and cid not in self._looking
            if self._find is not None and again:
                since = now - self.options.find_again_s
                self._found_at = {one: at for one, at in self._found_at.items() if at > since}
                self._found_at[cid] = now
                self._looking.add(cid)
                self._nursery.start_soon(self._look_up, self._find, cid)
            elif looked_up > 0 or self._find is None:
                self._give_up(cid)
        self._outbound.stir(self._wants.talks())

    def _give_up(self, cid: bytes, error: P2PCacheError | None = None) -> None:
        if self._wants.is_refused(cid):
            nobody = NotFound(f"no peer has the block `{cids.format_cid(cids.as_v1(cid))}`")
            self._fail(cid, error or nobody, patient=False)

    async def _look_up(self, find: Find, cid: bytes) -> None:
        error = None
        try:
            async with self._finding:
                if cid not in self._waiters:
                    return
                error = await self._connect_providers(find, cid)
        finally:
            self._looking.discard(cid)
        self._give_up(cid, error)

    async def _connect_providers(self, find: Find, cid: bytes) -> P2PCacheError | None:
        """Connect to those who are said to have it; they are asked like all others then. What was
        wrong, when some are said to and none was reached.
        """
        reached, errors = 0, list[P2PCacheError]()
        places = trio.Semaphore(self.options.max_dials)

        async def dial(peer: PeerId, addresses: tuple[str, ...]) -> None:
            nonlocal reached
            try:
                await self._host.connect(peer, addresses, timeout_s=self.options.dial_s)
                reached += 1
                self._up(peer)
                self._outbound.stir(self._wants.talks())
            except P2PCacheError as exc:
                log.debug("a provider was not reached: %s", exc.message)
                errors.append(exc)
            finally:
                places.release()

        try:
            async with find(cids.as_v1(cid)) as found, trio.open_nursery() as nursery:
                async for peer, addresses in found:
                    if reached + len(errors) >= self.options.max_named:
                        break
                    if not self.is_muted(peer):
                        await places.acquire()
                        nursery.start_soon(dial, peer, addresses)
        except P2PCacheError as exc:
            errors.append(exc)
        if reached or not errors:
            return None
        return Unavailable(f"who is said to have the block was not reached: {errors[0].message}")

    async def _tick(self) -> None:
        while True:
            await trio.sleep(self.options.tick_s)
            self._end_mutes()
            self._inbound.forget_idle()
            if self._wants.count():
                self._wants.tick(trio.current_time())
                self._follow()

    # -- what comes

    async def heard(self, peer: PeerId, message: Message, blocks: Named) -> int:
        """See `inbound.Hears`."""
        now = trio.current_time()
        self._up(peer)
        wanted = sum(self._take_block(peer, cid, data) for cid, data in blocks)
        if self._wants.is_to_blame(peer):
            raise Untrusted("it sends blocks that it was not asked for")
        self._wants.presence(peer, message.haves, message.dont_haves, now)
        self._follow()
        if message.entries or message.full:
            await self._look(peer, self._ledgers.heard(peer, message.entries, full=message.full))
        return wanted

    def _take_block(self, peer: PeerId, cid: bytes, data: bytes) -> bool:
        """Whether it was wanted."""
        self._counts["blocks_received_total"] += 1
        self._counts["bytes_received_total"] += len(data)
        if len(data) > MAX_BLOCK_BYTES and cid in self._waiters:
            problem = f"a block of {len(data)} bytes came; {MAX_BLOCK_BYTES} is the most"
            self._fail(cid, Untrusted(problem), patient=True)
            return False
        wanted = self._wants.block(peer, cid, trio.current_time()) is Came.WANTED
        if wanted:
            self._give(cid, data)
        return wanted

    async def _look(self, peer: PeerId, asked: Iterable[bytes]) -> None:
        for cid in asked:
            self._ledgers.looked(peer, cid, await self._size(cid))
            self._outbound.stir([peer])
        self._outbound.stir([peer])

    async def _size(self, cid: bytes) -> int | None:
        try:
            return await self._blocks.length(cids.as_v1(cid))
        except P2PCacheError as exc:
            log.debug("not looked up: %s", exc.message)
            return None

    async def _serve_late(self) -> None:
        """What peers waited for has come."""
        while True:
            await self._news.wait()
            self._news = trio.Event()
            came, self._came = self._came, {}
            for multihash in self._ledgers.waiting() if None in came else came:
                names = self._ledgers.waiting_as(multihash) if multihash else ()
                size = await self._size(names[0]) if names else None
                if size is not None and multihash is not None:
                    self._outbound.stir(self._ledgers.arrived(multihash, size))

    def mute(self, peer: PeerId, why: str) -> None:
        """See `inbound.Hears`."""
        log.warning("bitswap with %s ends: %s", format_peer_id(peer), why)
        self._mutes.mute(peer, trio.current_time())
        self._let_go(peer)

    def is_muted(self, peer: PeerId) -> bool:
        """See `inbound.Hears`."""
        return self._mutes.is_muted(peer, trio.current_time())

    def _end_mutes(self) -> None:
        """Those whose time is over are asked again, if they are still there."""
        for peer in self._mutes.take_ended(trio.current_time()):
            if peer in self._host.connected():
                self._up(peer)

    def _up(self, peer: PeerId) -> None:
        """It can be asked, unless its answers would not be listened to."""
        if not self.is_muted(peer):
            self._wants.up(peer, trio.current_time())

    def _let_go(self, peer: PeerId) -> None:
        """Nothing more to or from a peer, until it is heard of again."""
        self._wants.down(peer, trio.current_time())
        self._ledgers.forget(peer)
        self._follow()


@asynccontextmanager
async def open_bitswap(
    host: Host, blocks: Served, options: BitswapOptions | None = None, find: Find | None = None
) -> AsyncIterator[Bitswap]:
    """Serve and fetch over a host, until the block is left. `find`: who provides a CIDv1."""
    with plain_errors():
        async with trio.open_nursery() as nursery:
            bitswap = Bitswap(host, blocks, nursery, options or BitswapOptions(), find)
            nursery.start_soon(bitswap.run)
            yield bitswap
            nursery.cancel_scope.cancel()
