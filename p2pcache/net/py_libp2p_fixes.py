"""Everything that is wrong in py-libp2p 0.8.1 and that we mend inside it; nothing else patches it.

`apply()` once, before the first host. tests/real/test_py_libp2p_fixes.py shows each defect in the
stock library: when a new version makes one of those tests fail, its patch here can go. What we do
not patch but leave aside (its listener, dialer and auto-connector) is told in `swarm.py`.
"""

from __future__ import annotations

import logging
import os
import struct
from functools import wraps
from typing import TYPE_CHECKING, Any, Final

import trio
from Crypto.Cipher import Salsa20
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.network.connection import swarm_connection
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.connection.swarm_connection import SwarmConn
from libp2p.network.stream.net_stream import NetStream
from libp2p.security.secure_session import SecureSession
from libp2p.stream_muxer.yamux import yamux
from libp2p.stream_muxer.yamux.yamux import Yamux, YamuxStream

from p2pcache.net.free_lock import FreeLock

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from libp2p.abc import IMuxedStream, IRawConnection

VERSION: Final = "0.8.1"  # what all of this was found in
MAX_UNREAD_BYTES: Final = 64 << 20  # of all streams of a connection; one window grows to 16 MiB
RTT_EVERY_S: Final = 600  # the round trip of a connection, which only the window's growth looks at
_LOG = logging.getLogger(__name__)
_applied = False


def apply() -> None:
    """Mend the library; a second call does nothing."""
    global _applied
    if _applied:
        return
    _applied = True
    _spare_passes()  # before the shield goes around what it puts in place
    _shield_frames()
    _contain_handlers()
    _bound_unread()
    _batch_credit()
    _name_the_logger()


def _spare_passes() -> None:
    """0.8.1: a frame gives way to all other tasks 13 times, mostly for locks that are free.

    What an agent says and hears while it pulls are hundreds of small frames a second.
    """
    for cls, names in (
        (NetStream, ("_state_lock",)),
        (Yamux, ("streams_lock", "_write_lock")),
        (YamuxStream, ("window_lock", "close_lock")),
    ):
        _free_locks(cls, names)
    slow_write = YamuxStream.write

    async def write_frame(self: Yamux, data: bytes) -> None:
        async with self._write_lock:
            await self.secured_conn.write(data)

    async def write(self: YamuxStream, data: bytes) -> None:
        sent = 0
        while sent < len(data):
            if self.send_closed or self.closed or self.send_window <= 0:
                await slow_write(self, data[sent:])  # it waits for room, and knows what to raise
                return
            room = min(self.send_window, yamux.MAX_MESSAGE_SIZE - yamux.HEADER_SIZE)
            chunk = data[sent : sent + room]
            self.send_window -= len(chunk)
            sent += len(chunk)
            header = struct.pack(
                yamux.YAMUX_HEADER_FORMAT, 0, yamux.TYPE_DATA, 0, self.stream_id, len(chunk)
            )
            await self.conn._write_frame(header + chunk)

    Yamux._write_frame = write_frame  # type: ignore[method-assign]
    YamuxStream.write = write  # type: ignore[method-assign]


def _free_locks(cls: type, names: tuple[str, ...]) -> None:
    init = cls.__init__  # type: ignore[misc]

    @wraps(init)
    def made(self: object, *args: object, **kwargs: object) -> None:
        init(self, *args, **kwargs)
        for name in names:
            setattr(self, name, FreeLock())

    cls.__init__ = made  # type: ignore[misc]


def _shield_frames() -> None:
    """0.8.1: a cancel between encryption and socket desynchronises the cipher, ending every stream.

    And one behind the frame that opens, closes or resets a stream leaves its entry behind for ever.
    So one frame is written whole or not at all. The wait is bounded by `tcp.py`, which cuts a
    connection whose peer takes no byte for some seconds.
    """
    for cls, names in (
        (Yamux, ("_write_frame",)),
        (SwarmConn, ("new_stream",)),
        (NetStream, ("close", "reset")),
    ):
        for name in names:
            setattr(cls, name, _shielded(getattr(cls, name)))


def _shielded(method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    @wraps(method)
    async def whole(self: object, *args: object, **kwargs: object) -> object:
        result = None
        with trio.CancelScope(shield=True):
            result = await method(self, *args, **kwargs)
        return result

    return whole


def _contain_handlers() -> None:
    """0.8.1: an exception that leaves a stream handler ends the whole host."""
    method = SwarmConn._handle_muxed_stream

    @wraps(method)
    async def contained(self: SwarmConn, muxed_stream: IMuxedStream) -> None:
        try:
            await method(self, muxed_stream)
        except Exception as exc:  # noqa: BLE001 - the border: a stream's trouble ends that stream
            _LOG.debug("a stream of %s ended: %r", self.muxed_conn.peer_id, exc)
            try:
                await muxed_stream.reset()
            except Exception as late:  # noqa: BLE001 - as above: its connection is gone
                _LOG.debug("reset of that stream: %r", late)

    SwarmConn._handle_muxed_stream = contained  # type: ignore[method-assign]


def _bound_unread() -> None:
    """0.8.1: yamux warns of data beyond the window, and keeps it: a peer can fill our memory.

    TooSlowError is the one that its reader answers by closing the connection.
    """
    method = Yamux._read_data_body

    @wraps(method)
    async def bounded(self: Yamux, length: int) -> bytes:
        unread = sum(map(len, self.stream_buffers.values()))
        if unread + length > MAX_UNREAD_BYTES:
            raise trio.TooSlowError(f"{self.peer_id} sent more than its window")
        session = self.secured_conn
        if (
            isinstance(session, SecureSession)
            and session.high_watermark - session.low_watermark >= length
        ):
            return session._drain(length)  # it came with its header: nothing to wait for
        return await method(self, length)

    Yamux._read_data_body = bounded  # type: ignore[method-assign]


def _batch_credit() -> None:
    """0.8.1: every read is answered by a window update, so each frame of ours costs another one.

    And each connection measures its round trip every 30 s. Both are most of what a network of idle
    agents does. A window is given back in halves, as go-yamux does it: the sender has the other.
    """
    method = YamuxStream._auto_tune_and_send_window_update

    @wraps(method)
    async def batched(self: YamuxStream, *, bytes_read: int = 0) -> None:
        owed = vars(self).get("_owed_bytes", 0) + bytes_read
        due = owed >= self.target_recv_window // 2
        vars(self)["_owed_bytes"] = 0 if due else owed
        if due:
            await method(self, bytes_read=owed)

    YamuxStream._auto_tune_and_send_window_update = batched  # type: ignore[method-assign]
    vars(yamux)["RTT_MEASURE_INTERVAL"] = RTT_EVERY_S


def _name_the_logger() -> None:
    """0.8.1: SwarmConn logs to the root logger, which installs a handler on stderr."""
    vars(swarm_connection)["logging"] = logging.getLogger(swarm_connection.__name__)


# 0.8.1: its private network is not the libp2p spec (pnet/Private-Networks-PSK-V1): Salsa20 with a
# nonce of 8 bytes instead of XSalsa20 with 24, so neither Kubo nor js-libp2p can join. Ours is used
# by `handshake.py` in place of `libp2p.security.pnet`.

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
        self._write_cipher: Salsa20.Salsa20Cipher | None = None
        self._read_cipher: Salsa20.Salsa20Cipher | None = None
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

    async def _start_reading(self) -> Salsa20.Salsa20Cipher | None:
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


def xsalsa20(key: bytes, nonce: bytes) -> Salsa20.Salsa20Cipher:
    """The key stream of a 32-byte key and a 24-byte nonce (Bernstein, Extending the Salsa20 nonce).

    pycryptodome has Salsa20 with 8 bytes: HSalsa20 turns key and the first 16 into a subkey.
    """
    return Salsa20.new(key=_hsalsa20(key, nonce[:16]), nonce=nonce[16:])


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
