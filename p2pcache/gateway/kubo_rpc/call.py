"""One call: what it was asked with, and what the calls work on."""

from __future__ import annotations

from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeVar

import trio

from p2pcache.content import cid as cids
from p2pcache.content.dag.build import PROFILES, Profile
from p2pcache.errors import NotFound
from p2pcache.gateway.kubo_rpc import paths, steps

if TYPE_CHECKING:
    from collections.abc import (
        AsyncGenerator,
        AsyncIterator,
        Awaitable,
        Callable,
        Iterable,
        Iterator,
    )

    from p2pcache.content.blocks import Pins
    from p2pcache.content.dag.walk import Flow, Walk
    from p2pcache.gateway.kubo_rpc.query import Query
    from p2pcache.gateway.messages import Request
    from p2pcache.transfer.blocks import BlockService

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Identity:
    """Who we are in the network; `peer_id` is empty while there is none. `addresses`: multiaddrs
    without the `/p2p/...` at their end. `public_key`: protobuf, as libp2p has it.
    """

    peer_id: str = ""
    public_key: bytes = b""
    addresses: tuple[str, ...] = ()
    protocols: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Peer:
    """Another one: its peer id and multiaddrs."""

    peer_id: str
    addresses: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Space:
    """What the store takes. `most_bytes` None: as much as the disk has."""

    used_bytes: int
    most_bytes: int | None
    objects: int
    path: str


class Node(Protocol):
    """The agent around the blocks. Raises Unavailable where something needs a network and there is
    none, UsageError for an address that is none; retries nothing.
    """

    def identity(self) -> Identity:
        """Who we are now."""
        ...

    def peers(self) -> list[Peer]:
        """Whom we are connected with."""
        ...

    async def connect(self, address: str) -> None:
        """Connect with a multiaddr that ends in `/p2p/<peer id>`."""
        ...

    def providers(self, cid: bytes) -> AsyncIterator[Peer]:
        """Who says that it has a block, as they are found. Close it when it is left early."""
        ...

    async def provide(self, cid: bytes) -> None:
        """Tell the others that we have it."""
        ...

    async def space(self) -> Space:
        """What the store takes."""
        ...

    async def collect(self) -> list[bytes]:
        """Remove loose blocks that nothing keeps; their CIDs."""
        ...

    def traffic_bytes(self) -> tuple[int, int]:
        """Received and sent, since the agent started."""
        ...


class RootFile(Protocol):
    """Where the root of the files API (MFS) is kept between two starts."""

    def load(self) -> bytes | None:
        """None before the first change. Raises LocalFault."""
        ...

    def save(self, cid: bytes) -> None:
        """On disk when it returns. Raises LocalFault."""
        ...


@dataclass(slots=True)
class Context:
    """What all calls share. `profile`: how content is written unless a call says otherwise.
    `tree_pins`: pins of the files API, apart from those that anybody made.
    `files_lock`: one change of the files API at a time. `bring`: have a whole file of peers pulled
    in by its root or digest; whether it is here then.
    """

    blocks: BlockService
    pins: Pins
    tree_pins: Pins
    node: Node
    root: RootFile
    bring: Callable[[bytes], Awaitable[bool]]
    profile: Profile = PROFILES["unixfs-v1-2025"]
    files_lock: trio.Lock = field(default_factory=trio.Lock)


class Call:
    """One call. `get` gives blocks; with `offline=true` those of this machine alone."""

    def __init__(self, context: Context, request: Request, query: Query) -> None:
        self.context = context
        self.request = request
        self.query = query
        self.offline = query.flag("offline")
        self._hold: Callable[[Iterable[bytes]], None] | None = None

    async def get(self, cid: bytes) -> bytes:
        """A block. Raises as `Blocks.get`, NotFound in Kubo's words."""
        blocks = self.context.blocks
        try:
            try:
                return await blocks.get(cid, local=self.offline)
            except NotFound:
                if self.offline or not await self.context.bring(cid):
                    raise
                return await blocks.get(cid)
        except NotFound as exc:
            shown = cids.format_cid(cid)
            if self.offline:
                why = f"block was not found locally (offline): ipld: could not find {shown}"
                raise NotFound(why) from exc
            raise NotFound(f"ipld: could not find {shown}: {exc.message}", hint=exc.hint) from exc

    async def run(self, walk: Walk[T]) -> T:
        """The result of a walk over these blocks."""
        return await steps.result(walk, self.context.blocks.local.read, self.get)

    def flow(self, flow: Flow[T]) -> AsyncGenerator[T, None]:
        """The results of a flow over these blocks; close it (`aclosing`)."""
        return steps.results(flow, self.context.blocks.local.read, self.get)

    async def cid_of(self, path: str) -> bytes:
        """The block that a path means."""
        return await paths.cid_of(path, self.run)

    @contextmanager
    def holding(self) -> Iterator[None]:
        """While open, neither a collection nor an eviction takes what the call `put`s."""
        with self.context.pins.holding() as self._hold:
            try:
                yield
            finally:
                self._hold = None

    async def held(self, rows: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
        """The same rows, `holding` until they are at their end."""
        with self.holding():
            async with aclosing(rows):
                async for row in rows:
                    yield row

    @asynccontextmanager
    async def changing_files(self) -> AsyncIterator[None]:
        """One change of the files API at a time; `holding` until its new root is pinned."""
        async with self.context.files_lock:
            with self.holding():
                yield

    async def put(self, cid: bytes, block: bytes) -> None:
        """Keep a block of our own making; within `holding` it stays."""
        if self._hold is not None:
            self._hold([cids.multihash(cid)])
        await self.context.blocks.put(cid, block)
