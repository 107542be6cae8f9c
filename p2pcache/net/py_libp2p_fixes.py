"""Everything that is wrong in py-libp2p 0.8.1 and that we mend inside it; nothing else patches it.

`apply()` once, before the first host. tests/real/test_py_libp2p_fixes.py shows each defect in the
stock library: when a new version makes one of those tests fail, its patch here can go. What we do
not patch but leave aside (its listener, dialer and auto-connector) is told in `swarm.py`.
"""

from __future__ import annotations

import logging
from functools import wraps
from typing import TYPE_CHECKING, Any, Final

import trio
from libp2p.network.connection import swarm_connection
from libp2p.network.connection.swarm_connection import SwarmConn
from libp2p.network.stream.net_stream import NetStream
from libp2p.stream_muxer.yamux import yamux
from libp2p.stream_muxer.yamux.yamux import Yamux, YamuxStream

from p2pcache.net import frames
from p2pcache.net.free_lock import FreeLock

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from libp2p.abc import IMuxedStream, ISecureConn

VERSION: Final = "0.8.1"  # what all of this was found in
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
    _carry_many_frames()
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

    async def write_frame(self: Yamux, data: bytes) -> None:
        async with self._write_lock:
            await self.secured_conn.write(data)

    Yamux._write_frame = write_frame  # type: ignore[method-assign]


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


def _carry_many_frames() -> None:
    """0.8.1: each frame costs 0.3 ms, a writer without credit looks every 10 ms, and data beyond
    the window is kept without a bound. See `frames`.
    """
    init, body = Yamux.__init__, Yamux._read_data_body

    @wraps(init)
    def made(self: Yamux, secured_conn: ISecureConn, *args: object, **kwargs: object) -> None:
        init(self, secured_conn, *args, **kwargs)  # type: ignore[arg-type]
        self.secured_conn = frames.framed(secured_conn, self)

    @wraps(body)
    async def read_body(self: Yamux, length: int) -> bytes:
        conn = self.secured_conn
        return await (conn.body(length) if isinstance(conn, frames.Frames) else body(self, length))

    Yamux.__init__ = made  # type: ignore[method-assign]
    Yamux._read_data_body = read_body  # type: ignore[method-assign]
    reset = YamuxStream.reset

    @wraps(reset)
    async def dropped(self: YamuxStream) -> None:
        """0.8.1 keeps what nobody will read for another 60 to 90 s."""
        buffer = self.conn.stream_buffers.get(self.stream_id)
        if buffer is not None:
            buffer.clear()
        await reset(self)

    YamuxStream.reset = dropped  # type: ignore[method-assign]
    YamuxStream.read = frames.read  # type: ignore[assignment,method-assign]
    YamuxStream.write = frames.write  # type: ignore[assignment,method-assign]


def _batch_credit() -> None:
    """0.8.1: every read is answered by a window update, so each frame of ours costs another one.

    And each connection measures its round trip every 30 s. Both are most of what a network of idle
    agents does.
    """
    YamuxStream._auto_tune_and_send_window_update = frames.give_credit  # type: ignore[assignment,method-assign]
    vars(yamux)["RTT_MEASURE_INTERVAL"] = RTT_EVERY_S


def _name_the_logger() -> None:
    """0.8.1: SwarmConn logs to the root logger, which installs a handler on stderr."""
    vars(swarm_connection)["logging"] = logging.getLogger(swarm_connection.__name__)
