"""Bitswap 1.1 and 1.2 messages (specs.ipfs.tech/bitswap-protocol), parsed strictly and bounded.

A frame is a varint length and a protobuf. Written by hand: the library builds every entry of a
message before anybody can count them (2 million in 4 MiB), and copies each block twice. CIDs are
kept as the peer writes them, version 0 as 34 bytes: an answer must name a block as it was asked
for. Only Untrusted comes out of `parse`, `cid_of` and `check_cid`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, TypeVar

from p2pcache.content import cid as cids
from p2pcache.content import varint
from p2pcache.content.dag.hashes import raw_hash
from p2pcache.errors import Untrusted

if TYPE_CHECKING:
    from collections.abc import Iterator

PROTOCOLS = ("/ipfs/bitswap/1.2.0", "/ipfs/bitswap/1.1.0")  # ours, best first
MAX_MESSAGE_BYTES = (4 << 20) + (64 << 10)  # boxo's 4 MiB, and room for what it does not count
MAX_ITEMS = 16384  # of one list; boxo sends want-lists of at most 512 KiB: 11,000
MAX_FIELDS = 8 * MAX_ITEMS  # of one message, on all its levels; 11,000 wants have 66,000
MAX_CID_BYTES = 144  # a version, a codec and a digest of 128 bytes
MAX_LENGTH_BYTES = 4  # of a frame's length; 28 bits are far more than a message

_Item = TypeVar("_Item")
_V0_PREFIX = b"\x00\x70\x12\x20"


class Kind(IntEnum):
    """What a want asks for. Values are the wire's."""

    BLOCK = 0
    HAVE = 1  # only whether it is there


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a want-list. `dont_have`: say so when it is not there. `cancel`: no longer."""

    cid: bytes
    priority: int = 1
    kind: Kind = Kind.BLOCK
    dont_have: bool = False
    cancel: bool = False


@dataclass(frozen=True, slots=True)
class Block:
    """A block as it travels: the CID without its digest, and the bytes. Not verified."""

    prefix: bytes
    data: bytes


@dataclass(frozen=True, slots=True)
class Message:
    """One message. `full`: the entries replace the want-list, else they change it. `fields`: what
    parsing it cost.
    """

    entries: tuple[Entry, ...] = ()
    full: bool = False
    blocks: tuple[Block, ...] = ()
    haves: tuple[bytes, ...] = ()
    dont_haves: tuple[bytes, ...] = ()
    fields: int = field(default=0, compare=False)


# -- CIDs


def prefix_of(cid: bytes) -> bytes:
    """What goes beside a block instead of its (valid) CID."""
    return _V0_PREFIX if cids.is_v0(cid) else cid[: len(cid) - len(cids.parts(cid).digest)]


def cid_of(block: Block) -> bytes:
    """The CID that the bytes have. Raises Untrusted: no prefix, a hash that we do not compute."""
    version, at = varint.decode(block.prefix)
    _, at = varint.decode(block.prefix, at)
    code, at = varint.decode(block.prefix, at)
    length, at = varint.decode(block.prefix, at)
    if at != len(block.prefix) or version > 1:
        raise Untrusted("a block has no CID's prefix")
    if version == 0 and block.prefix != _V0_PREFIX:
        raise Untrusted("a block of CID version 0 is dag-pb with a sha2-256")
    digest = raw_hash(code, block.data)
    if len(digest) != length:
        raise Untrusted("a block's digest has another length than its prefix says")
    return b"\x12\x20" + digest if version == 0 else block.prefix + digest


# -- parsing


def parse(data: bytes) -> Message:
    """The body of a frame. Raises Untrusted. Unknown fields are skipped."""
    entries: list[Entry] = []
    blocks: list[Block] = []
    presences: tuple[list[bytes], list[bytes]] = ([], [])
    full = False
    fields = _Fields()
    for number, value in fields.of(memoryview(data)):
        match number, value:
            case 1, memoryview():
                full = _wantlist(fields, value, entries) or full
            case 2, memoryview():  # of 1.0: version 0 is understood
                _add(blocks, Block(_V0_PREFIX, bytes(value)))
            case 3, memoryview():
                _add(blocks, _block(fields, value))
            case 4, memoryview():
                cid, dont_have = _presence(fields, value)
                _add(presences[dont_have], cid)
            case _:
                pass  # pendingBytes, and what later versions have
    haves, dont_haves = map(tuple, presences)
    return Message(tuple(entries), full, tuple(blocks), haves, dont_haves, fields.count)


def _add(items: list[_Item], item: _Item) -> None:
    if len(items) >= MAX_ITEMS:
        raise Untrusted(f"a message lists more than {MAX_ITEMS} things")
    items.append(item)


def _wantlist(fields: _Fields, data: memoryview, entries: list[Entry]) -> bool:
    full = False
    for number, value in fields.of(data):
        match number, value:
            case 1, memoryview():
                _add(entries, _entry(fields, value))
            case 2, int():
                full = bool(value)
            case _:
                pass
    return full


def _entry(fields: _Fields, data: memoryview) -> Entry:
    cid = b""
    numbers = {2: 1, 3: 0, 4: 0, 5: 0}
    for number, value in fields.of(data):
        if isinstance(value, int):
            numbers[number] = value
        elif number == 1:
            cid = _cid(value)
    if not cid or numbers[4] not in (Kind.BLOCK, Kind.HAVE):
        raise Untrusted("a want-list's entry makes no sense")
    priority = max(-(1 << 31), min(numbers[2], (1 << 31) - 1))
    return Entry(cid, priority, Kind(numbers[4]), bool(numbers[5]), bool(numbers[3]))


def _block(fields: _Fields, data: memoryview) -> Block:
    prefix, body = b"", b""
    for number, value in fields.of(data):
        match number, value:
            case 1, memoryview():
                if len(value) > MAX_CID_BYTES:
                    raise Untrusted("a block's prefix is too long")
                prefix = bytes(value)
            case 2, memoryview():
                body = bytes(value)
            case _:
                pass
    return Block(prefix, body)


def _presence(fields: _Fields, data: memoryview) -> tuple[bytes, bool]:
    cid, kind = b"", 0
    for number, value in fields.of(data):
        match number, value:
            case 1, memoryview():
                cid = _cid(value)
            case 2, int():
                kind = value
            case _:
                pass
    if not cid or kind not in (0, 1):
        raise Untrusted("a block presence makes no sense")
    return cid, kind == 1


def _cid(value: memoryview) -> bytes:
    if len(value) > MAX_CID_BYTES:
        raise Untrusted("a CID is too long")
    return cids.checked(bytes(value))


class _Fields:
    """The fields of one message, counted on all its levels: each costs a microsecond or two."""

    def __init__(self) -> None:
        self.count = 0

    def of(self, data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
        """Those of a protobuf: number, and a varint or bytes. Raises Untrusted."""
        at, end = 0, len(data)
        while at < end:
            self.count += 1
            if self.count > MAX_FIELDS:
                raise Untrusted(f"a message has more than {MAX_FIELDS} fields")
            key, at = _number(data, at)
            match key & 7:
                case 0:
                    value, at = _number(data, at)
                    yield key >> 3, value
                case 2:
                    length, at = _number(data, at)
                    if not 0 <= length <= end - at:
                        raise Untrusted("a message is cut short")
                    yield key >> 3, data[at : at + length]
                    at += length
                case 1 | 5 as kind:
                    at += 8 if kind == 1 else 4
                case _:
                    raise Untrusted("a message has a field of no known kind")
        if at != end:
            raise Untrusted("a message is cut short")


def _number(data: memoryview, at: int) -> tuple[int, int]:
    """A protobuf varint: up to ten bytes, and ten are a negative number."""
    if at < len(data) and data[at] < 128:  # most of them
        return data[at], at + 1
    number = 0
    for place, byte in enumerate(data[at : at + 10]):
        number |= (byte & 127) << 7 * place
        if byte < 128:
            number &= (1 << 64) - 1
            return number - (1 << 64) if number >> 63 else number, at + place + 1
    raise Untrusted("a message's number is cut short")


# -- writing


def frame(message: Message) -> bytes:
    """The message with its length, as it goes over a stream."""
    parts = []
    listed = b"".join(_field(1, _written(entry)) for entry in message.entries)
    if message.full:
        listed += b"\x10\x01"
    if listed:
        parts.append(_field(1, listed))
    for block in message.blocks:
        head = _field(1, block.prefix) + b"\x12" + varint.encode(len(block.data))
        parts += [b"\x1a", varint.encode(len(head) + len(block.data)), head, block.data]
    parts += [_field(4, _field(1, cid)) for cid in message.haves]
    parts += [_field(4, _field(1, cid) + b"\x10\x01") for cid in message.dont_haves]
    return b"".join([varint.encode(sum(map(len, parts))), *parts])


def _written(entry: Entry) -> bytes:
    out = _field(1, entry.cid) + b"\x10" + varint.encode(entry.priority & (1 << 64) - 1)
    if entry.cancel:
        out += b"\x18\x01"
    if entry.kind is Kind.HAVE:
        out += b"\x20\x01"
    return out + b"\x28\x01" if entry.dont_have else out


def _field(number: int, data: bytes) -> bytes:
    return bytes([number << 3 | 2]) + varint.encode(len(data)) + data
