"""Flat maps as canonical DAG-CBOR: text keys, and values that are numbers, bytes, text or nothing.

For signed records, whose bytes must be the same for the same content: `decode` accepts the one
encoding that `encode` makes and nothing else. There are no lists and maps within, so nothing in a
record can make its reader recurse or allocate more than the record itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2pcache.errors import Untrusted

if TYPE_CHECKING:
    from collections.abc import Mapping

Value = int | bytes | str | None

MAX_KEYS = 23  # what one byte of a map's head can count
_NUMBER, _BYTES, _TEXT, _MAP = 0, 2, 3, 5  # CBOR major types
_NULL = 0xF6
_WIDTHS = {24: 1, 25: 2, 26: 4, 27: 8}  # of an argument that does not fit its head


def encode(values: Mapping[str, Value]) -> bytes:
    """Keys in DAG-CBOR's order: shorter first, then by bytes. Numbers are 0 to 2**64 - 1."""
    if len(values) > MAX_KEYS:
        raise ValueError(f"a record of {len(values)} keys (allowed: {MAX_KEYS})")
    rows = sorted(((key.encode(), value) for key, value in values.items()), key=_order)
    out = bytearray(_head(_MAP, len(rows)))
    for key, value in rows:
        out += _head(_TEXT, len(key)) + key
        match value:
            case None:
                out.append(_NULL)
            case int():
                out += _head(_NUMBER, value)
            case bytes():
                out += _head(_BYTES, len(value)) + value
            case str():
                data = value.encode()
                out += _head(_TEXT, len(data)) + data
    return bytes(out)


def decode(data: bytes) -> dict[str, Value]:
    """What `encode` was given. Raises Untrusted for anything that it would not have made."""
    try:
        found = _decode(data)
        same = encode(found) == data
    except (ValueError, IndexError) as exc:  # UnicodeError is a ValueError
        raise Untrusted("a record that is no flat DAG-CBOR map") from exc
    if not same:
        raise Untrusted("a record that is not in its canonical encoding")
    return found


def _order(row: tuple[bytes, Value]) -> tuple[int, bytes]:
    return len(row[0]), row[0]


def _head(major: int, argument: int) -> bytes:
    if argument < 24:
        return bytes([major << 5 | argument])
    for short, width in _WIDTHS.items():
        if argument < 1 << 8 * width:
            return bytes([major << 5 | short]) + argument.to_bytes(width, "big")
    raise ValueError("a number beyond 64 bits")


def _decode(data: bytes) -> dict[str, Value]:
    major, count, at = _read_head(data, 0)
    if major != _MAP or count > MAX_KEYS:
        raise ValueError("no small map")
    found: dict[str, Value] = {}
    for _ in range(count):
        key, at = _read_value(data, at)
        if not isinstance(key, str):
            raise ValueError("a key that is no text")  # see `decode`
        found[key], at = _read_value(data, at)
    if at != len(data):
        raise ValueError("something behind the record")
    return found


def _read_value(data: bytes, at: int) -> tuple[Value, int]:
    if data[at] == _NULL:
        return None, at + 1
    major, argument, at = _read_head(data, at)
    if major == _NUMBER:
        return argument, at
    if major not in (_BYTES, _TEXT):
        raise ValueError("a kind of value that a record does not have")
    end = at + argument
    if end > len(data):
        raise ValueError("a value that is cut off")
    part = data[at:end]
    return (part if major == _BYTES else part.decode()), end


def _read_head(data: bytes, at: int) -> tuple[int, int, int]:
    """The major type, its argument, and where what follows begins."""
    major, short = data[at] >> 5, data[at] & 31
    if short < 24:
        return major, short, at + 1
    if short not in _WIDTHS:
        raise ValueError("an argument of no fixed length")
    end = at + 1 + _WIDTHS[short]
    if end > len(data):
        raise ValueError("a number that is cut off")
    return major, int.from_bytes(data[at + 1 : end], "big"), end
