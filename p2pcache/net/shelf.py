"""What the network asks of the layers above (`Shelf`), and the words both sides use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from p2pcache.net.sync.wire import Held

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from p2pcache.content.peerid import PeerId
    from p2pcache.content.ranges import RangeSet
    from p2pcache.content.signed import PieceAttestation, SignedResolution

Holding = Held  # (name, size in bytes, blocks or None for all)


@dataclass(frozen=True, slots=True)
class BlockMap:
    """Hashes of the blocks of a blob from block `first` on.

    `hashes`: 32 bytes a block, without a signer: worth what the asker can prove. Or, with None
    there, the words of agents for some pieces.
    """

    size: int
    first: int
    hashes: bytes | None
    attestations: tuple[PieceAttestation, ...] = ()


@dataclass(frozen=True, slots=True)
class Pass:
    """A ticket for our byte server, and for how long it holds."""

    token: bytes
    expires_s: float


@dataclass(frozen=True, slots=True)
class Lane:
    """How to reach a byte server. `expires_at` on trio's clock; `fingerprint` None: plain."""

    hosts: tuple[str, ...]
    port: int
    fingerprint: bytes | None
    token: bytes
    expires_at: float


@dataclass(frozen=True, slots=True)
class PeerHolds:
    """All that a peer holds of a blob now (`blocks` None: everything)."""

    peer: PeerId
    name: bytes
    size: int
    blocks: RangeSet | None


@dataclass(frozen=True, slots=True)
class PeerLost:
    """A peer no longer holds a blob."""

    peer: PeerId
    name: bytes


@dataclass(frozen=True, slots=True)
class PeerSettled:
    """A peer told everything it holds (or will not tell): what is missing, it does not have."""

    peer: PeerId


@dataclass(frozen=True, slots=True)
class PeerProof:
    """A peer wants a proof of access before it tells what it holds. `under_way`: it is being made,
    and the peer's word follows; otherwise there is none.
    """

    peer: PeerId
    under_way: bool


@dataclass(frozen=True, slots=True)
class PeerBrings:
    """A peer takes part, and has these blocks, and no others, on their way from an origin.

    `intake_bytes_per_s` None: it has ended its part. `declines`: nothing is to be left to it.
    """

    peer: PeerId
    intake_bytes_per_s: float | None
    declines: bool
    brings: Mapping[bytes, RangeSet]


@dataclass(frozen=True, slots=True)
class PeerLoad:
    """About how long a new request would wait at a peer, in its word."""

    peer: PeerId
    queue_s: float


@dataclass(frozen=True, slots=True)
class PeerThrottled:
    """An origin told a peer to wait. `origin`: 16 bytes of the sha2-256 of its `host:port`."""

    peer: PeerId
    origin: bytes
    retry_after_s: float


@dataclass(frozen=True, slots=True)
class PeerGone:
    """The link to a peer ended; what it held is unknown until it is back."""

    peer: PeerId
    reason: str


SwarmEvent = (
    PeerHolds
    | PeerLost
    | PeerSettled
    | PeerProof
    | PeerBrings
    | PeerLoad
    | PeerThrottled
    | PeerGone
)


class Shelf(Protocol):
    """Our own holdings, as one peer may see them. Each call is given at most 30 s.

    Errors of errors.py are told to the peer (LocalFault as "not now"); none ends a link.
    """

    async def holding(
        self, peer: PeerId, manifest: bytes | None, names: Sequence[bytes]
    ) -> Sequence[Holding]:
        """What this peer may know that we hold of these names.

        Raises Denied, with a challenge if a proof would change it; after a ticket for `manifest`
        was given to the peer this is asked again.
        """
        ...

    async def block_map(self, peer: PeerId, name: bytes, first: int, count: int) -> BlockMap | None:
        """Hashes of at most `count` blocks; None: we have none, or the peer may not know."""
        ...

    async def ticket(self, peer: PeerId, scope: bytes, proof: bytes | None) -> Pass:
        """Let the peer read. Raises Denied (with `challenge` when a proof is needed), NotFound."""
        ...

    async def prove(self, peer: PeerId, scope: bytes, challenge: bytes) -> bytes | None:
        """Our own proof for a peer's challenge; None: we have none."""
        ...

    async def manifest(
        self, peer: PeerId, cid: bytes, offset: int, most_bytes: int
    ) -> tuple[int, bytes] | None:
        """The size of a manifest and some of its bytes; None: not here, or not for this peer."""
        ...

    async def resolutions(self, peer: PeerId, canonical: str) -> Sequence[SignedResolution]:
        """What we know a ref to mean, that this peer may know; at most 16."""
        ...
