"""dag-pb: the node of UnixFS, links and data. https://ipld.io/specs/codecs/dag-pb/spec/

Reads what every writer of it ever wrote: links before data (canonical) or after, fields of a link
in the canonical order, name and size left out. Refuses unknown fields, fields twice, links on both
sides of the data, and numbers that are longer than they need be. Only Untrusted comes out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from p2pcache.content import cid as cids
from p2pcache.content import varint
from p2pcache.errors import Untrusted

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_NODE_BYTES = 2 << 20  # of a block that is parsed: no block may have more
MAX_LINKS = MAX_NODE_BYTES // 32  # with a sha2-256 none is shorter; each costs 200 bytes here

# protobuf keys: field << 3 | wire type (0 varint, 2 length-delimited)
LINKS, DATA = 0x12, 0x0A  # PBNode
HASH, NAME, TSIZE = 0x0A, 0x12, 0x18  # PBLink


@dataclass(frozen=True, slots=True)
class Link:
    """A child. `cid` as it is written, of either version; `size`: the Tsize that the parent claims,
    None if it claims none.
    """

    cid: bytes
    name: bytes = b""
    size: int | None = None


@dataclass(frozen=True, slots=True)
class Node:
    """`data`: None where the node has no such field."""

    links: tuple[Link, ...]
    data: bytes | None


def parse(block: bytes) -> Node:
    """A block to its links and data. Raises Untrusted."""
    if len(block) > MAX_NODE_BYTES:
        raise Untrusted(f"a node of {len(block)} bytes is over the limit of {MAX_NODE_BYTES}")
    links: list[Link] = []
    data: bytes | None = None
    at = data_after = 0
    while at < len(block):
        key = block[at]
        body, at = bytes_at(block, at + 1)
        if key == LINKS:
            if data is not None and data_after:
                raise Untrusted("a node has links before and after its data")
            links.append(_link(body))
            if len(links) > MAX_LINKS:
                raise Untrusted(f"a node has more than {MAX_LINKS} links")
        elif key == DATA:
            if data is not None:
                raise Untrusted("a node has data twice")
            data, data_after = body, len(links)
        else:
            raise Untrusted("a node has a field that dag-pb does not know")
    return Node(tuple(links), data)


def _link(body: bytes) -> Link:
    """PBLink: Hash, then Name and Tsize, each of which may be left out."""
    if body[:1] != bytes([HASH]):
        raise Untrusted("a link has no hash")
    cid, at = bytes_at(body, 1)
    if not _usual(cid):
        cids.checked(cid)
    name, size = b"", None
    if body[at : at + 1] == bytes([NAME]):
        name, at = bytes_at(body, at + 1)
    if body[at : at + 1] == bytes([TSIZE]):
        size, at = varint.decode(body, at + 1)
    if at != len(body):
        raise Untrusted("a link has other fields than it should, or in another order")
    return Link(cid, name, size)


def _usual(cid: bytes) -> bool:
    """Whether it is a CID with a sha2-256 at a glance: `cids.checked` costs 3 us."""
    return (len(cid) == 36 and cid[0] == 1 and cid[1] < 128 and cid[2:4] == b"\x12\x20") or (
        cids.is_v0(cid)
    )


def bytes_at(data: bytes, at: int) -> tuple[bytes, int]:
    """The length-delimited value that begins at `at`, and where it ends. Raises Untrusted."""
    if at < len(data) and data[at] < 128:
        length, start = data[at], at + 1
    else:
        length, start = varint.decode(data, at)
    end = start + length
    if end > len(data):
        raise Untrusted("a node is cut short")
    return data[start:end], end


def encode(links: Iterable[Link], data: bytes | None) -> bytes:
    """The canonical block: links in the order given (a folder's have to be sorted), then data."""
    parts = [encode_link(link) for link in links]
    if data is not None:
        parts.append(field(DATA, data))
    return b"".join(parts)


def encode_link(link: Link) -> bytes:
    """PBLink with its key and length."""
    return link_field(link.cid, link.name, link.size)


def link_field(cid: bytes, name: bytes, size: int | None) -> bytes:
    """`encode_link` of its parts. Canonical: Hash, Name, Tsize, an empty name too."""
    body = field(HASH, cid) + field(NAME, name)
    if size is not None:
        body += bytes([TSIZE]) + varint.encode(size)
    return field(LINKS, body)


def field(key: int, data: bytes) -> bytes:
    """A length-delimited field."""
    return bytes([key]) + varint.encode(len(data)) + data
