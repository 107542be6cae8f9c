"""CAR, the file of blocks that IPFS tools exchange, and the index that go-car puts beside one.

https://ipld.io/specs/transport/car/carv1: a header (DAG-CBOR: roots and version), then sections of
one block each; both are framed by a varint length. A CARv2 has one within it. Pure: bytes in, bytes
out, one frame at a time. (libipld's `decode_car` wants the whole file in memory.) Whatever it is
given, only Untrusted comes out; every length is checked before anything of it is read.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

import libipld

from p2pcache.content import cid as cids
from p2pcache.content import digests, varint
from p2pcache.content.blocks import MAX_BLOCK_BYTES
from p2pcache.content.dag import cbor
from p2pcache.content.dag.cbor import CidLink
from p2pcache.content.dag.hashes import check_hash
from p2pcache.errors import Untrusted

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MAX_HEADER_BYTES = 64 << 10  # some 1,500 roots
CID_BYTES = 36  # version, codec, sha2-256 multihash
MAX_CID_BYTES = 4 * varint.MAX_BYTES + cids.MAX_DIGEST_BYTES
HEAD_BYTES = varint.MAX_BYTES + MAX_CID_BYTES  # the longest length and CID of a section
MAX_SKIP_BYTES = 1 << 20  # of padding before the data of a CARv2: go-car writes none
_V2_ONLY = {"version": 2}  # the pragma that every CARv2 begins with
_V2_HEADER = struct.Struct("<16xQQ8x")  # characteristics; where the data begin, their length; index
V2_HEADER_BYTES = _V2_HEADER.size
_V2_START_BYTES = 11 + V2_HEADER_BYTES  # the pragma is a header of its own
_INDEX_SORTED = 0x0401  # multicodec car-multihash-index-sorted


@dataclass(frozen=True, slots=True)
class Section:
    """One block in a CAR. `cid` as written; `start` and `end` of its data, from where the section
    begins.
    """

    cid: bytes
    start: int
    end: int


def encode_header(roots: Sequence[bytes]) -> bytes:
    """The framed header. Roots are binary CIDs. Raises ValueError when there are too many."""
    body = cbor.encode({"roots": [cbor.CidLink(root) for root in roots], "version": 1})
    if len(body) > MAX_HEADER_BYTES:
        raise ValueError(f"{len(roots)} roots are too many for one CAR")
    return varint.encode(len(body)) + body


def encode_section(cid: bytes, data: bytes) -> tuple[bytes, bytes]:
    """The frame of one block and its data, to be written one after the other."""
    return varint.encode(len(cid) + len(data)) + cid, data


def header_extent(start: bytes) -> tuple[int, int]:
    """Where the header's body begins and ends, from the first bytes of a file."""
    length, at = varint.decode(start)
    if not 0 < length <= MAX_HEADER_BYTES:
        raise Untrusted(f"this is no CAR: its header would have {length} bytes")
    return at, at + length


def parse_header(body: bytes) -> tuple[bytes, ...] | None:
    """The roots, as written (may be none: some tools write none). None of a CARv2, whose header of
    V2_HEADER_BYTES follows. Raises Untrusted.
    """
    plain = cbor.decode(body)
    if plain == _V2_ONLY:
        return None
    if (
        not isinstance(plain, dict)
        or plain.get("version") != 1
        or set(plain) - {"roots", "version"}
    ):
        raise Untrusted("this is no CARv1: its header does not say so")
    roots = plain.get("roots", [])
    if not isinstance(roots, list):
        raise Untrusted("the header of a CAR has roots that are no list")
    found = [root.cid for root in roots if isinstance(root, CidLink)]
    if len(found) != len(roots):
        raise Untrusted("the header of a CAR has a root that is no CID")
    return tuple(found)


def parse_v2(header: bytes) -> tuple[int, int]:
    """The bytes between the header of a CARv2 and its CARv1, and those of that. Raises
    Untrusted.
    """
    if len(header) != V2_HEADER_BYTES:
        raise Untrusted("a CARv2 is cut short")
    begin, length = _V2_HEADER.unpack(header)
    skipped: int = begin - _V2_START_BYTES
    if not 0 <= skipped <= MAX_SKIP_BYTES:
        raise Untrusted("a CARv2 whose data begin where they cannot")
    return skipped, length


def parse_section(start: bytes) -> Section:
    """The frame that begins with these bytes: HEAD_BYTES of the file, or what is left of it."""
    length, at = varint.decode(start)
    cid, end = cids.read_cid(start, at)
    if length < end - at:
        raise Untrusted(f"a section of {length} bytes has no room for a CID")
    if length - (end - at) > MAX_BLOCK_BYTES:
        raise Untrusted(f"a section of {length} bytes is over the limit of {MAX_BLOCK_BYTES}")
    check_hash(cid)
    return Section(cid, end, at + length)


def known_cid(cid: object) -> bytes:
    """A CID from outside as binary CIDv1 with a sha2-256; v0 becomes v1. Raises Untrusted."""
    if isinstance(cid, bytes):
        if digests.is_sha256(cid):  # a CIDv0 is its multihash
            return cids.dagpb_cid(cid[2:])
        if len(cid) == CID_BYTES and cid[0] == 1 and cid[1] < 128 and digests.is_sha256(cid[2:]):
            return cid
    raise Untrusted("a CID that is cut short, or no sha2-256: others are not supported")


def decode_dag_cbor(body: bytes, what: str) -> object:
    """DAG-CBOR from outside; the caller has bounded its length (64 bytes of memory a byte)."""
    try:
        plain: object = libipld.decode_dag_cbor(body)
    except (ValueError, RecursionError, OverflowError) as exc:
        raise Untrusted(f"{what} is no DAG-CBOR") from exc
    return plain


def encode_index(entries: Iterable[tuple[bytes, int]]) -> bytes:
    """The index of a CAR, as `car detach-index` writes it: MultihashIndexSorted of CARv2.

    `entries`: sha2-256 of each block (32 bytes) and where its section begins.
    """
    rows = sorted(sha256 + struct.pack("<Q", offset) for sha256, offset in entries)
    width = 32 + 8
    head = struct.pack("<iQi", 1, digests.SHA2_256, 1)  # one hash function, one length
    if not rows:
        return varint.encode(_INDEX_SORTED) + struct.pack("<i", 0)
    bucket = struct.pack("<Iq", width, width * len(rows))
    return b"".join((varint.encode(_INDEX_SORTED), head, bucket, *rows))
