"""Block maps: the sha2-256 of every 1 MiB block of a blob, and why they are believed.

*Proven*: the map hashes up to a UnixFS root that was asked for, or the assembled blob matched its
whole digest. *Attested*: an agent signed it; blocks checked against it may be kept and re-shared
with the attestation, but the blob is complete only when the whole digest matches (DESIGN 3).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from p2pcache.content.unixfs import LEAF_BYTES, file_root
from p2pcache.errors import Untrusted

if TYPE_CHECKING:
    from p2pcache.content.verify import VerifiedBlob

HASH_BYTES = 32


@dataclass(frozen=True, slots=True)
class Proven:
    """Why the map needs no further check."""

    by: Literal["unixfs-root", "whole-digest"]


@dataclass(frozen=True, slots=True)
class Attested:
    """Who says so: an agent's public key and its signature over the map (made in issue B)."""

    signer: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class BlockMap:
    """`hashes`: 32 bytes a block, in order. Raises Untrusted when the count does not fit."""

    size: int
    hashes: bytes
    proof: Proven | Attested

    def __post_init__(self) -> None:
        if self.size < 0 or len(self.hashes) != HASH_BYTES * self.block_count:
            raise Untrusted(
                f"a block map of {len(self.hashes)} bytes does not fit a blob of {self.size}"
            )

    @property
    def block_count(self) -> int:
        """Blocks of the blob; an empty blob has none."""
        return -(-self.size // LEAF_BYTES)

    def block(self, index: int) -> bytes:
        """The sha2-256 of one block."""
        if not 0 <= index < self.block_count:
            raise IndexError(index)
        return self.hashes[index * HASH_BYTES : (index + 1) * HASH_BYTES]

    def slice(self, start: int, end: int) -> bytes:
        """The hashes of the blocks of a block-aligned byte range, joined."""
        return self.hashes[HASH_BYTES * (start // LEAF_BYTES) : HASH_BYTES * -(-end // LEAF_BYTES)]

    def root(self) -> bytes:
        """The UnixFS root (binary CID) that these blocks make."""
        pieces = (self.block(i) for i in range(self.block_count))
        return file_root(pieces, self.size).cid


def prove_by_root(size: int, hashes: bytes, root_cid: bytes) -> BlockMap:
    """A proven map if it makes that root. Raises Untrusted."""
    made = BlockMap(size, hashes, Proven("unixfs-root"))
    if made.root() != root_cid:
        raise Untrusted("a block map does not make the root that was asked for")
    return made


def prove_by_digest(hashes: bytes, blob: VerifiedBlob) -> BlockMap:
    """The map of the bytes that just matched their whole digest."""
    return BlockMap(blob.size, hashes, Proven("whole-digest"))


def describe(proof: Proven | Attested) -> str:
    """For people."""
    if isinstance(proof, Proven):
        return f"proven by {proof.by}"
    return f"attested by {proof.signer.hex()}"
