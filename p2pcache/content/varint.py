"""Unsigned varints (LEB128), as CIDs, protobuf and CAR frames are written with."""

from __future__ import annotations

from p2pcache.errors import Untrusted

MAX_BYTES = 9  # multiformats/unsigned-varint: 63 bits


def encode(number: int) -> bytes:
    """Seven bits a byte, the least significant first."""
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def decode(data: bytes, at: int = 0) -> tuple[int, int]:
    """The number that begins at `at`, and where it ends. Raises Untrusted: cut short, over 63 bits,
    or longer than it need be.
    """
    number = 0
    for place, byte in enumerate(data[at : at + MAX_BYTES]):
        number |= (byte & 127) << 7 * place
        if byte < 128:
            if byte == 0 and place:
                raise Untrusted("a number has more bytes than it needs")
            return number, at + place + 1
    raise Untrusted("a number is cut short, or has more than 63 bits")
