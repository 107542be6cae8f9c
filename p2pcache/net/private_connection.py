"""The libp2p spec's private networks (pnet/Private-Networks-PSK-V1): XSalsa20 below noise.

py-libp2p 0.8.1 has Salsa20 with a nonce of 8 bytes instead of XSalsa20 with 24, so neither Kubo nor
js-libp2p can join. This is used by `handshake` in place of `libp2p.security.pnet`.
"""

from __future__ import annotations

import ctypes
import os
import struct
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final, Protocol

from Crypto.Cipher import Salsa20
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.network.connection.raw_connection import RawConnection

if TYPE_CHECKING:
    from libp2p.abc import IRawConnection

NONCE_BYTES: Final = 24
_HELLO: Final = b"\x13/multistream/1.0.0\n"  # what both ends say first, behind the cipher


class OtherNetwork(Exception):
    """The other end has another network key, or none."""


class PrivateConnection(RawConnection):
    """A raw connection behind XSalsa20, one key stream a direction.

    The first bytes of any libp2p peer are known: if they do not decrypt to that, reading raises
    OtherNetwork at once, instead of waiting for a message of a random length.
    """

    def __init__(self, conn: IRawConnection, secret: bytes) -> None:
        self._conn = conn
        self._secret = secret
        self._write_cipher: KeyStream | None = None
        self._read_cipher: KeyStream | None = None
        self._ahead = b""  # what came, decrypted, starting with the greeting
        self._taken = 0  # so many bytes of it
        self.is_initiator = conn.is_initiator

    async def write(self, data: bytes) -> None:
        """Encrypt and send."""
        if self._write_cipher is None:
            nonce = os.urandom(NONCE_BYTES)
            self._write_cipher = xsalsa20(self._secret, nonce)
            await self._conn.write(nonce + self._write_cipher.encrypt(data))
        else:
            await self._conn.write(self._write_cipher.encrypt(data))

    async def read(self, n: int | None = None) -> bytes:
        """Up to `n` bytes, b"" at the end. Raises OtherNetwork. Decrypts all that came at once: a
        call of the cipher costs as much as a kilobyte.
        """
        if self._read_cipher is None:
            self._read_cipher = await self._start_reading()
            if self._read_cipher is None:
                return b""
        if n == 0:
            return b""
        if self._taken == len(self._ahead):
            self._taken = 0
            self._ahead = b""
            data = await self._conn.read()
            self._ahead = self._read_cipher.decrypt(data) if data else b""
        start = self._taken
        self._taken = len(self._ahead) if n is None else min(start + n, len(self._ahead))
        return self._ahead[start : self._taken]

    async def _start_reading(self) -> KeyStream | None:
        nonce = await self._exactly(8)
        if nonce == _HELLO[:8]:  # by chance once in 2^64
            raise OtherNetwork("it has no network key")
        nonce += await self._exactly(NONCE_BYTES - len(nonce))
        if len(nonce) < NONCE_BYTES:
            return None
        cipher = xsalsa20(self._secret, nonce)
        greeting = cipher.decrypt(await self._exactly(len(_HELLO)))
        if greeting != _HELLO:
            if len(greeting) < len(_HELLO):
                raise OtherNetwork("it hung up at our network key")
            raise OtherNetwork("its network key is another one")
        self._ahead = greeting
        return cipher

    async def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            try:
                more = await self._conn.read(count - len(data))
            except ConnectionClosedError:  # it hung up with our words unread
                break
            if not more:
                break
            data += more
        return data

    async def close(self) -> None:
        """Close the connection below."""
        await self._conn.close()

    def get_remote_address(self) -> tuple[str, int] | None:
        """Of the connection below."""
        return self._conn.get_remote_address()


class KeyStream(Protocol):
    """One direction: both XOR the next bytes of the key stream."""

    def encrypt(self, plaintext: bytes) -> bytes:
        """As many bytes."""
        ...

    def decrypt(self, ciphertext: bytes) -> bytes:
        """As many bytes."""
        ...


def xsalsa20(key: bytes, nonce: bytes) -> KeyStream:
    """The key stream of a 32-byte key and a 24-byte nonce (Bernstein, Extending the Salsa20 nonce).

    libsodium's, which PyNaCl carries but does not show: 0.6 CPU-s/GB. Where it is not found,
    pycryptodome's, at 1.8 to 2.7: it has Salsa20 with 8 bytes, and HSalsa20 turns key and the first
    16 into a subkey.
    """
    if _SODIUM is not None:
        return _Sodium(_SODIUM, key, nonce)
    return Salsa20.new(key=_hsalsa20(key, nonce[:16]), nonce=nonce[16:])


class _Sodium:
    """`crypto_stream_xsalsa20_xor_ic` counts blocks: what is left of one is made again."""

    def __init__(self, xor: Any, key: bytes, nonce: bytes) -> None:  # noqa: ANN401 - a C function
        self._xor = xor
        self._key = key
        self._nonce = nonce
        self._at = 0

    def encrypt(self, plaintext: bytes) -> bytes:
        """See KeyStream."""
        if not plaintext:
            return b""
        before = self._at % _BLOCK_BYTES
        work = bytearray(before) + plaintext
        place = ctypes.addressof(ctypes.c_char.from_buffer(work))
        block = self._at // _BLOCK_BYTES
        self._xor(place, place, len(work), self._nonce, block, self._key)
        self._at += len(plaintext)
        return bytes(memoryview(work)[before:])

    decrypt = encrypt


def _sodium() -> Any:  # noqa: ANN401 - a C function, None where there is none
    found = find_spec("nacl._sodium")
    if found is None:
        return None
    try:
        library = ctypes.CDLL(found.origin)
        xor = library.crypto_stream_xsalsa20_xor_ic
        if library.sodium_init() < 0:
            return None
    except (OSError, AttributeError):
        return None
    pointer, key = ctypes.c_void_p, ctypes.c_char_p
    xor.argtypes = [pointer, pointer, ctypes.c_ulonglong, key, ctypes.c_uint64, key]
    return xor


_BLOCK_BYTES: Final = 64
_SODIUM: Final = _sodium()


def _hsalsa20(key: bytes, nonce: bytes) -> bytes:
    c = struct.unpack("<4I", b"expand 32-byte k")
    k = struct.unpack("<8I", key)
    n = struct.unpack("<4I", nonce)
    x = [c[0], *k[:4], c[1], *n, c[2], *k[4:], c[3]]
    for _ in range(10):
        for a, b, d, e in _COLUMNS + _ROWS:
            x[b] ^= _rotate(x[a] + x[e], 7)
            x[d] ^= _rotate(x[b] + x[a], 9)
            x[e] ^= _rotate(x[d] + x[b], 13)
            x[a] ^= _rotate(x[e] + x[d], 18)
    return struct.pack("<8I", x[0], x[5], x[10], x[15], x[6], x[7], x[8], x[9])


_COLUMNS: Final = ((0, 4, 8, 12), (5, 9, 13, 1), (10, 14, 2, 6), (15, 3, 7, 11))
_ROWS: Final = ((0, 1, 2, 3), (5, 6, 7, 4), (10, 11, 8, 9), (15, 12, 13, 14))


def _rotate(value: int, bits: int) -> int:
    value &= 0xFFFFFFFF
    return (value << bits | value >> (32 - bits)) & 0xFFFFFFFF
