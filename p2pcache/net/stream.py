"""One conversation over a link: `net.port.Stream` on libp2p's, whose I/O nobody cancels midway.

libp2p's writes are atomic by a shield (`py_libp2p_fixes`), so a deadline around them would wait.
Here every write that may have to wait is a task of the host; who waits for it may leave, and then
the stream is given up: reset, and if even that does not get through, the connection is cut.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, cast

import trio
from libp2p.network.stream.exceptions import StreamEOF

from p2pcache.errors import Unavailable
from p2pcache.net.free_lock import FreeLock

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from libp2p.abc import INetStream
    from libp2p.stream_muxer.yamux.yamux import YamuxStream

    from p2pcache.content.peerid import PeerId
    from p2pcache.net.tcp import TcpConnection

SMALL_BYTES = 4096  # what a socket takes whole that can be written to
READ_BYTES = 1 << 20  # whatever came
GIVE_UP_S = 1.0  # for a reset to leave; a peer that does not take 12 bytes in that time is frozen
CLOSE_S = 2.0  # for the other end to close too
_LOG = logging.getLogger(__name__)


class HostStream:
    """See `net.port.Stream`."""

    def __init__(
        self, stream: INetStream, peer: PeerId, tcp: TcpConnection, nursery: trio.Nursery
    ) -> None:
        self._stream = stream
        self._peer = peer
        self._tcp = tcp
        self._nursery = nursery
        self._ahead = memoryview(b"")  # of what was read last
        self._sending = FreeLock()
        self._reading: trio.CancelScope | None = None
        self._ended = False

    @property
    def peer(self) -> PeerId:
        """Who is at the other end."""
        return self._peer

    @property
    def ahead_bytes(self) -> int:
        """What came and was not taken yet: so much can be received without waiting."""
        return len(self._ahead)

    async def receive_exactly(self, count: int) -> bytes:
        """`count` bytes (the caller bounds it). Raises Unavailable. If cancelled, it ends."""
        if len(self._ahead) < count:
            return await self._receive_more(count)
        data, self._ahead = bytes(self._ahead[:count]), self._ahead[count:]
        return data

    async def _receive_more(self, count: int) -> bytes:
        """With what is ahead; joined once, for a message may have megabytes."""
        parts = [self._ahead]
        missing = count - len(self._ahead)
        self._ahead = memoryview(b"")
        try:
            while missing > 0:
                self._check()
                parts.append(memoryview(await self._read()))
                missing -= len(parts[-1])
        except trio.Cancelled:
            self.abort()
            raise
        if missing:
            parts[-1], self._ahead = parts[-1][:missing], parts[-1][missing:]
        return b"".join(parts)

    async def send_all(self, data: bytes) -> None:
        """Send all. Raises Unavailable. If cancelled while sending, the stream ends."""
        await trio.lowlevel.checkpoint_if_cancelled()
        async with self._sending:
            self._check()
            writing = _Writing()
            if self._is_taken_at_once(len(data)):
                await self._write(data, writing)
            else:
                self._nursery.start_soon(self._write, data, writing)
                try:
                    await writing.done.wait()
                except trio.Cancelled:
                    self.abort()
                    raise
            if writing.error is not None:
                raise Unavailable(f"the stream broke: {writing.error}") from writing.error

    async def aclose(self) -> None:
        """Send what was sent, close both ways; bounded, never raises."""
        self._end(self._close)
        await trio.lowlevel.checkpoint()

    def abort(self) -> None:
        """Reset the stream soon, or cut its connection if that does not get through."""
        self._end(self._reset)

    def _end(self, how: Callable[[], Awaitable[None]]) -> None:
        if not self._ended:
            self._ended = True
            if self._reading is not None:
                self._reading.cancel()  # yamux leaves the reader of a stream reset here asleep
            if not self._tcp.closed:
                self._nursery.start_soon(how)

    def _is_taken_at_once(self, count: int) -> bool:
        """Whether so much can be written without waiting for the other end."""
        muxed = cast("YamuxStream", vars(self._stream)["muxed_stream"])  # no other muxer is used
        locks = cast(
            "tuple[FreeLock, ...]", (vars(self._stream)["_state_lock"], muxed.conn._write_lock)
        )
        if count > min(SMALL_BYTES, muxed.send_window):
            return False
        if not all(lock.is_at_hand() for lock in locks):
            return False  # somebody else may write first, also one who has not begun
        return self._tcp.takes_some()

    def _check(self) -> None:
        if self._ended or self._tcp.closed:
            raise Unavailable("the stream is closed")

    async def _read(self) -> bytes:
        data = b""
        try:
            with trio.CancelScope() as self._reading:
                data = await self._stream.read(READ_BYTES)
        except Exception as exc:  # libp2p has many words for the end of a stream
            raise Unavailable(f"the stream ended: {type(exc).__name__}") from exc
        if not data:
            raise Unavailable("the stream ended")
        return data

    async def _write(self, data: bytes, writing: _Writing) -> None:
        try:
            await self._stream.write(data)
        except Exception as exc:  # noqa: BLE001 - as in _read
            writing.error = exc
        finally:
            writing.done.set()

    async def _close(self) -> None:
        """Our end, then theirs: an entry closed one way only would stay in the muxer."""
        over = False
        try:
            with trio.move_on_after(CLOSE_S):
                await self._stream.close()
                while await self._stream.read(READ_BYTES):
                    pass  # what comes after our close is nobody's
        except StreamEOF:
            over = True
        except Exception as exc:  # noqa: BLE001 - it is over in any case
            _LOG.debug("close: %r", exc)
        if not over and not self._tcp.closed:
            await self._reset()

    async def _reset(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._cut_later, nursery.cancel_scope)
            try:
                await self._stream.reset()
            except Exception as exc:  # noqa: BLE001 - it is over in any case
                _LOG.debug("reset: %r", exc)
            nursery.cancel_scope.cancel()

    async def _cut_later(self, scope: trio.CancelScope) -> None:
        await trio.sleep(GIVE_UP_S)
        if not scope.cancel_called:
            _LOG.info("cut %s: it does not take a reset", self._tcp.remote)
            self._tcp.cut()


class _Writing:
    """A write under way."""

    def __init__(self) -> None:
        self.done = trio.Event()
        self.error: Exception | None = None
