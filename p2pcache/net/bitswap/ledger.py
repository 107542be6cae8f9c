"""What peers want of us: pure, and bounded for each peer.

A want is remembered until its block is sent, it is cancelled or its peer leaves, so that a block
that arrives later is served at that moment (Kubo asks a silent peer again only after 43 s). Who
asks is told at once what is not here, if it wishes. What is here leaves by priority, then in the
order in which it was asked for; presences leave before blocks.
"""

from __future__ import annotations

import heapq
import itertools
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from p2pcache.content import cid as cids
from p2pcache.content.blocks import MAX_BLOCK_BYTES
from p2pcache.net.bitswap.wire import Kind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from p2pcache.content.peerid import PeerId
    from p2pcache.net.bitswap.wire import Entry

MAX_WANTS = 4096  # of a peer: 1 MB; boxo keeps 1024 of each
MAX_PRESENCES = 16384  # of a peer, not sent yet
REPLY_BYTES = 1 << 20  # of blocks in one message, unless a single one is larger
REPLY_PRESENCES = 1024  # in one message
INLINE_BYTES = 1024  # a block so short answers "do you have it", as boxo does it


@dataclass(slots=True)
class _Want:
    """`size`: of the block, None while it is not here or nobody has looked."""

    entry: Entry
    number: int
    size: int | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """What one message to a peer tells: of `blocks` the bytes are still to be read."""

    blocks: tuple[Entry, ...]
    haves: tuple[bytes, ...]
    dont_haves: tuple[bytes, ...]


@dataclass(slots=True)
class _Ledger:
    wants: dict[bytes, _Want] = field(default_factory=dict)
    presences: dict[bytes, bool] = field(default_factory=dict)  # cid: whether it is here
    ready: list[tuple[int, int, bytes]] = field(default_factory=list)  # heap; may hold the past


class Ledgers:
    """The want-lists of all peers. CIDs are as the peers write them."""

    def __init__(self) -> None:
        self._ledgers: dict[PeerId, _Ledger] = {}
        # By multihash: what is not here, under the CIDs that it is wanted by.
        self._waiting: dict[bytes, dict[bytes, set[PeerId]]] = {}
        self._numbers = itertools.count()
        self.refused_count = 0

    def heard(self, peer: PeerId, entries: Sequence[Entry], *, full: bool) -> list[bytes]:
        """A want-list came. Whether each of these is here is to be told by `looked`."""
        ledger = self._ledgers.setdefault(peer, _Ledger())
        if full:
            kept = {entry.cid for entry in entries if not entry.cancel}
            for cid in [cid for cid in ledger.wants if cid not in kept]:
                self._drop(peer, ledger, cid)
        new: dict[bytes, None] = {}
        for entry in entries:
            known = ledger.wants.get(entry.cid)
            if entry.cancel:
                self._drop(peer, ledger, entry.cid)
                new.pop(entry.cid, None)
            elif known is not None and _covers(known.entry, entry):
                if known.size is None:  # asked again: the answer may have been lost
                    new[entry.cid] = None
            elif known is None and len(ledger.wants) >= MAX_WANTS:
                self.refused_count += 1
                if entry.dont_have:
                    self._tell(ledger, entry.cid, here=False)
            else:
                both = entry if known is None else _joined(known.entry, entry)
                ledger.wants[entry.cid] = _Want(both, next(self._numbers))
                new[entry.cid] = None
                wanted = self._waiting.setdefault(cids.multihash(entry.cid), {})
                wanted.setdefault(entry.cid, set()).add(peer)
        return list(new)

    def looked(self, peer: PeerId, cid: bytes, size: int | None) -> None:
        """Whether a block that a peer wants is here. One that nobody would take counts as not."""
        ledger = self._ledgers.get(peer)
        want = None if ledger is None else ledger.wants.get(cid)
        if ledger is None or want is None or want.size is not None:
            return  # cancelled or gone meanwhile; or it arrived while somebody looked
        if size is None or size > MAX_BLOCK_BYTES:
            if want.entry.dont_have:
                self._tell(ledger, cid, here=False)
        elif want.entry.kind is Kind.HAVE and size > INLINE_BYTES:
            self._drop(peer, ledger, cid)
            self._tell(ledger, cid, here=True)
        else:
            want.size = size
            self._forget_waiting(peer, cid)
            ledger.presences.pop(cid, None)
            heapq.heappush(ledger.ready, (-want.entry.priority, want.number, cid))

    def waiting(self) -> list[bytes]:
        """Multihashes of what somebody wants and is not known to be here."""
        return list(self._waiting)

    def waiting_as(self, multihash: bytes) -> list[bytes]:
        """The CIDs under which somebody waits for it."""
        return list(self._waiting.get(multihash, ()))

    def arrived(self, multihash: bytes, size: int) -> list[PeerId]:
        """A block is here now; who is to be served."""
        wanted = self._waiting.get(multihash, {})
        found = [(cid, peer) for cid, peers in wanted.items() for peer in peers]
        for cid, peer in found:
            self.looked(peer, cid, size)
        return [peer for _, peer in found]

    def has_more(self, peer: PeerId) -> bool:
        """Whether there is something to send."""
        ledger = self._ledgers.get(peer)
        return ledger is not None and bool(ledger.presences or ledger.ready)

    def take(self, peer: PeerId) -> Batch | None:
        """The next message to a peer. Its blocks count as sent; `unsent` takes that back."""
        ledger = self._ledgers.get(peer)
        if ledger is None:
            return None
        here: list[bytes] = []
        not_here: list[bytes] = []
        for cid in list(itertools.islice(ledger.presences, REPLY_PRESENCES)):
            (here if ledger.presences.pop(cid) else not_here).append(cid)
        blocks: list[Entry] = []
        count = 0
        while ledger.ready:
            if not _is_meant(ledger, ledger.ready[0]):
                heapq.heappop(ledger.ready)
                continue
            cid = ledger.ready[0][2]
            want = ledger.wants[cid]
            assert want.size is not None
            if blocks and count + want.size > REPLY_BYTES:
                break
            heapq.heappop(ledger.ready)
            del ledger.wants[cid]
            blocks.append(want.entry)
            count += want.size
        if not (blocks or here or not_here):
            return None
        return Batch(tuple(blocks), tuple(here), tuple(not_here))

    def unsent(self, peer: PeerId, batch: Batch) -> list[bytes]:
        """This could not be sent: it is wanted as before; blocks that are to be looked at."""
        ledger = self._ledgers.get(peer)
        if ledger is None:
            return []
        for cid in batch.haves:
            ledger.presences.setdefault(cid, True)
        for cid in batch.dont_haves:
            ledger.presences.setdefault(cid, False)
        return self.heard(peer, batch.blocks, full=False)

    def forget(self, peer: PeerId) -> None:
        """It left."""
        ledger = self._ledgers.get(peer)
        if ledger is not None:
            for cid in list(ledger.wants):
                self._drop(peer, ledger, cid)
            del self._ledgers[peer]

    def count(self) -> int:
        """Wants of all peers."""
        return sum(len(ledger.wants) for ledger in self._ledgers.values())

    def _drop(self, peer: PeerId, ledger: _Ledger, cid: bytes) -> None:
        ledger.wants.pop(cid, None)
        ledger.presences.pop(cid, None)
        self._forget_waiting(peer, cid)
        if len(ledger.ready) > 2 * MAX_WANTS:  # wants and cancels without end
            ledger.ready = [one for one in ledger.ready if _is_meant(ledger, one)]
            heapq.heapify(ledger.ready)

    def _forget_waiting(self, peer: PeerId, cid: bytes) -> None:
        multihash = cids.multihash(cid)
        wanted = self._waiting.get(multihash, {})
        peers = wanted.get(cid, set())
        peers.discard(peer)
        if not peers:
            wanted.pop(cid, None)
        if not wanted:
            self._waiting.pop(multihash, None)

    def _tell(self, ledger: _Ledger, cid: bytes, *, here: bool) -> None:
        if cid in ledger.presences or len(ledger.presences) < MAX_PRESENCES:
            ledger.presences[cid] = here


def _is_meant(ledger: _Ledger, ready: tuple[int, int, bytes]) -> bool:
    """Whether a line of the heap is of a want that stands, and that is here."""
    want = ledger.wants.get(ready[2])
    return want is not None and want.number == ready[1] and want.size is not None


def _joined(known: Entry, entry: Entry) -> Entry:
    kind, dont_have = min(known.kind, entry.kind), known.dont_have or entry.dont_have
    return replace(entry, kind=kind, dont_have=dont_have)


def _covers(known: Entry, entry: Entry) -> bool:
    """Whether what is asked now was asked before; who wants a block is not sent less."""
    return known.kind <= entry.kind and known.dont_have >= entry.dont_have
