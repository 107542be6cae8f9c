"""The agent's open network: who is talked to, what is said of what we hold, who is found.

`network_open` opens one, `network_slot` keeps it as long as there is a key.
"""

from __future__ import annotations

import logging
import secrets
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

import trio

from p2pcache.agent.access import Access, AccessOptions, without_restricted
from p2pcache.agent.certificates import Certificates
from p2pcache.agent.chores import Chores
from p2pcache.agent.sharing import TICKET_S, Sharing
from p2pcache.content.peerid import PeerId, format_peer_id
from p2pcache.content.signed import parse_grant
from p2pcache.errors import LocalFault, P2PCacheError
from p2pcache.lanes.certificate import fingerprint
from p2pcache.lanes.tickets import address_binding, certificate_binding
from p2pcache.transfer.machine.zones import Place

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from p2pcache.content.signed import Grant
    from p2pcache.lanes.orders import Tls
    from p2pcache.net.dht.dht import Dht
    from p2pcache.net.discovery.found import Found, How
    from p2pcache.net.discovery.peerbook import PeerBook
    from p2pcache.net.holders import Swarm
    from p2pcache.net.host import Libp2pHost
    from p2pcache.net.identity import Identity
    from p2pcache.net.network import Network
    from p2pcache.net.network_key import NetworkKey
    from p2pcache.store.store import Store
    from p2pcache.transfer.byte_server import ByteServer

_log = logging.getLogger(__name__)

CERTIFICATE_S = 2 * TICKET_S  # a peer's certificate after its last ticket; an answer may take long
GREET_S = 5.0  # to connect to an address of a DNS name
MAX_UNANSWERED = 64  # kept for `doctor`
NAMED = 3  # other holders, to a reader that is refused
ANNOUNCED_BLOBS = 16  # of a manifest: those that somebody may ask for by their own name


class Watcher(Protocol):
    """Hears what `AgentNetwork` tells its peers; quick, never raises."""

    def possess(self, manifests: Sequence[bytes]) -> None:
        """All blobs of these are here, and none is restricted."""
        ...

    def removed(self, names: Sequence[bytes], manifests: Sequence[bytes]) -> None:
        """As `AgentNetwork.removed`."""
        ...


class AgentNetwork:
    """An open network. Made by `network_open.open_agent_network`; for the trio thread."""

    def __init__(
        self,
        *,
        identity: Identity,
        key: NetworkKey,
        admin: PeerId | None,
        host: Libp2pHost,
        server: ByteServer,
        store: Store,
        now: Callable[[], float],
        book: PeerBook,
        tls: Tls | None,
    ) -> None:
        self.identity = identity
        self.key = key
        self.admin = admin
        self.host = host
        self.server = server
        self.book = book
        self.place = Place()  # where we are
        self.client_tls = tls  # who we are on lanes; None: lanes are plain
        self.network: Network  # set once it is open; it needs `sharing` first
        self.dht: Dht | None = None
        self.watchers: list[Watcher] = []  # of what is here and everybody may have
        self.access = Access(
            store,
            identity.peer_id,
            AccessOptions(admin),
            now=now,
            choose=secrets.randbelow,
        )
        self.sharing = Sharing(store, self.access, identity, server, self._admit, now)
        self.chores = Chores()  # what the byte server is told while the network is open
        self.received: Counter[PeerId] = Counter()  # bytes that pulls got over each peer's lanes
        self._store = store
        self._now = now
        self._banned = {ban.peer for ban in store.others.bans()}
        self._certificates = Certificates(CERTIFICATE_S)
        self._grants: dict[tuple[str, PeerId], float] = {}  # heard since the start: until when
        self._greeting: set[tuple[str, ...]] = set()
        self.seen: Counter[How] = Counter()  # findings of others, by how; for `doctor`
        self.unanswered: dict[tuple[str, ...], str] = {}  # addresses of no known peer, and why

    @property
    def peer_id(self) -> PeerId:
        """Who we are."""
        return self.identity.peer_id

    def addresses(self) -> list[str]:
        """Where others can dial us, with our peer id."""
        me = format_peer_id(self.peer_id)
        return [f"{address}/p2p/{me}" for address in self.host.addresses()]

    # -- who is talked to ------------------------------------------------------------------------

    def is_banned(self, peer: PeerId) -> bool:
        """Whether nothing is said to this agent any more."""
        return peer in self._banned

    async def tell_bans(self) -> None:
        """Let the byte server refuse whoever is banned."""
        await self.server.ban(self._banned)

    async def ban(self, peer: PeerId, reason: str) -> None:
        """End everything with a peer, now and after restarts. Raises LocalFault when it cannot be
        kept (a full disk) or the byte server does not answer; the peer is cut nevertheless.
        """
        if peer in self._banned:
            return
        self._banned.add(peer)
        _log.warning("banned %s: %s", format_peer_id(peer), reason)
        self.network.ban(peer)
        self.book.forget(peer)
        if self.dht is not None:
            self.dht.forget(peer)
        try:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(self._store.others.ban, peer, reason, self._now())
        finally:
            await self.tell_bans()
            await self.server.distrust(self._certificates.forget(peer))

    async def unban(self, peer: PeerId) -> bool:
        """Talk to it again. Whether it was banned."""
        lifted = await trio.to_thread.run_sync(self._store.others.unban, peer)
        self._banned.discard(peer)
        await self.tell_bans()
        return lifted

    def crowded(self, scopes: Sequence[bytes]) -> None:
        """Readers of these manifests are refused, for there are too many: the byte server is told
        who else has them, so that it can name some: another three each time.
        """
        for scope in scopes:
            holders = self.network.holders(scope)[:NAMED]
            if names := [format_peer_id(peer) for peer in holders]:
                self.chores.soon(None, self.server.others, scope, names)

    async def _admit(self, peer: PeerId) -> bytes | None:
        """What the byte server will see of this reader; it is let in before its ticket leaves."""
        member = self.network.member(peer)
        if member is None or peer in self._banned:
            return None
        if self.client_tls is None:
            address = self.host.address_of(peer)
            if address is None:
                return None
            return address_binding(address.split("/")[2])
        certificate = member.lane.certificate
        shown = fingerprint(certificate)
        old = self._certificates.admit(peer, shown, self._now())
        if old:
            await self.server.distrust(old)  # at once, or one that is admitted meanwhile is hit
        await self.server.trust([certificate])
        return certificate_binding(shown)

    def heard_grants(self, grants: Sequence[tuple[Any, ...]]) -> list[Grant]:
        """Keep those of the admin (`Grant.to_wire`); gives those that are new.

        Any member may tell any number, so nothing is verified or read before it is clear that the
        admin is said to have signed it, and that it was not heard before. Raises Untrusted.
        """
        new = []
        for wire in grants:
            repo, peer, expires_at, signer, _ = wire
            heard = self._grants.get((repo, peer), 0.0)
            if signer != self.admin or expires_at <= max(heard, self._now()):
                continue
            grant = parse_grant(list(wire))
            known = self._store.others.grants(peer=peer, now=self._now())
            if all(one.repo != repo or one.expires_at < expires_at for one in known):
                self._store.others.put_grant(grant)
                new.append(grant)
            self._grants[repo, peer] = expires_at
        return new

    # -- what is said of what we hold ------------------------------------------------------------

    def possess(self, manifests: Sequence[bytes]) -> None:
        """All blobs of these are here; restricted ones are nobody's business."""
        told = without_restricted(self._store, manifests)
        self.network.possess(told)
        if self.dht is not None:
            self.dht.provide(name for cid in told for name in self._names_of(cid))
        for watcher in self.watchers:
            watcher.possess(told)

    def intend(self, manifest: bytes) -> bool:
        """A download of it begins: whoever asks the DHT finds us while it runs. False: this is to
        be told to nobody.
        """
        told = without_restricted(self._store, [manifest])
        if self.dht is not None:
            self.dht.provide(told)
        return bool(told)

    def removed(self, names: Sequence[bytes], manifests: Sequence[bytes]) -> None:
        """Blobs (by all their names) are gone from the store, and with them manifests are not
        complete any more.
        """
        self.network.lost(names)
        self.chores.soon(None, self.sharing.removed, names)
        self.network.withdraw(manifests)
        if self.dht is not None:
            self.dht.withdraw([*manifests, *names])
        for watcher in self.watchers:
            watcher.removed(names, manifests)

    async def take_back_stale(self) -> None:
        """Look at what the byte server found changed or gone on the disk; until cancelled."""
        async for name in self.server.stale:
            try:
                if not await trio.to_thread.run_sync(self._is_gone, name):
                    continue
                complete = await trio.to_thread.run_sync(self._store.complete_manifests)
            except LocalFault as exc:  # a disk that cannot be read now: it is told again
                _log.warning("cannot look at what was served: %s", exc.message)
                continue
            gone = [cid for cid in self.network.possessed() if cid not in complete]
            self.removed([name], gone)

    def _is_gone(self, name: bytes) -> bool:
        return not self.sharing.is_growing(name) and self._store.find_any(name) is None

    def _names_of(self, manifest: bytes) -> list[bytes]:
        """The manifest, and its large files where they are few: an announcement costs CPU."""
        body = self._store.get_manifest(manifest)
        files = () if body is None else body.files
        if len(files) > ANNOUNCED_BLOBS:
            files = tuple(sorted(files, key=lambda file: -file.size)[:ANNOUNCED_BLOBS])
        blobs = self._store.find_many([file.digest for file in files])
        roots = [blob.root_cid for blob in blobs.values() if blob.root_cid is not None]
        return [manifest, *(blob.digest for blob in blobs.values()), *roots]

    async def look_up(self, name: bytes, swarm: Swarm) -> None:
        """Ask the DHT who provides a name, and be linked with them as long as the swarm lasts."""
        if self.dht is not None:
            async with self.dht.find(name) as found:
                async for peer, addresses in found:
                    if peer not in self._banned:
                        swarm.meet(peer, addresses)

    # -- who is found ----------------------------------------------------------------------------

    def found(self, found: Found, nursery: trio.Nursery) -> None:
        """Discovery saw somebody."""
        self.seen[found.how] += 1
        if found.peer is not None:
            self.network.found(found.peer, found.addresses, found.how.value)
        elif found.addresses not in self._greeting:
            self._greeting.add(found.addresses)
            nursery.start_soon(self._greet, found.addresses)

    async def _greet(self, addresses: tuple[str, ...]) -> None:
        try:
            peer = await self.host.greet(addresses, timeout_s=GREET_S)
            self.network.found(peer, addresses, "dns")
            self.unanswered.pop(addresses, None)
        except P2PCacheError as exc:
            if len(self.unanswered) < MAX_UNANSWERED:
                self.unanswered[addresses] = exc.message
            _log.debug("nobody at %s: %s", addresses, exc.message)
        finally:
            self._greeting.discard(addresses)

    async def _all_grants(self) -> list[Grant]:
        """In a thread: the signature of each is checked again."""
        return await trio.to_thread.run_sync(lambda: self._store.others.grants(now=self._now()))

    async def keep_book(self) -> None:
        """Remember who is there, and tell the DHT."""
        from p2pcache.net.member import MemberUp

        async with self.network.watch() as changes:
            async for change in changes:
                if isinstance(change, MemberUp):
                    member = change.member
                    self.network.permit(await self._all_grants(), to=member.peer)
                    self.book.saw(member.peer, member.addresses)
                    with suppress(LocalFault):  # a full disk; it is saved again later
                        await trio.to_thread.run_sync(self.book.save)
                    if self.dht is not None:
                        self.dht.saw(member.peer, member.addresses)
