"""The serving half: libp2p's KadDHT (routing table, inbound streams) over records of ours.

KadDHT 0.8.1 is built, never run: its maintenance announces one key at a time, its lookups answer
from a local cache for 48 hours, and its store writes or keeps whatever comes. What stands of it is
the routing table and the handler of inbound streams.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import trio
from libp2p.kad_dht import DHTMode, KadDHT
from libp2p.kad_dht.provider_store import ProviderStore
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from libp2p.records.validator import NamespacedValidator
from multiaddr import Multiaddr

from p2pcache.content.peerid import check_peer_id
from p2pcache.errors import Untrusted
from p2pcache.net.dht.wire import MAX_NAME_BYTES, NOWHERE, parse_addresses
from p2pcache.net.remote_address import is_loopback

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Sequence

    from p2pcache.content.peerid import PeerId
    from p2pcache.net.dht.kad_host import KadHost
    from p2pcache.net.dht.records import Records

MAX_INBOUND = 1024  # streams served at once, of all peers (16 each); KadDHT's 12 reset honest ones
MAX_PROVIDERS_TOLD = 20  # of one name, as every implementation does


class KadRecords(ProviderStore):
    """KadDHT's view of `Records`, and of what we provide ourselves (`mine`)."""

    def __init__(
        self,
        host: KadHost,
        me: PeerId,
        records: Records,
        mine: Container[bytes],
        addresses: Callable[[], Sequence[str]],
        *,
        clock: Callable[[], float] = trio.current_time,
    ) -> None:
        super().__init__(host.as_host())
        self._me = me
        self._records = records
        self._mine = mine
        self._addresses = addresses
        self._clock = clock

    def add_provider(self, key: bytes, provider: PeerInfo) -> None:
        """A record or its end. KadDHT has checked that the sender speaks for itself."""
        try:
            peer = check_peer_id(provider.peer_id.to_bytes())
        except Untrusted:
            return
        if len(key) > MAX_NAME_BYTES or peer == self._me:
            return
        listed = [bytes(address.to_bytes()) for address in provider.addrs]
        if NOWHERE in listed:
            self._records.remove(peer, [key])
            return
        loopback = any(map(is_loopback, self._addresses()))
        addresses = parse_addresses(listed, peer, loopback=loopback)
        if addresses:
            self._records.add(peer, addresses, key, self._clock())

    def get_providers(self, key: bytes) -> list[PeerInfo]:
        """Ourselves first if we do: whoever asks us about us gets the last word on it."""
        found = [(self._me, tuple(self._addresses()))] if key in self._mine else []
        found += self._records.providers(key, self._clock())
        return [
            PeerInfo(ID(peer), [_multiaddr(address) for address in addresses])
            for peer, addresses in found[:MAX_PROVIDERS_TOLD]
        ]


@functools.lru_cache(maxsize=4096)
def _multiaddr(text: str) -> Multiaddr:
    return Multiaddr(text)  # 50 us to parse


def build_server(host: KadHost, store: KadRecords) -> KadDHT:
    """A KadDHT that serves from now on, with every default that is wrong for us put right."""
    kad = KadDHT(
        host.as_host(),
        DHTMode.SERVER,  # a CLIENT would enter the others' tables all the same
        validator=NamespacedValidator({}, strict_validation=True),  # no values, whoever offers any
        validator_changed=True,
        strict_validation=True,
        max_peers_per_subnet=0,  # the default lets two agents of one public /24 into a bucket
    )
    kad.provider_store = store
    kad._provider_rate_max = 10**9  # 10 in 10 s, silently; `Records` has bounds of its own
    kad._inbound_limiter.total_tokens = MAX_INBOUND
    return kad
