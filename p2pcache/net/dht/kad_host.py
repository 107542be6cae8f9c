"""What libp2p 0.8.1's `KadDHT` sees instead of the host and its streams.

* `KadHost`: our protocol id (KadDHT ignores `protocol_prefix`), handlers that cannot end the host,
  and a bounded number of conversations per peer.
* `ServedStream`: reads and writes in large parts. KadDHT reads a length byte by byte and writes
  two frames an answer: 20 of 64 records cost 4 times the CPU without this. It also turns the end
  of a stream, an exception in libp2p, into the clean end that KadDHT expects (else a warning
  each), and bounds what a client may send without asking anything and how long it may idle.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING, Any, cast

import trio
from libp2p.custom_types import TProtocol
from libp2p.kad_dht.common import PROTOCOL_ID
from libp2p.network.stream.exceptions import StreamError
from libp2p.peer.peerstore import PeerStoreError

from p2pcache.net.dht.wire import MAX_FRAME_BYTES, PROTOCOL

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from libp2p.abc import IHost, INetStream
    from libp2p.peer.id import ID
    from multiaddr import Multiaddr

MAX_STREAMS_PER_PEER = 16  # an honest agent has 2: a question and an announcement
IDLE_S = 10.0  # a client that says nothing for so long is let go
READ_BYTES = 64 * 1024

log = logging.getLogger(__name__)


class _TooMuch(StreamError):
    """The client sends without asking, or says nothing."""


class ServedStream:
    """A stream as KadDHT's handler wants it; see above."""

    metric_send_channel = None

    def __init__(self, stream: INetStream) -> None:
        self._stream = stream
        self.muxed_conn = stream.muxed_conn
        self._input = bytearray()
        self._output = bytearray()
        self._unanswered_bytes = 0
        self._answered_count = 0

    async def read(self, n: int | None = None) -> bytes:
        """Up to `n` bytes; b"" at the end of the stream."""
        if not self._input:
            await self._flush()
            with trio.move_on_after(IDLE_S) as scope:
                try:
                    self._input += await self._stream.read(READ_BYTES)
                except StreamError:
                    return b""  # ended or reset: the same to a server
            if scope.cancelled_caught:
                raise _TooMuch("a DHT client idles")
        part = bytes(self._input[:n])
        del self._input[: len(part)]
        self._unanswered_bytes += len(part)
        if self._unanswered_bytes > MAX_FRAME_BYTES:
            raise _TooMuch("a DHT client sends more than any question needs")
        return part

    async def write(self, data: bytes) -> None:
        """Keeps the answer until the client's questions are read."""
        self._unanswered_bytes = 0
        self._output += data
        self._answered_count += 1
        if len(self._output) >= READ_BYTES:
            await self._flush()
        elif self._answered_count % 16 == 0:
            await trio.lowlevel.checkpoint()  # 8 questions are 1 ms: let others run

    async def close(self) -> None:
        """Send what is left and end."""
        await self._flush()
        await self._stream.close()

    async def reset(self) -> None:
        """End at once."""
        await self._stream.reset()

    async def _flush(self) -> None:
        if self._output:
            data, self._output = bytes(self._output), bytearray()
            await self._stream.write(data)


class _KadPeerstore:
    """The peerstore, but asked for KadDHT's protocol id it answers for ours."""

    def __init__(self, peerstore: Any) -> None:  # noqa: ANN401
        self._peerstore = peerstore

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(self._peerstore, name)

    def get_protocols(self, peer: ID) -> list[str]:
        """RoutingTable's "is it a server"."""
        return [_theirs(protocol) for protocol in self._peerstore.get_protocols(peer)]

    def get_peer_record(self, _peer: ID) -> None:
        """None: answers carry plain addresses. Only the handshake proves an address anyway."""


def _theirs(protocol: str) -> str:
    if protocol == PROTOCOL:
        return PROTOCOL_ID
    return "/not" + protocol if protocol == PROTOCOL_ID else protocol


class KadHost:
    """The proxy; see above."""

    def __init__(self, host: IHost, *, new_stream_s: float) -> None:
        self._host = host
        self._new_stream_s = new_stream_s
        self._peerstore = _KadPeerstore(host.get_peerstore())
        self._serving: Counter[ID] = Counter()

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(self._host, name)

    def as_host(self) -> IHost:
        """For libp2p's types: it has 26 methods, we answer for a few and pass the rest on."""
        return cast("IHost", self)

    def get_peerstore(self) -> _KadPeerstore:
        """See `_KadPeerstore`."""
        return self._peerstore

    async def new_stream(self, peer: ID, protocols: Sequence[str]) -> INetStream:
        """A stream of our protocol; TooSlowError when a frozen peer does not agree in time."""
        with trio.fail_after(self._new_stream_s):
            return await self._host.new_stream(peer, [_ours(p) for p in protocols])

    def set_stream_handler(self, protocol: str, handler: Callable[[Any], Awaitable[None]]) -> None:
        """Serve under our id: bounded per peer, and nothing gets out of the handler."""

        async def serve(stream: INetStream) -> None:
            peer = stream.muxed_conn.peer_id
            if self._serving[peer] >= MAX_STREAMS_PER_PEER:
                await stream.reset()
                return
            self._serving[peer] += 1
            try:
                await handler(ServedStream(stream))
            except Exception as exc:  # noqa: BLE001 - what leaves a handler ends the whole host
                log.debug("a DHT conversation with %s ended: %r", peer, exc)
            finally:
                self._serving[peer] -= 1
                if not self._serving[peer]:
                    del self._serving[peer]

        self._host.set_stream_handler(_ours(protocol), serve)

    def remove_stream_handler(self, protocol: str) -> None:
        """No longer serve."""
        self._host.remove_stream_handler(_ours(protocol))

    def stop_serving(self) -> None:
        """The end of `build_server`."""
        self.remove_stream_handler(PROTOCOL_ID)

    def known_addresses(self, peer: ID) -> list[Multiaddr]:
        """What the peerstore has of a peer; nothing when it knows none or they are old."""
        try:
            return self._host.get_peerstore().addrs(peer)
        except PeerStoreError:
            return []


def _ours(protocol: str) -> TProtocol:
    return TProtocol(PROTOCOL if protocol == PROTOCOL_ID else protocol)
