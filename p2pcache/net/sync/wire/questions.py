"""Questions and their answers: block maps, tickets, manifests, names; or why there is none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

from p2pcache.content import signed
from p2pcache.net.sync.fields import Flag, Many, Maybe, Raw, Real, Text, Whole
from p2pcache.net.sync.wire.parts import (
    ID,
    MAX_REASON_BYTES,
    NAME,
    PEER,
    REF,
    SIGNATURE,
    SIZE,
    Codecs,
    plain_tuple,
    record,
)

MAX_MAP_BLOCKS = 4096  # 128 KiB of hashes
MAX_ATTESTATIONS = 512  # a blob has at most 512 pieces of one block (DESIGN 1)
MAX_PART_BYTES = 256 << 10  # of a manifest
MAX_MANIFEST_BYTES = 1 << 32
MAX_TOKEN_BYTES = 1024
MAX_PROOF_BYTES = 16 << 10
MAX_RESOLUTIONS = 16
MAX_CODE_BYTES = 32


@dataclass(frozen=True, slots=True)
class MapAsk:
    """The hashes of blocks `[first, first + count)`."""

    id: int
    name: bytes
    first: int
    count: int


@dataclass(frozen=True, slots=True)
class Map:
    """`hashes`: 32 bytes a block from `first`, to be proven by the asker; else attestations.

    Neither: the sender has no map. Attestations are `PieceAttestation.to_wire` as tuples.
    """

    id: int
    name: bytes
    size: int
    first: int
    hashes: bytes | None
    attestations: tuple[tuple[Any, ...], ...]


@dataclass(frozen=True, slots=True)
class TicketAsk:
    """May I read the blobs of this manifest, or this blob? `proof` answers a challenge."""

    id: int
    scope: bytes
    proof: bytes | None


@dataclass(frozen=True, slots=True)
class Ticket:
    """You may, for `expires_s` seconds from now."""

    id: int
    token: bytes
    expires_s: float


@dataclass(frozen=True, slots=True)
class ManifestAsk:
    """The bytes of a manifest from `offset` on."""

    id: int
    cid: bytes
    offset: int


@dataclass(frozen=True, slots=True)
class ManifestPart:
    """Some of its `total` bytes."""

    id: int
    total: int
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class NameAsk:
    """What did this ref mean?"""

    id: int
    canonical: str


@dataclass(frozen=True, slots=True)
class Names:
    """Signed resolutions, `SignedResolution.to_wire` as tuples."""

    id: int
    resolutions: tuple[tuple[Any, ...], ...]


@dataclass(frozen=True, slots=True)
class Refused:
    """No answer. `code`: one of errors.py; `challenge`: prove this and ask again."""

    id: int
    code: str
    text: str
    challenge: bytes | None


Ask: TypeAlias = MapAsk | TicketAsk | ManifestAsk | NameAsk
Answer: TypeAlias = Map | Ticket | ManifestPart | Names | Refused

_BLOCK = Whole(0, (1 << 32) - 1)
_ATTESTATION = plain_tuple(
    NAME,
    Whole(1, signed.MAX_BLOB_BYTES),
    SIZE,
    Raw(32, 32 * signed.MAX_PIECE_BLOCKS),
    PEER,
    SIGNATURE,
)
_RESOLUTION = plain_tuple(
    REF, NAME, Maybe(REF), REF, REF, Flag(), Flag(), Real(1e11), PEER, SIGNATURE
)

CODECS: Codecs = {
    13: (MapAsk, record(MapAsk, ID, NAME, _BLOCK, Whole(1, MAX_MAP_BLOCKS))),
    14: (
        Map,
        record(
            Map,
            ID,
            NAME,
            SIZE,
            _BLOCK,
            Maybe(Raw(0, 32 * MAX_MAP_BLOCKS)),
            Many(_ATTESTATION, MAX_ATTESTATIONS),
        ),
    ),
    15: (TicketAsk, record(TicketAsk, ID, NAME, Maybe(Raw(0, MAX_PROOF_BYTES)))),
    16: (Ticket, record(Ticket, ID, Raw(1, MAX_TOKEN_BYTES), Real(1e6))),
    17: (
        Refused,
        record(
            Refused,
            ID,
            Text(MAX_CODE_BYTES),
            Text(MAX_REASON_BYTES, cut=True),
            Maybe(Raw(0, MAX_PROOF_BYTES)),
        ),
    ),
    18: (ManifestAsk, record(ManifestAsk, ID, NAME, Whole(0, MAX_MANIFEST_BYTES))),
    19: (
        ManifestPart,
        record(
            ManifestPart,
            ID,
            Whole(0, MAX_MANIFEST_BYTES),
            Whole(0, MAX_MANIFEST_BYTES),
            Raw(0, MAX_PART_BYTES),
        ),
    ),
    20: (NameAsk, record(NameAsk, ID, REF)),
    21: (Names, record(Names, ID, Many(_RESOLUTION, MAX_RESOLUTIONS))),
}
