"""A block against its CID: the door for blocks that others send, with every hash that we know."""

from __future__ import annotations

import hashlib

from blake3 import blake3

from p2pcache.content import cid as cids
from p2pcache.content import digests, varint
from p2pcache.content.blocks import MAX_BLOCK_BYTES
from p2pcache.errors import Untrusted

SHA2_512 = 0x13  # multicodec table
BLAKE3 = 0x1E
LENGTHS = {digests.SHA2_256: (32,), SHA2_512: (64,), BLAKE3: (32,)}  # nothing cut short is taken
KNOWN = frozenset({*LENGTHS, cids.IDENTITY})


def raw_hash(code: int, data: bytes | memoryview) -> bytes:
    """The digest of `data` by a multihash code. Raises Untrusted for one that we do not know."""
    if code == digests.SHA2_256:
        return hashlib.sha256(data).digest()
    if code == SHA2_512:
        return hashlib.sha512(data).digest()
    if code == BLAKE3:
        return blake3(data).digest()
    if code == cids.IDENTITY:
        return bytes(data)
    raise Untrusted(f"a CID with the hash function {code:#x}: not supported")


def check_hash(cid: bytes) -> None:
    """Whether blocks of this CID can be verified here at all. Raises Untrusted: no CID, a hash
    function that we do not know, a digest of another length than it has.
    """
    parts = cids.parts(cid)
    if parts.hash_code not in KNOWN:
        raise Untrusted(f"a CID with the hash function {parts.hash_code:#x}: not supported")
    lengths = LENGTHS.get(parts.hash_code)
    if lengths is not None and len(parts.digest) not in lengths:
        raise Untrusted(f"a digest of {len(parts.digest)} bytes, where {lengths[0]} belong")


def verify_cid(cid: bytes, block: bytes | memoryview, most: int = MAX_BLOCK_BYTES) -> None:
    """Raises Untrusted unless these bytes are what a binary CID of either version names, and no
    more than `most`.
    """
    check_hash(cid)
    if len(block) > most:
        raise Untrusted(f"a block of {len(block)} bytes is over the limit of {most}")
    parts = cids.parts(cid)
    got = raw_hash(parts.hash_code, block)
    if got != parts.digest:
        raise Untrusted(f"a block hashes to {got.hex()}, not to {parts.digest.hex()}")


def cid_of(code: int, block: bytes, hash_code: int = digests.SHA2_256) -> bytes:
    """The CIDv1 of a block of our own, by its codec. Raises ValueError: too much for identity."""
    digest = raw_hash(hash_code, block)
    if len(digest) > cids.MAX_DIGEST_BYTES:
        raise ValueError(f"{len(digest)} bytes are too many for an identity CID")
    return cids.make_cid(code, varint.encode(hash_code) + varint.encode(len(digest)) + digest)
