"""What members say, and what a network makes of it: the lower half of `Network`.

Here is what all its parts know of each other; `network` is what the layers above ask.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import trio

from p2pcache import errors
from p2pcache.content.peerid import PeerId, format_peer_id
from p2pcache.errors import P2PCacheError, Unavailable, Untrusted
from p2pcache.net.asking import AskOptions
from p2pcache.net.holders import Passes, Swarm
from p2pcache.net.interest import Interests
from p2pcache.net.member import Member, MemberDown, MemberUp, member_of
from p2pcache.net.members import Members
from p2pcache.net.mesh import MeshOptions
from p2pcache.net.parts import Parts
from p2pcache.net.serving import answer
from p2pcache.net.speech import Speech
from p2pcache.net.sync.limits import SyncOptions
from p2pcache.net.sync.machine import NO_LOAD, WantRefused
from p2pcache.net.sync.wire import MAX_GRANTS, Answer, Ask, LaneInfo, Load, Permits, Said

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from p2pcache.content.signed import Grant
    from p2pcache.net.latest import Latest
    from p2pcache.net.port import Host
    from p2pcache.net.shelf import Shelf
    from p2pcache.net.sync import preloads, spending
    from p2pcache.net.sync.driver import Link
    from p2pcache.net.sync.machine import Ended
    from p2pcache.net.sync.wants import Knowledge, LookUp
    from p2pcache.net.sync.wire import Announce, Held

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class NetworkOptions:
    """Limits of the conversation with members."""

    sync: SyncOptions = field(default_factory=SyncOptions)
    mesh: MeshOptions = field(default_factory=MeshOptions)
    serve_s: float = 30.0  # for the shelf to answer; a check at an origin takes seconds
    prove_s: float = 30.0  # for our own proof, and the ticket it brings
    ask: AskOptions = field(default_factory=AskOptions)
    zone: str = ""  # where we are, for the others; "": not told
    rack: str = ""


class Conversation:
    """The owner of `Members` (see `MembersOwner`); its arguments are those of `open_network`."""

    """See the module. Made by `open_network`."""

    def __init__(
        self,
        host: Host,
        shelf: Shelf,
        *,
        lane: LaneInfo,
        agent: str,
        is_banned: Callable[[PeerId], bool],
        on_distrust: Callable[[PeerId, str], None],
        on_grants: Callable[[Sequence[tuple[Any, ...]]], list[Grant]],
        options: NetworkOptions,
        chance: Callable[[], float],
    ) -> None:
        self._host = host
        self._shelf = shelf
        self._options = options
        self._chance = chance
        self._on_distrust = on_distrust
        self._on_grants = on_grants
        self._distrusted_count = 0
        self._nursery: trio.Nursery | None = None
        self._swarms: set[Swarm] = set()
        self._watchers: set[Latest[MemberUp | MemberDown]] = set()
        self._interests = Interests()
        self._speech = Speech()
        self._parts = Parts()
        self._load = NO_LOAD
        self._passes = Passes(shelf, self._link, self._hosts)
        # Whoever keeps preloads; raises Untrusted for what no honest member says.
        self.on_preload: Callable[[PeerId, preloads.Message], None] | None = None
        # Whoever keeps the accounts of origins; before anybody does, words are lost and said again.
        self.on_spends: Callable[[PeerId, spending.Spends], None] = lambda _peer, _news: None
        self.members_driver = Members(
            host,
            self,
            lane=lane,
            agent=agent,
            is_banned=is_banned,
            mesh_options=options.mesh,
            sync_options=options.sync,
            chance=chance,
            zone=options.zone,
            rack=options.rack,
        )

    def member_up(self, link: Link) -> None:
        """See MembersOwner."""
        for said, manifests in self._speech.standing():
            link.tell(self.members_driver.announcement(said, manifests))
        for manifest, ours in self._parts.all().items():
            link.brings(manifest, ours)
        link.busy(self._load)
        now = trio.current_time()
        for swarm in self._swarms:
            for origin, until in swarm.waits.items():
                if swarm.manifest is not None and until > now:
                    link.throttled(swarm.manifest, origin, until - now)
        for swarm in list(self._swarms):
            swarm.begin(link)
        for watcher in self._watchers:
            watcher.put(link.peer, MemberUp(self._member(link)))

    def member_down(self, link: Link, ended: Ended) -> None:
        """See MembersOwner."""
        self._passes.forget(link)
        if not self.members_driver.mesh.sparse:
            self._interests.forget(link.peer)
            self._interests.forget_told(link.peer)
        for swarm in list(self._swarms):
            swarm.stop(link, ended.reason)
        for watcher in self._watchers:
            watcher.put(link.peer, MemberDown(link.peer, ended.reason))

    def distrusted(self, peer: PeerId, reason: str) -> None:
        """See MembersOwner."""
        self._distrusted_count += 1
        self._on_distrust(peer, reason)

    def announced(self, link: Link, news: Announce) -> None:
        """See MembersOwner."""
        self._interests.hear(news.origin, news.said, news.manifests, link.peer)
        if news.said is not Said.WITHDRAWN and news.origin not in self.members_driver.links:
            for swarm in self._swarms:
                if swarm.manifest in news.manifests:
                    swarm.meet(news.origin)

    def loaded(self, link: Link, load: Load) -> None:
        """See MembersOwner."""
        for swarm in self._swarms:
            swarm.hear_load(link, load.queue_s)

    def permitted(self, link: Link, grants: tuple[tuple[Any, ...], ...]) -> None:
        """See MembersOwner."""
        try:
            new = self._on_grants(grants)
        except Untrusted as exc:
            link.distrust(exc.message)
            return
        self.permit(new, but=link.peer)

    def permit(
        self, grants: Sequence[Grant], *, to: PeerId | None = None, but: PeerId | None = None
    ) -> None:
        """Tell one member, or everybody (except one), of grants."""
        links = [one for one in self._links() if to in (None, one.peer) and one.peer != but]
        for at in range(0, len(grants), MAX_GRANTS):
            wires = tuple(tuple(one.to_wire()) for one in grants[at : at + MAX_GRANTS])
            for link in links:
                link.tell(Permits(wires))

    def preload_news(self, link: Link, news: preloads.Message) -> None:
        """See MembersOwner. Before anybody listens it is lost, and asked for again."""
        if self.on_preload is not None:
            try:
                self.on_preload(link.peer, news)
            except Untrusted as exc:
                link.distrust(exc.message)

    def spends(self, link: Link, news: spending.Message) -> None:
        """See MembersOwner."""
        try:
            self.on_spends(link.peer, news)
        except Untrusted as exc:
            link.distrust(exc.message)

    def knows(self, link: Link, known: Knowledge | WantRefused) -> None:
        """See MembersOwner."""
        for swarm in self._swarms:
            if swarm.hear(link, known):
                if (
                    isinstance(known, WantRefused)
                    and known.refused.challenge is not None
                    and swarm.manifest is not None
                    and self._nursery is not None
                    and swarm.begin_proof(link.peer)
                ):
                    self._nursery.start_soon(self._prove, link, swarm, swarm.manifest)
                return

    async def look_up(self, link: Link, looked: LookUp) -> Sequence[Held]:
        """See MembersOwner."""
        with trio.move_on_after(self._options.serve_s):
            return await self._shelf.holding(link.peer, looked.manifest, looked.names)
        raise Unavailable("the shelf took too long")

    async def serve(self, link: Link, ask: Ask) -> Answer:
        """See MembersOwner."""
        with trio.move_on_after(self._options.serve_s):
            return await answer(self._shelf, link, ask)
        raise Unavailable("the shelf took too long")

    async def _prove(self, link: Link, swarm: Swarm, manifest: bytes) -> None:
        """A peer wants proof before it tells what it holds; a ticket shows that it has it."""
        shown = False
        try:
            await self._passes.lane(link.peer, manifest, timeout_s=self._options.prove_s)
            shown = True
        except Untrusted as exc:
            link.distrust(exc.message)
        except P2PCacheError as exc:
            who = format_peer_id(link.peer)
            _log.info("%s shares a restricted manifest not with us: %s", who, exc.message)
        except Exception as exc:  # noqa: BLE001  # a bug ends this proof, not the network
            errors.bug(exc, _log)
        finally:
            swarm.end_proof(link.peer, shown=shown)

    def _member(self, link: Link) -> Member:
        return member_of(link, self.members_driver.mesh.contact(link.peer).addresses)

    def _links(self) -> list[Link]:
        return list(self.members_driver.links.values())

    def _link(self, peer: PeerId) -> Link:
        link = self.members_driver.links.get(peer)
        if link is None:
            raise Unavailable(f"{format_peer_id(peer)} is not connected")
        return link

    def _hosts(self, link: Link) -> tuple[str, ...]:
        """Where its byte server may be: what it says, and where the connection comes from."""
        said = link.hello.lane.hosts
        parts = (self._host.address_of(link.peer) or "").split("/")
        seen = parts[2:3] if parts[1:2] in (["ip4"], ["ip6"]) else []
        order = (*seen, *said) if link.opened_by_us else (*said, *seen)
        return tuple(dict.fromkeys(order))
