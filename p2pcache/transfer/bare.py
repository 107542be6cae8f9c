"""A bare sha2-256 or CID that a swarm can bring: nobody listed it, so its size is only said.

Peers tell the size with what they hold. It is believed as far as the name proves it: for a UnixFS
root the map must make that root with that size; for a digest the arrived bytes decide, and the next
size that was told is tried when they do not fit. Who told another size is a proven liar then. The
first word is acted on at once; when more peers say otherwise within a moment, they are followed.
"""

from __future__ import annotations

import logging
from collections import Counter
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import trio

from p2pcache.content import cid as cids
from p2pcache.content import digests
from p2pcache.content.blockmap import prove_by_root
from p2pcache.content.signed import MAX_BLOB_BYTES
from p2pcache.content.unixfs import file_root
from p2pcache.errors import (
    DiskFull,
    LocalFault,
    NotFound,
    P2PCacheError,
    Untrusted,
    UsageError,
    plain_errors,
)
from p2pcache.lanes.orders import BLOCK_BYTES
from p2pcache.sources.port import PeerGone, PeerHolds, PeerLost, SwarmEvent
from p2pcache.transfer.maps import MAP_COUNT, MAP_S
from p2pcache.transfer.pull import NOTHING, fetch
from p2pcache.transfer.trust import Verdict
from p2pcache.transfer.want import PullReport, Wanted

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

    from p2pcache.content.peerid import PeerId
    from p2pcache.content.ranges import RangeSet
    from p2pcache.content.signed import PieceAttestation
    from p2pcache.sources.port import Lane, Swarm
    from p2pcache.store.store import Hold
    from p2pcache.transfer.progress import Progress
    from p2pcache.transfer.pull import PullContext
    from p2pcache.transfer.sharing import Peers

log = logging.getLogger(__name__)

SETTLE_S = 0.05  # after the first word it may be outvoted: others are a round trip away
MAX_SIZES = 4  # different ones that are tried; an honest swarm tells one
EVENTS_KEPT = 1024  # waiting for a driver that is about to read them


def bare_name(name: bytes) -> bytes:
    """What peers call it: a multihash, or the binary CID of a UnixFS root. Raises UsageError."""
    if digests.is_sha256(name) or digests.is_git_sha1(name):
        return name
    if len(name) == 36 and name[0] == 1 and digests.is_sha256(cids.multihash(name)):
        if cids.codec(name) == cids.RAW:
            return cids.multihash(name)
        if cids.codec(name) == cids.DAG_PB:
            return name
    raise UsageError(f"`{cids.format_cid(name)}` is not the name of a blob")


def blob_text(name: bytes) -> str:
    """A name of `bare_name`'s as people write it: `sha256:...`, `git:...` or a CID."""
    if digests.is_sha256(name) or digests.is_git_sha1(name):
        return digests.describe(name)
    return cids.format_cid(name)


async def pull_bare(
    context: PullContext,
    name: bytes,
    peers: Peers,
    *,
    timeout_s: float,
    rate_bytes_per_s: float | None = None,
    watch: Callable[[Progress], None],
    note: Callable[[PullReport], None],
    hold: Hold,
) -> PullReport:
    """Bring one blob by its name alone; `report.blobs` has it under `blob_text(name)`.

    `name`: as `bare_name` makes it; the swarm is one of this name.
    `timeout_s`: for anybody to tell that it has it. Raises NotFound when nobody does, Untrusted
    when nothing that was told was true, and whatever a pull raises. Cancel-safe as `pull`.
    """
    error: P2PCacheError | None = None
    tried: set[int] = set()
    async with _hearing(peers.swarm, name) as heard:
        with trio.move_on_after(timeout_s):
            await heard.wait_new(tried)
        settled_at = trio.current_time() + SETTLE_S
        while len(tried) < MAX_SIZES:
            with trio.move_on_at(settled_at):
                await heard.wait_new(tried)
            size_bytes = heard.best(tried)
            if size_bytes is None:
                break
            wanted = await _wanted(name, size_bytes, heard, peers)
            if wanted is None:
                tried.add(size_bytes)
                continue
            report = PullReport({}, NOTHING, 0, 0, 0.0, 0.0, 0.0, 0.0)
            try:
                async with _unless_outvoted(heard, size_bytes, tried, settled_at):
                    return await fetch(
                        context, blob_text(name), [wanted], [], report,
                        rate_bytes_per_s=rate_bytes_per_s, watch=watch, note=note, hold=hold,
                        peers=replace(peers, swarm=heard.view()),
                    )  # fmt: skip
            except (Untrusted, NotFound, DiskFull) as exc:  # perhaps of another size
                error = error or exc
                tried.add(size_bytes)
            await trio.to_thread.run_sync(_forget, context, name, size_bytes)
    raise error or NotFound(
        f"nobody in the network has `{blob_text(name)}`",
        hint="give a ref with an origin (hf://, https://), or start an agent that has it; a folder "
        "goes by the CID of its manifest, which `push` prints before its root",
    )


@dataclass(frozen=True, slots=True)
class ToldRoot:
    """What agents say of a blob: its size and its UnixFS root (a binary CID). `signers`: whose word
    the hashes are that make this root. Nothing of it is proven before the bytes are here.
    """

    size: int
    root: bytes
    signers: frozenset[PeerId]


async def told_root(name: bytes, peers: Peers, *, timeout_s: float) -> ToldRoot | None:
    """The root of a blob by its sha2-256 multihash, as those who hold it tell; None: nobody does
    within `timeout_s`, or nobody tells its map.
    """
    async with _hearing(peers.swarm, name) as heard:
        with trio.move_on_after(timeout_s):
            await heard.wait_new(set())
        size_bytes = heard.best(set())
        if size_bytes is None:
            return None
        holders = heard.whole(size_bytes)
        if size_bytes <= BLOCK_BYTES and holders:  # the size alone is their word
            root_cid = cids.raw_cid(digests.raw(name))
            return ToldRoot(size_bytes, root_cid, frozenset(holders[:1]))
        for peer in holders:
            hashes, whose = await _whole_map(peers.swarm, peer, name, size_bytes)
            if hashes is not None:
                pieces = (hashes[at : at + 32] for at in range(0, len(hashes), 32))
                root = await trio.to_thread.run_sync(file_root, pieces, size_bytes)
                return ToldRoot(size_bytes, root.cid, frozenset(whose))
    return None


@asynccontextmanager
async def _unless_outvoted(
    heard: _Heard, size_bytes: int, tried: set[int], settled_at: float
) -> AsyncIterator[None]:
    """Ends the block when until then more peers tell another size than this one."""
    with plain_errors():
        async with trio.open_nursery() as nursery:

            async def count() -> None:
                with trio.move_on_at(settled_at):
                    while heard.best(tried) in (size_bytes, None):
                        await heard.wait_change()
                    nursery.cancel_scope.cancel()

            nursery.start_soon(count)
            yield
            nursery.cancel_scope.cancel()


def _forget(context: PullContext, name: bytes, size_bytes: int) -> None:
    """What was brought under a size that was not the right one would be in the way."""
    try:
        context.store.partial(name, size_bytes).discard()
    except LocalFault as exc:
        log.debug("a partial of a wrong size stays: %s", exc.message)


async def _wanted(name: bytes, size_bytes: int, heard: _Heard, peers: Peers) -> Wanted | None:
    """What to fetch under this size; None when the name itself refutes it."""
    path = blob_text(name)
    if digests.is_sha256(name) or digests.is_git_sha1(name):
        return Wanted(path, size_bytes, name, path)
    if size_bytes <= BLOCK_BYTES:
        return None  # so short a blob has a raw CID and no root
    for peer in heard.whole(size_bytes):
        hashes, whose = await _whole_map(peers.swarm, peer, name, size_bytes)
        if hashes is None:
            continue
        try:
            prove_by_root(size_bytes, hashes, name)
        except Untrusted:
            if whose == {peer}:  # its own size and its own hashes do not make what it offers
                reason = f"told {size_bytes} bytes and a block map for {path} that do not make it"
                peers.sharing.convict(Verdict(peer, reason))
                heard.forget(peer)
            continue
        return Wanted(path, size_bytes, None, path, root=name, block_map=hashes)
    if not heard.whole(size_bytes):
        return None
    return Wanted(path, size_bytes, None, path, root=name)


async def _whole_map(
    swarm: Swarm, peer: PeerId, name: bytes, size_bytes: int
) -> tuple[bytes | None, set[PeerId]]:
    """All hashes of a blob as one peer tells them, and whose words they are."""
    count = -(-size_bytes // BLOCK_BYTES)
    made = bytearray()
    whose: set[PeerId] = set()
    while len(made) < 32 * count:
        first = len(made) // 32
        part = min(MAP_COUNT, count - first)
        try:
            answer = await swarm.block_map(peer, name, first, part, timeout_s=MAP_S)
        except P2PCacheError as exc:
            log.debug("no block map: %s", exc.message)
            return None, whose
        if isinstance(answer, bytes) and len(answer) == 32 * part:
            made += answer
            whose.add(peer)
        elif isinstance(answer, list) and answer:
            at = first
            for word in sorted(answer, key=lambda a: a.start):
                if word.start == at * BLOCK_BYTES and word.blob == name and word.size == size_bytes:
                    made += word.hashes
                    at += len(word.hashes) // 32
                    whose.add(word.signer)
            if at == first:
                return None, whose
        else:
            return None, whose
    return bytes(made[: 32 * count]), whose


class _View:
    """A swarm whose events begin again with what is held now."""

    def __init__(self, swarm: Swarm, events: trio.MemoryReceiveChannel[SwarmEvent]) -> None:
        self._swarm = swarm
        self._events = events

    @property
    def events(self) -> trio.MemoryReceiveChannel[SwarmEvent]:
        return self._events

    async def lane(self, peer: PeerId, *, name: bytes | None = None, timeout_s: float) -> Lane:
        return await self._swarm.lane(peer, name=name, timeout_s=timeout_s)

    def expire_lane(self, peer: PeerId, *, name: bytes | None = None) -> None:
        self._swarm.expire_lane(peer, name=name)

    async def block_map(
        self, peer: PeerId, name: bytes, first: int, count: int, *, timeout_s: float
    ) -> bytes | list[PieceAttestation] | None:
        return await self._swarm.block_map(peer, name, first, count, timeout_s=timeout_s)

    def members(self) -> list[PeerId]:
        return self._swarm.members()

    def distance(self, peer: PeerId) -> int:
        """See the port."""
        return self._swarm.distance(peer)

    def brings(
        self, intake_bytes_per_s: float, declines: bool, blocks: Mapping[bytes, RangeSet]
    ) -> None:
        self._swarm.brings(intake_bytes_per_s, declines, blocks)

    def throttled(self, origin: bytes, retry_after_s: float) -> None:
        self._swarm.throttled(origin, retry_after_s)

    def grew(self, name: bytes, blocks: RangeSet | None) -> None:
        self._swarm.grew(name, blocks)

    def lost(self, names: Sequence[bytes]) -> None:
        self._swarm.lost(names)


class _Heard:
    """What peers told so far, kept so that several tries may begin with it."""

    def __init__(self, swarm: Swarm, name: bytes) -> None:
        self._changed = trio.Event()
        self._swarm = swarm
        self._name = name
        self._held: dict[PeerId, PeerHolds] = {}
        self._out: trio.MemorySendChannel[SwarmEvent] | None = None

    async def run(self) -> None:
        """Keep the newest, and pass everything on to whoever reads now."""
        async for event in self._swarm.events:
            match event:
                case PeerHolds(peer, name, size, _) if name == self._name:
                    if 0 < size <= MAX_BLOB_BYTES:
                        self._add(event)
                        self._changed.set()
                        self._changed = trio.Event()
                case PeerLost(peer, name) if name == self._name:
                    self._held.pop(peer, None)
                case PeerGone(peer, _):
                    self._held.pop(peer, None)
                case _:
                    pass
            if self._out is not None:
                with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    await self._out.send(event)  # its reader may have ended

    def _add(self, event: PeerHolds) -> None:
        before = self._held.get(event.peer)
        blocks = event.blocks
        if before is not None and before.size == event.size:
            both = before.blocks is not None and blocks is not None
            blocks = before.blocks | blocks if both else None  # type: ignore[operator]
        self._held[event.peer] = replace(event, blocks=blocks)

    def best(self, tried: set[int]) -> int | None:
        """What most tell, of what was not tried; then the smaller: a lie costs less."""
        votes = Counter(held.size for held in self._held.values())
        left = [size for size in votes if size not in tried]
        return min(left, key=lambda size: (-votes[size], size), default=None)

    async def wait_change(self) -> None:
        """Until somebody tells something."""
        await self._changed.wait()

    async def wait_new(self, tried: set[int]) -> None:
        """Until there is a size that was not tried."""
        while self.best(tried) is None:
            await self.wait_change()

    def whole(self, size_bytes: int) -> list[PeerId]:
        """Who tells this size; those that have all of it first."""
        told = [held for held in self._held.values() if held.size == size_bytes]
        return [held.peer for held in sorted(told, key=lambda held: held.blocks is not None)]

    def forget(self, peer: PeerId) -> None:
        """It lied: nothing more of it."""
        self._held.pop(peer, None)

    def view(self) -> _View:
        """The swarm as a new driver sees it."""
        if self._out is not None:
            self._out.close()
        self._out, events = trio.open_memory_channel[SwarmEvent](EVENTS_KEPT)
        for held in list(self._held.values())[:EVENTS_KEPT]:
            self._out.send_nowait(held)
        return _View(self._swarm, events)


@asynccontextmanager
async def _hearing(swarm: Swarm, name: bytes) -> AsyncIterator[_Heard]:
    heard = _Heard(swarm, name)
    with plain_errors():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(heard.run)
            yield heard
            nursery.cancel_scope.cancel()
