"""dag-cbor as values with its links (libipld gives links as plain bytes), and back again.

Values: None, bool, int, float, str, bytes, list, dict with str keys, `CidLink`. Only Untrusted
comes out. https://ipld.io/specs/codecs/dag-cbor/spec/
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from p2pcache.content import cid as cids
from p2pcache.errors import Untrusted

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_DEPTH = 128  # of lists and maps in each other
MAX_VALUES = 1 << 19  # of one block; each costs some 100 bytes here

_UINT, _NEGATIVE, _BYTES, _TEXT, _LIST, _MAP, _TAG, _SIMPLE = range(8)  # CBOR major types
_LINK_TAG = 42
_WIDTHS = {24: 1, 25: 2, 26: 4, 27: 8}  # of an argument that does not fit its head
_SIMPLES: dict[int, bool | None] = {20: False, 21: True, 22: None}
_FLOATS = {25: ">e", 26: ">f", 27: ">d"}


@dataclass(frozen=True, slots=True)
class CidLink:
    """A link, as it is written."""

    cid: bytes


Value: TypeAlias = (
    "bool | int | float | str | bytes | CidLink | list[Value] | dict[str, Value] | None"
)


def decode(block: bytes) -> Value:
    """dag-cbor: definite lengths, tag 42 alone, no key twice, shortest numbers. Keys may stand in
    any order, and floats have any width. Raises Untrusted.
    """
    reader = _Reader(block)
    value = reader.value(0)
    if reader.at != len(block):
        raise Untrusted("bytes follow a dag-cbor value")
    return value


class _Reader:
    """One block, read from its first byte on."""

    def __init__(self, block: bytes) -> None:
        self.at = 0
        self._block = block
        self._left = MAX_VALUES

    def value(self, depth: int) -> Value:
        self._left -= 1
        if depth > MAX_DEPTH or self._left < 0:
            raise Untrusted("a dag-cbor block has too many values, or too deep ones")
        head = self._bytes(1)[0]
        major, short = head >> 5, head & 31
        if major == _SIMPLE:
            return self._simple(short)
        number = self._argument(short)
        match major:
            case 0:
                return number
            case 1:
                return -1 - number
            case 2:
                return self._bytes(number)
            case 3:
                return self._text(number)
            case 4:
                return [self.value(depth + 1) for _ in range(number)]
            case 5:
                return self._map(number, depth)
        return self._link(number)

    def _map(self, count: int, depth: int) -> dict[str, Value]:
        found: dict[str, Value] = {}
        for _ in range(count):
            key = self.value(depth + 1)
            if not isinstance(key, str) or key in found:
                raise Untrusted("a dag-cbor map has a key twice, or one that is no text")
            found[key] = self.value(depth + 1)
        return found

    def _link(self, tag: int) -> CidLink:
        if tag != _LINK_TAG or self._bytes(1)[0] >> 5 != _BYTES:
            raise Untrusted("a dag-cbor block has a tag that is no link")
        self.at -= 1
        body = self._bytes(self._argument(self._bytes(1)[0] & 31))
        if body[:1] != b"\0":  # the multibase prefix of plain bytes
            raise Untrusted("a link in dag-cbor does not begin with zero")
        return CidLink(cids.checked(body[1:]))

    def _simple(self, short: int) -> Value:
        if short in _SIMPLES:
            return _SIMPLES[short]
        if short not in _FLOATS:
            raise Untrusted("a dag-cbor block has a kind of value that there is not")
        (number,) = struct.unpack(_FLOATS[short], self._bytes(_WIDTHS[short]))
        if not math.isfinite(number):
            raise Untrusted("a dag-cbor block has a number that is none")
        return float(number)

    def _argument(self, short: int) -> int:
        if short < 24:
            return short
        if short not in _WIDTHS:
            raise Untrusted("a dag-cbor block has a value of no definite length")
        width = _WIDTHS[short]
        number = int.from_bytes(self._bytes(width), "big")
        if number < (24 if width == 1 else 1 << 4 * width):
            raise Untrusted("a number in dag-cbor is longer than it need be")
        return number

    def _text(self, length: int) -> str:
        try:
            return self._bytes(length).decode()
        except UnicodeDecodeError as exc:
            raise Untrusted("a text in dag-cbor is no UTF-8") from exc

    def _bytes(self, length: int) -> bytes:
        end = self.at + length
        if end > len(self._block):
            raise Untrusted("a dag-cbor block is cut short")
        found = self._block[self.at : end]
        self.at = end
        return found


def encode(value: Value) -> bytes:
    """Canonical dag-cbor. Raises ValueError for what it cannot hold."""
    out = bytearray()
    _encode(value, out)
    return bytes(out)


def _encode(value: Value, out: bytearray) -> None:
    match value:
        case None:
            out.append(0xF6)
        case bool():
            out.append(0xF5 if value else 0xF4)
        case int():
            out += _head(_UINT, value) if value >= 0 else _head(_NEGATIVE, -1 - value)
        case float():
            if not math.isfinite(value):
                raise ValueError("dag-cbor has no such number")
            out += b"\xfb" + struct.pack(">d", value)
        case bytes():
            out += _head(_BYTES, len(value)) + value
        case str():
            data = value.encode()
            out += _head(_TEXT, len(data)) + data
        case CidLink():
            out += _head(_TAG, _LINK_TAG) + _head(_BYTES, len(value.cid) + 1) + b"\0" + value.cid
        case list():
            out += _head(_LIST, len(value))
            for one in value:
                _encode(one, out)
        case dict():
            out += _head(_MAP, len(value))
            for key in sorted(value, key=lambda key: (len(key.encode()), key.encode())):
                _encode(key, out)
                _encode(value[key], out)


def _head(major: int, argument: int) -> bytes:
    if argument < 24:
        return bytes([major << 5 | argument])
    for short, width in _WIDTHS.items():
        if argument < 1 << 8 * width:
            return bytes([major << 5 | short]) + argument.to_bytes(width, "big")
    raise ValueError("a number beyond 64 bits")


def links_of(value: Value) -> Iterator[bytes]:
    """The CIDs of every link in a value, in the order in which they stand."""
    pending = [value]
    while pending:
        one = pending.pop()
        if isinstance(one, CidLink):
            yield one.cid
        elif isinstance(one, list):
            pending.extend(reversed(one))
        elif isinstance(one, dict):
            pending.extend(reversed(one.values()))
