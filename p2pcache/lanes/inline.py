"""Small files that a listing holds itself (`data:` URLs, RFC 2397): nobody is asked for them."""

from __future__ import annotations

import base64
import binascii

from p2pcache.lanes.faults import ended
from p2pcache.lanes.orders import FaultKind

SCHEME = "data"


def is_inline(url: str) -> bool:
    """Whether nobody is asked for it."""
    return url.startswith(f"{SCHEME}:")


def inline_bytes(url: str, max_bytes: int) -> bytes:
    """What a `data:...;base64,` URL holds. Raises `Ended`: malformed, or longer than that."""
    head, comma, text = url.partition(",")
    if not comma or not head.endswith(";base64") or len(text) > 4 * (max_bytes // 3 + 1):
        raise ended(FaultKind.UNTRUSTED, "a listing holds a file that is malformed or too long")
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as exc:
        raise ended(FaultKind.UNTRUSTED, "a listing holds a file that is no base64") from exc
