"""The public IPFS network: a second host without a network key, apart from the first.

It has a key, a port, connections, mutes and limits of its own; nothing of the private network can
be asked for over it, and whatever strangers do ends here. It speaks bitswap, and both tables of
IPFS as a client: that of the public network, and Kubo's of a local one.
"""

from __future__ import annotations

import ipaddress
import logging
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import trio

from p2pcache.content import cid as cids
from p2pcache.content.peerid import format_peer_id
from p2pcache.errors import P2PCacheError, UsageError, plain_errors
from p2pcache.net.address import parse_address
from p2pcache.net.bitswap.driver import open_bitswap
from p2pcache.net.bitswap.options import BitswapOptions
from p2pcache.net.dht.client import NEAR, WAN, open_dht_client
from p2pcache.net.host import HostOptions, open_host

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Sequence

    from p2pcache.content.peerid import PeerId
    from p2pcache.net.bitswap.driver import Bitswap, Session
    from p2pcache.net.bitswap.options import Served
    from p2pcache.net.dht.client import DhtClient
    from p2pcache.net.host import Libp2pHost
    from p2pcache.net.identity import Identity

    Found = tuple[PeerId, tuple[str, ...]]

_log = logging.getLogger(__name__)

MAX_PEERS = 64
MAX_INBOUND = 32  # the rest is for those whom we dial
MAX_INBOUND_PER_IP = 8  # so that one stranger leaves room for the others
MAX_STREAMS = 16  # inbound, of one peer: bitswap takes 2, the rest are other protocols' beginnings
BITSWAP = BitswapOptions(
    max_streams=2  # of one peer; each may hold a message of 4 MiB: 512 MiB of 64 peers at worst
)
MEET_S = 10.0  # to dial who is configured
MEET_AGAIN_S = 15.0  # while no server of a table is known
LOOK_S = 60.0  # between two looks at that
MAX_FOUND = 32  # providers that wait to be dialled
MAX_SEARCHED = 4  # providers of one block, named without an address, that are looked for at once


@dataclass(frozen=True, slots=True)
class PublicOptions:
    """`listen` empty: only dials. `announce`: told to others instead of our own addresses.
    `bootstrap`: multiaddrs with their peers.
    """

    listen: tuple[str, ...] = ()
    announce: tuple[str, ...] = ()
    bootstrap: tuple[str, ...] = ()


class PublicNode:
    """Made by `open_public`. For the trio thread."""

    def __init__(
        self,
        host: Libp2pHost,
        tables: Sequence[DhtClient],
        bitswap: Bitswap,
        session: Session,
        bootstrap: Sequence[str],
    ) -> None:
        self._host = host
        self._tables = tables
        self._bitswap = bitswap
        self._session = session
        named = [(parse_address(text).peer, _plain(text)) for text in bootstrap]
        self._bootstrap = [(peer, address) for peer, address in named if peer is not None]

    async def get(self, cid: bytes, *, timeout_s: float) -> bytes:
        """A block, verified. Raises as `Session.get`."""
        return await self._session.get(cid, timeout_s=timeout_s)

    def arrived(self) -> None:
        """There may be more to serve: whoever waits for it gets it."""
        self._bitswap.arrived(None)

    def provide(self, multihashes: Iterable[bytes]) -> None:
        """Tell the tables from now on that we have these; to no effect where we do not listen."""
        names = list(multihashes)
        for table in self._tables:
            table.provide(names)

    def withdraw(self, multihashes: Iterable[bytes]) -> None:
        """Say so no more. Records that others keep end with the time: a day or two."""
        names = list(multihashes)
        for table in self._tables:
            table.withdraw(names)

    def status(self) -> dict[str, Any]:
        """For `status`."""
        public, near = (table.statistics() for table in self._tables)
        return {
            "peer": format_peer_id(self._host.peer_id),
            "addresses": list(self._host.addresses()),
            "peers": len(self._host.connected()),
            "dht": public,
            "lan_dht": near,
            "bitswap": self._bitswap.statistics(),
        }

    async def keep_met(self) -> None:
        """Dial who is configured, again while no server of a table is known; until cancelled."""
        while True:
            knows = any(table.statistics()["servers"] for table in self._tables)
            if not knows:
                async with trio.open_nursery() as nursery:
                    for peer, address in self._bootstrap:
                        nursery.start_soon(self._meet, peer, address)
            await trio.sleep(LOOK_S if knows else MEET_AGAIN_S)

    async def _meet(self, peer: PeerId, address: str) -> None:
        try:
            await self._host.connect(peer, [address], timeout_s=MEET_S)
        except P2PCacheError as exc:
            _log.info("the public network: %s", exc.message)


@asynccontextmanager
async def open_public(
    identity: Identity, served: Served, options: PublicOptions
) -> AsyncIterator[PublicNode]:
    """Be in it until the block is left. Raises LocalFault: a port is taken."""
    limits = HostOptions(
        announce=options.announce,
        max_connections=MAX_PEERS,
        max_inbound=MAX_INBOUND,
        max_inbound_per_ip=MAX_INBOUND_PER_IP,
        max_streams_per_link=MAX_STREAMS,
        reaches=reaches(options),
    )
    with plain_errors():
        async with (
            open_host(identity, None, options.listen, limits) as host,
            open_dht_client(host, WAN) as public,
            open_dht_client(host, NEAR) as near,
            open_bitswap(
                host, served, BITSWAP, lambda cid: _search(host, (near, public), cid)
            ) as bitswap,
            bitswap.session() as session,
            trio.open_nursery() as nursery,
        ):
            node = PublicNode(host, (public, near), bitswap, session, options.bootstrap)
            nursery.start_soon(node.keep_met)
            yield node
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def _search(
    host: Libp2pHost, tables: Sequence[DhtClient], cid: bytes
) -> AsyncIterator[AsyncIterator[Found]]:
    """Who is said to have a block, by all tables at once; those whose address is found, too."""
    multihash = cids.multihash(cid)
    send, found = trio.open_memory_channel[tuple["PeerId", tuple[str, ...]]](MAX_FOUND)

    async def look(table: DhtClient, send: trio.MemorySendChannel[Found]) -> None:
        async with send, table.find(multihash) as finding, trio.open_nursery() as nursery:
            async for peer, addresses in finding:
                if addresses or peer in host.connected():
                    await send.send((peer, addresses))
                elif len(nursery.child_tasks) < MAX_SEARCHED:
                    nursery.start_soon(look_for, table, peer, send)

    async def look_for(table: DhtClient, peer: PeerId, send: trio.MemorySendChannel[Found]) -> None:
        addresses = await table.where(peer)
        if addresses:
            await send.send((peer, addresses))

    async with trio.open_nursery() as nursery:
        async with send:
            for table in tables:
                nursery.start_soon(look, table, send.clone())
        async with found:
            yield found
        nursery.cancel_scope.cancel()


def reaches(options: PublicOptions) -> Callable[[str], bool]:
    """Which addresses are dialled and told: public ones, what the user wrote as `bootstrap`, and
    those of the kinds that he wrote as `listen`.

    Strangers say where others are. None of them gets to choose what is dialled within a network
    that its owner takes for closed, or which name is looked up; nor do they hear of its addresses.
    """
    written = {_plain(text) for text in options.bootstrap}
    kinds = {_kind(parse_address(text).host) for text in options.listen}
    kinds -= {None}  # to listen everywhere
    kinds.add("public")

    def may(text: str) -> bool:
        try:
            address = parse_address(text)
        except UsageError:
            return False
        if _plain(text) in written:
            return True
        return address.kind.startswith("ip") and _kind(address.host) in kinds

    return may


def _plain(text: str) -> str:
    """An address without its peer."""
    return str(replace(parse_address(text), peer=None))


def _kind(host: str) -> str | None:
    """None: nobody can be there."""
    ip = ipaddress.ip_address(host)
    ip = (ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None) or ip
    if ip.is_unspecified or ip.is_multicast:
        return None
    if ip.is_loopback:
        return "loopback"
    if ip.is_link_local:
        return "link"
    return "public" if ip.is_global else "private"
