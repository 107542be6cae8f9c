"""The agent behind Kubo's RPC: who we are, whom we know, what the store takes."""

from __future__ import annotations

from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING

import trio

from p2pcache.agent.access import open_to_all
from p2pcache.agent.pins import UserPins
from p2pcache.content import cid as cids
from p2pcache.content.peerid import format_peer_id, parse_peer_id
from p2pcache.errors import LocalFault, P2PCacheError, Unavailable, Untrusted
from p2pcache.gateway.kubo_rpc.call import Context, Identity, Peer, Space
from p2pcache.net.sync.wire import PROTOCOL as SYNC
from p2pcache.store import durable
from p2pcache.transfer.dag_pins import FILES, DagPinner

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from p2pcache.agent.network import AgentNetwork
    from p2pcache.agent.parts import Parts
    from p2pcache.net.dht import Dht

CONNECT_S = 10.0  # to be linked with an agent whose address is known; a handshake takes 0.1 s
ROOT_FILE = "ipfs-files-root"


class RootFile:
    """The root of the files API, as text, in the agent's home."""

    def __init__(self, home: Path) -> None:
        self._path = home / ROOT_FILE
        self._held: bytes | None = None

    def load(self) -> bytes | None:
        """See the port."""
        if self._held is None:
            try:
                self._held = cids.checked(bytes.fromhex(self._path.read_text().strip()))
            except FileNotFoundError:
                return None
            except (OSError, ValueError, Untrusted) as exc:
                raise LocalFault(
                    f"{self._path} cannot be read: {exc}", hint="without it the files API is empty"
                ) from exc
        return self._held

    def save(self, cid: bytes) -> None:
        """See the port."""
        with durable.local_faults("keeping the root of the files API"):
            durable.replace_file(self._path, cid.hex().encode() + b"\n")
        self._held = cid


class AgentNode:
    """`gateway.kubo_rpc.call.Node` of an agent. Without a network it has a name of its own, made up
    for this run: clients refuse an empty one.
    """

    def __init__(self, parts: Parts) -> None:
        from p2pcache.net.identity import Identity as Keys

        self._parts = parts
        self._alone = Keys.generate().peer_id

    def _network(self) -> AgentNetwork:
        network = self._parts.network.current
        if network is None:
            why = self._parts.network.why_off() if self._parts.network.wanted else "there is none"
            raise Unavailable(f"this agent has no network: {why}")
        return network

    def identity(self) -> Identity:
        """See the port."""
        network = self._parts.network.current
        me = self._alone if network is None else network.peer_id
        if network is None:
            return Identity(format_peer_id(me), me[2:])
        addresses = tuple(address.split("/p2p/")[0] for address in network.addresses())
        return Identity(format_peer_id(me), me[2:], addresses, ())

    def peers(self) -> list[Peer]:
        """See the port."""
        network = self._parts.network.current
        if network is None:
            return []
        known = {member.peer: member.addresses for member in network.network.members()}
        found = []
        for peer in [*known, *sorted(network.host.connected() - known.keys())]:
            seen = network.host.address_of(peer)
            addresses = (*((seen,) if seen else ()), *known.get(peer, ()))
            found.append(Peer(format_peer_id(peer), addresses))
        return found

    async def connect(self, address: str) -> None:
        """See the port."""
        head, _, text = address.rpartition("/p2p/")
        peer = parse_peer_id(text)
        network = self._network()
        if self._parts.ipfs.bitswap is not None:  # whoever speaks that is no agent, but welcome
            try:
                await network.host.connect(peer, [head], timeout_s=CONNECT_S)
            except P2PCacheError as exc:
                raise type(exc)(f"connect {text} failure: {exc.message}", hint=exc.hint) from exc
            if not await network.host.speaks(peer, SYNC):
                return
        network.network.meet(peer, [head])
        with trio.move_on_after(CONNECT_S):
            async with network.network.watch() as changes:
                while network.network.member(peer) is None:
                    await anext(changes)
                return
        raise Unavailable(f"connect {text} failure: no agent of this network answers there")

    def _table(self) -> Dht | None:
        bitswap = self._parts.ipfs.bitswap
        return None if bitswap is None else bitswap.table

    async def providers(self, cid: bytes) -> AsyncIterator[Peer]:
        """See the port. Both tables are asked at once."""
        network, wanted = self._parts.network.current, cids.as_v1(cid)
        table = self._table()
        async with AsyncExitStack() as searches:
            found = []
            if network is not None and network.dht is not None:
                found.append(await searches.enter_async_context(network.dht.find(wanted)))
            if table is not None:
                finding = table.find(cids.multihash(wanted))
                found.append(await searches.enter_async_context(finding))
            told = set()
            for search in found:
                async for peer, addresses in search:
                    if peer not in told:
                        told.add(peer)
                        yield Peer(format_peer_id(peer), tuple(addresses))

    async def provide(self, cid: bytes) -> None:
        """See the port."""
        network, table = self._network(), self._table()
        wanted = cids.as_v1(cid)
        if table is not None:
            table.provide([cids.multihash(wanted)])
        if network.dht is not None:
            network.dht.provide([wanted])
        elif table is None:
            raise Unavailable("cannot provide: `network.dht` is off")

    async def space(self) -> Space:
        """See the port."""
        usage = await trio.to_thread.run_sync(self._parts.store.usage)
        config = self._parts.config
        objects = usage.blobs + usage.loose_blocks
        most = config.store.capacity_bytes
        return Space(usage.used_bytes, most, objects, str(config.store_path))

    async def collect(self) -> list[bytes]:
        """See the port."""
        return await trio.to_thread.run_sync(self._collect)

    def _collect(self) -> list[bytes]:
        gone = self._parts.store.collect_loose()
        return [cids.make_cid(cids.RAW, multihash) for multihash in gone]

    def traffic_bytes(self) -> tuple[int, int]:
        """See the port. What was sent is known to the byte server alone."""
        network = self._parts.network.current
        return (0 if network is None else sum(network.received.values())), 0


def rpc_context(parts: Parts) -> Context:
    """What the calls of the RPC work on. It shows what every program of this machine may see."""
    blocks, store = parts.ipfs.open_blocks, parts.store
    shows = open_to_all(store, parts.now)
    return Context(
        blocks=blocks,
        pins=UserPins(store, parts.resolver.folders, DagPinner(blocks), shows),
        tree_pins=DagPinner(blocks, FILES),
        node=AgentNode(parts),
        root=RootFile(parts.config.home),
        bring=partial(parts.ipfs.bring, parts),
    )
