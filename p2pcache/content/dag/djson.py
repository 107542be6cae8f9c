"""dag-json as the values of `cbor`, and back again. https://ipld.io/specs/codecs/dag-json/spec/

`{"/": "bafy..."}` is a link, `{"/": {"bytes": "..."}}` bytes. Only Untrusted comes out.
"""

from __future__ import annotations

import base64
import json
import math
from json.encoder import encode_basestring
from typing import TYPE_CHECKING, NoReturn

from p2pcache.content import cid as cids
from p2pcache.content.dag.cbor import MAX_DEPTH, MAX_VALUES, CidLink
from p2pcache.errors import Untrusted, UsageError

if TYPE_CHECKING:
    from p2pcache.content.dag.cbor import Value

_MAX_NUMBER = 1 << 64
_BASE64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"


def decode(block: bytes) -> Value:
    """dag-json; spaces between values are let pass, as Kubo does. Raises Untrusted."""
    if block.count(b",") + block.count(b"[") + block.count(b"{") > MAX_VALUES:
        raise Untrusted("a dag-json block has too many values")
    try:
        text = block.decode()  # JSON of other encodings is no dag-json
        value: Value = json.loads(
            text,
            object_pairs_hook=_object,
            parse_constant=_refuse,
            parse_int=_int,
            parse_float=_float,
        )
        _check(value)
    except (ValueError, RecursionError) as exc:  # UnicodeError, binascii.Error are ValueErrors
        raise Untrusted("a block is no dag-json") from exc
    return value


def _check(value: Value) -> None:
    """Refuses what is too deep, and text that has no UTF-8: half a surrogate pair, escaped."""
    pending: list[tuple[Value, int]] = [(value, 0)]
    while pending:
        one, depth = pending.pop()
        if depth > MAX_DEPTH:
            raise Untrusted(f"a dag-json block is more than {MAX_DEPTH} values deep")
        if isinstance(one, str):
            one.encode()
        elif isinstance(one, list):
            pending.extend((inner, depth + 1) for inner in one)
        elif isinstance(one, dict):
            pending.extend((inner, depth + 1) for inner in one.values())
            pending.extend((key, depth + 1) for key in one)


def _float(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _refuse(text)


def _refuse(text: str) -> NoReturn:
    raise Untrusted(f"dag-json has no number {text[:20]!a}")


def _int(text: str) -> int:
    number = int(text) if len(text) <= 21 else _MAX_NUMBER
    if not -_MAX_NUMBER <= number < _MAX_NUMBER:
        raise Untrusted("a number in dag-json has more than 64 bits")
    return number


def _object(pairs: list[tuple[str, Value]]) -> Value:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Untrusted("a dag-json map has a key twice")
    if "/" not in found:
        return found
    inner = found["/"]
    if len(found) == 1 and isinstance(inner, str):
        return CidLink(_cid(inner))
    if len(found) == 1 and isinstance(inner, dict) and set(inner) == {"bytes"}:
        return _bytes(inner["bytes"])
    raise Untrusted("a dag-json map has the key `/`, and is neither a link nor bytes")


def _cid(text: str) -> bytes:
    usual = cids.parse_base32(text)
    if usual is not None:
        return usual
    try:
        return cids.parse_cid_as_written(text)
    except UsageError as exc:
        raise Untrusted("a link in dag-json is no CID") from exc


def _bytes(text: Value) -> bytes:
    if not isinstance(text, str) or text.rstrip("=").strip(_BASE64):
        raise Untrusted("bytes in dag-json are no base64")
    return base64.b64decode(text.rstrip("=") + "=" * (-len(text.rstrip("=")) % 4))


def encode(value: Value) -> bytes:
    """Canonical dag-json: keys sorted, no spaces. Raises ValueError for what it cannot hold."""
    out: list[str] = []
    _encode(value, out)
    return "".join(out).encode()


def _encode(value: Value, out: list[str]) -> None:
    """Piece by piece: one call of `json.dumps` for a block of 2 MiB would hold up every thread."""
    match value:
        case str():
            out.append(encode_basestring(value))
        case bool() | None:
            out.append({True: "true", False: "false", None: "null"}[value])
        case int():
            out.append(str(value))
        case float():
            if not math.isfinite(value):
                raise ValueError("dag-json has no such number")
            out.append(repr(value))
        case CidLink():
            out.append(f'{{"/":"{cids.format_cid(value.cid)}"}}')
        case bytes():
            out.append(f'{{"/":{{"bytes":"{base64.b64encode(value).decode().rstrip("=")}"}}}}')
        case list():
            before = "["
            for one in value:
                out.append(before)
                _encode(one, out)
                before = ","
            out.append("]" if value else "[]")
        case dict():
            before = "{"
            for key in sorted(value, key=str.encode):
                out.append(f"{before}{encode_basestring(key)}:")
                _encode(value[key], out)
                before = ","
            out.append("}" if value else "{}")
