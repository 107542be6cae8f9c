"""A swarm of HTTP servers on loopback that stand for peers' lanes, and a pull from it.

Everything below the `Swarm` port is scripted; the driver, its workers, the store and the bytes on
the wire are real.
"""

from __future__ import annotations

import hashlib
import random
import threading
import time
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from p2pcache.content.digests import sha256_digest
from p2pcache.content.peerid import PeerId, format_peer_id, peer_id_of
from p2pcache.content.ranges import RangeSet
from p2pcache.content.signed import PieceAttestation, sign_attestation
from p2pcache.errors import NotFound
from p2pcache.lanes.bundle_wire import pack_frame, parse_names
from p2pcache.lanes.orders import BLOCK_BYTES, FetchLimits, Location
from p2pcache.sources.port import (
    Lane,
    PeerBrings,
    PeerGone,
    PeerHolds,
    PeerLost,
    SourceKind,
    SwarmEvent,
)
from p2pcache.store.store import Store
from p2pcache.transfer.driver import Driver
from p2pcache.transfer.policy import TransferOptions
from p2pcache.transfer.sharing import Peers
from p2pcache.transfer.want import Origin, Wanted
from p2pcache.transfer.workers import WorkerOptions, open_workers
from tests.support import faulty_http as fh
from tests.support.partial_files import block_hashes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence
    from pathlib import Path

    from p2pcache.store.blobs import BlobInfo
    from p2pcache.transfer.steps import Watcher
    from p2pcache.transfer.trust import Verdict

MIB = BLOCK_BYTES
TOKEN = "ticket-of-ours"


class Key:
    """An agent's key."""

    def __init__(self, seed: int) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"%d" % seed).digest())
        self.peer_id = peer_id_of(self._key.public_key().public_bytes_raw())

    def sign(self, message: bytes) -> bytes:
        return self._key.sign(message)


@dataclass
class ServedPeer:
    """One peer: its server, what its map answers are, and what was asked of it."""

    key: Key
    server: fh.FaultyServer
    maps: dict[bytes, bytes | list[PieceAttestation]] = field(default_factory=dict)
    asked: list[tuple[float, int, int]] = field(default_factory=list)  # when, which blocks
    unticketed: int = 0
    small: dict[bytes, bytes] = field(default_factory=dict)
    bundles: list[int] = field(default_factory=list)  # how many names were asked for in each

    @property
    def id(self) -> PeerId:
        return self.key.peer_id

    @property
    def name(self) -> str:
        return format_peer_id(self.id)

    def serves(self, body: bytes, answer: fh.Answer | None = None, name: bytes | None = None):
        """Answer requests for a blob; a ticket is asked for, and each request is noted."""
        answer = answer or fh.ranged(body)
        name = name or digest_of(body)

        def ticketed(ask: fh.Exchange) -> bool:
            if ask.headers.get("authorization") != f"Ticket {TOKEN}":
                self.unticketed += 1
                return fh.status(401)(ask)
            start, end = ask.range or (0, len(body))
            self.asked.append((time.monotonic(), start // MIB, -(-end // MIB)))
            return answer(ask)

        self.server.on(f"/blob/{name.hex()}", ticketed)
        return name

    def bundles_small(self, body: bytes, sent: bytes | None = None) -> None:
        """Answer for a small blob in bundles; `sent` is what is sent for it."""
        self.small[digest_of(body)] = body if sent is None else sent
        self.server.on("/bundle", self._bundle)

    def _bundle(self, ask: fh.Exchange) -> bool:
        if ask.headers.get("authorization") != f"Ticket {TOKEN}":
            self.unticketed += 1
            return fh.status(401)(ask)
        names = parse_names(ask.body)
        self.bundles.append(len(names))
        found = [self.small.get(name) for name in names]
        frames = [
            pack_frame(404, 0) if body is None else pack_frame(200, len(body)) + body
            for body in found
        ]
        return fh.ranged(b"".join(frames))(ask)

    def attests(self, body: bytes, blocks: RangeSet | None = None) -> None:
        """Sign the map of what it says the body is, a piece at a time."""
        name, hashes = digest_of(body), block_hashes(body)
        self.maps[name] = attestations(self.key, name, len(body), hashes)

    def vouches_for(self, name: bytes, size: int, hashes: bytes) -> None:
        self.maps[name] = attestations(self.key, name, size, hashes)


def attestations(key: Key, name: bytes, size: int, hashes: bytes) -> list[PieceAttestation]:
    return [
        sign_attestation(key, name, size, at * MIB, hashes[32 * at : 32 * (at + 16)])
        for at in range(0, len(hashes) // 32, 16)
    ]


class ScriptedSwarm:
    """The `Swarm` port over a few `ServedPeer`s."""

    def __init__(self, peers: Sequence[ServedPeer]) -> None:
        self._peers = {peer.id: peer for peer in peers}
        self.send, self.events = trio.open_memory_channel[SwarmEvent](1000)
        self.grown: list[tuple[float, bytes, RangeSet | None]] = []
        self.taken_back: list[bytes] = []
        self.said: list[tuple[float, bool, dict[bytes, RangeSet]]] = []
        self.map_asks: list[tuple[PeerId, int, int]] = []
        self.tickets: dict[PeerId, str] = {}  # given to us, where it is not TOKEN
        self.expired: list[PeerId] = []
        self.throttles: list[tuple[bytes, float]] = []
        self.distances: dict[PeerId, int] = {}

    def holds(self, peer: ServedPeer, name: bytes, size: int, blocks: RangeSet | None = None):
        self.send.send_nowait(PeerHolds(peer.id, name, size, blocks))

    def lost(self, names: Sequence[bytes]) -> None:
        self.taken_back += names

    def peer_lost(self, peer: ServedPeer, name: bytes) -> None:
        self.send.send_nowait(PeerLost(peer.id, name))

    def gone(self, peer: ServedPeer) -> None:
        self.send.send_nowait(PeerGone(peer.id, "its connection ended"))

    async def lane(self, peer: PeerId, *, name: bytes | None = None, timeout_s: float) -> Lane:
        await trio.sleep(0.001)
        ticket = self.tickets.get(peer, TOKEN)
        return Lane(("127.0.0.1",), self._peers[peer].server.port, None, ticket, 1e9)

    def expire_lane(self, peer: PeerId, *, name: bytes | None = None) -> None:
        self.expired.append(peer)
        self.tickets.pop(peer, None)

    async def block_map(self, peer, name, first, count, *, timeout_s):
        await trio.sleep(0.002)
        self.map_asks.append((peer, first, count))
        known = self._peers[peer].maps.get(name)
        if known is None:
            raise NotFound("no map")
        if isinstance(known, bytes):
            return known[32 * first : 32 * (first + count)]
        return [a for a in known if a.start < (first + count) * MIB and a.end > first * MIB]

    def members(self) -> list[PeerId]:
        return list(self._peers)

    def distance(self, peer: PeerId) -> int:
        return self.distances.get(peer, 0)

    def brings(self, intake_bytes_per_s, declines, blocks) -> None:
        self.said.append((intake_bytes_per_s, declines, dict(blocks)))

    def peer_brings(self, peer: ServedPeer, blocks, *, intake=1e6, declines=False) -> None:
        self.send.send_nowait(PeerBrings(peer.id, intake, declines, blocks))

    def throttled(self, origin: bytes, retry_after_s: float) -> None:
        self.throttles.append((origin, retry_after_s))

    def grew(self, name: bytes, blocks: RangeSet | None) -> None:
        self.grown.append((time.monotonic(), name, blocks))

    def announced(self, name: bytes) -> RangeSet:
        """Blocks announced one by one, before the blob was complete."""
        made = RangeSet()
        for _, grown, blocks in self.grown:
            if grown == name and blocks is not None:
                made |= blocks
        return made


class Told:
    """What the pull told the agent."""

    def __init__(self) -> None:
        self.files: dict[bytes, Path] = {}
        self.words: list[PieceAttestation] = []
        self.lost: list[bytes] = []
        self.completed: list[bytes] = []
        self.verdicts: list[Verdict] = []
        self.early: set[PeerId] = set()  # convicted before anything was complete
        self.banned: set[PeerId] = set()

    def growing(self, name: bytes, size_bytes: int, data: Path, live: Path) -> None:
        self.files[name] = data

    def attested(self, attestation: PieceAttestation) -> None:
        self.words.append(attestation)

    def lost_source(self, name: bytes) -> None:
        self.lost.append(name)

    def complete(self, name: bytes, blob: BlobInfo) -> None:
        self.completed.append(name)

    def convict(self, verdict: Verdict) -> None:
        self.verdicts.append(verdict)
        if not self.completed:
            self.early.add(verdict.peer)

    def is_banned(self, peer: PeerId) -> bool:
        return peer in self.banned

    @property
    def liars(self) -> set[PeerId]:
        return {verdict.peer for verdict in self.verdicts}


def digest_of(body: bytes) -> bytes:
    return sha256_digest(hashlib.sha256(body).digest())


def wanted(body: bytes, path: str = "model.bin") -> Wanted:
    return Wanted(path, len(body), digest_of(body), path)


def origin_of(server: fh.FaultyServer, body: bytes, answer: fh.Answer | None = None) -> Origin:
    url = server.on("/model.bin", answer or fh.ranged(body))

    async def locate(_key: str) -> Location:
        return Location(url)

    return Origin("web", SourceKind.ORIGIN, 16, locate)


@contextmanager
def served_peers(count: int) -> Iterator[list[ServedPeer]]:
    with ExitStack() as stack:
        yield [ServedPeer(Key(n), stack.enter_context(fh.FaultyServer())) for n in range(count)]


@asynccontextmanager
async def pulling(
    home: Path,
    want: Sequence[Wanted],
    origins: Sequence[Origin],
    swarm: ScriptedSwarm,
    *,
    streams: int = 4,
    most_streams: int = 16,
    patience_s: float = 8.0,
    told_s: float | None = None,
    stall_s: float = TransferOptions().stall_s,
    watch: Callable[..., None] = lambda _: None,
    trace: Watcher | None = None,
) -> AsyncIterator[tuple[Driver, Store, Told]]:
    """A driver ready to run, its store, and what it tells. One second is a long time here."""
    told = Told()
    store = Store.open(home)
    try:
        async with open_workers(WorkerOptions()) as workers:
            await workers.warm_up(streams)
            driver = Driver(
                want, origins, store, workers,
                options=TransferOptions(
                    patience_s=patience_s, hope_s=2.0, stall_s=stall_s, max_streams=most_streams
                ),
                limits=FetchLimits(connect_timeout_s=5.0, no_progress_s=8.0),
                cores=streams, chance=random.Random(7).random, watch=watch,
                peers=Peers(swarm, told, Key(99), told_s), hold=lambda _: None, trace=trace,
            )  # fmt: skip
            yield driver, store, told
    finally:
        store.close()


def sent_by(driver: Driver) -> dict[str, int]:
    """Bytes that were kept of each source."""
    return {s.name: s.kept_bytes for s in driver.statistics().sources}


def promise(ask: fh.Exchange, body: bytes, start: int, end: int) -> None:
    said = f"bytes {start}-{end - 1}/{len(body)}"
    ask.head(206, Content_Range=said, Content_Length=end - start)


def after(count: int, then: fh.Answer, body: bytes) -> fh.Answer:
    """Right answers for so many requests, in all, and another one from then on."""
    lock, seen = threading.Lock(), [0]
    right = fh.ranged(body)

    def answer(ask: fh.Exchange) -> bool:
        with lock:
            seen[0] += 1
            good = seen[0] <= count
        return (right if good else then)(ask)

    return answer


def dripping(body: bytes, bytes_per_s: int) -> fh.Answer:
    """A promised range, a little at a time."""

    def answer(ask: fh.Exchange) -> bool:
        start, end = ask.range or (0, len(body))
        ask.head(
            206, Content_Range=f"bytes {start}-{end - 1}/{len(body)}", Content_Length=end - start
        )
        step = max(bytes_per_s // 10, 1)
        while start < end and not ask.stopping.is_set():
            ask.send(body[start : start + step])
            start += step
            ask.wait(0.1)
        return False

    return answer


def frozen_after(body: bytes, total_bytes: int, frozen_at: list[float]) -> fh.Answer:
    """Right until so many bytes were sent in all, then silent; when that was is noted."""
    lock, sent = threading.Lock(), [0]

    def answer(ask: fh.Exchange) -> bool:
        start, end = ask.range or (0, len(body))
        ask.head(
            206, Content_Range=f"bytes {start}-{end - 1}/{len(body)}", Content_Length=end - start
        )
        while start < end:
            with lock:
                room = total_bytes - sent[0]
                count = min(256 << 10, end - start, max(room, 0))
                sent[0] += count
            if count == 0:
                frozen_at.append(time.monotonic())
                return fh.stall(ask)
            ask.send(body[start : start + count])
            start += count
        return True

    return answer


def paced(body: bytes, bytes_per_s: float) -> fh.Answer:
    """A correct server with a thin link, for each of its requests."""

    def answer(ask: fh.Exchange) -> bool:
        start, end = ask.range or (0, len(body))
        ask.head(
            206, Content_Range=f"bytes {start}-{end - 1}/{len(body)}", Content_Length=end - start
        )
        while start < end and not ask.stopping.is_set():
            step = min(64 << 10, end - start)
            ask.send(body[start : start + step])
            start += step
            ask.wait(step / bytes_per_s)
        return True

    return answer
