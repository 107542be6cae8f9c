"""The distributed table on `/p2pcache/kad/1.0.0`: manifests and blob names, never blocks.

* `provide` is known to the closest servers within milliseconds; records live 15 to 20 minutes and
  are renewed every 10, in one batch.
* `find` asks the closest servers (three at a time, none longer than 2 s), and then every provider
  itself whether it still provides: what it yields is alive, connected and true at that moment.
  Nothing that was looked up is ever kept, so no answer is older than the question.
* `withdraw` holds at once for every `find` that asks us (the provider has the last word), and the
  servers are told to drop the record, ahead of everything else in the queue. For members whose
  sync stream says `withdrawn`, `forget(peer, names)` drops what they left with us.

A record costs both sides CPU at every refresh (figures in tests/real/test_dht.py): announce
manifests and single blobs, not every blob of a manifest that is announced itself.
"""

from __future__ import annotations

import logging
import os
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from multiaddr import Multiaddr

from p2pcache.errors import UsageError, plain_errors
from p2pcache.net.dht import wire
from p2pcache.net.dht.announce import Announcer
from p2pcache.net.dht.asking import Asker
from p2pcache.net.dht.find import MAX_FINDS, Finding
from p2pcache.net.dht.kad_host import KadHost
from p2pcache.net.dht.lookup import Lookup, key_of
from p2pcache.net.dht.records import VALIDITY_S, Records
from p2pcache.net.dht.server import KadRecords, build_server
from p2pcache.net.dht.walk import walk
from p2pcache.net.port import Down, Up
from p2pcache.net.remote_address import MAX_ADDRESSES, is_loopback

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence

    from libp2p.kad_dht import KadDHT

    from p2pcache.content.peerid import PeerId
    from p2pcache.net.host import Libp2pHost

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DhtOptions:
    """Defaults fit 2 to a few hundred agents.

    `of_agents`: the table is ours alone. Otherwise servers are those that say so in libp2p's
    identify, announcements are not echoed and cannot be taken back, and who `find` gives may
    provide no longer and is not connected.
    """

    protocol: str = wire.PROTOCOL
    of_agents: bool = True
    replicas: int = 8  # servers a name is left with; 3 are asked at once, 5 may be gone
    query_s: float = 2.0  # one question, with the dial; a frozen server costs no more than this
    slow_s: float = 0.4  # then another may be asked beside it
    find_s: float = 6.0  # a whole lookup: three rounds of frozen servers
    max_found: int = 32  # providers of one find
    refresh_s: float = 600.0  # records live at least 900 s
    table_refresh_s: float = 600.0  # three lookups: 24 questions
    records_per_s: float = 400.0  # announced, of the refresh: 10 % of a core on both sides
    validity_s: float = VALIDITY_S


class Dht:
    """Made by `open_dht`. All of it is for the trio thread."""

    def __init__(
        self,
        host: Libp2pHost,
        kad: KadDHT,
        proxy: KadHost,
        records: Records,
        asker: Asker,
        nursery: trio.Nursery,
        options: DhtOptions,
        provided: dict[bytes, None],
    ) -> None:
        self._me = host.peer_id
        self._kad = kad
        self._host = host
        self._proxy = proxy
        self._records = records
        self._asker = asker
        self._nursery = nursery
        self._options = options
        self._keys: dict[PeerId, int] = {}
        self._announcer = Announcer(
            host.peer_id,
            provided,
            asker,
            self._servers,
            proxy.addresses,
            replicas=options.replicas,
            refresh_s=options.refresh_s,
            records_per_s=options.records_per_s,
            echoed=options.of_agents,
        )
        self._turns = trio.CapacityLimiter(MAX_FINDS)
        self.find_count = 0

    def provide(self, names: Iterable[bytes]) -> None:
        """Say from now on that we provide these; never blocks. Names are at most 64 bytes."""
        self._announcer.provide([_checked(name) for name in names])

    def withdraw(self, names: Iterable[bytes]) -> None:
        """Say so no longer; holds at once here, and within a second at living servers."""
        self._announcer.withdraw(names)

    def find(self, name: bytes) -> Finding:
        """Who provides a name, as they turn up: `async for peer, addresses in dht.find(name)`.

        Each provider comes once, connected, and has just said itself that it provides. Ends after
        `find_s` at the latest (counted from when fewer than 8 others are under way); a frozen
        server or provider never holds up the others. Leave early with `async with`; a search that
        is merely dropped ends by itself.
        """
        self.find_count += 1
        finding = Finding(
            _checked(name), self._me, self._asker, self._options, self._turns,
            loopback=self._loopback(),
        )  # fmt: skip
        finding.start(self._nursery, self._closest(name), self._own_records(name))
        return finding

    def saw(self, peer: PeerId, addresses: Sequence[str]) -> None:
        """A member is there and can be dialed at these: a server of the table from now on."""
        self._asker.heard(peer)
        self._nursery.start_soon(self._enter, peer, tuple(addresses)[:MAX_ADDRESSES])

    def forget(self, peer: PeerId, names: Iterable[bytes] | None = None) -> None:
        """Drop records that a peer left with us: withdrawn (`names`), or all of a banned one."""
        if names is None:
            self._records.remove_provider(peer)
            self._kad.routing_table.remove_peer(ID(peer))
        else:
            self._records.remove(peer, names)

    async def wait_announced(self) -> None:
        """Until the servers that can be reached were told of every change so far."""
        await self._announcer.wait_idle()

    def statistics(self) -> dict[str, int]:
        """For `status`: all counts."""
        return {
            "servers": self._kad.routing_table.size(),
            "provided": len(self._announcer.names),
            "told": self._announcer.told_count(),
            "records": self._records.count(),
            "records_sent_total": self._announcer.sent_count,
            "refreshes_total": self._announcer.refresh_count,
            "finds_total": self.find_count,
            "questions_total": self._asker.asked_count,
            "questions_failed_total": self._asker.failed_count,
        }

    async def run(self) -> None:
        """Announce and keep the table; until cancelled."""
        events = self._host.watch()
        for peer in self._host.connected():
            self.saw(peer, ())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._announcer.run)
            nursery.start_soon(self._keep_table)
            async for event in events:
                match event:
                    case Up(peer):
                        self.saw(peer, ())
                    case Down(peer):
                        self._announcer.forget_server(peer)

    def _dead(self, peer: PeerId) -> None:
        if peer not in self._host.connected():  # else it is shunned for a while, and comes back
            self._kad.routing_table.remove_peer(ID(peer))

    async def _enter(self, peer: PeerId, addresses: tuple[str, ...]) -> None:
        known, protocol = ID(peer), self._options.protocol
        if not self._options.of_agents and not await self._host.speaks(peer, protocol):
            return
        if addresses:
            parsed = [Multiaddr(address) for address in addresses]
            self._proxy.get_peerstore().add_addrs(known, parsed, 3600)
        await self._kad.routing_table.add_peer(PeerInfo(known, []), skip_server_mode_check=True)

    def _servers(self) -> list[tuple[PeerId, int]]:
        found = []
        keys: dict[PeerId, int] = {}
        for known in self._kad.routing_table.get_peer_ids():
            peer = known.to_bytes()
            keys[peer] = self._keys.get(peer) or key_of(peer)
            if not self._asker.shuns(peer):
                found.append((peer, keys[peer]))
        self._keys = keys
        return found

    def _closest(self, target: bytes) -> list[tuple[PeerId, tuple[str, ...]]]:
        key = key_of(target)
        nearest = sorted(self._servers(), key=lambda server: server[1] ^ key)
        return [(peer, self._known_addresses(peer)) for peer, _ in nearest[:20]]

    def _known_addresses(self, peer: PeerId) -> tuple[str, ...]:
        return tuple(str(a) for a in self._proxy.known_addresses(ID(peer)))[:MAX_ADDRESSES]

    def _own_records(self, name: bytes) -> list[wire.Somebody]:
        return self._records.providers(name, trio.current_time())

    def _loopback(self) -> bool:
        return any(is_loopback(address) for address in self._proxy.addresses())

    async def _keep_table(self) -> None:
        """Learn of servers that we are not connected to; soon after the start, then seldom."""
        pause_s = min(1.0, self._options.table_refresh_s)
        while True:
            await trio.sleep(pause_s)
            for target in (self._me, os.urandom(32), os.urandom(32)):
                await self._learn(target)
            if self._kad.routing_table.size():
                pause_s = min(pause_s * 4, self._options.table_refresh_s)

    async def _learn(self, target: bytes) -> None:
        lookup = Lookup(target, self._me, width=self._options.replicas)
        lookup.add(self._closest(target))

        def note(peer: PeerId, _answer: wire.Answer) -> None:
            self._nursery.start_soon(self._enter, peer, ())

        await walk(
            lookup, self._asker, wire.ask_closer(target), note,
            slow_s=self._options.slow_s, loopback=self._loopback(),
        )  # fmt: skip


LAN = DhtOptions(protocol="/ipfs/lan/kad/1.0.0", of_agents=False, find_s=2.0)
"""Kubo's table of a local network, which answers in milliseconds: who asks for what nobody has is
told so soon, also when a server froze. A key is the multihash of a CID.
"""


@asynccontextmanager
async def open_dht(host: Libp2pHost, options: DhtOptions | None = None) -> AsyncIterator[Dht]:
    """Serve and use the table over a host, until the block is left."""
    options = options or DhtOptions()
    proxy = KadHost(host, options.protocol)
    records = Records(validity_s=options.validity_s)
    provided: dict[bytes, None] = {}
    store = KadRecords(proxy, host.peer_id, records, provided, proxy.addresses)
    with plain_errors():
        async with trio.open_nursery() as nursery:
            asker = Asker(
                host, nursery, protocol=options.protocol, query_s=options.query_s,
                on_dead=lambda peer: dht._dead(peer),
            )  # fmt: skip
            kad = build_server(proxy, store)
            dht = Dht(host, kad, proxy, records, asker, nursery, options, provided)
            nursery.start_soon(dht.run)
            try:
                yield dht
            finally:
                proxy.stop_serving()
                nursery.cancel_scope.cancel()


def _checked(name: bytes) -> bytes:
    if not 0 < len(name) <= wire.MAX_NAME_BYTES:
        raise UsageError(f"a name has 1 to {wire.MAX_NAME_BYTES} bytes, not {len(name)}")
    return bytes(name)
