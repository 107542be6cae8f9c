"""Many small blobs in one answer: the two bodies of `POST /bundle`. Pure.

A request each costs more than the blob: a model's configuration and tokenizer files are smaller
than what TLS does in that time.

Ask:     (name length u8, name)*              at most MAX_BUNDLE of them
Answer:  (status u16, length u32, bytes)*     one for each name, in the order asked; big-endian

`status` is HTTP's: 200 with the blob, or without bytes 404 (not here), 413 (not small), 503 (not
all of it here yet, or the answer is full: ask again).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from p2pcache.errors import Untrusted

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_BUNDLE = 256  # blobs an ask: 10 MB of typical files, and a fair turn for the next reader
MAX_NAME_BYTES = 64
MAX_ASK_BYTES = MAX_BUNDLE * (1 + MAX_NAME_BYTES)

_FRAME = struct.Struct(">HI")
FRAME_BYTES = _FRAME.size


def pack_names(names: Iterable[bytes]) -> bytes:
    """The body of an ask."""
    return b"".join(bytes([len(name)]) + name for name in names)


def parse_names(body: bytes) -> list[bytes]:
    """The names of an ask. Raises Untrusted."""
    names: list[bytes] = []
    at = 0
    while at < len(body):
        end = at + 1 + body[at]
        if not 1 <= body[at] <= MAX_NAME_BYTES or end > len(body) or len(names) == MAX_BUNDLE:
            raise Untrusted("a malformed list of names")
        names.append(body[at + 1 : end])
        at = end
    return names


def pack_frame(status: int, length: int) -> bytes:
    """The head of one blob."""
    return _FRAME.pack(status, length)


def parse_frame(head: bytes | bytearray | memoryview) -> tuple[int, int]:
    """(status, length) of FRAME_BYTES bytes."""
    status, length = _FRAME.unpack(head)
    return status, length
