"""The network as the layers above see it: members, swarms, names and manifests.

It knows nothing of stores, lanes or downloads: what we hold it learns from `grew`, `lost`,
`possess` and `withdraw`, and what a peer may be told of it from the `Shelf`. Everything that is
asked of a peer has a timeout, and a caller that is cancelled cancels nothing but its waiting.
"""

from __future__ import annotations

import logging
import random
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import trio

from p2pcache import errors
from p2pcache.content.peerid import PeerId, format_peer_id
from p2pcache.errors import (
    P2PCacheError,
    Unavailable,
    Untrusted,
    plain_errors,
)
from p2pcache.net.asking import AskOptions, ask_manifest, ask_names
from p2pcache.net.holders import Passes, Swarm
from p2pcache.net.interest import Interests
from p2pcache.net.latest import Latest
from p2pcache.net.member import Member, MemberDown, MemberUp, member_of
from p2pcache.net.members import Members, open_members
from p2pcache.net.mesh import MeshOptions
from p2pcache.net.parts import NO_PART, Parts
from p2pcache.net.serving import answer
from p2pcache.net.speech import Speech
from p2pcache.net.sync import preloads, spending
from p2pcache.net.sync.limits import SyncOptions
from p2pcache.net.sync.machine import NO_LOAD, WantRefused
from p2pcache.net.sync.wire import (
    MAX_GRANTS,
    MAX_QUEUE_S,
    MAX_RETRY_AFTER_S,
    Answer,
    Ask,
    LaneInfo,
    Load,
    Permits,
    Said,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence

    from p2pcache.content.ranges import RangeSet
    from p2pcache.content.signed import Grant, SignedResolution
    from p2pcache.net.port import Host
    from p2pcache.net.shelf import Shelf
    from p2pcache.net.sync.driver import Link
    from p2pcache.net.sync.machine import Ended
    from p2pcache.net.sync.wants import Knowledge, LookUp, Part
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


@dataclass(frozen=True, slots=True)
class NetworkStatistics:
    """Counts for `status` and metrics."""

    members_count: int
    sparse: bool
    swarms_count: int
    possessed_count: int
    distrusted_count: int


class Network:
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

    @property
    def peer_id(self) -> PeerId:
        """Who we are."""
        return self._host.peer_id

    def members(self) -> list[Member]:
        """Who can be talked to now."""
        return [self._member(link) for link in self._links()]

    def member(self, peer: PeerId) -> Member | None:
        """One of them."""
        link = self.members_driver.links.get(peer)
        return None if link is None else self._member(link)

    @asynccontextmanager
    async def watch(self) -> AsyncIterator[Latest[MemberUp | MemberDown]]:
        """Members that come and go: first those that are here, then changes, newest per peer."""
        changes: Latest[MemberUp | MemberDown] = Latest()
        for link in self._links():
            changes.put(link.peer, MemberUp(self._member(link)))
        self._watchers.add(changes)
        try:
            yield changes
        finally:
            self._watchers.discard(changes)
            changes.end()

    def found(self, peer: PeerId, addresses: Iterable[str], by: str = "config") -> None:
        """Discovery saw a peer: be linked with it, if the size of the network allows. `by`: how;
        each way may tell of a limited number, and has a part of the dials.
        """
        self.members_driver.found(peer, addresses, by)

    def meet(self, peer: PeerId, addresses: Collection[str]) -> bool:
        """Be linked with this peer in any case; False when nobody says where it is. A pull meets
        with `Swarm.meet`, for its time.
        """
        if addresses:
            self.members_driver.found(peer, addresses, "dht")
        return self.members_driver.meet(peer)

    def ban(self, peer: PeerId) -> None:
        """Cut a peer now. That it stays away is `is_banned`'s doing."""
        self._interests.forget_told(peer)
        self._interests.forget(peer)
        self.members_driver.cut(peer, "banned")

    @asynccontextmanager
    async def swarm(
        self, manifest: bytes | None, names: Sequence[bytes], *, quiet: bool = False
    ) -> AsyncIterator[Swarm]:
        """Say that we want these, and hear who holds them, as long as the block lasts. `quiet`:
        only those who are linked with us are asked; nobody is told to tell others of the manifest.
        """
        swarm = Swarm(
            manifest, names, self._passes, self._link, self._interests.who, self._part, self.meet,
            self._throttled,
        )  # fmt: skip
        self._swarms.add(swarm)
        if manifest is not None:
            self._speech.begin(manifest, quiet=quiet)
        for link in self._links():
            swarm.begin(link)
        for peer in swarm.partners():
            swarm.meet(peer)
        try:
            yield swarm
        finally:
            self._swarms.discard(swarm)
            swarm.end()
            for peer in swarm.met:
                if not any(peer in other.met for other in self._swarms):
                    self.members_driver.part(peer)
            self._part(swarm, NO_PART)
            if manifest is not None:
                self._speech.end(manifest)

    async def resolutions(self, canonical: str, *, timeout_s: float) -> list[SignedResolution]:
        """What the members know a ref to mean: all that came in time, each signed by somebody."""
        return await ask_names(self._links, canonical, timeout_s=timeout_s)

    async def manifest(
        self, cid: bytes, *, timeout_s: float, max_bytes: int, newcomers_s: float = 0.0
    ) -> bytes:
        """The bytes of a manifest from whoever has it; they hash to the CID.

        A few members are asked at a time, those that said they have it first; one whose bytes do
        not hash is cut. Who becomes a member within `newcomers_s` is asked too. Raises NotFound,
        Denied, Unavailable.
        """

        def links() -> list[Link]:
            who = self._interests.who(cid)

            def place(link: Link) -> int:
                said = who.get(link.peer)
                return 2 if said is None else (Said.POSSESS, Said.INTENT).index(said)

            return sorted(self._links(), key=place)

        async with self.watch() as changes:
            return await ask_manifest(
                links, changes, cid, self._options.ask,
                timeout_s=timeout_s, newcomers_s=newcomers_s, max_bytes=max_bytes,
            )  # fmt: skip

    def grew(self, name: bytes, blocks: RangeSet | None) -> None:
        """More blocks of a blob are verified (None: all of it). Told within 50 to 200 ms."""
        links = self._links()
        for link in links:
            link.grew(name, blocks, len(links))

    def _part(self, swarm: Swarm, part: Part) -> None:
        """A pull's part in bringing its manifest changed."""
        if swarm.manifest is None:
            return
        told = self._parts.put(swarm.manifest, swarm, part)
        if told is not None:
            for link in self._links():
                link.brings(swarm.manifest, told)

    def _throttled(self, swarm: Swarm, origin: bytes, retry_after_s: float) -> None:
        """An origin of a pull told us to wait: who takes part in the same is told."""
        if swarm.manifest is not None:
            retry_after_s = min(retry_after_s, MAX_RETRY_AFTER_S)
            swarm.waits[origin] = trio.current_time() + retry_after_s
            for link in self._links():
                link.throttled(swarm.manifest, origin, retry_after_s)

    def busy(self, queue_s: float, up_bytes_per_s: float) -> None:
        """Our byte server's load changed: who wants something of us is told."""
        parts = self._parts.all().values()
        intake = sum(part.intake_bytes_per_s or 0.0 for part in parts)
        load = Load(min(queue_s, MAX_QUEUE_S), up_bytes_per_s, intake)
        self._load = load
        for link in self._links():
            link.busy(load)

    def lost(self, names: Iterable[bytes]) -> None:
        """Blobs were evicted, or lost their own source."""
        gone = tuple(names)
        for link in self._links():
            link.lost(gone)

    def possess(self, manifests: Iterable[bytes]) -> None:
        """We have all of these."""
        self._speech.possess(manifests)

    def withdraw(self, manifests: Iterable[bytes]) -> None:
        """We have these no more."""
        self._speech.withdraw(manifests)

    def possessed(self) -> list[bytes]:
        """What we said we possess."""
        return self._speech.possessed()

    def possessors(self, manifest: bytes) -> tuple[set[PeerId], set[PeerId]]:
        """Who said that it possesses a manifest: members that we are linked with, whose word is
        taken back with the link; and others, of whom it was heard.
        """
        said = self._interests.who(manifest)
        have = {peer for peer, word in said.items() if word is Said.POSSESS}
        linked = have & self.members_driver.links.keys()
        return linked, have - linked

    def possessed_by(self, peer: PeerId) -> int:
        """How many manifests a peer said it possesses (restricted ones it never says)."""
        return self._interests.possessed_count(peer)

    def holders(self, manifest: bytes) -> list[PeerId]:
        """Members that said they possess or download a manifest; the former first, else drawn."""
        said = self._interests.who(manifest)
        linked = [peer for peer in said if peer in self.members_driver.links]
        order = {peer: (said[peer] is not Said.POSSESS, self._chance()) for peer in linked}
        return sorted(linked, key=order.__getitem__)

    def failures(self) -> dict[PeerId, P2PCacheError]:
        """Why those who are not here were not reached at the last try."""
        driver = self.members_driver
        return {who: exc for who, exc in driver.failures.items() if who not in driver.links}

    def statistics(self) -> NetworkStatistics:
        """Counts."""
        return NetworkStatistics(
            members_count=len(self.members_driver.links),
            sparse=self.members_driver.mesh.sparse,
            swarms_count=len(self._swarms),
            possessed_count=len(self._speech.possessed()),
            distrusted_count=self._distrusted_count,
        )

    # What members say (members.MembersOwner)

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

    def tell_preload(
        self, message: preloads.Message, *, to: PeerId | None = None, but: PeerId | None = None
    ) -> None:
        """Tell one member, or everybody (except one). States are left out where much waits."""
        for link in self._links():
            if to in (None, link.peer) and link.peer != but and link.hello.minor >= preloads.MINOR:
                if isinstance(message, preloads.States):
                    link.pass_on(message)
                else:
                    link.tell(message)

    def spends(self, link: Link, news: spending.Message) -> None:
        """See MembersOwner."""
        try:
            self.on_spends(link.peer, news)
        except Untrusted as exc:
            link.distrust(exc.message)

    @property
    def beat_s(self) -> float:
        """How long what is new may wait for more, where all members are told."""
        return self._options.sync.have_beat_s(len(self.members_driver.links))

    def tell_spends(self, message: spending.Spends) -> bool:
        """Tell everybody what we fetched of origins; whether nobody was left out, as where much
        waits.
        """
        links = [link for link in self._links() if link.hello.minor >= spending.MINOR]
        told = [link.pass_on(message) for link in links]
        return all(told)

    def hearsay(self) -> set[PeerId]:
        """In a large network: members that were linked once and are heard of, without a link."""
        return self.members_driver.mesh.hearsay(trio.current_time())

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


@asynccontextmanager
async def open_network(
    host: Host,
    shelf: Shelf,
    *,
    lane: LaneInfo,
    agent: str,
    is_banned: Callable[[PeerId], bool] = lambda _: False,
    on_distrust: Callable[[PeerId, str], None] = lambda _peer, _reason: None,
    on_grants: Callable[[Sequence[tuple[Any, ...]]], list[Grant]] = lambda _: [],
    options: NetworkOptions | None = None,
    chance: Callable[[], float] = random.random,
) -> AsyncIterator[Network]:
    """A network at work as long as the block lasts; then members are told that we stop.

    `lane`: our byte server, and the certificate of our client side; `agent`: our name and version.
    `on_distrust` hears of peers that broke the rules of the conversation (they are kept away for
    some minutes; a longer ban is the caller's decision). `on_grants` hears of grants
    (`Grant.to_wire` as tuples, unchecked) and gives those that are good, new and of use: they are
    passed on; it raises Untrusted for a signature that does not fit.
    """
    network = Network(
        host,
        shelf,
        lane=lane,
        agent=agent,
        is_banned=is_banned,
        on_distrust=on_distrust,
        on_grants=on_grants,
        options=options or NetworkOptions(),
        chance=chance,
    )
    with plain_errors():
        async with open_members(network.members_driver), trio.open_nursery() as nursery:
            network._nursery = nursery
            nursery.start_soon(network._speech.run, network.members_driver.say)
            try:
                yield network
            finally:
                network._nursery = None
                nursery.cancel_scope.cancel()
