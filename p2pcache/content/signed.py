"""Statements that agents sign: whose word it is that a map, a name or a permission holds.

Each is a frozen value with the bytes that are signed, a canonical msgpack list behind a domain
tag, so that a signature of one kind can never pass for another. The signature is Ed25519 by the
key inside the signer's peer id. Parsing checks the signature: a value of these types is one whose
signer was proven; whether the signer is to be believed is another question.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import msgpack
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from p2pcache.content.peerid import PeerId, check_peer_id, public_key_of
from p2pcache.content.unixfs import LEAF_BYTES
from p2pcache.errors import Untrusted

if TYPE_CHECKING:
    from collections.abc import Sequence

SIGNATURE_BYTES = 64
MAX_NAME_BYTES = 64  # a multihash or a binary CID of ours
MAX_TEXT_BYTES = 4096  # a canonical ref
MAX_PIECE_BLOCKS = 16  # DESIGN 1: a piece is 1 to 16 blocks
MAX_BLOB_BYTES = 1 << 50


class Signer(Protocol):
    """An agent's key. `sign` is cheap (50 us) and never fails."""

    @property
    def peer_id(self) -> PeerId:
        """Whose key it is."""
        ...

    def sign(self, message: bytes) -> bytes:
        """The 64-byte Ed25519 signature of a message."""
        ...


def check_signature(signer: PeerId, message: bytes, signature: bytes) -> None:
    """Raises Untrusted unless `signer` signed `message`."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key_of(signer)).verify(signature, message)
    except (InvalidSignature, ValueError) as exc:
        raise Untrusted("a signature does not fit its signer") from exc


@dataclass(frozen=True, slots=True)
class PieceAttestation:
    """The hashes of the blocks of one piece of a blob, in the word of who brought it (DESIGN 3).

    `blob` is the name that was asked for; `size` of the whole blob; `start` in bytes, whole blocks;
    `hashes` 32 bytes a block.
    """

    blob: bytes
    size: int
    start: int
    hashes: bytes
    signer: PeerId
    signature: bytes

    TAG = b"p2pcache attestation 1\0"

    @property
    def end(self) -> int:
        """The first byte behind the piece."""
        return min(self.size, self.start + len(self.hashes) // 32 * LEAF_BYTES)

    def to_wire(self) -> list[Any]:
        """A plain list for `parse_attestation`."""
        return [self.blob, self.size, self.start, self.hashes, self.signer, self.signature]


@dataclass(frozen=True, slots=True)
class SignedResolution:
    """What a name meant, in the word of who asked its origin: travels, so that names work offline.

    `canonical` and `immutable` as in transfer/resolve; `resolved_at` unix seconds by the signer's
    clock; `restricted`: gated, private or resolved with a credential (never shared unproven).
    """

    canonical: str
    manifest: bytes
    immutable: str | None
    source: str
    endpoint: str
    mutable: bool
    restricted: bool
    resolved_at: float
    signer: PeerId
    signature: bytes

    TAG = b"p2pcache resolution 1\0"

    def to_wire(self) -> list[Any]:
        """A plain list for `parse_resolution`."""
        return [
            self.canonical, self.manifest, self.immutable, self.source, self.endpoint,
            self.mutable, self.restricted, self.resolved_at, self.signer, self.signature,
        ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Grant:
    """The network admin's permission for one peer to read what a ref prefix names.

    `repo`: a canonical ref without its revision (`hf://org/name`). `expires_at`: unix seconds.
    """

    repo: str
    peer: PeerId
    expires_at: float
    signer: PeerId
    signature: bytes

    TAG = b"p2pcache grant 1\0"

    def to_wire(self) -> list[Any]:
        """A plain list for `parse_grant`."""
        return [self.repo, self.peer, self.expires_at, self.signer, self.signature]


Statement = TypeVar("Statement", PieceAttestation, SignedResolution, Grant)


def sign_attestation(
    signer: Signer, blob: bytes, size: int, start: int, hashes: bytes
) -> PieceAttestation:
    """Attest a piece. The caller has hashed these blocks itself."""
    peer = signer.peer_id
    message = _message(PieceAttestation.TAG, [blob, size, start, hashes, peer])
    return PieceAttestation(blob, size, start, hashes, peer, signer.sign(message))


def sign_resolution(
    signer: Signer,
    *,
    canonical: str,
    manifest: bytes,
    immutable: str | None,
    source: str,
    endpoint: str,
    mutable: bool,
    restricted: bool,
    resolved_at: float,
) -> SignedResolution:
    """Give one's word for what a name meant at `resolved_at`."""
    peer = signer.peer_id
    fields = (canonical, manifest, immutable, source, endpoint, mutable, restricted, resolved_at)
    message = _message(SignedResolution.TAG, [*fields, peer])
    return SignedResolution(*fields, peer, signer.sign(message))


def sign_grant(signer: Signer, repo: str, peer: PeerId, expires_at: float) -> Grant:
    """Permit a peer; only the signature of the network's admin key is of use."""
    admin = signer.peer_id
    message = _message(Grant.TAG, [repo, peer, expires_at, admin])
    return Grant(repo, peer, expires_at, admin, signer.sign(message))


def parse_attestation(wire: object) -> PieceAttestation:
    """Check shape, bounds and signature. Raises Untrusted."""
    blob, size, start, hashes, signer, signature = _fields(wire, 6)
    made = PieceAttestation(
        _bytes(blob, 1, MAX_NAME_BYTES),
        _int(size, 1, MAX_BLOB_BYTES),
        _int(start, 0, MAX_BLOB_BYTES),
        _bytes(hashes, 32, 32 * MAX_PIECE_BLOCKS),
        check_peer_id(_bytes(signer, 1, MAX_NAME_BYTES)),
        _bytes(signature, SIGNATURE_BYTES, SIGNATURE_BYTES),
    )
    blocks = -(-made.size // LEAF_BYTES)
    first, count = made.start // LEAF_BYTES, len(made.hashes) // 32
    if made.start % LEAF_BYTES or len(made.hashes) % 32 or first + count > blocks:
        raise Untrusted("an attestation does not fit its blob")
    _check(made)
    return made


def parse_resolution(wire: object) -> SignedResolution:
    """Check shape, bounds and signature. Raises Untrusted."""
    f = _fields(wire, 10)
    made = SignedResolution(
        canonical=_text(f[0]),
        manifest=_bytes(f[1], 36, 36),
        immutable=None if f[2] is None else _text(f[2]),
        source=_text(f[3]),
        endpoint=_text(f[4]),
        mutable=_bool(f[5]),
        restricted=_bool(f[6]),
        resolved_at=_moment(f[7]),
        signer=check_peer_id(_bytes(f[8], 1, MAX_NAME_BYTES)),
        signature=_bytes(f[9], SIGNATURE_BYTES, SIGNATURE_BYTES),
    )
    _check(made)
    return made


def parse_grant(wire: object) -> Grant:
    """Check shape, bounds and signature; not the expiry and not who signed. Raises Untrusted."""
    repo, peer, expires_at, signer, signature = _fields(wire, 5)
    made = Grant(
        _text(repo),
        check_peer_id(_bytes(peer, 1, MAX_NAME_BYTES)),
        _moment(expires_at),
        check_peer_id(_bytes(signer, 1, MAX_NAME_BYTES)),
        _bytes(signature, SIGNATURE_BYTES, SIGNATURE_BYTES),
    )
    _check(made)
    return made


def _check(made: Statement) -> None:
    *fields, signature = made.to_wire()
    check_signature(made.signer, _message(made.TAG, fields), signature)


def _message(tag: bytes, fields: Sequence[object]) -> bytes:
    packed: bytes = msgpack.packb(list(fields))
    return tag + packed


def _fields(wire: object, count: int) -> list[object]:
    if not isinstance(wire, list) or len(wire) != count:
        raise Untrusted("a signed statement has the wrong number of fields")
    return wire


def _bytes(value: object, least: int, most: int) -> bytes:
    if not isinstance(value, bytes) or not least <= len(value) <= most:
        raise Untrusted("a signed statement has bytes of the wrong length")
    return value


def _int(value: object, least: int, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise Untrusted("a signed statement has a number out of bounds")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str) or len(value.encode("utf-8", "replace")) > MAX_TEXT_BYTES:
        raise Untrusted("a signed statement has a text that is none or too long")
    return value


def _bool(value: object) -> bool:
    if not isinstance(value, bool):
        raise Untrusted("a signed statement has a flag that is none")
    return value


def _moment(value: object) -> float:
    if not isinstance(value, float) or not 0.0 <= value < 1e11:
        raise Untrusted("a signed statement has a time out of bounds")
    return value
