"""What raw libp2p hosts of tests need until `net/py_libp2p_fixes` is there."""

from __future__ import annotations

import libp2p.network.swarm
import trio
from libp2p.network.connection.swarm_connection import SwarmConn
from libp2p.network.stream.net_stream import NetStream
from libp2p.stream_muxer.yamux.yamux import Yamux

_applied = False


def apply() -> None:
    global _applied
    if _applied:
        return
    _applied = True
    libp2p.network.swarm._HAPPY_EYEBALLS_DELAY = 0.001  # else 250 ms a connection
    for cls, names in (
        (Yamux, ("_write_frame",)),
        (SwarmConn, ("new_stream",)),
        (NetStream, ("close", "reset", "close_write", "close_read")),
    ):
        for name in names:
            setattr(cls, name, _shielded(getattr(cls, name)))


def _shielded(method):
    async def whole(self, *args, **kwargs):
        with trio.CancelScope(shield=True):
            return await method(self, *args, **kwargs)

    return whole
