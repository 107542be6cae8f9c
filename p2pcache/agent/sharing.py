"""What this agent shows to others: the network's `Shelf`, and what its byte server is told.

Complete blobs are served where they lie, growing ones while they grow. What a peer may know of is
`agent.access`'s to say, and a name that it may not know of looks like one that is not here.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgpack
import trio

from p2pcache.agent.access import NOT_HERE
from p2pcache.content.address_secrets import secret_in
from p2pcache.content.cid import DAG_CBOR, codec
from p2pcache.content.proof import answer, parse_challenge
from p2pcache.content.ranges import RangeSet
from p2pcache.content.signed import MAX_PIECE_BLOCKS, sign_attestation, sign_resolution
from p2pcache.content.unixfs import LEAF_BYTES
from p2pcache.errors import NotFound, P2PCacheError, Untrusted
from p2pcache.lanes.serve.table import Entry, Guard
from p2pcache.net.shelf import BlockMap, Holding, Pass
from p2pcache.store.layout import block_count
from p2pcache.store.rooted import RootedBlob
from p2pcache.transfer.names import OTHERS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence

    from p2pcache.agent.access import Access
    from p2pcache.content.peerid import PeerId
    from p2pcache.content.proof import Challenge
    from p2pcache.content.signed import PieceAttestation, SignedResolution, Signer
    from p2pcache.store.records import Resolution
    from p2pcache.store.rooted import AnyBlob
    from p2pcache.store.store import Store
    from p2pcache.transfer.byte_server import ByteServer

TICKET_S = 3600.0  # longer than most pulls; renewing one costs a round trip
TICKET_SLACK_S = 60.0  # after its end: for an answer that began before
MAX_SCOPES = 512  # that hear of what begins to grow; the others do when they are asked for again
MAX_RESOLUTIONS = 16

Prover = "Callable[[Challenge], Awaitable[bytes | None]]"
"""Fetches the bytes of a challenge from the origin, with the credential of whoever pulls."""


@dataclass(slots=True)
class Growing:
    """A blob that a pull of ours brings. `blocks`: those that are verified (content/ranges).

    `manifest`: what is being pulled, None for a single blob. `words`: attestations of its pieces.
    """

    name: bytes
    size: int
    data_path: str
    live_path: str
    manifest: bytes | None
    blocks: RangeSet = field(default_factory=RangeSet)
    words: dict[int, PieceAttestation] = field(default_factory=dict)


class Sharing:
    """One agent's holdings as peers see them: a `net.shelf.Shelf`. For the trio thread."""

    def __init__(
        self,
        store: Store,
        access: Access,
        signer: Signer,
        server: ByteServer,
        admit: Callable[[PeerId], Awaitable[bytes | None]],
        now: Callable[[], float],
    ) -> None:
        self._store = store
        self._access = access
        self._signer = signer
        self._server = server
        self._admit = admit
        self._now = now
        self._growing: dict[bytes, Growing] = {}
        self._scopes: OrderedDict[bytes, set[bytes]] = OrderedDict()
        self._issued: OrderedDict[bytes, float] = OrderedDict()  # the last ticket of each scope
        self._provers: dict[bytes, Callable[[Challenge], Awaitable[bytes | None]]] = {}

    # -- what others ask (net.shelf.Shelf) -------------------------------------------------------

    async def holding(
        self, peer: PeerId, manifest: bytes | None, names: Sequence[bytes]
    ) -> list[Holding]:
        """What this peer may know that we hold of these names."""

        def may_know() -> bool:
            if manifest is None or self._access.may(peer, manifest):
                return True
            self._access.ask_for_proof(peer, manifest, names)
            return False

        if not await trio.to_thread.run_sync(may_know):
            return []  # whoever may not know of it learns nothing from the refusal
        found, growing = await self._readable(peer, manifest, names)
        return [
            *(Holding(name, blob.size, _held(blob)) for name, blob in found.items()),
            *(Holding(one.name, one.size, one.blocks) for one in growing if one.blocks),
        ]

    async def _readable(
        self, peer: PeerId, manifest: bytes | None, names: Iterable[bytes]
    ) -> tuple[dict[bytes, AnyBlob], list[Growing]]:
        """What of these names is here, or grows, that the peer may read; it may read `manifest`."""
        asked = list(names)
        growing = [self._growing[name] for name in asked if name in self._growing]

        def read() -> tuple[dict[bytes, AnyBlob], list[Growing]]:
            found = self._store.find_any_of(asked)
            grow = [one for one in growing if one.name not in found]
            blobs: list[tuple[Collection[bytes], bytes | None]] = [
                (blob.names, None) for blob in found.values()
            ]
            blobs += [((one.name,), one.manifest) for one in grow]
            allowed = iter(self._access.may_read(peer, blobs, manifest))
            return (
                {name: blob for name, blob in found.items() if next(allowed)},
                [one for one in grow if next(allowed)],
            )

        return await trio.to_thread.run_sync(read)

    async def _may_read_growing(
        self, peer: PeerId | None, growing: Growing, scope: bytes | None
    ) -> bool:
        blobs = [((growing.name,), growing.manifest)]
        return (await trio.to_thread.run_sync(self._access.may_read, peer, blobs, scope))[0]

    def is_growing(self, name: bytes) -> bool:
        """Whether a pull of ours brings it now."""
        return name in self._growing

    async def block_map(self, peer: PeerId, name: bytes, first: int, count: int) -> BlockMap | None:
        """Hashes of at most `count` blocks, without a signer where we have the whole blob."""
        growing = self._growing.get(name)
        if growing is not None:
            if not await self._may_read_growing(peer, growing, None):
                return None
            end = first + count
            words = [
                word
                for at, word in sorted(growing.words.items())
                if at < end and at + len(word.hashes) // 32 > first
            ]
            return BlockMap(growing.size, first, None, tuple(words)) if words else None
        blob = await trio.to_thread.run_sync(self._store.find_any, name)
        if blob is None or not await trio.to_thread.run_sync(self._access.readable, peer, [blob]):
            return None
        hashes = await trio.to_thread.run_sync(_block_map, self._store, blob)
        if hashes is None:
            return None
        part = hashes[32 * first : 32 * (first + count)]
        if name == blob.root_cid:
            return BlockMap(blob.size, first, part)  # the asker can prove it
        # signed, so that the asker may pass it on with the blocks before the whole digest proves it
        ours = await trio.to_thread.run_sync(self._signed, name, blob.size, first, part)
        return BlockMap(blob.size, first, None, ours)

    def _signed(
        self, name: bytes, size: int, first: int, hashes: bytes
    ) -> tuple[PieceAttestation, ...]:
        """Our word on a part of a map; 50 us a piece."""
        step = 32 * MAX_PIECE_BLOCKS
        return tuple(
            sign_attestation(
                self._signer,
                name,
                size,
                (first + at // 32) * LEAF_BYTES,
                hashes[at : at + step],
            )
            for at in range(0, len(hashes), step)
        )

    async def ticket(self, peer: PeerId, scope: bytes, proof: bytes | None) -> Pass:
        """Let the peer read a manifest's blobs, or one blob. Raises Denied, NotFound."""
        if _is_manifest(scope):
            await trio.to_thread.run_sync(self._access.demand, peer, scope, proof)
            body = await trio.to_thread.run_sync(self._store.get_manifest, scope)
            names = {scope} if body is None else {file.digest for file in body.files}
        else:
            names = {scope}
        entries = await self._entries(peer, scope, names)
        if not entries:
            raise NotFound(NOT_HERE)
        binding = await self._admit(peer)
        if binding is None:
            raise NotFound("nothing is known of this reader")
        await self._drop_old_scopes(scope)
        await self._server.scope(scope, entries)
        self._remember_scope(scope, names)
        late = [name for name in names if name in self._growing and name not in entries]
        if late:  # they began meanwhile, before `begin` could know of this scope
            await self._server.scope(scope, await self._entries(peer, scope, late))
        token = self._server.issue(peer, scope, binding, TICKET_S)
        return Pass(token.encode(), TICKET_S)

    async def _entries(
        self, peer: PeerId, scope: bytes, names: Iterable[bytes]
    ) -> dict[bytes, Entry]:
        manifest = scope if _is_manifest(scope) else None
        found, growing = await self._readable(peer, manifest, names)
        entries = {name: _entry(blob) for name, blob in found.items()}
        return entries | {one.name: _growing_entry(one) for one in growing}

    def _remember_scope(self, scope: bytes, names: set[bytes]) -> None:
        self._scopes[scope] = names
        self._scopes.move_to_end(scope)
        while len(self._scopes) > MAX_SCOPES:
            self._scopes.popitem(last=False)  # the byte server keeps what it was told so far

    async def _drop_old_scopes(self, new: bytes) -> None:
        """The byte server keeps a scope until its tickets end; one for `new` is given now."""
        now = trio.current_time()
        self._issued[new] = now
        self._issued.move_to_end(new)
        while True:
            scope, issued = next(iter(self._issued.items()))  # anew: others are let in meanwhile
            if now - issued < TICKET_S + TICKET_SLACK_S:
                return
            del self._issued[scope]
            self._scopes.pop(scope, None)
            await self._server.drop_scope(scope)

    async def prove(self, peer: PeerId, scope: bytes, challenge: bytes) -> bytes | None:
        """Our own proof for a peer's challenge: the bytes come from the origin, to us."""
        prover = self._provers.get(scope)
        body = await trio.to_thread.run_sync(self._store.get_manifest, scope)
        if prover is None or body is None:
            return None
        try:
            wire = msgpack.unpackb(challenge)
        except ValueError as exc:
            raise Untrusted("a challenge is not msgpack") from exc
        asked = parse_challenge(wire, body)
        data = await prover(asked)
        if data is None or len(data) != asked.end - asked.start:
            return None
        return answer(asked, self._signer.peer_id, peer, data)

    async def manifest(
        self, peer: PeerId, cid: bytes, offset: int, most_bytes: int
    ) -> tuple[int, bytes] | None:
        """The size of a manifest and some of its bytes; None: not here, or not for this peer."""
        if not await trio.to_thread.run_sync(self._access.may, peer, cid):
            return None
        body = await trio.to_thread.run_sync(self._store.get_manifest, cid)
        if body is None:
            return None
        encoded = body.encode()
        return len(encoded), encoded[offset : offset + most_bytes]

    async def resolutions(self, peer: PeerId, canonical: str) -> list[SignedResolution]:
        """What we know a ref to mean: our own word first, then those that we heard."""
        if secret_in(canonical):  # who has such an address was given it, and asks its origin
            return []
        row = await trio.to_thread.run_sync(self._store.resolution, canonical)
        words = []
        if row is not None and row.source != OTHERS:
            words.append(own_word(self._signer, row))
        words += await trio.to_thread.run_sync(self._store.others.words, canonical)

        def may_hear() -> list[SignedResolution]:
            access = self._access
            return [w for w in words if self._open(w) and access.may_hear(peer, w.manifest)]

        return (await trio.to_thread.run_sync(may_hear))[:MAX_RESOLUTIONS]

    def _open(self, word: SignedResolution) -> bool:
        """A word that says of itself that it is restricted, about something not resolved here."""
        return not word.restricted or bool(self._store.resolutions_of(word.manifest))

    # -- what pulls of ours tell -----------------------------------------------------------------

    async def begin(self, growing: Growing) -> None:
        """A blob begins to grow; its paths stay until `complete` or `lose`."""
        self._growing[growing.name] = growing
        entry = {growing.name: _growing_entry(growing)}
        for scope, names in list(self._scopes.items()):
            manifest = scope if _is_manifest(scope) else None
            if growing.name in names and await self._may_read_growing(None, growing, manifest):
                await self._server.scope(scope, entry)  # for all who have tickets for it

    def grew(self, name: bytes, blocks: RangeSet) -> None:
        """More of its blocks are verified."""
        growing = self._growing.get(name)
        if growing is not None:
            growing.blocks = growing.blocks | blocks

    def shrank(self, names: Iterable[bytes]) -> None:
        """Nothing of these growing blobs may be read for now: their blocks are in doubt."""
        for name in names:
            growing = self._growing.get(name)
            if growing is not None:
                growing.blocks = RangeSet()

    async def cut(self, name: bytes) -> None:
        """Nobody brings this blob now: who waits for it would wait in a circle. It may go on."""
        await self._server.drop([name])
        growing = self._growing.get(name)
        if growing is not None:
            await self.begin(growing)

    def attest(self, words: Iterable[PieceAttestation]) -> None:
        """Words on pieces of growing blobs, of ours or of others, for whoever asks for the map."""
        for word in words:
            growing = self._growing.get(word.blob)
            if growing is not None:
                growing.words[word.start // LEAF_BYTES] = word

    async def complete(self, name: bytes, blob: AnyBlob) -> None:
        """The blob is in the store now; whoever reads it goes on."""
        self._growing.pop(name, None)
        if any(name in names for names in self._scopes.values()):
            await self._server.update(name, _entry(blob))

    async def lose(self, names: Iterable[bytes]) -> None:
        """These are gone: evicted, or their pull ended. Readers are cut."""
        gone = list(names)
        for name in gone:
            self._growing.pop(name, None)
        await self._server.drop(gone)

    async def removed(self, names: Iterable[bytes]) -> None:
        """These are gone from the store; those that a pull of ours brings again stay."""
        await self._server.drop([name for name in names if name not in self._growing])

    def prove_with(
        self, manifest: bytes, prover: Callable[[Challenge], Awaitable[bytes | None]] | None
    ) -> None:
        """While a pull of restricted content runs, challenges are answered with its credential."""
        if prover is None:
            self._provers.pop(manifest, None)
        else:
            self._provers[manifest] = prover


def _block_map(store: Store, blob: AnyBlob) -> bytes | None:
    if isinstance(blob, RootedBlob):
        return store.rooted.block_map(blob.root_cid)
    return store.block_map(blob.sha256)


def own_word(signer: Signer, row: Resolution) -> SignedResolution:
    """Our word for what we learnt of an origin ourselves."""
    return sign_resolution(
        signer,
        canonical=row.canonical,
        manifest=row.manifest,
        immutable=row.immutable,
        source=row.source,
        endpoint=row.endpoint,
        mutable=row.immutable is None or not row.canonical.endswith(f"@{row.immutable}"),
        restricted=row.gated,
        resolved_at=row.resolved_at,
    )


def _is_manifest(scope: bytes) -> bool:
    return len(scope) == 36 and scope[0] == 1 and codec(scope) == DAG_CBOR


def _growing_entry(growing: Growing) -> Entry:
    return Entry(growing.data_path, growing.size, None, growing.live_path)


def _held(blob: AnyBlob) -> RangeSet | None:
    """None: all of it. Of a file of somebody else's every block, but not our word for the whole:
    who writes to it so that nobody sees it is not us, and we are not to be banned for it.
    """
    return RangeSet.of((0, block_count(blob.size))) if blob.adopted and blob.size else None


def _entry(blob: AnyBlob) -> Entry:
    """A file of somebody else's is guarded: one that changed is not served."""
    guard = None
    if blob.adopted:
        try:
            stat = blob.path.stat()
        except OSError as exc:
            raise P2PCacheError(f"{blob.path} is gone") from exc
        guard = Guard(stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)
    return Entry(str(blob.path), blob.size, guard)
