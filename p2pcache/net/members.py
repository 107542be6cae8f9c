"""The live members of the network: finds out whom to talk to, keeps exactly one link with each.

`Members` owns every link. It learns of peers from discovery (`found`), from the hellos of those
who dial us, and from what members tell of each other, so that knowing one leads to all.
"""

from __future__ import annotations

import logging
import secrets
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from p2pcache.net.dials import Dials
from p2pcache.net.mesh import Mesh, MeshOptions, Standing
from p2pcache.net.port import Down, Up
from p2pcache.net.remote_address import reachable
from p2pcache.net.sync import preloads, spending
from p2pcache.net.sync.driver import Link
from p2pcache.net.sync.machine import Cause, Ended
from p2pcache.net.sync.wire import (
    ANNOUNCEMENT_BYTES,
    GENERATION_BYTES,
    MAX_ADDRESSES,
    PROTOCOL,
    VERSION,
    Announce,
    Hello,
    LaneInfo,
    Load,
    Peers,
    Permits,
    Said,
)
from p2pcache.net.tales import Tales

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Sequence

    from p2pcache.content.peerid import PeerId
    from p2pcache.errors import P2PCacheError
    from p2pcache.net.contacts import Teller
    from p2pcache.net.member import MembersOwner
    from p2pcache.net.port import Host, Stream
    from p2pcache.net.sync.limits import SyncOptions
    from p2pcache.net.sync.machine import WantRefused
    from p2pcache.net.sync.wants import Knowledge, LookUp
    from p2pcache.net.sync.wire import Answer, Ask, Held

_log = logging.getLogger(__name__)

MAX_GREETING = 4  # links with one peer that have not said hello yet
MAX_GREETING_ALL = 128
_CLOSE_S = 1.5  # for all links to say bye


class Members:
    """See the module. Made by `open_members`."""

    def __init__(
        self,
        host: Host,
        owner: MembersOwner,
        *,
        lane: LaneInfo,
        agent: str,
        is_banned: Callable[[PeerId], bool],
        mesh_options: MeshOptions,
        sync_options: SyncOptions,
        chance: Callable[[], float],
        zone: str = "",
        rack: str = "",
    ) -> None:
        self.links: dict[PeerId, Link] = {}
        self.mesh = Mesh(host.peer_id, mesh_options, chance)
        self.generation = secrets.token_bytes(GENERATION_BYTES)
        self._host = host
        self._owner = owner
        self._lane = lane
        self._agent = agent
        self._place = (zone, rack)
        self._is_banned = is_banned
        self._sync_options = sync_options
        self._tales = Tales(self.mesh, mesh_options, self.links.values)
        self._dials = Dials(
            host,
            self.mesh,
            mesh_options,
            is_banned=is_banned,
            talk=self._talk,
            look=self._close_surplus,
        )
        self._greeting: set[Link] = set()
        self._running = 0
        self._nursery: trio.Nursery | None = None
        self._idle = trio.lowlevel.ParkingLot()

    @property
    def failures(self) -> dict[PeerId, P2PCacheError]:
        """Why the last dials came to nothing, oldest first."""
        return self._dials.failures

    def found(self, peer: PeerId, addresses: Iterable[str], by: Teller) -> None:
        """Somebody says where a member is. Quick; the dial happens elsewhere."""
        if not self._is_banned(peer):
            self.mesh.found(peer, addresses, trio.current_time(), by)
            self._dials.wake()

    def meet(self, peer: PeerId) -> bool:
        """Have a link with this contact, also in a large network. False: it is none."""
        is_contact = self.mesh.meet(peer, trio.current_time())
        self._dials.wake()
        return is_contact

    def part(self, peer: PeerId) -> None:
        """No longer because of what it holds."""
        self.mesh.part(peer)
        self._dials.wake()

    def cut(self, peer: PeerId, reason: str) -> None:
        """End everything with a peer now (it was banned)."""
        for link in [*self._greeting, *self.links.values()]:
            if link.peer == peer:
                link.close(reason)
        self._host.cut(peer)

    def say(self, said: Said, manifests: Sequence[bytes]) -> None:
        """Tell all members something of ours; `manifests` fit one message."""
        news = self.announcement(said, manifests)
        self.mesh.is_news(news.id)
        for link in list(self.links.values()):
            link.tell(news)

    def announcement(self, said: Said, manifests: Sequence[bytes]) -> Announce:
        """A message of our own, for one link."""
        number = secrets.token_bytes(ANNOUNCEMENT_BYTES)
        return Announce(said, number, self._host.peer_id, tuple(manifests))

    # What links say (driver.LinkOwner)

    def link_up(self, link: Link) -> None:
        """See LinkOwner."""
        self._greeting.discard(link)
        now = trio.current_time()
        reason = self._refusal(link.peer)
        if reason is not None:
            link.close(reason)
            return
        old = self.links.get(link.peer)
        if old is not None:
            if not self.mesh.replaces(link.peer, _standing(old), _standing(link)):
                link.close("another link stands")
                return
            self.links[link.peer] = link
            restarted = old.hello.generation != link.hello.generation
            reason = "the peer restarted" if restarted else "another link stands"
            old.close(reason)
            self._owner.member_down(old, Ended(Cause.OURS, reason))
        self.links[link.peer] = link
        addresses = reachable(link.hello.addresses, self._host.address_of(link.peer))
        self.mesh.linked(link.peer, addresses, now, ours=link.opened_by_us)
        self._tales.came(link)
        self._owner.member_up(link)
        self._dials.wake()

    def link_ended(self, link: Link, ended: Ended) -> None:
        """See LinkOwner."""
        self._greeting.discard(link)
        if ended.cause is Cause.UNTRUSTED:
            self._owner.distrusted(link.peer, ended.reason)
        if self.links.get(link.peer) is link:
            del self.links[link.peer]
            self._tales.left(link.peer)
            self.mesh.unlinked(link.peer, ended.cause, trio.current_time())
            self._owner.member_down(link, ended)
        elif link.peer not in self.links:
            self.mesh.unlinked(link.peer, ended.cause, trio.current_time())
        self._dials.wake()

    def link_news(
        self,
        link: Link,
        news: Announce | Peers | Load | Permits | preloads.Message | spending.Message,
    ) -> None:
        """See LinkOwner."""
        match news:
            case Peers(contacts):
                now = trio.current_time()
                if not self.mesh.hears(link.peer, now):
                    return
                seen = self._host.address_of(link.peer)
                for contact in contacts:
                    if not self._is_banned(contact.peer):
                        addresses = reachable(contact.addresses, seen)
                        self.mesh.found(contact.peer, addresses, now, link.peer)
                self._dials.wake()
            case Announce(_, number, origin):
                if origin != link.peer and (origin in self.links or origin == self._host.peer_id):
                    return  # who has a link speaks for itself
                if self._is_banned(origin) or not self.mesh.is_news(number):
                    return
                self._owner.announced(link, news)
                if self.mesh.sparse:
                    for other in list(self.links.values()):
                        if other is not link:
                            other.pass_on(news)
            case Permits(grants):
                self._owner.permitted(link, grants)
            case preloads.Records() | preloads.States() | preloads.Watch():
                self._owner.preload_news(link, news)
            case spending.Spends():
                self._owner.spends(link, news)
            case Load():
                self._owner.loaded(link, news)

    def link_pings(self, link: Link) -> None:
        """See LinkOwner."""
        for other in list(self.links.values()):
            if other is not link:
                other.ping_along()

    def link_knows(self, link: Link, known: Knowledge | WantRefused) -> None:
        """See LinkOwner."""
        self._owner.knows(link, known)

    async def serve(self, link: Link, ask: Ask) -> Answer:
        """See LinkOwner."""
        return await self._owner.serve(link, ask)

    async def look_up(self, link: Link, looked: LookUp) -> Sequence[Held]:
        """See LinkOwner."""
        return await self._owner.look_up(link, looked)

    # Tasks

    async def run(self, nursery: trio.Nursery) -> None:
        """Dial, tell and watch in `nursery`, until it is cancelled."""
        self._nursery = nursery
        self._host.set_handler(PROTOCOL, self._accept)
        changes = self._host.watch()
        for peer in self._host.connected():
            self.mesh.connected(peer, trio.current_time(), inbound=True)
        nursery.start_soon(self._watch, changes)
        await self._tales.run(nursery)
        nursery.start_soon(self._dials.run, nursery)

    async def close(self) -> None:
        """Say bye to everybody. Bounded."""
        self._nursery = None
        self._dials.stop()
        for link in [*self.links.values(), *self._greeting]:
            link.close("stopping")
        with trio.move_on_after(_CLOSE_S):
            while self._running:
                await self._idle.park()

    async def _accept(self, stream: Stream) -> None:
        """Somebody opened a stream to us; returns when the link is over."""
        peer, nursery = stream.peer, self._nursery
        waiting = sum(link.peer == peer for link in self._greeting)
        too_many = waiting >= MAX_GREETING or len(self._greeting) >= MAX_GREETING_ALL
        if nursery is None or too_many or self._refusal(peer) is not None:
            await stream.aclose()
            return
        done = trio.Event()
        nursery.start_soon(self._run, stream, False, done)
        await done.wait()

    async def _talk(self, stream: Stream) -> None:
        """A stream of our opening, until the link is over."""
        if self._nursery is None:
            await stream.aclose()
        else:
            await self._run(stream, True, trio.Event())

    async def _run(self, stream: Stream, opened_by_us: bool, done: trio.Event) -> None:
        self._running += 1
        try:
            link = Link(
                self._host,
                stream,
                self._hello(),
                self,
                opened_by_us=opened_by_us,
                options=self._sync_options,
            )
            self._greeting.add(link)
            await link.run()
        finally:
            self._running -= 1
            self._idle.unpark_all()
            done.set()

    def _hello(self) -> Hello:
        return Hello(
            *VERSION,
            generation=self.generation,
            agent=self._agent,
            addresses=tuple(self._host.addresses()[:MAX_ADDRESSES]),
            lane=self._lane,
            zone=self._place[0],
            rack=self._place[1],
        )

    def _refusal(self, peer: PeerId) -> str | None:
        if self._is_banned(peer):
            return "banned"
        return self.mesh.refuses(peer, trio.current_time())

    def _close_surplus(self) -> None:
        busy = frozenset(peer for peer, link in self.links.items() if link.talk.is_busy)
        for peer in self.mesh.surplus(busy):
            self.links[peer].close("not needed in a network as large as this")

    async def _watch(self, changes: trio.MemoryReceiveChannel[Up | Down]) -> None:
        async with changes:
            async for change in changes:
                peer = change.peer
                match change:
                    case Up(_, address, inbound):
                        now = trio.current_time()
                        self.mesh.connected(peer, now, inbound=inbound, address=address)
                    case Down() if peer not in self._host.connected():
                        self.mesh.disconnected(peer)
                        for link in [*self._greeting, *self.links.values()]:
                            if link.peer == peer:
                                link.connection_lost()
                    case Down():
                        pass  # it is back already
                self._dials.wake()


@asynccontextmanager
async def open_members(members: Members) -> AsyncIterator[Members]:
    """Members at work, as long as the block lasts; then every link is closed."""
    async with trio.open_nursery() as nursery:
        await members.run(nursery)
        try:
            yield members
        finally:
            with trio.CancelScope(shield=True):
                await members.close()
            nursery.cancel_scope.cancel()


def _standing(link: Link) -> Standing:
    return Standing(link.opened_by_us, link.hello.generation, link.up_at or 0.0)
