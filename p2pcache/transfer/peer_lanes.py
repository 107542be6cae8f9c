"""Where the peers of one pull serve: lanes, which of their addresses answers, refused tickets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2pcache.lanes.reach import Reach

if TYPE_CHECKING:
    from p2pcache.content.peerid import PeerId
    from p2pcache.lanes.orders import Location
    from p2pcache.sources.port import Lane, Swarm

LANE_S = 2.0  # for a ticket: a round trip to a peer that may be busy


class PeerLanes:
    """By the name that the machine knows a peer by."""

    def __init__(self, swarm: Swarm) -> None:
        self._swarm = swarm
        self._turns: dict[str, tuple[tuple[str, ...], int]] = {}  # hosts, and which of them
        self._expired: dict[str, str] = {}  # the last ticket of each that was refused
        self._hosts: dict[str, str] = {}

    async def reach(self, name: str, peer: PeerId, blob: bytes | None = None) -> Reach:
        """How to read a blob from a peer now. Raises Denied, NotFound, Unavailable."""
        lane = await self._swarm.lane(peer, name=blob, timeout_s=LANE_S)
        known, turn = self._turns.get(name, (lane.hosts, 0))
        if known != lane.hosts:
            turn = 0
        self._turns[name] = (lane.hosts, turn)
        host = lane.hosts[turn % len(lane.hosts)]
        self._hosts[name] = f"{host}:{lane.port}"
        return reach_of(lane, host)

    def expire(self, name: str, peer: PeerId, refused: Location, blob: bytes | None = None) -> None:
        """Its byte server refused the ticket of a location: the next one has another."""
        ticket = dict(refused.headers).get("Authorization", "")
        if self._expired.get(name) != ticket:  # several requests had it: one new ticket for all
            self._expired[name] = ticket
            self._swarm.expire_lane(peer, name=blob)

    def unreachable(self, name: str) -> None:
        """A connection failed: next time another of its addresses."""
        if name in self._turns:
            hosts, turn = self._turns[name]
            self._turns[name] = (hosts, turn + 1)

    def forget(self, name: str) -> None:
        """The peer is gone, and its addresses may be others when it returns."""
        self._turns.pop(name, None)

    def hosts(self) -> dict[str, str]:
        """`host:port` of each peer that was asked, for the receipt."""
        return dict(self._hosts)


def reach_of(lane: Lane, host: str) -> Reach:
    """One host of a peer's lane. The one place where lanes' locations are made: certificates of
    our own, and `direct` past proxies, belong here too.
    """
    return Reach(host, lane.port, lane.token, lane.fingerprint, lane.client_cert, lane.client_key)
