"""Opens an agent's network: host, discovery, DHT, members and byte server, as one.

Nothing of libp2p is imported before.
"""

from __future__ import annotations

import ipaddress
import os
import secrets
import socket
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import trio

from p2pcache.agent.network import AgentNetwork
from p2pcache.agent.network_files import Files
from p2pcache.errors import LocalFault
from p2pcache.lanes.certificate import make_certificate
from p2pcache.lanes.orders import Tls
from p2pcache.lanes.serve.options import ServeOptions
from p2pcache.transfer.byte_server import open_byte_server
from p2pcache.transfer.machine.zones import Place
from p2pcache.version import __version__

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Sequence
    from pathlib import Path

    from p2pcache.config.network import NetworkSettings
    from p2pcache.content.peerid import PeerId
    from p2pcache.net.mesh import MeshOptions
    from p2pcache.store.store import Store

AGENT = f"p2pcache/{__version__}"


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
    from p2pcache.net.conversation import NetworkOptions
    from p2pcache.net.dht.dht import open_dht
    from p2pcache.net.discovery.discovery import DiscoveryOptions, discover
    from p2pcache.net.discovery.peerbook import PeerBook
    from p2pcache.net.host import HostOptions, open_host
    from p2pcache.net.identity import load_or_create_identity
    from p2pcache.net.network import open_network
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
        await opened.tell_bans()
        _keep_port(files, host.addresses())
        lane = LaneInfo(server.port, (), server.fingerprint, certificate.der)
        async with open_network(
            host,
            opened.sharing,
            lane=lane,
            agent=AGENT,
            is_banned=opened.is_banned,
            on_grants=opened.heard_grants,
            options=NetworkOptions(
                mesh=_mesh(settings.full_mesh), zone=settings.zone, rack=settings.rack
            ),
        ) as network:
            opened.network = network
            server.on_load = lambda load: network.busy(load.queue_s, load.bytes_per_s)
            server.on_crowded = opened.crowded
            opened.place = Place(settings.zone, settings.rack)
            async with trio.open_nursery() as nursery:
                await nursery.start(opened.chores.run)
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
                nursery.start_soon(opened.take_back_stale)
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
    """The files that fetch workers read our certificate from. Raises LocalFault."""
    certificate, key = folder / "lane.pem", folder / "lane-key.pem"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path, data in ((certificate, certificate_pem), (key, key_pem)):
            path.unlink(missing_ok=True)
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "wb") as file:
                file.write(data)
    except OSError as exc:
        raise LocalFault(
            f"cannot write into {folder}: {exc.strerror}",
            hint="make it writable for this user, or set P2PCACHE_HOME to one that is",
        ) from exc
    return Tls(client_cert=str(certificate), client_key=str(key))
