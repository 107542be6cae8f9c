"""The peers of one pull: what they hold becomes sources, their maps become evidence, and what we
verified is announced. It decides nothing: the machine schedules, `trust` judges.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, assert_never

import trio

from p2pcache.content.peerid import format_peer_id
from p2pcache.content.ranges import RangeSet
from p2pcache.content.signed import MAX_PIECE_BLOCKS, sign_attestation
from p2pcache.lanes.orders import BLOCK_BYTES
from p2pcache.sources.port import (
    PeerBrings,
    PeerGone,
    PeerHolds,
    PeerLoad,
    PeerLost,
    PeerProof,
    PeerThrottled,
    SourceKind,
)
from p2pcache.transfer import events as ev
from p2pcache.transfer.maps import MAP_OPINIONS, MAP_S, MAP_WAIT_S, Maps
from p2pcache.transfer.peer_lanes import PeerLanes
from p2pcache.transfer.throttle_words import ThrottleWords
from p2pcache.transfer.trust import Evidence, Verdict, size_verdicts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from p2pcache.content.peerid import PeerId
    from p2pcache.lanes.orders import Fault, Location
    from p2pcache.sources.port import SwarmEvent
    from p2pcache.store.rooted import AnyBlob
    from p2pcache.transfer.growing import GrowingBlob
    from p2pcache.transfer.sharing import Peers
    from p2pcache.transfer.want import Wanted

log = logging.getLogger(__name__)

HELLO_S = 0.1  # facts/swarm.md 2: a round of bitfields before anything is asked of the origin
HELLO_MAX_S = 0.5  # with maps and long lists: somebody has something, so this is no miss
HELLO_BEAT_S = 0.02
PROOF_MAX_S = 2.0  # a far origin's token dance, redirect and 64 KiB; a holder that lies costs this
MAX_CLAIMS = 64  # of other sizes, by those who have the whole blob, for the verdict


class Swarming:
    """Owned by the driver of one pull; `run` lives in its nursery."""

    def __init__(
        self,
        peers: Peers,
        wanted: Sequence[Wanted],
        send: trio.MemorySendChannel[ev.Event],
        *,
        requests: int,
        heard_throttled: Callable[[PeerId, bytes, float], None] = lambda *_: None,
    ) -> None:
        self._swarm = peers.swarm
        self._sharing = peers.sharing
        self._signer = peers.signer
        self._wanted = wanted
        self._send = send
        self._requests = requests
        self._heard_throttled = heard_throttled
        self._indexes: dict[bytes, int] = {
            w.name: i for i, w in enumerate(wanted) if w.name is not None
        }
        self._peers: dict[str, PeerId] = {}
        self._up: set[str] = set()
        self._down: set[str] = set()  # convicted in this pull
        self._banned: set[str] = set()  # those of them whose lie is proven
        self._excused: set[PeerId] = set()
        self._lanes = PeerLanes(peers.swarm)
        self._evidence: dict[int, Evidence] = {}
        self._maps = Maps(peers, wanted, self._evidence)
        self._untold: dict[tuple[str, int], RangeSet | None] = {}
        self._proofs: set[PeerId] = set()  # under way: these will tell what they hold
        self._sizes: dict[int, list[tuple[PeerId, int]]] = {}
        self._announced: dict[int, RangeSet] = {}
        self._shared: dict[int, tuple[bytes, int]] = {}  # what the last look at a blob saw
        self._complete: set[int] = set()
        self._placed: dict[str, int] = {}  # how far those are that are not near
        self._holders: dict[int, dict[str, RangeSet | None]] = {}
        self._asked_small: dict[tuple[str, int], bool] = {}  # had it told of all of it then?
        self._queues: dict[str, float] = {}  # the newest word of each
        self._throttles = ThrottleWords(peers.swarm.throttled)

    # -- what peers tell ---------------------------------------------------------------------------

    async def run(self) -> None:
        """Turn the swarm's events into the machine's until cancelled."""
        async with trio.open_nursery() as nursery:
            async for event in self._swarm.events:
                await self._heard(event, nursery)

    def places(self) -> list[ev.Event]:
        """How far the members are that are known at the start; before anything else is told."""
        for peer in self._swarm.members():
            if far := self._swarm.distance(peer):
                self._placed[format_peer_id(peer)] = far
        return [ev.Placed(name, far) for name, far in self._placed.items()]

    async def wait_hello(self) -> None:
        """Until those who hold something have said so. A pull that nobody can help waits HELLO_S
        before it asks its origin; one whose helpers are still telling, up to HELLO_MAX_S; one whose
        helpers want a proof of access first, up to PROOF_MAX_S more.
        """
        await trio.sleep(HELLO_S)
        with trio.move_on_after(PROOF_MAX_S - HELLO_S):
            while self._proofs:  # noqa: ASYNC110 - as below
                await trio.sleep(HELLO_BEAT_S)
        with trio.move_on_after(HELLO_MAX_S - HELLO_S):
            while self._untold:  # noqa: ASYNC110 - maps are asked for, thousands of files told of
                await trio.sleep(HELLO_BEAT_S)

    async def _heard(self, event: SwarmEvent, nursery: trio.Nursery) -> None:
        name = format_peer_id(event.peer)
        if name in self._down or self._sharing.is_banned(event.peer):
            return
        if not isinstance(event, PeerGone):  # nobody knows where one is that left
            await self._place(name, event.peer)
        match event:
            case PeerHolds():
                await self._holds(name, event, nursery)
                self._proofs.discard(event.peer)
            case PeerLost(_, blob):
                index = self._indexes.get(blob)
                if index is not None and name in self._up:
                    self._untold.pop((name, index), None)
                    self._holders.get(index, {}).pop(name, None)
                    await self._tell_machine(ev.SourceLost(name, index))
            case PeerGone(_, reason):
                self._untold = {k: v for k, v in self._untold.items() if k[0] != name}
                self._proofs.discard(event.peer)
                self._lanes.forget(name)
                self._queues.pop(name, None)
                self._throttles.forget(name)
                await self._tell_machine(ev.PartnerLeft(name))
                if name in self._up:
                    self._up.discard(name)
                    await self._tell_machine(ev.SourceDown(name, reason, may_return=True))
            case PeerProof(peer, under_way):
                if under_way and name not in self._up:
                    self._proofs.add(peer)
                else:
                    self._proofs.discard(peer)
            case PeerBrings(_, intake, declines, brings):
                coming = tuple(self._coming(brings))
                await self._tell_machine(ev.Partner(name, intake, declines, coming))
            case PeerLoad(_, queue_s):
                self._queues[name] = queue_s
                if name in self._up:
                    await self._tell_machine(ev.SourceQueue(name, queue_s))
            case PeerThrottled(_, origin, retry_after_s):
                self._heard_throttled(event.peer, origin, retry_after_s)
                self._throttles.heard(name, origin, retry_after_s)
                await self._tell_throttled(name)
            case _:
                assert_never(event)

    async def _tell_machine(self, event: ev.Event) -> None:
        """Waits, and gives way to other tasks, only while the machine has too much to read."""
        try:
            self._send.send_nowait(event)
        except trio.WouldBlock:
            await self._send.send(event)

    async def _place(self, name: str, peer: PeerId) -> None:
        far = self._swarm.distance(peer)
        if self._placed.get(name, 0) != far:
            self._placed[name] = far
            await self._tell_machine(ev.Placed(name, far))

    @property
    def was_warned(self) -> bool:
        """Whether a member said that some origin told it to wait."""
        return self._throttles.was_warned

    async def asks(self, origin: str, location: Location) -> None:
        """Where an origin of ours is asked: what members say of that place is of use now."""
        for name in self._throttles.asks(origin, location):
            await self._tell_throttled(name)

    async def _tell_throttled(self, name: str) -> None:
        for word in self._throttles.words_of(name):
            await self._tell_machine(word)

    def throttled(self, origin: str, fault: Fault) -> None:
        """An origin refused a request of ours: the others are told when it said for how long."""
        self._throttles.refused(origin, fault)

    def _coming(self, brings: Mapping[bytes, RangeSet]) -> Iterator[tuple[int, RangeSet]]:
        for name, blocks in brings.items():
            index = self._indexes.get(name)
            if index is not None and index not in self._complete:
                count = max(1, -(-self._wanted[index].size_bytes // BLOCK_BYTES))
                yield index, blocks & RangeSet.of((0, count))

    def say(self, said: ev.Say) -> None:
        """Tell the others what comes here from an origin."""
        blocks = {self._wanted[i].name: spans for i, spans in said.brings}
        named = {name: spans for name, spans in blocks.items() if name is not None}
        self._swarm.brings(said.intake_bytes_per_s, said.declines, named)

    async def _holds(self, name: str, event: PeerHolds, nursery: trio.Nursery) -> None:
        index = self._indexes.get(event.name)
        if index is None or index in self._complete:
            return
        size_bytes = self._wanted[index].size_bytes
        if event.size != size_bytes:  # one of the two is wrong: known when the bytes are here
            claims = self._sizes.setdefault(index, [])
            if event.blocks is None and len(claims) < MAX_CLAIMS:  # else it was told so itself
                claims.append((event.peer, event.size))
            return
        if name not in self._up:
            self._up.add(name)
            self._peers[name] = event.peer
            for evidence in self._evidence.values():
                evidence.knows_peer(name, event.peer)
            up = ev.SourceUp(name, SourceKind.PEER, self._requests, frozenset())
            await self._tell_machine(up)
            if self._queues.get(name):
                await self._tell_machine(ev.SourceQueue(name, self._queues[name]))
        blocks = event.blocks
        if blocks is not None:
            blocks &= RangeSet.of((0, -(-size_bytes // BLOCK_BYTES)))
        key = (name, index)
        holders = self._holders.setdefault(index, {})
        before = holders.get(name, RangeSet())
        holders[name] = None if before is None or blocks is None else before | blocks
        if key in self._untold:
            before = self._untold[key]
            self._untold[key] = None if before is None or blocks is None else before | blocks
            return
        if not self._maps.has_to_learn(event.peer, index, blocks):
            await self._tell_machine(ev.SourceHas(name, index, blocks))
            return
        self._untold[key] = blocks
        nursery.start_soon(self._tell, name, index, nursery)

    async def _tell(self, name: str, index: int, nursery: trio.Nursery) -> None:
        """Ask for the hashes first, so that blocks are checked as they arrive. An answer that takes
        longer than a block may wait still counts: what nobody vouched for is not passed on.
        """
        key = (name, index)
        blocks = self._untold.get(key)
        if index in self._evidence:
            learned = trio.Event()

            async def learn() -> None:
                with trio.move_on_after(MAP_S):  # a slow peer's asks must not pile up
                    await self._maps.learn(self._peers[name], index, blocks)
                learned.set()

            nursery.start_soon(learn)
            with trio.move_on_after(MAP_WAIT_S):
                await learned.wait()
        if key in self._untold and name in self._up:
            await self._tell_machine(ev.SourceHas(name, index, self._untold.pop(key)))

    # -- where they serve --------------------------------------------------------------------------

    def is_peer(self, source: str) -> bool:
        """Whether a source of the machine is a peer."""
        return source in self._peers

    async def locate(self, source: str, index: int) -> Location:
        """A peer's lane for one blob. Raises Denied, NotFound, Unavailable."""
        name = self._wanted[index].name
        assert name is not None, "only named blobs are heard of"
        if index in self._evidence:
            self._evidence[index].asks(source, has_all=self._has_all(source, index))
        return (await self._lanes.reach(source, self._peers[source], name)).blob(name)

    async def locate_bundle(self, source: str) -> Location:
        """Where a peer answers for many small blobs at once. Raises as `locate`."""
        return (await self._lanes.reach(source, self._peers[source])).bundle()

    def expire(self, source: str, refused: Location, index: int | None = None) -> None:
        """A peer's byte server refused the ticket of a location (of a blob; None: of a bundle):
        the next one has another.
        """
        name = None if index is None else self._wanted[index].name
        self._lanes.expire(source, self._peers[source], refused, name)

    def hosts(self) -> dict[str, str]:
        """Where each peer that was asked serves, for the receipt."""
        return self._lanes.hosts()

    def unreachable(self, source: str) -> None:
        """A connection failed: next time another of its addresses."""
        self._lanes.unreachable(source)

    # -- evidence ----------------------------------------------------------------------------------

    def opened(self, index: int, growing: GrowingBlob) -> None:
        """A blob begins: what is known of its blocks is kept from now on."""
        wanted = self._wanted[index]
        if wanted.name is None:
            return
        count = -(-wanted.size_bytes // BLOCK_BYTES)
        evidence = Evidence(wanted.path, count, growing.proven, self._excused)
        for name, peer in self._peers.items():
            evidence.knows_peer(name, peer)
        self._evidence[index] = evidence
        partial = growing.partial
        self._sharing.growing(wanted.name, wanted.size_bytes, partial.data_path, partial.live_path)

    def here_before(self, index: int) -> None:
        """A blob was complete before anybody was heard: nothing more is wanted of it."""
        self._complete.add(index)

    async def learn_maps(self, index: int) -> None:
        """Ask those that were heard of before the blob was opened; bounded by MAP_WAIT_S."""
        holders = self._holders.get(index, {})
        if index not in self._evidence or not holders:
            return
        whole_first = sorted(holders.items(), key=lambda item: item[1] is not None)
        with trio.move_on_after(MAP_WAIT_S):
            async with trio.open_nursery() as nursery:
                for name, blocks in whole_first[:MAP_OPINIONS]:
                    nursery.start_soon(self._maps.learn, self._peers[name], index, blocks)

    def expected(self, index: int, start: int, end: int) -> bytes | None:
        """What the blocks of a byte range must hash to, as far as anything is known."""
        evidence = self._evidence.get(index)
        if evidence is None:
            return None
        return evidence.expected(start // BLOCK_BYTES, -(-end // BLOCK_BYTES))

    def is_proven(self, index: int) -> bool:
        """Whether that is proven, not only said."""
        return index in self._evidence and self._evidence[index].is_proven

    def brought(self, source: str, index: int, first: int, hashes: bytes) -> None:
        """Blocks that a source sent, whole, and nobody else: they may convict it, and what an
        origin sent is signed.
        """
        if index in self._evidence:
            self._evidence[index].brought(source, first, hashes)

    async def refused(self, source: str, index: int, number: int, fault: Fault) -> None:
        """A block differed from what was expected, and was not kept."""
        evidence = self._evidence.get(index)
        if evidence is None or fault.arrived is None:
            return
        verdict = evidence.refuted(source, number, fault.arrived)
        itself = evidence.contradicts_itself(source, number)
        for found in (verdict, itself):
            if found is not None:
                await self._convict(found)
        if verdict is None and evidence.contradicted():
            await self._tell_machine(ev.Cleared(index))

    def _has_all(self, source: str, index: int) -> bool:
        return self._holders.get(index, {}).get(source, RangeSet()) is None

    def asks_small(self, source: str, indexes: Sequence[int]) -> None:
        """A source is asked for these in one bundle: what it had told by then counts, whatever it
        takes back while it answers.
        """
        for index in indexes:
            self._asked_small[source, index] = self._has_all(source, index)

    async def refused_small(self, source: str, index: int, fault: Fault) -> None:
        """A small blob did not have the digest that was asked for: proof at once; of a lie, where
        its sender had told that it has all of it when it was asked.
        """
        if fault.arrived is not None and source in self._peers:
            path = self._wanted[index].path
            reason = f"sent {fault.arrived.hex()} for {path}: {fault.message}"
            has_all = self._asked_small.get((source, index), False)
            await self._convict(Verdict(self._peers[source], reason, bans=has_all))

    def doubt(self, index: int, blocks: RangeSet) -> None:
        """Expect nothing of these any more, unless it is proven."""
        if index in self._evidence:
            self._evidence[index].doubt(blocks)

    async def suspects(self, index: int) -> RangeSet | None:
        """After a wrong whole digest; nobody may read the blob until it is right."""
        evidence, name = self._evidence.get(index), self._wanted[index].name
        if evidence is None or name is None:
            return None
        self._announced.pop(index, None)
        self._swarm.lost([name])
        self._sharing.lost_source(name)
        for verdict in evidence.contradictions():
            await self._convict(verdict)
        return evidence.suspects()

    async def completed(self, index: int, blob: AnyBlob, hashes: bytes | None) -> None:
        """A blob is proven and stored: tell it, and name who lied about it."""
        self._complete.add(index)
        wanted = self._wanted[index]
        if wanted.name is None:
            return
        self._sharing.complete(wanted.name, blob)
        self._swarm.grew(wanted.name, None)
        claims = self._sizes.pop(index, [])
        verdicts = size_verdicts(wanted.path, wanted.size_bytes, claims)
        evidence = self._evidence.pop(index, None)
        if evidence is not None and hashes is not None:
            met = {*self._swarm.members(), *self._peers.values()}
            verdicts = [*evidence.proved(hashes, met), *verdicts]
        for verdict in verdicts:
            await self._convict(verdict)

    async def _convict(self, verdict: Verdict) -> None:
        name = format_peer_id(verdict.peer)
        if name in self._banned or (name in self._down and not verdict.bans):
            return
        if verdict.bans:
            self._banned.add(name)
        self._down.add(name)
        log.warning("peer %s %s", name, verdict.reason)
        if verdict.bans:
            self._sharing.convict(verdict)
        if name in self._up:
            self._up.discard(name)
            what = "banned" if verdict.bans else "left out of this pull"
            await self._tell_machine(ev.SourceDown(name, f"{what}: {verdict.reason}"))

    # -- what we share -----------------------------------------------------------------------------

    def share(self, index: int, growing: GrowingBlob, live: bytes) -> None:
        """Announce the blocks that are verified by now, and sign those that an origin brought."""
        evidence, wanted = self._evidence.get(index), self._wanted[index]
        if evidence is None or wanted.name is None:
            return
        if self._shared.get(index) == (live, evidence.changes):
            return  # nothing arrived, and nobody vouched for what had
        told = self._announced.get(index, RangeSet())
        new = RangeSet.of_flags(live) - told
        good: list[tuple[int, int]] = []
        for start, end in new:
            hashes = growing.hashes(start, end)
            for number in range(start, end):
                at = 32 * (number - start)
                hash_ = hashes[at : at + 32]
                if evidence.is_vouched(number, hash_):
                    good.append((number, number + 1))
            self._sign(evidence, wanted, start, hashes)
        if good:
            blocks = RangeSet.of(*good)
            self._announced[index] = told | blocks
            self._swarm.grew(wanted.name, blocks)
        self._shared[index] = live, evidence.changes

    def _sign(self, evidence: Evidence, wanted: Wanted, start: int, hashes: bytes) -> None:
        """Attest runs that an origin sent us, each at most a piece long."""
        if self._signer is None or wanted.name is None or evidence.is_proven:
            return
        run = 0
        count = len(hashes) // 32
        for at in range(count + 1):
            ours = at < count and evidence.is_ours(start + at, hashes[32 * at : 32 * at + 32])
            if ours and run < MAX_PIECE_BLOCKS:
                run += 1
                continue
            if run:
                first = at - run
                made = sign_attestation(
                    self._signer, wanted.name, wanted.size_bytes,
                    (start + first) * BLOCK_BYTES, hashes[32 * first : 32 * at],
                )  # fmt: skip
                evidence.attested(made)
                self._sharing.attested(made)
            run = 1 if ours else 0

    def source_lost(self, index: int) -> None:
        """Nobody is bringing this blob now: whoever waits for our blocks would wait in a circle."""
        name = self._wanted[index].name
        if name is not None and index not in self._complete:
            self._sharing.lost_source(name)
