"""The agent's end of its network: host, discovery, DHT, members and byte server, opened as one.

There is no network until `init` or `join` left a key in the home; then `NetworkSlot` opens one, and
opens it again when the key changes. Nothing of libp2p is imported before.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import secrets
import socket
from collections import Counter
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from p2pcache.agent.access import Access, AccessOptions, without_restricted
from p2pcache.agent.sharing import Sharing
from p2pcache.content.peerid import PeerId, format_peer_id, parse_peer_id
from p2pcache.errors import LocalFault, P2PCacheError, UsageError, bug
from p2pcache.lanes.certificate import fingerprint, make_certificate
from p2pcache.lanes.orders import Tls
from p2pcache.lanes.serve.options import ServeOptions
from p2pcache.lanes.tickets import address_binding, certificate_binding
from p2pcache.transfer.byte_server import ByteServer, open_byte_server
from p2pcache.version import __version__

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Sequence
    from pathlib import Path

    from p2pcache.config.network import NetworkSettings
    from p2pcache.content.signed import Grant
    from p2pcache.net.dht.dht import Dht
    from p2pcache.net.discovery.found import Found, How
    from p2pcache.net.discovery.peerbook import PeerBook
    from p2pcache.net.host import Libp2pHost
    from p2pcache.net.identity import Identity
    from p2pcache.net.mesh import MeshOptions
    from p2pcache.net.network import Network
    from p2pcache.net.network_key import NetworkKey
    from p2pcache.store.store import Store

_log = logging.getLogger(__name__)

GREET_S = 5.0  # to connect to an address of a DNS name
MAX_UNANSWERED = 64  # kept for `doctor`
MAX_NEW_GRANTS = 64  # of one message; each is a durable write
READY_S = 15.0  # to open the network after `init` or `join`
ANNOUNCED_BLOBS = 16  # of a manifest: those that somebody may ask for by their own name
AGENT = f"p2pcache/{__version__}"


@dataclass(frozen=True, slots=True)
class Files:
    """Where the network's secrets lie in a home."""

    home: Path

    @property
    def identity(self) -> Path:
        """Our key."""
        return self.home / "identity.key"

    @property
    def network(self) -> Path:
        """The key that all agents of the network share."""
        return self.home / "network.key"

    @property
    def admin(self) -> Path:
        """The peer id of the network's admin."""
        return self.home / "network.admin"

    @property
    def peers(self) -> Path:
        """Who was there last time."""
        return self.home / "peers.json"

    @property
    def port(self) -> Path:
        """The port of last time, so that invitations and others' memory stay good."""
        return self.home / "network.port"

    def read_port(self) -> int | None:
        """The port of last time; None when there is none, or nonsense."""
        try:
            port = int(self.port.read_text())
        except (OSError, ValueError):
            return None
        return port if 0 < port <= 65535 else None

    def read_admin(self) -> PeerId | None:
        """Whose grants count, if anybody's. Raises LocalFault."""
        try:
            return parse_peer_id(self.admin.read_text().strip())
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError, UsageError) as exc:
            raise LocalFault(f"`{self.admin}` does not hold a peer id") from exc

    def write_admin(self, admin: PeerId) -> None:
        """Remember the admin. Raises LocalFault."""
        try:
            self.admin.write_text(format_peer_id(admin) + "\n")
        except OSError as exc:
            raise LocalFault(f"`{self.admin}` cannot be written: {exc.strerror}") from exc


class AgentNetwork:
    """An open network. Made by `open_agent_network`; for the trio thread."""

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
        self.client_tls = tls  # who we are on lanes; None: lanes are plain
        self.network: Network  # set once it is open; it needs `sharing` first
        self.dht: Dht | None = None
        self.access = Access(
            store,
            identity.peer_id,
            AccessOptions(admin),
            now=now,
            choose=secrets.randbelow,
        )
        self.sharing = Sharing(store, self.access, identity, server, self._admit, now)
        self.received: Counter[PeerId] = Counter()  # bytes that pulls got over each peer's lanes
        self._store = store
        self._now = now
        self._banned = {ban.peer for ban in store.others.bans()}
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

    async def ban(self, peer: PeerId, reason: str) -> None:
        """End everything with a peer, now and after restarts."""
        if peer in self._banned:
            return
        self._banned.add(peer)
        _log.warning("banned %s: %s", format_peer_id(peer), reason)
        await trio.to_thread.run_sync(self._store.others.ban, peer, reason, self._now())
        self.network.ban(peer)
        self.book.forget(peer)
        if self.dht is not None:
            self.dht.forget(peer)
        await self.server.ban(self._banned)

    async def unban(self, peer: PeerId) -> bool:
        """Talk to it again. Whether it was banned."""
        lifted = await trio.to_thread.run_sync(self._store.others.unban, peer)
        self._banned.discard(peer)
        await self.server.ban(self._banned)
        return lifted

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
        await self.server.trust([certificate])
        return certificate_binding(fingerprint(certificate))

    def heard_grants(self, grants: Sequence[Grant]) -> list[Grant]:
        """Keep those of the admin; gives those that are new."""
        known = {(g.repo, g.peer, g.expires_at) for g in self._store.others.grants(now=self._now())}
        new = [
            grant
            for grant in grants
            if grant.signer == self.admin
            and grant.expires_at > self._now()
            and (grant.repo, grant.peer, grant.expires_at) not in known
        ][:MAX_NEW_GRANTS]
        for grant in new:
            self._store.others.put_grant(grant)
        return new

    # -- what is said of what we hold ------------------------------------------------------------

    def possess(self, manifests: Sequence[bytes]) -> None:
        """All blobs of these are here; restricted ones are nobody's business."""
        told = without_restricted(self._store, manifests)
        self.network.possess(told)
        if self.dht is not None:
            self.dht.provide(name for cid in told for name in self._names_of(cid))

    def intend(self, manifest: bytes) -> None:
        """A download of it begins: whoever asks the DHT finds us while it runs."""
        if self.dht is not None:
            self.dht.provide(without_restricted(self._store, [manifest]))

    def removed(self, sha256s: Sequence[bytes], manifests: Sequence[bytes]) -> None:
        """Blobs are gone from the store, and with them manifests are not complete any more."""
        names = [b"\x12\x20" + sha256 for sha256 in sha256s]
        self.network.lost(names)
        self.network.withdraw(manifests)
        if self.dht is not None:
            self.dht.withdraw([*manifests, *names])

    def _names_of(self, manifest: bytes) -> list[bytes]:
        """The manifest, and its large files where they are few: an announcement costs CPU."""
        body = self._store.get_manifest(manifest)
        files = () if body is None else body.files
        if len(files) > ANNOUNCED_BLOBS:
            files = tuple(sorted(files, key=lambda file: -file.size)[:ANNOUNCED_BLOBS])
        blobs = self._store.find_many([file.digest for file in files])
        roots = [blob.root_cid for blob in blobs.values() if blob.root_cid is not None]
        return [manifest, *(blob.digest for blob in blobs.values()), *roots]

    async def look_up(self, name: bytes) -> None:
        """Ask the DHT who provides a name, and be linked with them."""
        if self.dht is not None:
            async with self.dht.find(name) as found:
                async for peer, addresses in found:
                    if peer not in self._banned:
                        self.network.meet(peer, addresses)

    # -- who is found ----------------------------------------------------------------------------

    def found(self, found: Found, nursery: trio.Nursery) -> None:
        """Discovery saw somebody."""
        self.seen[found.how] += 1
        if found.peer is not None:
            self.network.found(found.peer, found.addresses)
        elif found.addresses not in self._greeting:
            self._greeting.add(found.addresses)
            nursery.start_soon(self._greet, found.addresses)

    async def _greet(self, addresses: tuple[str, ...]) -> None:
        try:
            peer = await self.host.greet(addresses, timeout_s=GREET_S)
            self.network.found(peer, addresses)
            self.unanswered.pop(addresses, None)
        except P2PCacheError as exc:
            if len(self.unanswered) < MAX_UNANSWERED:
                self.unanswered[addresses] = exc.message
            _log.debug("nobody at %s: %s", addresses, exc.message)
        finally:
            self._greeting.discard(addresses)

    async def keep_book(self) -> None:
        """Remember who is there, and tell the DHT."""
        from p2pcache.net.network import MemberUp

        async with self.network.watch() as changes:
            async for change in changes:
                if isinstance(change, MemberUp):
                    member = change.member
                    self.network.permit(self._store.others.grants(now=self._now()))
                    self.book.saw(member.peer, member.addresses)
                    with suppress(LocalFault):  # a full disk; it is saved again later
                        await trio.to_thread.run_sync(self.book.save)
                    if self.dht is not None:
                        self.dht.saw(member.peer, member.addresses)


@asynccontextmanager
async def open_agent_network(
    home: Path,
    settings: NetworkSettings,
    store: Store,
    now: Callable[[], float],
    cleanup_dir: Path,
) -> AsyncIterator[AgentNetwork]:
    """The network whose key is in the home. Raises LocalFault: no key, a port that is taken.

    `cleanup_dir`: private, for the certificate of our client side while the network is open.
    """
    from p2pcache.net.dht.dht import open_dht
    from p2pcache.net.discovery.discovery import DiscoveryOptions, discover
    from p2pcache.net.discovery.peerbook import PeerBook
    from p2pcache.net.host import HostOptions, open_host
    from p2pcache.net.identity import load_or_create_identity
    from p2pcache.net.network import NetworkOptions, open_network
    from p2pcache.net.network_key import load_network_key
    from p2pcache.net.sync.wire import LaneInfo

    files = Files(home)
    identity = load_or_create_identity(files.identity)
    key = load_network_key(files.network)
    certificate = make_certificate()
    secret = secrets.token_bytes(32)
    serve = ServeOptions(
        secret,
        hosts=_served(settings.hosts),
        port=settings.lane_port,
        certificate_pem=certificate.pem if settings.lane_tls else None,
        key_pem=certificate.key_pem if settings.lane_tls else None,
        limit_up_bytes_per_s=settings.limit_up_bytes_per_s,
    )
    tls = _client_tls(cleanup_dir, certificate.pem, certificate.key_pem)
    book = PeerBook(files.peers, clock=now)
    banned: Callable[[PeerId], bool] = lambda peer: opened.is_banned(peer)  # noqa: E731
    async with (
        open_byte_server(serve) as server,
        open_host(
            identity,
            key,
            _listen(settings, files.read_port()),
            HostOptions(announce=settings.announce),
            admit=lambda peer: not banned(peer),
        ) as host,
    ):
        opened = AgentNetwork(
            identity=identity,
            key=key,
            admin=files.read_admin(),
            host=host,
            server=server,
            store=store,
            now=now,
            book=book,
            tls=tls if settings.lane_tls else None,
        )
        await server.ban(opened._banned)
        _keep_port(files, host.addresses())
        lane = LaneInfo(server.port, (), server.fingerprint, certificate.der)
        async with open_network(
            host,
            opened.sharing,
            lane=lane,
            agent=AGENT,
            is_banned=opened.is_banned,
            on_grants=opened.heard_grants,
            options=NetworkOptions(mesh=_mesh(settings.full_mesh)),
        ) as network:
            opened.network = network
            async with trio.open_nursery() as nursery:
                discovery = DiscoveryOptions(
                    mdns=settings.mdns, bootstrap=settings.bootstrap, dns=settings.dns
                )
                nursery.start_soon(
                    lambda: discover(
                        key.fingerprint,
                        identity.peer_id,
                        host.addresses,
                        lambda found: opened.found(found, nursery),
                        discovery,
                        book=book,
                    )
                )
                nursery.start_soon(opened.keep_book)
                try:
                    if not settings.dht:
                        await _tell_complete(opened, store)
                        yield opened
                    else:
                        async with open_dht(host) as dht:
                            opened.dht = dht
                            await _tell_complete(opened, store)
                            yield opened
                finally:
                    nursery.cancel_scope.cancel()


async def _tell_complete(opened: AgentNetwork, store: Store) -> None:
    complete = await trio.to_thread.run_sync(store.complete_manifests)
    opened.possess(list(complete))


def _mesh(full_mesh: int) -> MeshOptions:
    """Links for a network of this size: a full mesh up to it, few neighbours beyond."""
    from p2pcache.net.mesh import MeshOptions

    usual = MeshOptions()
    return MeshOptions(
        full_mesh=full_mesh,
        back_to_full=full_mesh * 7 // 8,
        neighbours=min(usual.neighbours, full_mesh),
    )


def _served(hosts: Iterable[str]) -> tuple[str, ...]:
    """The byte server listens where the host does; a dual-stack `::` covers 0.0.0.0."""
    return tuple(hosts)


def _keep_port(files: Files, addresses: Sequence[str]) -> None:
    if addresses:
        with suppress(OSError):
            files.port.write_text(addresses[0].rpartition("/")[2] + "\n")


def _listen(settings: NetworkSettings, last: int | None) -> list[str]:
    from p2pcache.config.network import DEFAULT_PORT

    port = settings.port
    if port is None:
        liked = [one for one in (last, DEFAULT_PORT) if one is not None]
        port = next((one for one in liked if _is_free(settings.hosts, one)), 0)
    return [f"/ip{ipaddress.ip_address(host).version}/{host}/tcp/{port}" for host in settings.hosts]


def _is_free(hosts: Iterable[str], port: int) -> bool:
    for host in hosts:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                probe.bind((host, port))
            except OSError:
                return False
    return True


def _client_tls(folder: Path, certificate_pem: bytes, key_pem: bytes) -> Tls:
    """The files that fetch workers read our certificate from."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    certificate, key = folder / "lane.pem", folder / "lane-key.pem"
    for path, data in ((certificate, certificate_pem), (key, key_pem)):
        path.unlink(missing_ok=True)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(data)
    return Tls(client_cert=str(certificate), client_key=str(key))


class NetworkSlot:
    """The agent's network, if there is one now. `run` keeps it."""

    def __init__(
        self,
        home: Path,
        settings: NetworkSettings,
        store: Store,
        now: Callable[[], float],
    ) -> None:
        self.files = Files(home)
        self.current: AgentNetwork | None = None
        self.trouble: str | None = None  # why there is none although there should be
        self.settings = settings
        self._store = store
        self._now = now
        self._changed = trio.Event()
        self._again = trio.Event()

    @property
    def wanted(self) -> bool:
        """Whether there should be one."""
        return self.settings.enabled and self.files.network.exists()

    async def run(self) -> None:
        """Open the network whenever there is a key for one; until cancelled."""
        token = trio.lowlevel.current_trio_token()

        def removed(sha256s: list[bytes]) -> None:
            token.run_sync_soon(self._removed, sha256s)

        self._store.watch_removed(removed)
        while True:
            self._again = trio.Event()
            if self.wanted:
                await self._one(self._again)
            self._set(None)
            await self._again.wait()

    async def _one(self, again: trio.Event) -> None:
        try:
            async with open_agent_network(
                self.files.home, self.settings, self._store, self._now, self.files.home / "run"
            ) as opened:
                self.trouble = None
                self._set(opened)
                await again.wait()
        except P2PCacheError as exc:
            self.trouble = exc.message
            _log.error("the network is off: %s", exc.message)
        except Exception as exc:  # noqa: BLE001 - the border: the agent serves this machine on
            self.trouble = bug(exc, _log).message

    def _set(self, opened: AgentNetwork | None) -> None:
        self.current = opened
        self._changed.set()
        self._changed = trio.Event()

    def _removed(self, sha256s: list[bytes]) -> None:
        if self.current is None:
            return
        complete = self._store.complete_manifests()
        gone = [cid for cid in self.current.network.possessed() if cid not in complete]
        self.current.removed(sha256s, gone)

    async def restart(self) -> AgentNetwork:
        """Open the network anew after a key came. Raises LocalFault when it does not open."""
        old, self.trouble = self.current, None
        self._again.set()
        with trio.move_on_after(READY_S):
            while self.current in (None, old) and self.trouble is None:
                await self._changed.wait()
        if self.current is None or self.current is old:
            raise LocalFault(f"the network does not open: {self.trouble or 'it takes too long'}")
        return self.current

    async def wait_open(self, timeout_s: float) -> AgentNetwork | None:
        """The network, once it is open; None when there is none or it takes longer."""
        if not self.wanted:
            return None
        with trio.move_on_after(timeout_s):
            while self.current is None and self.trouble is None:
                await self._changed.wait()
        return self.current
