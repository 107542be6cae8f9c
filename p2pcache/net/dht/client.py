"""A table of others, as a client: it is asked, told what we provide, and served nothing by us.

The public tables of IPFS have thousands of servers, most of which nobody is connected with. So a
name is left with the servers that a walk finds closest to it (libp2p specs, kad-dht), where those
look who search it, and not with those that we happen to know. Servers keep a record for a day or
two and take none back: what is provided no longer is just not told again.
"""

from __future__ import annotations

import logging
import math
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import trio
from libp2p.peer.id import ID
from libp2p.peer.peerstore import PeerStoreError

from p2pcache.errors import plain_errors
from p2pcache.net.dht import wire
from p2pcache.net.dht.asking import Asker
from p2pcache.net.dht.dht import LAN, DhtOptions
from p2pcache.net.dht.find import MAX_FINDS, Finding
from p2pcache.net.dht.lookup import Lookup, key_of
from p2pcache.net.dht.walk import walk
from p2pcache.net.port import Up
from p2pcache.net.remote_address import MAX_ADDRESSES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from p2pcache.content.peerid import PeerId
    from p2pcache.net.host import Libp2pHost

    Note = Callable[[PeerId, wire.Answer], None]

log = logging.getLogger(__name__)

MAX_SERVERS = 256  # to begin a walk from; it finds the others by itself
LOOK_S = 10.0  # between two looks at whether a record grew old
FAILED_S = 60.0  # until a name that no server took is told again

WAN = DhtOptions(
    protocol="/ipfs/kad/1.0.0",
    of_agents=False,
    replicas=20,  # k of the specification
    query_s=5.0,  # across the world, with the dial
    slow_s=1.0,
    find_s=20.0,  # many servers of the public table are gone when they are asked
    refresh_s=12 * 3600.0,  # Kubo keeps records for 48 h, and tells its own again after 22
)
"""The table of the public network."""

NEAR = replace(LAN, replicas=20, refresh_s=WAN.refresh_s)
"""Kubo's table of a local network; see `WAN`."""


@dataclass(slots=True)
class _Told:
    """Of one name. `at`: when it was told last; `count`: how many took it then; `tried`: who was
    known then.
    """

    at: float = -math.inf
    count: int = 0
    tried: set[PeerId] = field(default_factory=set)


class DhtClient:
    """Made by `open_dht_client`. All of it is for the trio thread."""

    def __init__(self, host: Libp2pHost, nursery: trio.Nursery, options: DhtOptions) -> None:
        self._host = host
        self._nursery = nursery
        self._options = options
        self._asker = Asker(
            host, nursery, protocol=options.protocol, query_s=options.query_s, on_dead=self._dead
        )
        self._servers: dict[PeerId, tuple[str, ...]] = {}  # where they were seen; the newest last
        self._told: dict[bytes, _Told] = {}
        self._more = trio.Event()
        self._turns = trio.CapacityLimiter(MAX_FINDS)
        self._find_count = 0

    def find(self, name: bytes) -> Finding:
        """Who is said to provide a name, as `Dht.find` of a table that is not ours alone."""
        self._find_count += 1
        finding = Finding(
            name, self._host.peer_id, self._asker, self._options, self._turns, loopback=True
        )
        finding.start(self._nursery, self._closest(name), ())
        return finding

    async def where(self, peer: PeerId) -> tuple[str, ...]:
        """Addresses of a peer, by who is close to it: records often have none. Empty where nobody
        knows. At most `find_s`. Cancel-safe.
        """
        found: dict[str, None] = {}
        scope = trio.CancelScope(deadline=trio.current_time() + self._options.find_s)

        def note(_: PeerId, answer: wire.Answer) -> None:
            for somebody, addresses in answer.closer:
                if somebody == peer and addresses:
                    found.update(dict.fromkeys(addresses))
                    scope.cancel()

        with scope:
            await self._walk(self._lookup(peer), wire.ask_closer(peer), note)
        return tuple(found)[:MAX_ADDRESSES]

    def provide(self, names: Iterable[bytes]) -> None:
        """Say from now on that we provide these; never blocks."""
        for name in names:
            self._told.setdefault(name, _Told())
        self._more.set()

    def withdraw(self, names: Iterable[bytes]) -> None:
        """Say so no more."""
        for name in names:
            self._told.pop(name, None)

    def statistics(self) -> dict[str, int]:
        """For `status`: all counts. `told`: names that some server took."""
        return {
            "servers": len(self._servers),
            "provided": len(self._told),
            "told": sum(bool(told.count) for told in self._told.values()),
            "finds_total": self._find_count,
            "questions_total": self._asker.asked_count,
            "questions_failed_total": self._asker.failed_count,
        }

    async def run(self) -> None:
        """Keep servers, and tell them what we provide; until cancelled."""
        events = self._host.watch()
        async with trio.open_nursery() as nursery:
            for peer in self._host.connected():
                nursery.start_soon(self._meet, peer)
            nursery.start_soon(self._keep_servers)
            nursery.start_soon(self._keep_told)
            async for event in events:
                if isinstance(event, Up):
                    nursery.start_soon(self._meet, event.peer)

    # -- servers

    async def _meet(self, peer: PeerId) -> None:
        self._asker.heard(peer)
        if await self._host.speaks(peer, self._options.protocol):
            self._note_server(peer)

    def _note_server(self, peer: PeerId) -> None:
        """It answers: remember where it can be dialled, which it says itself in identify."""
        seen = self._host.address_of(peer)
        try:
            said = [str(one) for one in self._host.libp2p.get_peerstore().addrs(ID(peer))]
        except PeerStoreError:
            said = []
        known = self._servers.pop(peer, ())
        addresses = dict.fromkeys([*([seen] if seen else []), *said, *known])
        self._servers[peer] = tuple(addresses)[:MAX_ADDRESSES]
        while len(self._servers) > MAX_SERVERS:
            del self._servers[next(iter(self._servers))]
        self._more.set()

    def _dead(self, peer: PeerId) -> None:
        if peer not in self._host.connected():
            self._servers.pop(peer, None)

    def _closest(self, target: bytes) -> list[wire.Somebody]:
        key = key_of(target)
        alive = [peer for peer in self._servers if not self._asker.shuns(peer)]
        nearest = sorted(alive, key=lambda peer: key_of(peer) ^ key)
        return [(peer, self._servers[peer]) for peer in nearest[: self._options.replicas]]

    def _lookup(self, target: bytes) -> Lookup:
        lookup = Lookup(target, self._host.peer_id, width=self._options.replicas)
        lookup.add(self._closest(target))
        return lookup

    async def _walk(self, lookup: Lookup, frame: bytes, note: Note) -> set[PeerId]:
        """Everybody who answered."""
        answered: set[PeerId] = set()

        def noted(peer: PeerId, answer: wire.Answer) -> None:
            answered.add(peer)
            self._note_server(peer)
            note(peer, answer)

        await walk(lookup, self._asker, frame, noted, slow_s=self._options.slow_s, loopback=True)
        return answered

    async def _keep_servers(self) -> None:
        """Learn of servers that we are not connected to; soon after the start, then seldom."""
        pause_s = 1.0
        while True:
            await trio.sleep(pause_s)
            me = self._host.peer_id
            with trio.move_on_after(self._options.find_s):
                await self._walk(self._lookup(me), wire.ask_closer(me), _ignore)
            if self._servers:
                pause_s = min(pause_s * 4, self._options.table_refresh_s)

    # -- what we provide

    async def _keep_told(self) -> None:
        while True:
            name = self._next_due()
            if name is not None:
                await self._tell(name)
                continue
            with trio.move_on_after(LOOK_S if self._told else math.inf):
                await self._more.wait()
            self._more = trio.Event()

    def _next_due(self) -> bytes | None:
        """A name that was never told or long ago, or not to all of the few servers there are."""
        alive = {peer for peer in self._servers if not self._asker.shuns(peer)}
        if not alive or not self._host.addresses():
            return None
        now = trio.current_time()
        few = len(self._servers) <= self._options.replicas
        for name, told in self._told.items():
            pause_s = self._options.refresh_s if told.count else FAILED_S
            if now - told.at >= pause_s or (few and not alive <= told.tried):
                return name
        return None

    async def _tell(self, name: bytes) -> None:
        """Leave a record with the servers closest to the name."""
        told = self._told[name]
        told.at = trio.current_time()
        with trio.move_on_after(self._options.find_s):
            found = await self._walk(self._lookup(name), wire.ask_closer(name), _ignore)
            key = key_of(name)
            closest = sorted(found, key=lambda peer: key_of(peer) ^ key)[: self._options.replicas]
            mine = wire.own_addresses(self._host.addresses())
            frame = wire.announce(name, self._host.peer_id, mine)
            asked = [
                self._asker.ask(peer, self._servers.get(peer, ()), frame, 0) for peer in closest
            ]
            for question in asked:
                await question.done.wait()
            told.count = sum(question.answers is not None for question in asked)
        told.tried = set(self._servers)
        log.debug("a name was left with %d servers", told.count)


def _ignore(_peer: PeerId, _answer: wire.Answer) -> None:
    """Who answers is noted in any case."""


@asynccontextmanager
async def open_dht_client(host: Libp2pHost, options: DhtOptions) -> AsyncIterator[DhtClient]:
    """Use a table over a host, until the block is left."""
    with plain_errors():
        async with trio.open_nursery() as nursery:
            client = DhtClient(host, nursery, options)
            nursery.start_soon(client.run)
            yield client
            nursery.cancel_scope.cancel()
