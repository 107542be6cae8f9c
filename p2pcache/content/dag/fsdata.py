"""UnixFS: what the data of a dag-pb node mean. https://specs.ipfs.tech/unixfs/ Only Untrusted comes
out.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

from p2pcache.content import varint
from p2pcache.content.dag.node import MAX_LINKS, bytes_at, field
from p2pcache.errors import Untrusted

if TYPE_CHECKING:
    from p2pcache.content.dag.node import Node

MURMUR3 = 0x22  # multicodec murmur3-x64-64: the one hash of HAMT directories
MAX_MODE = 0xFFFFFFFF  # uint32 in the schema

_TYPE, _DATA, _SIZE, _BLOCK_SIZE, _HASH_TYPE, _FANOUT, _MODE, _MTIME = range(1, 9)
_NUMBERS = frozenset({_TYPE, _SIZE, _HASH_TYPE, _FANOUT, _MODE})
_SECONDS, _NANOSECONDS = 1, 2
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # protobuf wire types


class Kind(enum.IntEnum):
    """DataType of unixfs.proto."""

    RAW = 0  # a leaf of old files
    DIRECTORY = 1
    FILE = 2
    METADATA = 3  # nothing ever wrote it
    SYMLINK = 4
    SHARD = 5  # a node of a HAMT directory


_KINDS = frozenset(Kind)


@dataclass(frozen=True, slots=True)
class FsData:
    """`data`: content in the node itself, a symlink's target, a shard's bitfield. `size` of a file
    as the node claims it, None if it does not; `block_sizes`: content bytes below each link.
    `mtime`: seconds and nanoseconds.
    """

    kind: Kind
    data: bytes = b""
    size: int | None = None
    block_sizes: tuple[int, ...] = ()
    hash_type: int | None = None
    fanout: int | None = None
    mode: int | None = None
    mtime: tuple[int, int] | None = None


def of_node(node: Node) -> FsData | None:
    """What a node means; None for dag-pb that is no UnixFS, without any data. Raises Untrusted."""
    return None if node.data is None else parse(node.data, len(node.links))


def parse(data: bytes, most_sizes: int = MAX_LINKS) -> FsData:
    """Raises Untrusted, also for more than `most_sizes` block sizes: a node has one for each link.
    Fields that nobody knows yet are skipped, as protobuf wants it.
    """
    numbers: dict[int, int] = {}
    content, sizes = b"", []
    mtime: tuple[int, int] | None = None
    at = 0
    while at < len(data):
        key, at = varint.decode(data, at)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, at = _varint64(data, at)
            if number == _BLOCK_SIZE:
                sizes.append(value)
            elif number in _NUMBERS:
                numbers[number] = value
        elif wire == _BYTES:
            body, at = bytes_at(data, at)
            if number == _DATA:
                content = body
            elif number == _BLOCK_SIZE:  # packed, as newer writers of protobuf may
                sizes += _packed(body, most_sizes)
            elif number == _MTIME:
                mtime = _time(body)
        else:
            at = _skip(data, at, wire)
        if len(sizes) > most_sizes:
            raise Untrusted(f"a node tells of more sizes than its {most_sizes} links have")
    if numbers.get(_TYPE, -1) not in _KINDS:
        raise Untrusted("a node has data that are no UnixFS")
    if max(numbers.values()) >> 63 or any(size >> 63 for size in sizes):
        raise Untrusted("a node tells of more bytes than there can be")
    if numbers.get(_MODE, 0) > MAX_MODE:
        raise Untrusted("a node has a mode that is none")
    return FsData(
        Kind(numbers[_TYPE]), content, numbers.get(_SIZE), tuple(sizes),
        numbers.get(_HASH_TYPE), numbers.get(_FANOUT), numbers.get(_MODE), mtime,
    )  # fmt: skip


def _packed(body: bytes, most: int) -> list[int]:
    """Up to one more than `most`."""
    sizes: list[int] = []
    at = 0
    while at < len(body) and len(sizes) <= most:
        size, at = _varint64(body, at)
        sizes.append(size)
    return sizes


def _time(body: bytes) -> tuple[int, int]:
    """UnixTime: seconds as a signed number, nanoseconds as four bytes."""
    seconds = nanoseconds = at = 0
    while at < len(body):
        key, at = varint.decode(body, at)
        number, wire = key >> 3, key & 7
        if number == _SECONDS and wire == _VARINT:
            seconds, at = _varint64(body, at)
        elif number == _NANOSECONDS and wire == _FIXED32:
            nanoseconds = int.from_bytes(body[at : at + 4], "little")
            at = _skip(body, at, wire)
        elif wire == _VARINT:
            _, at = _varint64(body, at)
        else:
            at = _skip(body, at, wire)
    return seconds - (1 << 64) if seconds >> 63 else seconds, nanoseconds


def _skip(data: bytes, at: int, wire: int) -> int:
    if wire == _BYTES:
        return bytes_at(data, at)[1]
    width = {_FIXED64: 8, _FIXED32: 4}.get(wire)
    if width is None or at + width > len(data):
        raise Untrusted("a node's data are cut short, or no UnixFS")
    return at + width


def _varint64(data: bytes, at: int) -> tuple[int, int]:
    """Of 64 bits, as protobuf writes negative numbers: one byte more than `varint` takes."""
    if at < len(data) and data[at] < 128:
        return data[at], at + 1
    number = 0
    for place, byte in enumerate(data[at : at + 10]):
        number |= (byte & 127) << 7 * place
        if byte < 128:
            if number >> 64 or byte == 0:
                break
            return number, at + place + 1
    raise Untrusted("a number is cut short, or longer than it should be")


def encode(meaning: FsData) -> bytes:
    """As Kubo writes it: fields in the order of their numbers, no empty content."""
    out = bytearray([_TYPE << 3, meaning.kind])
    if meaning.data:
        out += field(_DATA << 3 | _BYTES, meaning.data)
    numbers = [
        (_SIZE, meaning.size),
        *((_BLOCK_SIZE, size) for size in meaning.block_sizes),
        (_HASH_TYPE, meaning.hash_type),
        (_FANOUT, meaning.fanout),
        (_MODE, meaning.mode),
    ]
    for number, value in numbers:
        if value is not None:
            out += bytes([number << 3]) + varint.encode(value)
    if meaning.mtime is not None:
        seconds, nanoseconds = meaning.mtime
        body = bytes([_SECONDS << 3]) + varint.encode(seconds % (1 << 64))
        if nanoseconds:
            body += bytes([_NANOSECONDS << 3 | _FIXED32]) + nanoseconds.to_bytes(4, "little")
        out += field(_MTIME << 3 | _BYTES, body)
    return bytes(out)
