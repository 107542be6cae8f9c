"""The block service of an agent: `content.blocks.Blocks` and `Pins` over its store and fetchers.

Local blocks come from the store alone: loose ones, and those that blobs and folders imply. What is
not here is asked of the fetchers, the first at once and each next one when those before it said no
or were silent for `hedge_s`; the first that gives bytes that verify ends it, and they are kept as a
loose block. One fetch a CID, however many wait for it.
"""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

from p2pcache.content import cid as cids
from p2pcache.content import digests
from p2pcache.content.dag import hashes
from p2pcache.content.verify import VerifiedBlock, verify_loose
from p2pcache.errors import (
    LocalFault,
    NotFound,
    P2PCacheError,
    Unavailable,
    Untrusted,
    UsageError,
    bug,
    plain_errors,
)
from p2pcache.store.implied import everything

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from p2pcache.content.blocks import Fetcher
    from p2pcache.store.implied import Shows
    from p2pcache.store.rooted import AnyBlob
    from p2pcache.store.store import Store

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BlockOptions:
    """Bounds of the service."""

    max_fetches: int = 64  # blocks of 2 MiB at most: 128 MiB in flight
    hedge_s: float = 0.3  # a local Kubo answers in 1 ms, a bitswap peer in some 50
    fetch_s: float = 60.0  # for one block, by whomever


@dataclass(slots=True)
class _Flight:
    """One block on its way. `waiters` 0: nobody wants it any more."""

    scope: trio.CancelScope
    done: trio.Event = field(default_factory=trio.Event)
    waiters: int = 0
    data: bytes | None = None
    error: P2PCacheError | None = None


class LocalBlocks:
    """What is here, for threads: everything blocks for the disk. `shows` hides from whom it is for
    (see `store.implied`).
    """

    def __init__(self, store: Store, shows: Shows = everything) -> None:
        self.store = store
        self.shows = shows

    def read(self, cid: bytes) -> bytes | None:
        """The block, verified just now; None when it is not here. Raises UsageError (an unknown
        hash function), LocalFault.
        """
        parts = _parts(cid)
        if parts.hash_code == cids.IDENTITY:
            return parts.digest
        if parts.hash_code == digests.SHA2_256:
            data = self.store.implied.read(parts.digest, self.shows)
            if data is not None:
                return data
        return self.store.loose.read(cid)

    def length(self, cid: bytes) -> int | None:
        """Its bytes; None when it is not here. Nothing is hashed. Raises as `read`."""
        parts = _parts(cid)
        if parts.hash_code == cids.IDENTITY:
            return len(parts.digest)
        if parts.hash_code == digests.SHA2_256:
            length = self.store.implied.length(parts.digest, self.shows)
            if length is not None:
                return length
        return self.store.loose.length(cids.multihash(cid))

    def file_of(self, cid: bytes) -> AnyBlob | None:
        """The blob whose content is what a CID names: a file by its UnixFS root, or bytes of any
        length by their sha2-256 as raw.
        """
        cid = cids.as_v1(cid)
        try:
            blob = self.store.find_any(cid)
        except UsageError:  # no name that a blob can have
            return None
        return blob if blob is not None and self.shows(blob) else None

    def put(self, block: VerifiedBlock) -> None:
        """Keep it as a loose block, unless it is implied by what we show: who cannot see that a
        blob has it gets it back all the same. Raises DiskFull, LocalFault.
        """
        parts = cids.parts(cids.make_cid(cids.RAW, block.multihash))
        if parts.hash_code == cids.IDENTITY:
            return
        implied = None
        if parts.hash_code == digests.SHA2_256:
            implied = self.store.implied.length(parts.digest, self.shows)
        if implied is None:
            self.store.loose.put(block)


class BlockService:
    """`content.blocks.Blocks`. For the trio thread; `open_blocks` makes one."""

    def __init__(
        self,
        local: LocalBlocks,
        fetchers: Sequence[Fetcher],
        options: BlockOptions,
        nursery: trio.Nursery,
    ) -> None:
        self.local = local
        self._fetchers = fetchers
        self._options = options
        self._nursery = nursery
        self._slots = trio.CapacityLimiter(options.max_fetches)
        self._flights: dict[bytes, _Flight] = {}
        self._watchers: list[Callable[[bytes | None], None]] = []

    def seen_by(self, shows: Shows) -> BlockService:
        """The same service for others, from whom `shows` hides some of what is here."""
        local = LocalBlocks(self.local.store, shows)
        view = BlockService(local, self._fetchers, self._options, self._nursery)
        view._flights, view._slots, view._watchers = self._flights, self._slots, self._watchers
        return view

    async def get(self, cid: bytes, *, local: bool = False) -> bytes:
        """See the port."""
        data = await trio.to_thread.run_sync(self.local.read, cid)
        if data is not None:
            return data
        if local or not self._fetchers:
            raise NotFound(f"the block {cids.format_cid(cid)} is not here")
        return await self._wait_fetched(cid)

    async def has(self, cid: bytes) -> bool:
        """See the port."""
        return await self.length(cid) is not None

    async def length(self, cid: bytes) -> int | None:
        """See the port."""
        return await trio.to_thread.run_sync(self.local.length, cid)

    async def put(self, cid: bytes, data: bytes) -> None:
        """See the port."""
        _parts(cid)
        block = await trio.to_thread.run_sync(self._keep, cid, data)
        self.tell(block.multihash)

    def watch(self, tell: Callable[[bytes | None], None]) -> Callable[[], None]:
        """See the port."""
        self._watchers.append(tell)
        return lambda: self._watchers.remove(tell)

    def ahead(self, wanted: Sequence[bytes]) -> None:
        """Begin to fetch what will be asked for soon and is not here; nobody waits for it yet."""
        for cid in wanted if self._fetchers else ():
            key = cids.multihash(cid)
            if key not in self._flights and len(self._flights) < self._options.max_fetches:
                flight = self._flights[key] = _Flight(trio.CancelScope())
                self._nursery.start_soon(self._fly, cid, flight)

    def tell(self, multihash: bytes | None) -> None:
        """Pass on that a block came in, or many."""
        for watcher in list(self._watchers):
            watcher(multihash)

    def _keep(self, cid: bytes, data: bytes) -> VerifiedBlock:
        block = verify_loose(cid, data)
        self.local.put(block)
        return block

    # -- fetching --------------------------------------------------------------------------------

    async def _wait_fetched(self, cid: bytes) -> bytes:
        key = cids.multihash(cid)
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = _Flight(trio.CancelScope())
            self._nursery.start_soon(self._fly, cid, flight)
        flight.waiters += 1
        try:
            await flight.done.wait()
        finally:
            flight.waiters -= 1
            if not flight.waiters and not flight.done.is_set():
                self._flights.pop(key, None)  # who comes now begins anew
                flight.scope.cancel()
        if flight.data is not None:
            return flight.data
        assert flight.error is not None, "a flight ends with one of both"
        raise type(flight.error)(flight.error.message, hint=flight.error.hint) from flight.error

    async def _fly(self, cid: bytes, flight: _Flight) -> None:
        try:
            with flight.scope:
                async with self._slots:
                    flight.data = await self._fetch(cid)
        except P2PCacheError as exc:
            flight.error = exc
        except Exception as exc:  # noqa: BLE001 - the border: one fetch ends, not the agent
            flight.error = bug(exc, _log)
        finally:
            if flight.data is None and flight.error is None:
                flight.error = Unavailable("the fetch was given up")
            flight.done.set()
            if self._flights.get(cids.multihash(cid)) is flight:
                del self._flights[cids.multihash(cid)]

    async def _fetch(self, cid: bytes) -> bytes:
        """Ask the fetchers, staggered. Raises NotFound, Unavailable, LocalFault."""
        fetchers = list(self._fetchers)
        send, answers = trio.open_memory_channel[bytes | P2PCacheError | None](len(fetchers))
        found: bytes | None = None
        trouble: P2PCacheError | None = None
        with plain_errors(), trio.move_on_after(self._options.fetch_s) as in_time, send, answers:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._stagger, nursery, fetchers, cid, send)
                for _ in fetchers:
                    answer = await answers.receive()
                    if isinstance(answer, bytes):
                        found = answer
                        break
                    if isinstance(answer, LocalFault):
                        raise answer
                    trouble = trouble or answer
                nursery.cancel_scope.cancel()
        if found is not None:
            return found
        name = cids.format_cid(cid)
        if trouble is not None:
            raise Unavailable(trouble.message, hint=trouble.hint)
        if in_time.cancelled_caught:
            raise Unavailable(f"nobody gave the block {name} in {self._options.fetch_s:.0f} s")
        raise NotFound(f"nobody has the block {name}")

    async def _stagger(
        self,
        nursery: trio.Nursery,
        fetchers: Sequence[Fetcher],
        cid: bytes,
        send: trio.MemorySendChannel[bytes | P2PCacheError | None],
    ) -> None:
        for fetcher in fetchers:
            answered = trio.Event()
            nursery.start_soon(self._ask, fetcher, cid, send, answered)
            with trio.move_on_after(self._options.hedge_s):
                await answered.wait()

    async def _ask(
        self,
        fetcher: Fetcher,
        cid: bytes,
        send: trio.MemorySendChannel[bytes | P2PCacheError | None],
        answered: trio.Event,
    ) -> None:
        answer: bytes | P2PCacheError | None
        try:
            answer = await fetcher.fetch(cid)
            if answer is not None:
                block = await trio.to_thread.run_sync(self._keep, cid, answer)
                self.tell(block.multihash)
        except NotFound:
            answer = None
        except Untrusted as exc:
            _log.warning("a block that does not verify: %s", exc.message)
            fetcher.lied(cid)
            answer = exc
        except P2PCacheError as exc:
            answer = exc
        send.send_nowait(answer)
        if not isinstance(answer, bytes):
            answered.set()  # the next one's turn


def _parts(cid: bytes) -> cids.Parts:
    """A CID that we could verify blocks of. Raises UsageError."""
    try:
        hashes.check_hash(cid)
        return cids.parts(cid)
    except Untrusted as exc:
        raise UsageError(exc.message) from exc


@asynccontextmanager
async def open_blocks(
    local: LocalBlocks, fetchers: Sequence[Fetcher] = (), options: BlockOptions | None = None
) -> AsyncIterator[BlockService]:
    """A service for the time of the scope; fetches end with it. `fetchers`: in order of asking, may
    be a list that changes.
    """
    with plain_errors():
        async with trio.open_nursery() as nursery:
            yield BlockService(local, fetchers, options or BlockOptions(), nursery)
            nursery.cancel_scope.cancel()
