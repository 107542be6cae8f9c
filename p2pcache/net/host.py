"""Our end of the network over libp2p: `net.port.Host`.

A *link* is one proven connection: a socket, a muxer, a libp2p connection. A peer has one, or for a
while two when both ends dialled at once: both agree on which one carries new streams, and the other
is closed when it is idle. Links end when their socket does, at that moment, whatever libp2p still
does behind it. Everything a remote causes ends in its link or its stream.
"""

from __future__ import annotations

import logging
from collections import deque
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import trio
from libp2p.custom_types import TProtocol
from libp2p.identity.identify_push.identify_push import push_identify_to_peers
from libp2p.network.exceptions import SwarmException
from libp2p.peer.id import ID
from libp2p.peer.peerstore import PeerStoreError
from libp2p.protocol_muxer.multiselect_client import MultiselectClient
from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator
from libp2p.tools.anyio_service import background_trio_service
from multiaddr import Multiaddr

from p2pcache.content.peerid import PeerId, format_peer_id
from p2pcache.errors import Denied, P2PCacheError, Unavailable, bug, leaves, plain_errors
from p2pcache.net import py_libp2p_fixes
from p2pcache.net.dialer import DialOptions, connect_tcp, dialable, race
from p2pcache.net.handshake import Handshake
from p2pcache.net.listener import Listener, concrete, open_listener
from p2pcache.net.port import Down, Handler, Up
from p2pcache.net.stream import HostStream
from p2pcache.net.swarm import NEGOTIATE_S, QuietSwarm, basic_host

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from libp2p.abc import INetConn, INetStream
    from libp2p.host.basic_host import BasicHost
    from libp2p.network.connection.swarm_connection import SwarmConn

    from p2pcache.net.address import Address
    from p2pcache.net.handshake import Proven
    from p2pcache.net.identity import Identity
    from p2pcache.net.network_key import NetworkKey
    from p2pcache.net.tcp import TcpConnection

STRANGERS = 16  # remembered for `doctor`
IDENTIFIED_S = (0.05, 0.2, 1.0, 4.0)  # looks at whether identify has said something
LISTEN = ("/ip4/0.0.0.0/tcp/0", "/ip6/::/tcp/0")
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class HostOptions:
    """Limits of a host."""

    dial: DialOptions = field(default_factory=DialOptions)
    announce: tuple[str, ...] = ()  # addresses told to others instead of our own (behind NAT)
    max_connections: int = 1024  # descriptors; a full mesh ends at about 64
    max_links_per_peer: int = 3  # a peer that comes back before its old link is known to be dead
    max_streams_per_link: int = 256  # inbound, at once; ours uses 1 to 20
    spare_link_s: float = 10.0  # both dialled: the one not chosen is closed when idle so long
    register_s: float = 5.0  # for libp2p to start a proven connection
    shutdown_s: float = 1.0  # for goodbyes; then sockets are cut
    watch_events: int = 1024  # a reader of `watch` that lags behind so many loses the oldest


@dataclass(slots=True, eq=False)
class _Link:
    peer: PeerId
    tcp: TcpConnection
    muxed: object
    inbound: bool
    since: float
    conn: SwarmConn | None = None
    streams: int = 0  # inbound, running
    handlers: set[trio.CancelScope] = field(default_factory=set)  # ours, running
    ready: trio.Event = field(default_factory=trio.Event)  # registered and told, or failed


class Libp2pHost:
    """See `net.port.Host`. Made by `open_host`."""

    def __init__(
        self,
        identity: Identity,
        key: NetworkKey | None,
        listener: Listener,
        options: HostOptions,
        admit: Callable[[PeerId], bool],
        nursery: trio.Nursery,
    ) -> None:
        self._peer_id = identity.peer_id
        self._options = options
        self._listener = listener
        self._admit = admit
        self._nursery = nursery
        self._handshake = Handshake(identity, key, timeout_s=options.dial.handshake_s)
        self._swarm = QuietSwarm(
            self._handshake, max_connections=options.max_connections, redial=self._redial
        )
        self._basic = basic_host(
            self._swarm, lambda _: [Multiaddr(address) for address in self.addresses()]
        )
        self._swarm.set_stream_handler(self._limited)
        self._links: dict[PeerId, list[_Link]] = {}
        self._sparing: set[PeerId] = set()  # whose spare links are being closed
        self._by_muxed: dict[int, _Link] = {}
        self._dialing: dict[PeerId, trio.Lock] = {}
        self._watchers: list[_Watcher] = []
        self._closing = False
        self.strangers: deque[str] = deque(maxlen=STRANGERS)  # IPs that dialled with another key

    @property
    def peer_id(self) -> PeerId:
        """Who we are."""
        return self._peer_id

    @property
    def libp2p(self) -> BasicHost:
        """For what speaks libp2p's own protocols (the DHT); dials through us."""
        return self._basic

    def addresses(self) -> tuple[str, ...]:
        """Concrete multiaddrs that others can dial, as the interfaces are now."""
        if self._options.announce:
            return self._options.announce
        return tuple(str(address) for address in concrete(self._listener.bound))

    def set_handler(self, protocol: str, handler: Handler) -> None:
        """Answer streams of a protocol. What the handler raises ends its stream, nothing else."""

        async def answer(net_stream: INetStream) -> None:
            link = self._by_muxed.get(id(net_stream.muxed_conn))
            if link is None:
                await net_stream.reset()
                return
            await link.ready.wait()  # so that Up comes before the first stream
            stream = HostStream(net_stream, link.peer, link.tcp, self._nursery)
            try:
                with trio.CancelScope() as scope:
                    link.handlers.add(scope)  # one that waits for something else ends here too
                    await handler(stream)
            except Exception as exc:  # noqa: BLE001 - the border: a stream's trouble is its own
                _tell(exc, protocol, link.peer)
                stream.abort()
            finally:
                link.handlers.discard(scope)
                with trio.CancelScope(shield=True):
                    await stream.aclose()

        self._basic.set_stream_handler(TProtocol(protocol), answer)

    async def tell_protocols(self) -> None:
        """Tell everybody who is connected what we speak now: others ask only for what they know
        of. Bounded; never raises.
        """
        with trio.move_on_after(self._options.dial.handshake_s):
            try:
                await push_identify_to_peers(self._basic)
            except Exception as exc:  # noqa: BLE001 - a peer that does not want to know
                _LOG.debug("telling protocols: %r", exc)

    async def connect(self, peer: PeerId, addresses: Sequence[str], *, timeout_s: float) -> None:
        """See the port. Two callers for one peer dial once. Cancel-safe."""
        one_at_a_time = self._dialing.setdefault(peer, trio.Lock())
        try:
            with trio.move_on_after(timeout_s):
                async with one_at_a_time:
                    if not self._links.get(peer):
                        await self._dial(peer, addresses)
        finally:
            use = one_at_a_time.statistics()
            if not use.locked and not use.tasks_waiting:
                self._dialing.pop(peer, None)
        if not self._links.get(peer):
            raise Unavailable(f"{format_peer_id(peer)} was not reached in {timeout_s:.1f} s")

    async def greet(self, addresses: Sequence[str], *, timeout_s: float) -> PeerId:
        """Connect to whoever holds the network key at one of these (DNS names no peers).

        Raises as `connect` does. Cancel-safe.
        """
        options = self._options.dial
        error: P2PCacheError = Unavailable(f"nobody was reached in {timeout_s:.1f} s")
        with trio.move_on_after(timeout_s):
            for address in dialable(addresses, options):
                for links in self._links.values():
                    if any(str(link.tcp.remote) == str(address) for link in links):
                        return links[0].peer
                try:
                    tcp = await connect_tcp(address, options)
                    try:
                        proven = await self._handshake.outbound(tcp, None)
                        if self._links.get(proven.peer):
                            tcp.cut(reset=False)
                        else:
                            await self._adopt(tcp, proven, inbound=False)
                        return proven.peer
                    except BaseException:
                        tcp.cut()
                        raise
                except P2PCacheError as exc:
                    error = exc
        raise error

    async def open_stream(self, peer: PeerId, protocol: str, *, timeout_s: float) -> HostStream:
        """See the port. If cancelled, the stream is reset behind us."""
        link = self._chosen(peer)
        if link is None or link.conn is None:
            raise Unavailable(f"{format_peer_id(peer)} is not connected")
        opening = _Opening()
        self._nursery.start_soon(self._open, link, protocol, opening)
        try:
            with trio.move_on_after(timeout_s):
                await opening.done.wait()
        finally:
            if not opening.done.is_set():
                opening.scope.cancel()
        if opening.stream is None:
            raise Unavailable(
                f"{format_peer_id(peer)} opened no stream {protocol}: "
                f"{opening.error or 'no answer'}"
            ) from opening.error
        return HostStream(opening.stream, peer, link.tcp, self._nursery)

    async def speaks(self, peer: PeerId, protocol: str) -> bool:
        """Whether it said so (libp2p's identify), for which a new connection takes a moment."""
        for pause_s in IDENTIFIED_S:
            try:
                known = self._basic.get_peerstore().get_protocols(ID(peer))
            except PeerStoreError:
                known = []
            if known:
                return protocol in known
            await trio.sleep(pause_s)
        return False

    def cut(self, peer: PeerId) -> None:
        """Close every connection to a peer now, at the socket; also of a frozen one."""
        for link in list(self._links.get(peer, ())):
            link.tcp.cut()

    def connected(self) -> frozenset[PeerId]:
        """Who is connected now."""
        return frozenset(self._links)

    def address_of(self, peer: PeerId) -> str | None:
        """The remote end of the connection to a peer."""
        link = self._chosen(peer)
        return None if link is None else str(link.tcp.remote)

    def watch(self) -> trio.MemoryReceiveChannel[Up | Down]:
        """Changes from now on, in order; a reader that lags behind loses the oldest."""
        watcher = _Watcher(self._options.watch_events)
        self._watchers.append(watcher)
        return watcher.receive.clone()

    # -- links

    async def _dial(self, peer: PeerId, addresses: Sequence[str]) -> None:
        options = self._options.dial
        registering = trio.Lock()

        async def attempt(address: Address) -> None:
            tcp = await connect_tcp(address, options)
            try:
                proven = await self._handshake.outbound(tcp, peer)
                async with registering:
                    if self._links.get(peer):  # another address, or the peer itself, was faster
                        tcp.cut(reset=False)
                    else:
                        await self._adopt(tcp, proven, inbound=False)
            except BaseException:
                tcp.cut()
                raise

        found = dialable(addresses, options)
        await race(found, attempt, stagger_s=options.stagger_s)

    async def _accepted(self, tcp: TcpConnection) -> None:
        try:
            await self._adopt(tcp, await self._prove_inbound(tcp), inbound=True)
        except P2PCacheError as exc:
            tcp.cut(reset=False)
            _LOG.debug("refused %s: %s", tcp.remote, exc.message)
        except Exception as exc:  # noqa: BLE001 - the border: a stranger never ends the host
            tcp.cut()
            bug(exc, _LOG)
        except BaseException:
            tcp.cut()
            raise

    async def _prove_inbound(self, tcp: TcpConnection) -> Proven:
        try:
            return await self._handshake.inbound(tcp)
        except Denied:
            self.strangers.append(tcp.remote.host)
            raise

    async def _adopt(self, tcp: TcpConnection, proven: Proven, *, inbound: bool) -> None:
        """Make a link of a proven connection. Raises Denied (not admitted), Unavailable."""
        peer = proven.peer
        if peer == self._peer_id:
            tcp.cut()
            raise Unavailable(f"{tcp.remote} is this agent itself")
        if self._closing or not self._admit(peer):
            tcp.cut()
            raise Denied(f"{format_peer_id(peer)} is not admitted here")
        link = _Link(peer, tcp, proven.muxed, inbound, trio.current_time())
        self._by_muxed[id(proven.muxed)] = link
        tcp.when_closed(lambda: self._lost(link))
        timer = trio.CancelScope(deadline=trio.current_time() + self._options.register_s)
        try:
            with trio.CancelScope(shield=True), timer:
                conn = await self._swarm.add_conn(
                    proven.muxed, "inbound" if inbound else "outbound"
                )
                link.conn = conn
        except Exception as exc:
            tcp.cut()
            raise Unavailable(f"the connection to {tcp.remote} did not last") from exc
        finally:
            if link.conn is None or tcp.closed:
                tcp.cut()
                link.ready.set()
        if tcp.closed:
            raise Unavailable(f"the connection to {tcp.remote} did not last")
        self._gained(link)

    def _gained(self, link: _Link) -> None:
        links = self._links.setdefault(link.peer, [])
        links.append(link)
        if len(links) == 1:
            self._tell(Up(link.peer, str(link.tcp.remote), link.inbound))
        elif link.peer not in self._sparing:
            self._sparing.add(link.peer)
            self._nursery.start_soon(self._close_spares, link.peer)
        link.ready.set()
        for old in links[: -self._options.max_links_per_peer]:
            old.tcp.cut()

    def _lost(self, link: _Link) -> None:
        self._by_muxed.pop(id(link.muxed), None)
        for scope in link.handlers:
            scope.cancel()
        links = self._links.get(link.peer, [])
        if link in links:
            links.remove(link)
            if not links:
                del self._links[link.peer]
                self._tell(Down(link.peer))

    def _chosen(self, peer: PeerId) -> _Link | None:
        """The link for new streams: of two made at the same time, the one that the smaller id made.

        Both ends see the same, so the other link stays idle. A clearly younger one wins, as the
        older may be dead without anybody having noticed.
        """
        links = self._links.get(peer)
        if not links:
            return None
        newest = max(link.since for link in links)
        fresh = [link for link in links if newest - link.since < self._options.spare_link_s / 2]
        made_by_smaller = self._peer_id > peer  # then it is inbound here
        return max(fresh, key=lambda link: (link.inbound == made_by_smaller, link.since))

    async def _close_spares(self, peer: PeerId) -> None:
        """One task for each peer that has several links, until it has one."""
        try:
            while len(self._links.get(peer, ())) > 1:
                await trio.sleep(self._options.spare_link_s)
                chosen = self._chosen(peer)
                for link in list(self._links.get(peer, ())):
                    if link is not chosen and link.conn is not None and not link.conn.get_streams():
                        self._nursery.start_soon(self._goodbye, link)
                        await trio.sleep(self._options.shutdown_s)
        finally:
            self._sparing.discard(peer)

    async def _goodbye(self, link: _Link) -> None:
        """Close a link so that the other end knows it was meant; bounded."""

        async def cut_later() -> None:
            await trio.sleep(self._options.shutdown_s)
            link.tcp.cut()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(cut_later)
            if link.conn is not None:
                try:
                    await link.conn.close()
                except Exception as exc:  # noqa: BLE001 - it is over in any case
                    _LOG.debug("closing %s: %r", link.tcp.remote, exc)
            link.tcp.cut(reset=False)
            nursery.cancel_scope.cancel()

    async def _redial(self, peer_id: ID, addresses: list[Multiaddr]) -> list[INetConn]:
        """For what is inside libp2p and wants a connection."""
        peer = peer_id.to_bytes()
        dial = self._options.dial
        try:
            await self.connect(
                peer,
                [str(address) for address in addresses],
                timeout_s=dial.connect_s + dial.handshake_s,
            )
        except P2PCacheError as exc:
            raise SwarmException(exc.message) from exc
        return self._swarm.get_connections(peer_id)

    # -- streams

    async def _limited(self, net_stream: INetStream) -> None:
        """Every inbound stream comes through here."""
        link = self._by_muxed.get(id(net_stream.muxed_conn))
        if link is None or link.streams >= self._options.max_streams_per_link:
            await net_stream.reset()
            return
        link.streams += 1
        try:
            await self._basic._swarm_stream_handler(net_stream)
        finally:
            link.streams -= 1

    async def _open(self, link: _Link, protocol: str, opening: _Opening) -> None:
        assert link.conn is not None
        net_stream = None
        try:
            with opening.scope:
                net_stream = await link.conn.new_stream()
                await MultiselectClient().select_one_of(
                    [TProtocol(protocol)], MultiselectCommunicator(net_stream), NEGOTIATE_S
                )
                net_stream.set_protocol(TProtocol(protocol))
                opening.stream = net_stream
        except Exception as exc:  # noqa: BLE001 - refused, broken, gone: the caller hears it
            opening.error = exc
        finally:
            opening.done.set()
        if opening.stream is None and net_stream is not None:
            HostStream(net_stream, link.peer, link.tcp, self._nursery).abort()

    # -- events and the end

    def _tell(self, event: Up | Down) -> None:
        self._watchers = [watcher for watcher in self._watchers if watcher.put(event)]

    async def _shutdown(self) -> None:
        """Stop listening, say goodbye, cut what is left; at most about 2 s."""
        self._closing = True
        self._listener.close()
        async with trio.open_nursery() as nursery:
            for link in list(self._by_muxed.values()):
                nursery.start_soon(self._goodbye, link)
        for link in list(self._by_muxed.values()):
            link.tcp.cut()
        with trio.move_on_after(self._options.shutdown_s):
            await self._basic.close()
        for watcher in self._watchers:
            watcher.close()


class _Opening:
    """A stream being opened."""

    def __init__(self) -> None:
        self.done = trio.Event()
        self.scope = trio.CancelScope()
        self.stream: INetStream | None = None
        self.error: Exception | None = None


class _Watcher:
    """One reader of `watch`."""

    def __init__(self, size: int) -> None:
        self._send, self.receive = trio.open_memory_channel[Up | Down](size)

    def put(self, event: Up | Down) -> bool:
        """Give it the event; False if it has left (our own end of the channel does not count)."""
        if self.receive.statistics().open_receive_channels < 2:
            self.close()
            return False
        try:
            self._send.send_nowait(event)
        except trio.WouldBlock:
            self.receive.receive_nowait()
            self._send.send_nowait(event)
        return True

    def close(self) -> None:
        """No more events."""
        self._send.close()
        self.receive.close()


def _tell(exc: Exception, protocol: str, peer: PeerId) -> None:
    """Log what ended a handler: a bug loudly, a remote's doing quietly."""
    parts = list(leaves(exc)) if isinstance(exc, BaseExceptionGroup) else [exc]
    for part in parts:
        if isinstance(part, P2PCacheError):
            _LOG.debug("%s of %s ended: %s", protocol, format_peer_id(peer), part.message)
        else:
            bug(part, _LOG)


def _everybody(_: PeerId) -> bool:
    return True


def _quiet(logger: logging.Logger) -> None:
    """libp2p's warnings and errors are what strangers do to a listening port; ours say the rest.

    Whoever wants them sets the level of the logger `libp2p` before, or LIBP2P_DEBUG.
    """
    if logger.level in (logging.NOTSET, logging.WARNING):
        logger.setLevel(logging.CRITICAL)


@asynccontextmanager
async def open_host(
    identity: Identity,
    key: NetworkKey | None,
    listen: Sequence[str] = LISTEN,
    options: HostOptions | None = None,
    *,
    admit: Callable[[PeerId], bool] = _everybody,
) -> AsyncIterator[Libp2pHost]:
    """A host that listens, until the block is left (at most about 2 s later no socket is open).

    `key` None is an open network, for tests alone. `admit` is asked after every handshake whether
    that peer may stay. Raises LocalFault when a port is taken.
    """
    py_libp2p_fixes.apply()
    _quiet(logging.getLogger("libp2p"))
    with plain_errors():
        listener = await open_listener(listen)
        try:
            async with trio.open_nursery() as nursery:
                host = Libp2pHost(identity, key, listener, options or HostOptions(), admit, nursery)
                async with background_trio_service(cast(Any, host._swarm)):
                    await host._swarm.event_background_nursery_created.wait()
                    nursery.start_soon(listener.serve, host._accepted, nursery)
                    try:
                        yield host
                    finally:
                        with trio.CancelScope(shield=True):
                            await host._shutdown()
                nursery.cancel_scope.cancel()
        finally:
            listener.close()
