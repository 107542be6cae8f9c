"""libp2p's swarm with our own listener and dialer, and without what dials by itself.

What of py-libp2p 0.8.1 is left aside rather than mended:
* Its listener sets SO_REUSEPORT, so that two agents share a port without a word, and its task for
  an inbound connection, with one of 300 places, lasts until the host ends, not the connection.
* Its dialer waits 250 ms after every success, tries one TCP address of a peer, drops loopback ones,
  retries a refused handshake for 31 s, and then forgets the peer for 60 s.
* Its auto-connector dials everything in the peerstore.
Whatever inside libp2p still asks for a connection (the DHT) gets it from our dialer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from libp2p.host.basic_host import BasicHost
from libp2p.network.auto_connector import AutoConnector
from libp2p.network.config import ConnectionConfig
from libp2p.network.exceptions import SwarmException
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.peer.peerstore import PeerStore
from libp2p.transport.tcp.tcp import TCP

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import trio
    from libp2p.abc import INetConn
    from multiaddr import Multiaddr

    from p2pcache.net.handshake import Handshake

    Redial = Callable[[ID, list[Multiaddr]], Awaitable[list[INetConn]]]
NEGOTIATE_S = 10  # a stream's protocol; a busy Python peer may take a second


class QuietSwarm(Swarm):
    """A swarm that is told every connection (`add_conn`) and makes none itself."""

    def __init__(self, handshake: Handshake, *, max_connections: int, redial: Redial) -> None:
        own_id = ID.from_pubkey(handshake.key_pair.public_key)
        peerstore = PeerStore()
        peerstore.add_key_pair(own_id, handshake.key_pair)
        config = ConnectionConfig(
            min_connections=0,
            low_watermark=0,
            high_watermark=max_connections,
            max_connections=max_connections,
            max_connections_per_peer=8,  # `host.py` keeps to its own, lower number
            inbound_stream_protocol_negotiation_timeout=NEGOTIATE_S,
            outbound_stream_protocol_negotiation_timeout=NEGOTIATE_S,
        )
        super().__init__(own_id, peerstore, handshake.upgrader, [TCP()], connection_config=config)
        self.auto_connector = _NoAutoConnector(self)
        self._redial = redial

    async def dial_peer(self, peer_id: ID) -> list[INetConn]:
        """Connections to a peer, made by our dialer from the peerstore's addresses."""
        found: list[INetConn] = self.get_connections(peer_id)
        if found:
            return found
        try:
            addresses = self.peerstore.addrs(peer_id)
        except Exception as exc:  # PeerStoreError, of an unknown peer
            raise SwarmException(f"no address of {peer_id} is known") from exc
        return await self._redial(peer_id, addresses)

    def _schedule_auto_connect(self) -> None:
        """Never."""


class _NoAutoConnector(AutoConnector):
    async def run_background_task(self, nursery: trio.Nursery) -> None:
        """No task."""

    async def maybe_connect(self) -> None:
        """Never."""


def basic_host(
    swarm: QuietSwarm, addresses: Callable[[list[Multiaddr]], list[Multiaddr]]
) -> BasicHost:
    """libp2p's host: identify, ping and protocol negotiation over the swarm."""
    return BasicHost(
        swarm,
        addrs_factory=addresses,
        disable_identify_address_discovery=True,  # what others see of us is no listen address
        negotiate_timeout=NEGOTIATE_S,
    )
