"""The network as the layers above see it: members, swarms, names and manifests.

It knows nothing of stores, lanes or downloads: what we hold it learns from `grew`, `lost`,
`possess` and `withdraw`, and what a peer may be told of it from the `Shelf`. Everything that is
asked of a peer has a timeout, and a caller that is cancelled cancels nothing but its waiting.
"""

from __future__ import annotations

import random
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import trio

from p2pcache.errors import plain_errors
from p2pcache.net.asking import ask_manifest, ask_names
from p2pcache.net.conversation import Conversation, NetworkOptions
from p2pcache.net.holders import Swarm
from p2pcache.net.latest import Latest
from p2pcache.net.member import Member, MemberDown, MemberUp
from p2pcache.net.members import open_members
from p2pcache.net.parts import NO_PART
from p2pcache.net.sync import preloads, spending
from p2pcache.net.sync.wire import MAX_QUEUE_S, MAX_RETRY_AFTER_S, Load, Said

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence

    from p2pcache.content.peerid import PeerId
    from p2pcache.content.ranges import RangeSet
    from p2pcache.content.signed import Grant, SignedResolution
    from p2pcache.errors import P2PCacheError
    from p2pcache.net.port import Host
    from p2pcache.net.shelf import Shelf
    from p2pcache.net.sync.driver import Link
    from p2pcache.net.sync.wants import Part
    from p2pcache.net.sync.wire import LaneInfo


@dataclass(frozen=True, slots=True)
class NetworkStatistics:
    """Counts for `status` and metrics."""

    members_count: int
    sparse: bool
    swarms_count: int
    possessed_count: int
    distrusted_count: int


class Network(Conversation):
    """See the module. Made by `open_network`."""

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
