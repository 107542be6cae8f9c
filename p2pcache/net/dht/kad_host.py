"""What libp2p 0.8.1's `KadDHT` sees instead of the host and its streams.

* `KadHost`: our protocol id (KadDHT ignores `protocol_prefix`), streams of `net.host`, and a
  bounded number of conversations per peer.
* `ServedStream`: KadDHT reads a length byte by byte and writes two frames an answer; here answers
  leave together, once every question that has come was answered. The end of a stream, an exception
  in libp2p, becomes the clean end that KadDHT expects (else a warning each). What a client may send
  without asking anything, and how long it may idle, is bounded.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, cast

import trio
from libp2p.custom_types import TProtocol
from libp2p.kad_dht.common import PROTOCOL_ID
from libp2p.peer.id import ID
from libp2p.peer.peerstore import PeerStoreError
from multiaddr import Multiaddr

from p2pcache.errors import Unavailable
from p2pcache.net.dht.wire import MAX_FRAME_BYTES

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from libp2p.abc import IHost

    from p2pcache.content.peerid import PeerId
    from p2pcache.net.host import Libp2pHost
    from p2pcache.net.port import Stream
    from p2pcache.net.stream import HostStream

MAX_STREAMS_PER_PEER = 16  # served at once; the rest waits (the host bounds it at 256)
IDLE_S = 10.0  # a client that says nothing for so long is let go
ADDRESSES_S = 2.0
ANSWERS_BYTES = 32 * 1024  # leave together at most
ANSWERS_COUNT = 32  # 4 ms of work


class _Conn:
    def __init__(self, peer: PeerId) -> None:
        self.peer_id = ID(peer)


class ServedStream:
    """A stream as KadDHT's handler wants it; see above."""

    metric_send_channel = None

    def __init__(self, stream: HostStream) -> None:
        self._stream = stream
        self.muxed_conn = _Conn(stream.peer)
        self._answers = bytearray()
        self._answer_count = 0
        self._unanswered_bytes = 0
        self.failed = False

    async def read(self, n: int) -> bytes:
        """`n` bytes; b"" at the end of the stream. Raises Unavailable."""
        self._unanswered_bytes += n
        if self._unanswered_bytes > MAX_FRAME_BYTES:
            raise Unavailable("a DHT client sends more than any question needs")
        if self._stream.ahead_bytes < n:  # as long as more is here, answers wait for company
            await self._flush()
        with trio.move_on_after(IDLE_S):
            try:
                return await self._stream.receive_exactly(n)
            except Unavailable:
                return b""  # ended or reset: the same to a server
        raise Unavailable("a DHT client idles")

    async def write(self, data: bytes) -> None:
        """Keeps the answer until the client's questions are read."""
        self._unanswered_bytes = 0
        self._answers += data
        self._answer_count += 1
        if len(self._answers) >= ANSWERS_BYTES or self._answer_count >= ANSWERS_COUNT:
            await self._flush()

    async def close(self) -> None:
        """Send what is left; `net.host` closes the stream when its handler returns."""
        await self._flush()

    async def reset(self) -> None:
        """`KadHost` lets it be reset."""
        self.failed = True

    async def _flush(self) -> None:
        self._answer_count = 0
        if self._answers:
            data, self._answers = bytes(self._answers), bytearray()
            await self._stream.send_all(data)


class _KadPeerstore:
    """The peerstore, but asked for KadDHT's protocol id it answers for ours."""

    def __init__(self, peerstore: Any, protocol: str) -> None:  # noqa: ANN401
        self._peerstore = peerstore
        self._protocol = protocol

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(self._peerstore, name)

    def get_protocols(self, peer: ID) -> list[str]:
        """RoutingTable's "is it a server"."""
        known = self._peerstore.get_protocols(peer)
        return [_theirs(protocol, self._protocol) for protocol in known]

    def get_peer_record(self, _peer: ID) -> None:
        """None: answers carry plain addresses. Only the handshake proves an address anyway."""


def _theirs(protocol: str, ours: str) -> str:
    if protocol == ours:
        return PROTOCOL_ID
    return "/not" + protocol if protocol == PROTOCOL_ID else protocol


class KadHost:
    """The proxy; see above. `protocol`: ours."""

    def __init__(self, host: Libp2pHost, protocol: str) -> None:
        self._host = host
        self._protocol = protocol
        self._addresses: tuple[str, ...] = ()
        self._looked_at = -math.inf
        self._peerstore = _KadPeerstore(host.libp2p.get_peerstore(), protocol)
        self._serving: dict[PeerId, trio.CapacityLimiter] = {}

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(self._host.libp2p, name)

    def as_host(self) -> IHost:
        """For libp2p's types: it has 26 methods, we answer for a few and pass the rest on."""
        return cast("IHost", self)

    def get_peerstore(self) -> _KadPeerstore:
        """See `_KadPeerstore`."""
        return self._peerstore

    def addresses(self) -> tuple[str, ...]:
        """Ours, at most `ADDRESSES_S` old: looking at the interfaces takes 1 ms."""
        now = trio.current_time()
        if now - self._looked_at >= ADDRESSES_S:
            self._addresses, self._looked_at = self._host.addresses(), now
        return self._addresses

    def get_addrs(self) -> list[Multiaddr]:
        """For KadDHT's signed record of ourselves."""
        return [Multiaddr(address) for address in self.addresses()]

    def set_stream_handler(self, _protocol: str, handler: Callable[[Any], Awaitable[None]]) -> None:
        """Serve under our id, bounded per peer."""

        async def serve(stream: Stream) -> None:
            places = self._serving.setdefault(
                stream.peer, trio.CapacityLimiter(MAX_STREAMS_PER_PEER)
            )
            served = ServedStream(cast("HostStream", stream))
            try:
                async with places:
                    await handler(served)
            finally:
                use = places.statistics()
                if not use.borrowed_tokens and not use.tasks_waiting:
                    self._serving.pop(stream.peer, None)
            if served.failed:
                raise Unavailable("KadDHT refused a message")

        self._host.set_handler(self._protocol, serve)

    def stop_serving(self) -> None:
        """The end of `build_server`."""
        self._host.libp2p.remove_stream_handler(TProtocol(self._protocol))

    def known_addresses(self, peer: ID) -> list[Multiaddr]:
        """What the peerstore has of a peer; nothing when it knows none or they are old."""
        try:
            return list(self._host.libp2p.get_peerstore().addrs(peer))
        except PeerStoreError:
            return []
