"""Many frames at a time: noise's messages and yamux's frames, without py-libp2p's cost of each.

0.8.1 carries a frame of 64 KiB through some 40 awaits, 15 copies and 10 formatted log lines that
nobody reads: 0.3 ms, three times what its cipher and its sockets cost. Here all messages that one
read of the socket brought are opened together, and the usual frames among them (data and credit of
streams that stand) go to their streams at once. All other frames are left to the library's loop:
it is handed their headers. What is sent leaves 256 KiB at a time, and a writer without credit wakes
when there is some, instead of looking every 10 ms. Installed by `py_libp2p_fixes`.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final, cast

import trio
from libp2p.io.exceptions import ConnectionClosedError, IncompleteReadError
from libp2p.stream_muxer.exceptions import (
    MuxedStreamEOF,
    MuxedStreamError,
    MuxedStreamReset,
)
from libp2p.stream_muxer.yamux import yamux

if TYPE_CHECKING:
    from libp2p.abc import ISecureConn
    from libp2p.security.noise.io import NoiseTransportReadWriter
    from libp2p.security.secure_session import SecureSession
    from libp2p.stream_muxer.yamux.yamux import Yamux, YamuxStream

MAX_UNREAD_BYTES: Final = 64 << 20  # of all streams of a connection; one window grows to 16 MiB
FRAME_BYTES: Final = 65507  # with its header it fills one noise message exactly
BATCH_BYTES: Final = 4 * FRAME_BYTES  # in one write to the socket; others may write then
GIVES_WAY: Final = 64  # frames between two checkpoints: 1 ms of tiny ones
BODY_S: Final = 60.0  # for the rest of a frame that began
NO_CREDIT_S: Final = 5.0  # a reader that gives no credit for so long loses its stream, as in 0.8.1
FAST_S: Final = 0.1  # half a window in this time, or in four round trips: it is too small
WIDER: Final = 16  # so much: 256 KiB, 4 MiB, 16 MiB
LOOK_S: Final = 0.1  # a stream that ends does not wake who waits for credit
_PLAIN_BYTES: Final = 65519  # of one noise message: 65535 less its tag
_USUAL: Final = (yamux.TYPE_DATA, yamux.TYPE_WINDOW_UPDATE)


class Sealed:
    """A noise session, in bulk. What is not about bytes is the session's own."""

    def __init__(self, session: SecureSession) -> None:
        self._session = session
        self._noise = cast("NoiseTransportReadWriter", session.conn)
        self._raw = self._noise.read_writer.read_write_closer
        self._sealed = b""  # the beginning of a message
        self._open = memoryview(session._drain(None))  # came, and was not taken yet
        self._over = False  # a message did not decrypt: nothing behind it is believed

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the session has
        return getattr(self._session, name)

    async def write(self, data: bytes) -> None:
        """As one write to the socket. Not to be cancelled in the middle."""
        parts = []
        for start in range(0, len(data), _PLAIN_BYTES):
            sealed = self._noise.encrypt(data[start : start + _PLAIN_BYTES])
            parts += [len(sealed).to_bytes(2, "big"), sealed]
        await self._raw.write(b"".join(parts))

    def take(self, most: int) -> memoryview:
        """What is here, without waiting; it may be less, or nothing."""
        taken, self._open = self._open[:most], self._open[most:]
        return taken

    async def more(self) -> bool:
        """Wait until there is more to take; False: the connection has ended."""
        while not self._over:
            data = await self._raw.read()
            if not data:
                break
            opened = self._opened(self._sealed + data if self._sealed else data)
            if opened:
                self._open = memoryview(bytes(self._open) + opened if self._open else opened)
                return True
        return False

    def _opened(self, data: bytes) -> bytes:
        parts, at = [], 0
        while len(data) - at >= 2:
            end = at + 2 + (data[at] << 8 | data[at + 1])
            if end > len(data):
                break
            try:
                parts.append(self._noise.decrypt(data[at + 2 : end]))
            except Exception as exc:
                self._over, self._open = True, memoryview(b"")
                raise ConnectionClosedError("a message did not decrypt", transport="noise") from exc
            at = end
        self._sealed = data[at:]
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def exactly(self, count: int) -> bytes:
        """Fewer at the end. Joined once: a body may have megabytes, and come in tiny messages."""
        parts = [self.take(count)]
        missing = count - len(parts[0])
        while missing and await self.more():
            parts.append(self.take(missing))
            missing -= len(parts[-1])
        return b"".join(parts)


class Frames:
    """What the library's loop reads headers from: those of frames that are not usual."""

    def __init__(self, session: SecureSession, muxer: Yamux) -> None:
        self._sealed = Sealed(session)
        self._muxer = muxer
        self._count = 0

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - as above
        return getattr(self._sealed, name)

    async def read(self, n: int | None = None) -> bytes:
        """The next header that the library is to deal with. Raises IncompleteReadError."""
        while True:
            header = await self._sealed.exactly(yamux.HEADER_SIZE)
            if len(header) < yamux.HEADER_SIZE:
                raise IncompleteReadError(
                    "the connection ended", expected_bytes=n or 0, received_bytes=len(header)
                )
            _, kind, flags, stream_id, length = struct.unpack(yamux.YAMUX_HEADER_FORMAT, header)
            data = kind == yamux.TYPE_DATA
            if data:
                self._check_window(stream_id, length)
            if kind not in _USUAL or flags & ~yamux.FLAG_ACK:
                return header
            if data and length > yamux.MAX_WINDOW_SIZE:
                return header  # it ends the connection
            if data:
                await self._deliver(stream_id, length)
            elif stream_id in self._muxer.streams:
                _credit(self._muxer.streams[stream_id], length)
            self._count += 1
            if self._count % GIVES_WAY == 0:
                await trio.lowlevel.checkpoint()

    async def body(self, length: int) -> bytes:
        """Of a frame that the library deals with. Raises TooSlowError: too much, or too slowly."""
        self._check_unread(length)
        with trio.fail_after(BODY_S):
            data = await self._sealed.exactly(length)
        if len(data) < length:
            raise IncompleteReadError(
                "the connection ended", expected_bytes=length, received_bytes=len(data)
            )
        return data

    async def _deliver(self, stream_id: int, length: int) -> None:
        """The body of a usual frame, as it comes. Raises as `body`."""
        self._check_unread(length)
        until = None
        while length:
            came = self._sealed.take(length)
            if not came:
                until = trio.current_time() + BODY_S if until is None else until
                with trio.fail_at(until):
                    if not await self._sealed.more():
                        return
                continue
            length -= len(came)
            stream = self._muxer.streams.get(stream_id)
            if stream is not None:  # else it is closed: nobody reads that
                self._muxer.stream_buffers[stream_id] += came
                stream.recv_window = max(0, stream.recv_window - len(came))
                self._muxer.stream_events[stream_id].set()

    def _check_window(self, stream_id: int, length: int) -> None:
        """A stream that is new or closed has the first window. Raises as `body`."""
        stream = self._muxer.streams.get(stream_id)
        if length > (yamux.DEFAULT_WINDOW_SIZE if stream is None else stream.recv_window):
            raise trio.TooSlowError(f"{self._muxer.peer_id} sent more than its window")

    def _check_unread(self, length: int) -> None:
        """0.8.1 warns of data beyond the window, and keeps it: a peer can fill our memory.

        TooSlowError is the one that its reader answers by closing the connection.
        """
        unread = sum(map(len, self._muxer.stream_buffers.values()))
        if unread + length > MAX_UNREAD_BYTES:
            raise trio.TooSlowError(f"{self._muxer.peer_id} sent more than its window")


def framed(session: ISecureConn, muxer: Yamux) -> ISecureConn:
    """What a muxer reads and writes instead of its noise session; anything else as it is."""
    from libp2p.security.noise.io import NoiseTransportReadWriter

    if isinstance(getattr(session, "conn", None), NoiseTransportReadWriter):
        return cast("ISecureConn", Frames(cast("SecureSession", session), muxer))
    return session


def _credit(stream: YamuxStream, increment: int) -> None:
    stream.send_window += increment
    waiting: trio.Event | None = vars(stream).pop("_waiting_for_credit", None)
    if waiting is not None:
        waiting.set()


async def read(stream: YamuxStream, n: int | None = -1) -> bytes:
    """Instead of `YamuxStream.read`: up to `n` bytes, waiting for the first; -1, None: all that are
    here. Raises MuxedStreamReset, MuxedStreamEOF.
    """
    conn, number = stream.conn, stream.stream_id
    while not conn.event_shutting_down.is_set():
        buffer = conn.stream_buffers.get(number)
        if buffer:
            data = bytes(buffer if n is None or n < 0 else buffer[:n])
            del buffer[: len(data)]
            if stream.closed:
                await conn._finalize_stream(stream, fully_closed=True)
            elif not stream.recv_closed:
                await give_credit(stream, bytes_read=len(data))
            return data
        if stream.reset_received or (stream.closed and not stream.recv_closed):
            raise MuxedStreamReset("Stream was reset")
        if buffer is None or stream.recv_closed:
            break
        conn.stream_events[number] = trio.Event()
        await conn.stream_events[number].wait()
    raise MuxedStreamEOF("Stream is closed for receiving")


async def give_credit(stream: YamuxStream, *, bytes_read: int = 0) -> None:
    """Instead of `YamuxStream._auto_tune_and_send_window_update`: a window is given back in halves,
    as go-yamux does it (the sender has the other), and a fast stream gets a large one at once: Kubo
    opens a stream for every message that it sends.
    """
    owed = vars(stream).get("_owed_bytes", 0) + bytes_read
    vars(stream)["_owed_bytes"] = owed
    if owed < stream.target_recv_window // 2:
        return
    now = trio.current_time()
    since = stream.epoch_start  # 0: it has just begun
    if not since or now - since < max(FAST_S, 4 * stream.conn.rtt()):
        wider = min(stream.target_recv_window * WIDER, yamux.MAX_WINDOW_SIZE)
        owed += wider - stream.target_recv_window
        stream.target_recv_window = wider
    stream.epoch_start = now
    stream.recv_window += owed
    vars(stream)["_owed_bytes"] = 0
    await stream.send_window_update(owed)


async def write(stream: YamuxStream, data: bytes) -> None:
    """Instead of `YamuxStream.write`. Raises MuxedStreamError."""
    sent = 0
    while sent < len(data):
        if stream.send_window <= 0:
            await _wait_credit(stream)
        if stream.send_closed or stream.closed:
            raise MuxedStreamError("Stream is closed for sending")
        end = min(sent + min(stream.send_window, BATCH_BYTES), len(data))
        stream.send_window -= end - sent
        parts = []
        for start in range(sent, end, FRAME_BYTES):
            chunk = data[start : min(start + FRAME_BYTES, end)]
            head = (0, yamux.TYPE_DATA, 0, stream.stream_id, len(chunk))
            parts += [struct.pack(yamux.YAMUX_HEADER_FORMAT, *head), chunk]
        sent = end
        await stream.conn._write_frame(b"".join(parts))


async def _wait_credit(stream: YamuxStream) -> None:
    with trio.move_on_after(NO_CREDIT_S):
        while stream.send_window <= 0 and not (stream.send_closed or stream.closed):
            waiting = vars(stream)["_waiting_for_credit"] = trio.Event()
            with trio.move_on_after(LOOK_S):
                await waiting.wait()
        return
    raise MuxedStreamError(f"no credit for {NO_CREDIT_S:.0f} s")
