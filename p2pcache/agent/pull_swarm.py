"""One pull's view of the network: the ports of the transfer layer over the agent's parts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from p2pcache.agent.sharing import Growing
from p2pcache.content.peerid import format_peer_id
from p2pcache.errors import Denied, Unavailable
from p2pcache.net import shelf
from p2pcache.net.remote_address import reachable_hosts
from p2pcache.sources.port import (
    Lane,
    PeerBrings,
    PeerGone,
    PeerHolds,
    PeerLoad,
    PeerLost,
    PeerProof,
    PeerThrottled,
    SwarmEvent,
)
from p2pcache.transfer.machine.zones import Place, distance

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from p2pcache.agent.network import AgentNetwork
    from p2pcache.content.peerid import PeerId
    from p2pcache.content.ranges import RangeSet
    from p2pcache.content.signed import PieceAttestation
    from p2pcache.net.holders import Swarm as NetSwarm
    from p2pcache.store.rooted import AnyBlob
    from p2pcache.transfer.trust import Verdict

EVENTS = 256  # unread; the network's own queue behind it keeps the newest of each kind


class PullSwarm:
    """`sources.port.Swarm` over `net.holders.Swarm`."""

    def __init__(self, opened: AgentNetwork, swarm: NetSwarm) -> None:
        self._opened = opened
        self._swarm = swarm
        self._send, self.events = trio.open_memory_channel[SwarmEvent](EVENTS)
        self.first_round = trio.Event()
        self.somebody_holds = False

    async def run(self) -> None:
        """Carry events over, until cancelled; `first_round` is set when all members have told."""
        waiting = {member.peer for member in self._opened.network.members()}
        if not waiting:
            self.first_round.set()
        async with self._send:
            async for event in self._swarm.events:
                match event:
                    case shelf.PeerHolds(peer, name, size, blocks):
                        self.somebody_holds = True
                        await self._pass_on(PeerHolds(peer, name, size, blocks))
                    case shelf.PeerLost(peer, name):
                        await self._pass_on(PeerLost(peer, name))
                    case shelf.PeerGone(peer, reason):
                        waiting.discard(peer)
                        await self._pass_on(PeerGone(peer, reason))
                    case shelf.PeerProof(peer, under_way):
                        await self._pass_on(PeerProof(peer, under_way))
                    case shelf.PeerBrings(peer, intake, declines, brings):
                        await self._pass_on(PeerBrings(peer, intake, declines, brings))
                    case shelf.PeerLoad(peer, queue_s):
                        await self._pass_on(PeerLoad(peer, queue_s))
                    case shelf.PeerThrottled(peer, origin, retry_after_s):
                        await self._pass_on(PeerThrottled(peer, origin, retry_after_s))
                    case shelf.PeerSettled(peer):
                        waiting.discard(peer)
                if not waiting:
                    self.first_round.set()

    async def _pass_on(self, event: SwarmEvent) -> None:
        """Waits, and gives way to other tasks, only behind a pull that does not read."""
        try:
            self._send.send_nowait(event)
        except trio.WouldBlock:
            await self._send.send(event)

    async def look_up(self, name: bytes) -> None:
        """Ask the DHT who has it; whoever it names becomes a member that is asked."""
        await self._opened.look_up(name, self._swarm)

    async def lane(self, peer: PeerId, *, name: bytes | None = None, timeout_s: float) -> Lane:
        """See the port."""
        lane = await self._swarm.lane(peer, name=name, timeout_s=timeout_s)
        mine = self._opened.client_tls
        who = format_peer_id(peer)
        if mine is not None and lane.fingerprint is None:
            raise Denied(f"{who} serves without TLS, which `lanes.tls` here does not allow")
        hosts = reachable_hosts(lane.hosts, lane.port, self._opened.host.address_of(peer))
        if not hosts:
            raise Unavailable(f"{who} tells no address of a byte server that may be dialled")
        return Lane(
            hosts=hosts,
            port=lane.port,
            fingerprint=lane.fingerprint,
            token=lane.token.decode("ascii", "replace"),
            expires_at=lane.expires_at,
            client_cert=None if mine is None else mine.client_cert,
            client_key=None if mine is None else mine.client_key,
        )

    def expire_lane(self, peer: PeerId, *, name: bytes | None = None) -> None:
        """See the port."""
        self._swarm.expire_lane(peer, name=name)

    async def block_map(
        self, peer: PeerId, name: bytes, first: int, count: int, *, timeout_s: float
    ) -> bytes | list[PieceAttestation] | None:
        """See the port."""
        found = await self._swarm.block_map(peer, name, first, count, timeout_s=timeout_s)
        if found is None:
            return None
        return list(found.attestations) if found.hashes is None else found.hashes

    def members(self) -> list[PeerId]:
        """See the port."""
        return [member.peer for member in self._opened.network.members()]

    def distance(self, peer: PeerId) -> int:
        """See the port."""
        member = self._opened.network.member(peer)
        return (
            0 if member is None else distance(self._opened.place, Place(member.zone, member.rack))
        )

    def brings(
        self, intake_bytes_per_s: float, declines: bool, blocks: Mapping[bytes, RangeSet]
    ) -> None:
        """See the port."""
        self._swarm.brings(intake_bytes_per_s, declines, blocks)

    def throttled(self, origin: bytes, retry_after_s: float) -> None:
        """See the port."""
        self._swarm.throttled(origin, retry_after_s)

    def grew(self, name: bytes, blocks: RangeSet | None) -> None:
        """See the port."""
        if blocks is not None:
            self._opened.sharing.grew(name, blocks)
        self._opened.network.grew(name, blocks)

    def lost(self, names: Sequence[bytes]) -> None:
        """See the port."""
        self._opened.sharing.shrank(names)
        self._opened.network.lost(names)


class PullSharing:
    """`transfer.sharing.Sharing` over the agent's shelf and byte server. Calls return at once, and
    what they begin is the network's chore: its trouble ends no pull.
    """

    def __init__(self, opened: AgentNetwork, manifest: bytes | None) -> None:
        self._opened = opened
        self._manifest = manifest
        self.unfinished: set[bytes] = set()

    def growing(self, name: bytes, size_bytes: int, data: Path, live: Path) -> None:
        """See the port."""
        self.unfinished.add(name)
        growing = Growing(name, size_bytes, str(data), str(live), self._manifest)
        self._opened.chores.soon(name, self._opened.sharing.begin, growing)

    def attested(self, attestation: PieceAttestation) -> None:
        """See the port."""
        self._opened.sharing.attest([attestation])

    def lost_source(self, name: bytes) -> None:
        """See the port."""
        self._opened.chores.soon(name, self._opened.sharing.cut, name)

    def complete(self, name: bytes, blob: AnyBlob) -> None:
        """See the port."""
        self.unfinished.discard(name)
        self._opened.chores.soon(name, self._opened.sharing.complete, name, blob)

    def convict(self, verdict: Verdict) -> None:
        """See the port."""
        self._opened.chores.soon(None, self._opened.ban, verdict.peer, verdict.reason)

    def is_banned(self, peer: PeerId) -> bool:
        """See the port."""
        return self._opened.is_banned(peer)

    async def take_back(self) -> None:
        """What did not finish is here no more, as soon as the byte server knows it."""
        names = list(self.unfinished)
        if names:
            self._opened.network.lost(names)
        for name in names:
            self._opened.chores.soon(name, self._opened.sharing.lose, [name])
        for name in names:
            await self._opened.chores.wait_done(name)
