"""What a pull tells the agent so that others can have what it brings while it brings it.

The agent implements it over its byte server, its network and its store; all calls are quick.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pathlib import Path

    from p2pcache.content.peerid import PeerId
    from p2pcache.content.signed import PieceAttestation, Signer
    from p2pcache.sources.port import Swarm
    from p2pcache.store.rooted import AnyBlob
    from p2pcache.transfer.trust import Verdict


class Sharing(Protocol):
    """The agent's side of a pull among peers. No method waits or raises."""

    def growing(self, name: bytes, size_bytes: int, data: Path, live: Path) -> None:
        """A blob begins to arrive: these files may be served, block by block, as `live` says."""
        ...

    def attested(self, attestation: PieceAttestation) -> None:
        """A word that may be passed on with the blocks: ours, or what another signed."""
        ...

    def lost_source(self, name: bytes) -> None:
        """Nobody brings this blob now, or its blocks are rewritten: drop who waits for them."""
        ...

    def complete(self, name: bytes, blob: AnyBlob) -> None:
        """The blob is in the store."""
        ...

    def convict(self, verdict: Verdict) -> None:
        """A peer is a proven liar: to be banned by name."""
        ...

    def is_banned(self, peer: PeerId) -> bool:
        """Whether nothing of this peer is wanted."""
        ...


@dataclass(frozen=True, slots=True)
class Peers:
    """What a pull needs to use peers. `signer`: our key, for the pieces we bring from an origin.

    `told_s`: how long the members took to tell what they hold; None: not all of them did.
    """

    swarm: Swarm
    sharing: Sharing
    signer: Signer | None = None
    told_s: float | None = None


PeersLater = Callable[[], AbstractAsyncContextManager[Peers]]
"""For a pull that begins without a network: entered when there is one, perhaps never."""
