"""CIDs. Text only at the edges, with py-multiformats-cid (any multibase, v0 and v1); inside they
are binary CIDv1: `01 <codec> <multihash>`. A parse of text costs some 60 us: keep it out of loops.
"""

from __future__ import annotations

import base64

import multiformats_cid

from p2pcache.content import digests
from p2pcache.errors import UsageError

RAW = 0x55  # multicodec table; all of ours fit one varint byte
DAG_PB = 0x70
DAG_CBOR = 0x71
GIT_RAW = 0x78

MAX_TEXT_CHARS = 512  # an identity CID of 256 bytes in base16; longer is not one of ours


def raw_cid(sha256: bytes) -> bytes:
    """The CID of a raw leaf, and of a blob by its sha2-256."""
    return bytes([1, RAW]) + digests.sha256_digest(sha256)


def dagpb_cid(sha256: bytes) -> bytes:
    """The CID of a dag-pb node (UnixFS) by the sha2-256 of its block."""
    return bytes([1, DAG_PB]) + digests.sha256_digest(sha256)


def dagcbor_cid(sha256: bytes) -> bytes:
    """The CID of a dag-cbor node (our manifests)."""
    return bytes([1, DAG_CBOR]) + digests.sha256_digest(sha256)


def codec(cid: bytes) -> int:
    """The codec of a binary CIDv1."""
    return cid[1]


def multihash(cid: bytes) -> bytes:
    """The multihash of a binary CIDv1."""
    return cid[2:]


def parse_cid(text: str) -> bytes:
    """Text to a binary CIDv1 (a v0 becomes v1 dag-pb). Raises UsageError.

    Only codecs of one byte and multihashes whose length agrees with their prefix come out.
    """
    if not text:
        raise UsageError("there is no CID", hint="a CID looks like `bafy...` or `Qm...`")
    if len(text) > MAX_TEXT_CHARS:
        raise UsageError(f"`{text[:32]}...` is too long for a CID")
    try:
        parsed = multiformats_cid.from_string(text)
        binary: bytes = parsed.to_v1().buffer if parsed.version == 0 else parsed.buffer
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as exc:
        raise UsageError(
            f"`{text}` is not a CID", hint="a CID looks like `bafy...` or `Qm...`"
        ) from exc
    if len(binary) < 5 or binary[0] != 1 or binary[1] > 127 or binary[3] != len(binary) - 4:
        raise UsageError(f"`{text}` is not a CID that p2pcache knows")
    if text[0] in "bB" and format_cid(binary) != text.lower():  # the decoder drops spare letters
        raise UsageError(f"`{text}` has spare letters at its end: one CID has one text")
    return binary


def looks_like_cid(text: str) -> bool:
    """Whether a bare word is meant as a CID: the prefixes that CIDs of ours and Kubo's have."""
    if not text.isascii() or not text.isalnum():
        return False
    v0 = len(text) == 46 and text.startswith("Qm")
    base32 = len(text) >= 50 and text[:2] in ("ba", "BA")
    base58 = len(text) >= 40 and text.startswith("z")
    base16 = len(text) >= 60 and text[:3].lower() == "f01"
    base36 = len(text) >= 50 and text[0] in "kK"
    return v0 or base32 or base58 or base16 or base36


def format_cid(cid: bytes) -> str:
    """Binary CIDv1 to the usual text: multibase `b`, base32 lower case without padding."""
    return "b" + base64.b32encode(cid).decode().lower().rstrip("=")
