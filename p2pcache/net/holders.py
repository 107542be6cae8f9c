"""One manifest (or some names) as the members have it: who holds what, and how to read it there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from p2pcache.content.peerid import format_peer_id
from p2pcache.content.signed import parse_attestation
from p2pcache.errors import Denied, Unavailable, Untrusted
from p2pcache.net.latest import Latest
from p2pcache.net.shelf import (
    BlockMap,
    Lane,
    PeerBrings,
    PeerGone,
    PeerHolds,
    PeerLoad,
    PeerLost,
    PeerProof,
    PeerSettled,
    PeerThrottled,
    SwarmEvent,
)
from p2pcache.net.sync.limits import Bucket
from p2pcache.net.sync.machine import WantRefused
from p2pcache.net.sync.wants import Learned, LostThere, Part, PartThere, Settled, ThrottledThere
from p2pcache.net.sync.wire import MAX_NAMES, Coming, Map, MapAsk, Ticket, TicketAsk

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from p2pcache.content.peerid import PeerId
    from p2pcache.content.ranges import RangeSet
    from p2pcache.net.shelf import Shelf
    from p2pcache.net.sync.driver import Link
    from p2pcache.net.sync.wants import Knowledge
    from p2pcache.net.sync.wire import Said

_EARLY_S = 30.0  # a ticket is renewed before it expires, as a piece takes time to come
_PROOFS = 4  # for one peer in one pull: each is a ticket asked for and 64 KiB from the origin
_PROOFS_PER_S = 1 / 60
_VERIFY_BATCH = 32  # signatures (100 us each) between two checkpoints


class Passes:
    """Tickets that peers gave us, one for each (peer, scope); asked for once at a time."""

    def __init__(
        self,
        shelf: Shelf,
        link_of: Callable[[PeerId], Link],
        hosts_of: Callable[[Link], tuple[str, ...]],
    ) -> None:
        self._shelf = shelf
        self._link_of = link_of
        self._hosts_of = hosts_of
        self._lanes: dict[tuple[PeerId, bytes], tuple[Link, Lane]] = {}
        self._locks: dict[tuple[PeerId, bytes], trio.Lock] = {}

    async def lane(self, peer: PeerId, scope: bytes, *, timeout_s: float) -> Lane:
        """Where to read, with a ticket. Raises Denied, NotFound, Unavailable."""
        key = (peer, scope)
        with trio.move_on_after(timeout_s):
            async with self._locks.setdefault(key, trio.Lock()):
                link = self._link_of(peer)
                known = self._lanes.get(key)
                if known is not None and known[0] is link:
                    lane = known[1]
                    if trio.current_time() < lane.expires_at:
                        return lane
                lane = await self._new(link, scope, timeout_s)
                self._lanes[key] = (link, lane)
                return lane
        raise Unavailable(f"{format_peer_id(peer)} gave no ticket in {timeout_s:.1f} s")

    def forget(self, link: Link) -> None:
        """The link ended: its tickets were bound to that run of the peer."""
        for key in [key for key, (of, _) in self._lanes.items() if of is link]:
            del self._lanes[key]
        for key in [key for key, lock in self._locks.items() if key[0] == link.peer]:
            if not self._locks[key].statistics().locked:
                del self._locks[key]

    def expire(self, peer: PeerId, scope: bytes) -> None:
        """The byte server did not accept this ticket: ask for another."""
        self._lanes.pop((peer, scope), None)

    async def _new(self, link: Link, scope: bytes, timeout_s: float) -> Lane:
        try:
            ticket = await _ask(link, scope, None, timeout_s)
        except Denied as exc:
            if exc.challenge is None:
                raise
            proof = await self._shelf.prove(link.peer, scope, exc.challenge)
            if proof is None:
                raise
            ticket = await _ask(link, scope, proof, timeout_s)
        lane = link.hello.lane
        usable_s = max(ticket.expires_s - _EARLY_S, ticket.expires_s / 2)
        return Lane(
            hosts=self._hosts_of(link),
            port=lane.port,
            fingerprint=lane.fingerprint,
            token=ticket.token,
            expires_at=trio.current_time() + usable_s,
        )


class Swarm:
    """What the members say of some names. Made by `Network.swarm`.

    `events` is a receive channel; unread news are replaced by newer ones of the same (peer, name).
    """

    def __init__(
        self,
        manifest: bytes | None,
        names: Sequence[bytes],
        passes: Passes,
        link_of: Callable[[PeerId], Link],
        who: Callable[[bytes], dict[PeerId, Said]],
        say: Callable[[Swarm, Part], None],
        meet: Callable[[PeerId, Collection[str]], bool],
        throttle: Callable[[Swarm, bytes, float], None],
    ) -> None:
        self.manifest = manifest
        self.names = tuple(dict.fromkeys(names))
        self.events: Latest[SwarmEvent] = Latest()
        self.met: set[PeerId] = set()  # a link with them is kept for this pull's sake
        self._passes = passes
        self._link_of = link_of
        self._who = who
        self._say = say
        self._meet = meet
        self._throttle = throttle
        self.waits: dict[bytes, float] = {}  # origins of this pull that told us to wait: until when
        self._parts: dict[Link, dict[int, Part]] = {}  # by number of the want
        self._wants: dict[Link, set[int]] = {}
        self._unsettled: dict[Link, set[int]] = {}
        self._proofs: dict[PeerId, Bucket] = {}
        self._proving: set[PeerId] = set()

    def partners(self) -> dict[PeerId, Said]:
        """Who said that it downloads or possesses the manifest."""
        return {} if self.manifest is None else self._who(self.manifest)

    def meet(self, peer: PeerId, addresses: Collection[str] = ()) -> None:
        """Be linked with who may hold this, also in a large network; until this swarm ends."""
        if self._meet(peer, addresses):  # anybody may be said to hold it, and contacts are bounded
            self.met.add(peer)

    async def lane(self, peer: PeerId, *, name: bytes | None = None, timeout_s: float) -> Lane:
        """Where to read from a peer, with a ticket that is kept until shortly before it expires.

        `name` is the scope when there is no manifest. Raises Denied, NotFound, Unavailable. If
        cancelled, nothing else is.
        """
        return await self._passes.lane(peer, self._scope(name), timeout_s=timeout_s)

    def expire_lane(self, peer: PeerId, *, name: bytes | None = None) -> None:
        """The byte server refused the ticket (it restarted, or forgot): get a new one next time."""
        self._passes.expire(peer, self._scope(name))

    async def block_map(
        self, peer: PeerId, name: bytes, first: int, count: int, *, timeout_s: float
    ) -> BlockMap | None:
        """A peer's hashes of at most 4096 blocks; None: it has none.

        Attestations have good signatures; whether to believe them is the caller's question.
        Raises Unavailable, Untrusted (the link is cut).
        """
        link = self._link_of(peer)
        said = await link.ask(
            lambda number: MapAsk(number, name, first, count), Map, timeout_s=timeout_s
        )
        if said.hashes is not None:
            return BlockMap(said.size, first, said.hashes)
        words = []
        for at, wire in enumerate(said.attestations):
            if at % _VERIFY_BATCH == 0:
                await trio.lowlevel.checkpoint()
            try:
                words.append(parse_attestation(list(wire)))
            except Untrusted as exc:
                link.distrust(exc.message)
                raise
        return BlockMap(said.size, first, None, tuple(words)) if words else None

    def brings(
        self, intake_bytes_per_s: float | None, declines: bool, blocks: Mapping[bytes, RangeSet]
    ) -> None:
        """Tell our part: what is on its way to us from an origin now, and nothing else is."""
        coming = tuple(Coming(name, spans) for name, spans in blocks.items())
        self._say(self, Part(intake_bytes_per_s, declines, coming))

    def throttled(self, origin: bytes, retry_after_s: float) -> None:
        """Tell that an origin told us to wait; `origin`: see `wire.Throttled`."""
        self._throttle(self, origin, retry_after_s)

    # For Network

    def begin(self, link: Link) -> None:
        """Ask a member; at the start, and whenever one comes."""
        numbers = set()
        for at in range(0, len(self.names), MAX_NAMES):
            number = link.want(self.manifest, self.names[at : at + MAX_NAMES])
            if number is not None:
                numbers.add(number)
        self._wants[link] = numbers
        self._unsettled[link] = set(numbers)
        if not numbers:
            self.events.put((link.peer, None), PeerSettled(link.peer))

    def stop(self, link: Link, reason: str) -> None:
        """The link ended."""
        if self._wants.pop(link, None) is None:
            return
        self._unsettled.pop(link, None)
        self._parts.pop(link, None)
        peer = link.peer
        self.events.forget(lambda event: event.peer == peer)
        self.events.put((peer, "gone"), PeerGone(peer, reason))

    def end(self) -> None:
        """Nobody listens any more."""
        for link, numbers in self._wants.items():
            for number in numbers:
                link.drop(number)
        self._wants.clear()
        self.events.end()

    def hear(self, link: Link, known: Knowledge | WantRefused) -> bool:
        """News; False if they are another swarm's."""
        if known.id not in self._wants.get(link, ()):
            return False
        peer = link.peer
        match known:
            case Learned(_, name, size, blocks):
                self.events.put((peer, name), PeerHolds(peer, name, size, blocks))
            case LostThere(_, name):
                self.events.put((peer, name), PeerLost(peer, name))
            case ThrottledThere(_, origin, retry_after_s):
                self.events.put((peer, "wait"), PeerThrottled(peer, origin, retry_after_s))
            case PartThere(number, part):
                parts = self._parts.setdefault(link, {})
                parts[number] = part
                self.events.put((peer, "brings"), _brings(peer, parts.values()))
            case Settled(number) | WantRefused(number):
                unsettled = self._unsettled[link]
                if number in unsettled:
                    unsettled.discard(number)
                    if not unsettled:
                        self.events.put((peer, None), PeerSettled(peer))
        return True

    def hear_load(self, link: Link, queue_s: float) -> None:
        """How busy a member is."""
        if self._wants.get(link):
            self.events.put((link.peer, "load"), PeerLoad(link.peer, queue_s))

    def begin_proof(self, peer: PeerId) -> bool:
        """Whether to make a proof for a member now: one at a time, and few."""
        now = trio.current_time()
        proofs = self._proofs.setdefault(peer, Bucket(_PROOFS_PER_S, _PROOFS, now))
        if peer in self._proving or not proofs.take(1, now):
            return False
        self._proving.add(peer)
        self.events.put((peer, "proof"), PeerProof(peer, True))
        return True

    def end_proof(self, peer: PeerId, *, shown: bool) -> None:
        """A proof was shown, or came to nothing."""
        self._proving.discard(peer)
        if not shown:
            self.events.put((peer, "proof"), PeerProof(peer, False))

    def _scope(self, name: bytes | None) -> bytes:
        scope = self.manifest or name or (self.names[0] if len(self.names) == 1 else None)
        if scope is None:
            raise ValueError("a swarm of several names without a manifest: say which `name`")
        return scope


def _brings(peer: PeerId, parts: Collection[Part]) -> PeerBrings:
    """What a peer said in answer to each of our wants, as one."""
    rates = [p.intake_bytes_per_s for p in parts if p.intake_bytes_per_s is not None]
    blocks = {one.name: one.blocks for part in parts for one in part.brings}
    declines = all(part.declines for part in parts)
    return PeerBrings(peer, max(rates, default=None), declines, blocks)


async def _ask(link: Link, scope: bytes, proof: bytes | None, timeout_s: float) -> Ticket:
    return await link.ask(
        lambda number: TicketAsk(number, scope, proof), Ticket, timeout_s=timeout_s
    )
