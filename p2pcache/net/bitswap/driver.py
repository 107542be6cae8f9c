"""Bitswap over `net.port.Host`: streams, queues and deadlines around `ledger` and `machine`.

Messages are read from streams that the peer opened and written to streams of our own, one of each
and long-lived (Kubo and Helia close the other direction). What is to be sent lies in the two
machines, which are bounded, until a stream takes it: a peer that reads slowly holds up nobody, and
is let go after `send_s`. Blocks that come are hashed before anybody sees them.
"""

from __future__ import annotations

import logging
from collections import Counter
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import trio

from p2pcache.content import cid as cids
from p2pcache.content.blocks import MAX_BLOCK_BYTES
from p2pcache.content.dag.hashes import check_hash, raw_hash
from p2pcache.content.peerid import format_peer_id
from p2pcache.errors import NotFound, P2PCacheError, Unavailable, Untrusted, plain_errors
from p2pcache.net.bitswap import wire
from p2pcache.net.bitswap.ledger import Batch, Ledgers
from p2pcache.net.bitswap.machine import Came, WantOptions, Wants
from p2pcache.net.bitswap.wire import Block, Entry, Kind, Message
from p2pcache.net.port import Down, Up

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Sequence

    from p2pcache.content.peerid import PeerId
    from p2pcache.net.port import Host, Stream

    Providers = AsyncIterator[tuple[PeerId, tuple[str, ...]]]
    Find = Callable[[bytes], AbstractAsyncContextManager[Providers]]

log = logging.getLogger(__name__)

MAX_FAILURES = 3  # streams to a peer that broke one after the other
MAX_MUTED = 1024
_ACLOSE_S = 2.0


class Served(Protocol):
    """Blocks that are here and that everybody in the network may have: a part of `Blocks`."""

    async def length(self, cid: bytes) -> int | None:
        """Its bytes, None: it is not here. Raises LocalFault."""
        ...

    async def get(self, cid: bytes, *, local: bool = False) -> bytes:
        """It; always asked for with `local`. Raises NotFound, LocalFault."""
        ...


@dataclass(frozen=True, slots=True)
class BitswapOptions:
    """Limits. A message is at most 4 MiB."""

    want: WantOptions = field(default_factory=WantOptions)
    max_gets: int = 256  # of one session at once; the rest waits
    max_streams: int = 8  # inbound, of one peer; it needs one
    open_s: float = 10.0  # to open a stream
    send_s: float = 30.0  # for a peer to take one message
    message_s: float = 60.0  # from the first byte of a message to its last
    parsed_here_bytes: int = 4 * 1024  # of a message, more in a thread: at worst 4 ms here
    hashed_here_bytes: int = 32 * 1024  # more in a thread: 20 us here, 60 us to get there
    idle_s: float = (
        5.0  # our stream is closed when there is nothing to say for so long; Helia waits 10
    )
    tick_s: float = 0.5
    find_again_s: float = 5.0  # providers of one block are looked up no more often
    max_finds: int = 4  # at once
    mute_s: float = 600.0  # who broke the rules is not listened to


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
        self._wakes: dict[PeerId, trio.Event] = {}  # of the task that writes to a peer
        self._inbound: Counter[PeerId] = Counter()
        self._muted: dict[PeerId, float] = {}  # until when
        self._found_at: dict[bytes, float] = {}
        self._looking: set[bytes] = set()  # whose providers are being looked up, or will be
        self._finding = trio.CapacityLimiter(options.max_finds)
        self._came: dict[bytes | None, None] = {}  # multihashes, None: look at all
        self._news = trio.Event()
        self._session_count = 0
        self._counts: Counter[str] = Counter()

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
            "muted": len(self._muted),
            **self._counts,
        }

    async def run(self) -> None:
        """Follow who is there; until cancelled."""
        events = self._host.watch()
        for protocol in wire.PROTOCOLS:
            self._host.set_handler(protocol, self._answer)
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
                    self._stir([peer])  # its writer ends
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
        self._stir(self._wants.talks())

    def _give_up(self, cid: bytes) -> None:
        if self._wants.is_refused(cid):
            text = cids.format_cid(cids.as_v1(cid))
            self._fail(cid, NotFound(f"no peer has the block `{text}`"), patient=False)

    async def _look_up(self, find: Find, cid: bytes) -> None:
        try:
            async with self._finding:
                if cid not in self._waiters:
                    return
                await self._connect_providers(find, cid)
        finally:
            self._looking.discard(cid)
        self._give_up(cid)

    async def _connect_providers(self, find: Find, cid: bytes) -> None:
        """Connect to those who are said to have it; they are asked like all others then."""
        try:
            async with find(cids.as_v1(cid)) as found:
                async for peer, addresses in found:
                    if self._is_muted(peer):
                        continue
                    await self._host.connect(peer, addresses, timeout_s=self.options.open_s)
                    self._up(peer)
                    self._stir(self._wants.talks())
        except P2PCacheError as exc:
            log.debug("looking for providers: %s", exc.message)

    async def _tick(self) -> None:
        while True:
            await trio.sleep(self.options.tick_s)
            self._end_mutes()
            if self._wants.count():
                self._wants.tick(trio.current_time())
                self._follow()

    # -- what comes

    async def _answer(self, stream: Stream) -> None:
        peer = stream.peer
        if self._is_muted(peer) or self._inbound[peer] >= self.options.max_streams:
            raise Unavailable("not listened to")
        self._inbound[peer] += 1
        try:
            while (size := await self._length(stream)) is not None:
                with trio.move_on_after(self.options.message_s) as patience:
                    data = await stream.receive_exactly(size)
                if patience.cancelled_caught:
                    raise Unavailable("a message did not end")
                message = await self._parsed(data)
                if self._is_muted(peer):  # for what another of its streams brought
                    raise Unavailable("not listened to")
                await self._heard(peer, message)
        except Untrusted as exc:
            self._mute(peer, exc.message)
            raise
        finally:
            self._inbound[peer] -= 1
            if not self._inbound[peer]:
                del self._inbound[peer]

    async def _length(self, stream: Stream) -> int | None:
        """Of the next message; None: the stream has ended."""
        size = 0
        for place in range(wire.MAX_LENGTH_BYTES):
            try:
                byte = (await stream.receive_exactly(1))[0]
            except Unavailable:
                return None
            size |= (byte & 127) << 7 * place
            if byte < 128:
                if size <= wire.MAX_MESSAGE_BYTES:
                    return size
                break
        raise Untrusted("a message is too long")

    async def _parsed(self, data: bytes) -> Message:
        """Raises Untrusted."""
        if len(data) > self.options.parsed_here_bytes:
            return await trio.to_thread.run_sync(wire.parse, data)
        return wire.parse(data)

    async def _heard(self, peer: PeerId, message: Message) -> None:
        now = trio.current_time()
        self._up(peer)
        if message.blocks:
            await self._take_blocks(peer, message.blocks)
        self._wants.presence(peer, message.haves, message.dont_haves, now)
        self._follow()
        if message.entries or message.full:
            await self._look(peer, self._ledgers.heard(peer, message.entries, full=message.full))

    async def _take_blocks(self, peer: PeerId, blocks: Sequence[Block]) -> None:
        if sum(len(block.data) for block in blocks) > self.options.hashed_here_bytes:
            named = await trio.to_thread.run_sync(_named, blocks)
        else:
            named = _named(blocks)
        for cid, data in named:
            self._counts["blocks_received_total"] += 1
            self._counts["bytes_received_total"] += len(data)
            if len(data) > MAX_BLOCK_BYTES and cid in self._waiters:
                problem = f"a block of {len(data)} bytes came; {MAX_BLOCK_BYTES} is the most"
                self._fail(cid, Untrusted(problem), patient=True)
            elif self._wants.block(peer, cid, trio.current_time()) is Came.WANTED:
                self._give(cid, data)
        if self._wants.is_to_blame(peer):
            raise Untrusted("it sends blocks that it was not asked for")

    async def _look(self, peer: PeerId, asked: Iterable[bytes]) -> None:
        for cid in asked:
            self._ledgers.looked(peer, cid, await self._size(cid))
            if peer not in self._wakes or not self._wakes[peer].is_set():
                self._stir([peer])
        self._stir([peer])

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
                    self._stir(self._ledgers.arrived(multihash, size))

    def _mute(self, peer: PeerId, why: str) -> None:
        log.warning("bitswap with %s ends: %s", format_peer_id(peer), why)
        self._muted.pop(peer, None)
        while len(self._muted) >= MAX_MUTED:
            self._unmute(next(iter(self._muted)))
        self._muted[peer] = trio.current_time() + self.options.mute_s
        self._let_go(peer)

    def _is_muted(self, peer: PeerId) -> bool:
        return trio.current_time() < self._muted.get(peer, 0.0)

    def _end_mutes(self) -> None:
        """Those whose time is over are asked again, if they are still there."""
        now = trio.current_time()
        for peer in [peer for peer, until in self._muted.items() if until <= now]:
            self._unmute(peer)

    def _unmute(self, peer: PeerId) -> None:
        del self._muted[peer]
        if peer in self._host.connected():
            self._up(peer)

    def _up(self, peer: PeerId) -> None:
        """It can be asked, unless its answers would not be listened to."""
        if not self._is_muted(peer):
            self._wants.up(peer, trio.current_time())

    def _let_go(self, peer: PeerId) -> None:
        """Nothing more to or from a peer, until it is heard of again."""
        self._wants.down(peer, trio.current_time())
        self._ledgers.forget(peer)
        self._follow()

    # -- what leaves

    def _stir(self, peers: Iterable[PeerId]) -> None:
        for peer in peers:
            if peer in self._wakes:
                self._wakes[peer].set()
            elif self._has_more(peer):
                self._wakes[peer] = trio.Event()
                self._nursery.start_soon(self._write, peer)

    def _has_more(self, peer: PeerId) -> bool:
        return self._wants.has_more(peer) or self._ledgers.has_more(peer)

    async def _write(self, peer: PeerId) -> None:
        """One task for each peer to whom there is something to say."""
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
            del self._wakes[peer]

    async def _open(self, peer: PeerId) -> tuple[Stream, bool]:
        """A stream, and whether its other end knows no presences."""
        new, old = wire.PROTOCOLS
        try:
            return await self._host.open_stream(peer, new, timeout_s=self.options.open_s), False
        except Unavailable:
            return await self._host.open_stream(peer, old, timeout_s=self.options.open_s), True

    async def _write_all(self, peer: PeerId, stream: Stream, *, old: bool) -> None:
        """Until there was nothing to say for a while. Raises Unavailable: what was taken last may
        be lost.
        """
        while True:
            if not self._has_more(peer):
                self._wakes[peer] = trio.Event()
                with trio.move_on_after(self.options.idle_s):
                    await self._wakes[peer].wait()
                if not self._has_more(peer):
                    return
            entries, batch = self._wants.take(peer), self._ledgers.take(peer)
            try:
                data = await self._message(peer, entries, batch, old=old)
                with trio.move_on_after(self.options.send_s) as patience:
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


def _named(blocks: Sequence[Block]) -> list[tuple[bytes, bytes]]:
    """Blocks by the CID that their bytes have. Raises Untrusted."""
    return [(wire.cid_of(block), block.data) for block in blocks]


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
