"""CIDs. Text only at the edges, with py-multiformats-cid (any multibase, v0 and v1); inside they
are binary CIDv1: `01 <codec> <multihash>`. A parse of text costs some 60 us: keep it out of loops.

Links of others may be CIDv0, a bare sha2-256 multihash, and what is written again must keep them so
(a CAR, a node). Everything here takes both; `as_v1` makes the form that blocks are found by.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass

import base58
import multiformats_cid

from p2pcache.content import digests, varint
from p2pcache.errors import Untrusted, UsageError

RAW = 0x55  # multicodec table; all that we write fit one varint byte
DAG_PB = 0x70
DAG_CBOR = 0x71
LIBP2P_KEY = 0x72
GIT_RAW = 0x78
DAG_JSON = 0x0129  # two varint bytes
IDENTITY = 0x00  # multihash code: the digest is the content
CODECS = {RAW: "raw", DAG_PB: "dag-pb", DAG_CBOR: "dag-cbor", DAG_JSON: "dag-json"}

V0_BYTES = 34
_V0 = bytes([digests.SHA2_256, 32])
MAX_DIGEST_BYTES = 128  # of an identity multihash, as boxo's verifcid has it; hashes have 64
_EMPTY = ("bafkqaaa", b"\x01\x55\x00\x00")  # no bytes at all, which py-multiformats-cid refuses

_BASE32 = "abcdefghijklmnopqrstuvwxyz234567"
_TO_DIGITS = str.maketrans(_BASE32, "0123456789abcdefghijklmnopqrstuv")  # those of int(text, 32)

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


@dataclass(frozen=True, slots=True)
class Parts:
    """What a CID says. `hash_code`: of the multihash whose digest is `digest`."""

    version: int
    codec: int
    hash_code: int
    digest: bytes


def is_v0(cid: bytes) -> bool:
    """Whether a binary CID is of version 0."""
    return len(cid) == V0_BYTES and cid.startswith(_V0)


def as_v1(cid: bytes) -> bytes:
    """The CIDv1 of a binary CID of either version: what blocks are found by."""
    return bytes([1, DAG_PB]) + cid if is_v0(cid) else cid


def as_v0(cid: bytes) -> bytes:
    """The CIDv0 of a dag-pb node with a sha2-256. Raises ValueError for any other CID."""
    short = cid[2:] if cid[:2] == bytes([1, DAG_PB]) else cid
    if not is_v0(short):
        raise ValueError("only dag-pb with a sha2-256 has a CIDv0")
    return short


def read_cid(data: bytes, at: int = 0) -> tuple[bytes, int]:
    """The binary CID of either version that begins at `at`, and where it ends. Raises Untrusted:
    cut short, another version, or a digest of more than MAX_DIGEST_BYTES.
    """
    if data[at : at + 2] == _V0:
        end = at + V0_BYTES
    else:
        version, codec_at = varint.decode(data, at)
        if version != 1:
            raise Untrusted(f"a CID of version {version}: there is none")
        _, hash_at = varint.decode(data, codec_at)
        _, length_at = varint.decode(data, hash_at)
        length, start = varint.decode(data, length_at)
        if length > MAX_DIGEST_BYTES:
            raise Untrusted(f"a CID with a digest of {length} bytes, more than {MAX_DIGEST_BYTES}")
        end = start + length
    if end > len(data):
        raise Untrusted("a CID is cut short")
    return data[at:end], end


def checked(cid: bytes) -> bytes:
    """A binary CID from outside, as it is, if nothing follows it. Raises Untrusted."""
    _, end = read_cid(cid)
    if end != len(cid):
        raise Untrusted("bytes follow a CID")
    return cid


def parts(cid: bytes) -> Parts:
    """A binary CID taken apart. Raises Untrusted."""
    if is_v0(cid):
        return Parts(0, DAG_PB, digests.SHA2_256, cid[2:])
    checked(cid)
    code, at = varint.decode(cid, 1)
    hash_code, at = varint.decode(cid, at)
    _, at = varint.decode(cid, at)
    return Parts(1, code, hash_code, cid[at:])


def make_cid(code: int, multihash: bytes) -> bytes:
    """A CIDv1 of this codec and multihash."""
    return b"\x01" + varint.encode(code) + multihash


def codec(cid: bytes) -> int:
    """The codec of a binary CID of either version."""
    if is_v0(cid):
        return DAG_PB
    return cid[1] if cid[1] < 128 else varint.decode(cid, 1)[0]


def multihash(cid: bytes) -> bytes:
    """The multihash of a binary CID of either version."""
    if is_v0(cid):
        return cid
    return cid[2:] if cid[1] < 128 else cid[varint.decode(cid, 1)[1] :]


def parse_cid(text: str) -> bytes:
    """Text to a binary CIDv1 (a v0 becomes v1 dag-pb). Raises UsageError."""
    return as_v1(parse_cid_as_written(text))


def parse_cid_as_written(text: str) -> bytes:
    """Text to a binary CID of the version that it has. Raises UsageError.

    Only multihashes whose length agrees with their prefix come out.
    """
    if not text:
        raise UsageError("there is no CID", hint="a CID looks like `bafy...` or `Qm...`")
    if len(text) > MAX_TEXT_CHARS:
        raise UsageError(f"`{text[:32]}...` is too long for a CID")
    if text.lower() == _EMPTY[0]:
        return _EMPTY[1]
    try:
        binary: bytes = multiformats_cid.from_string(text).buffer
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as exc:
        raise UsageError(
            f"`{text}` is not a CID", hint="a CID looks like `bafy...` or `Qm...`"
        ) from exc
    try:
        checked(binary)
    except Untrusted as exc:
        raise UsageError(f"`{text}` is not a CID that p2pcache knows: {exc.message}") from exc
    if text[0] in "bB" and format_cid(binary) != text.lower():  # the decoder drops spare letters
        raise UsageError(f"`{text}` has spare letters at its end: one CID has one text")
    return binary


def parse_base32(text: str) -> bytes | None:
    """The usual text of a CIDv1 to its bytes, in 3 us: for links by the thousand. None for any
    other spelling, and for what is no CID. Codecs and hash functions are not looked at.
    """
    digits = text[1:]
    spare = len(digits) * 5 % 8
    if text[:1] != "b" or not digits or digits.strip(_BASE32) or len(text) > MAX_TEXT_CHARS:
        return None
    number = int(digits.translate(_TO_DIGITS), 32)
    if spare > 4 or number & (1 << spare) - 1:
        return None
    try:
        cid = checked((number >> spare).to_bytes(len(digits) * 5 // 8, "big"))
    except Untrusted:
        return None
    return None if is_v0(cid) else cid  # which has no prefix


def looks_like_cid(text: str) -> bool:
    """Whether a bare word is meant as a CID: the prefixes that CIDs of ours and Kubo's have."""
    if not text.isascii() or not text.isalnum():
        return False
    v0 = len(text) == 46 and text.startswith("Qm")
    base32 = len(text) >= 50 and text[:2] in ("ba", "BA")
    base58 = len(text) >= 40 and text.startswith("z")
    base16 = len(text) >= 60 and text[:3].lower() == "f01"
    base36 = len(text) >= 50 and text[0] in "kK"
    inlined = len(text) >= 8 and text.startswith(("bafkqa", "bafyaa"))  # identity: of any length
    return v0 or base32 or base58 or base16 or base36 or inlined


def format_cid(cid: bytes) -> str:
    """A binary CID to the usual text: of v1 multibase `b`, base32 lower case without padding; of v0
    `Qm...`.
    """
    if is_v0(cid):
        return base58.b58encode(cid).decode()
    return "b" + base64.b32encode(cid).decode().lower().rstrip("=")
