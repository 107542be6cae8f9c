"""Members of a network in memory: a shelf that is a dict, nodes with everything but disks."""

from __future__ import annotations

import hashlib
import random
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from p2pcache.content.cid import dagcbor_cid
from p2pcache.content.peerid import peer_id_of
from p2pcache.errors import Denied
from p2pcache.net.conversation import NetworkOptions
from p2pcache.net.network import open_network
from p2pcache.net.shelf import BlockMap, Holding, Pass
from p2pcache.net.sync.wire import PROTOCOL, FrameReader, Hello, LaneInfo, encode, parse

LANE = LaneInfo(4433, ("10.0.0.1",), bytes(32), b"certificate")


def peer(number):
    return peer_id_of(number.to_bytes(32, "big"))


def manifest_of(data: bytes) -> bytes:
    return dagcbor_cid(hashlib.sha256(data).digest())


@dataclass
class DictShelf:
    """What a node holds. `restricted` manifests need the proof `b"proof"`."""

    held: dict = field(default_factory=dict)  # name -> (size, RangeSet | None)
    maps: dict = field(default_factory=dict)  # name -> BlockMap
    manifests: dict = field(default_factory=dict)
    names: dict = field(default_factory=dict)
    restricted: set = field(default_factory=set)
    proven: set = field(default_factory=set)
    proof: bytes | None = None
    tickets: int = 0
    lookups: int = 0

    async def holding(self, peer, manifest, names):
        self.lookups += 1
        if manifest in self.restricted and peer not in self.proven:
            raise Denied("prove that you may read this", challenge=b"challenge")
        return [Holding(name, *self.held[name]) for name in names if name in self.held]

    async def block_map(self, peer, name, first, count):
        known = self.maps.get(name)
        if known is None or known.hashes is None:
            return known
        return BlockMap(known.size, first, known.hashes[32 * first : 32 * (first + count)])

    async def ticket(self, peer, scope, proof):
        if scope in self.restricted and proof != b"proof":
            raise Denied("prove that you may read this", challenge=b"challenge")
        self.proven.add(peer)
        self.tickets += 1
        return Pass(b"ticket %d" % self.tickets, 300.0)

    async def prove(self, peer, scope, challenge):
        return self.proof

    async def manifest(self, peer, cid, offset, most_bytes):
        data = self.manifests.get(cid)
        return None if data is None else (len(data), data[offset : offset + most_bytes])

    async def resolutions(self, peer, canonical):
        return self.names.get(canonical, [])


@dataclass
class Node:
    host: object
    shelf: DictShelf
    network: object
    distrusted: list = field(default_factory=list)
    banned: set = field(default_factory=set)

    @property
    def peer(self):
        return self.host.peer_id

    def knows(self):
        return {member.peer for member in self.network.members()}


@asynccontextmanager
async def open_node(net, number, *, shelf=None, options=None, address=None):
    """A whole member. Its chance is seeded, so a failing simulation can be run again."""
    host = net.host(peer(number), address=address)
    shelf = shelf or DictShelf()
    node = Node(host, shelf, None)
    async with open_network(
        host,
        shelf,
        lane=LANE,
        agent=f"node {number}",
        is_banned=node.banned.__contains__,
        on_distrust=lambda peer, reason: node.distrusted.append((peer, reason)),
        options=options or NetworkOptions(),
        chance=random.Random(number).random,
    ) as network:
        node.network = network
        yield node


class Script:
    """A peer that says just what a test tells it to."""

    def __init__(self, stream):
        self.stream = stream
        self._reader = FrameReader()

    @classmethod
    async def dial(cls, host, other, addresses):
        await host.connect(other, addresses, timeout_s=5)
        return cls(await host.open_stream(other, PROTOCOL, timeout_s=5))

    async def say(self, *messages):
        for message in messages:
            await self.stream.send_all(encode(message))

    async def hear(self):
        while True:
            data = await self.stream.receive_exactly(self._reader.needed)
            for body in self._reader.feed(data):
                return parse(body)

    async def hear_the_end(self):
        while True:
            await self.hear()

    async def hear_a(self, kind):
        while not isinstance(heard := await self.hear(), kind):
            pass
        return heard


def hello(minor=0, major=1, generation=b"g" * 16):
    return Hello(major, minor, generation, "script", (), LANE)
