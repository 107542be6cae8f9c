"""From a TCP connection to a proven peer with a muxer: pnet, noise, yamux, and what went wrong.

Both ends are bounded by one deadline. Everything a remote can send ends in one of three errors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import trio
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_new_x25519_key_pair
from libp2p.custom_types import TProtocol
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.peer.id import ID
from libp2p.security.noise.exceptions import InvalidSignature, PeerIDMismatchesPubkey
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX
from libp2p.stream_muxer.yamux.yamux import Yamux
from libp2p.transport.upgrader import TransportUpgrader

from p2pcache.content.peerid import PeerId, check_peer_id
from p2pcache.errors import Denied, P2PCacheError, Unavailable, Untrusted
from p2pcache.net.private_connection import OtherNetwork, PrivateConnection

if TYPE_CHECKING:
    from collections.abc import Iterator

    from libp2p.abc import IMuxedConn, IRawConnection
    from libp2p.crypto.keys import KeyPair

    from p2pcache.net.identity import Identity
    from p2pcache.net.network_key import NetworkKey
    from p2pcache.net.tcp import TcpConnection

_JOIN = "agents meet when they have the same network key: `p2pcache invite` there, `join` here"


@dataclass(frozen=True, slots=True)
class Proven:
    """A muxed connection, not yet started, and who is at its other end."""

    peer: PeerId
    muxed: IMuxedConn


class Handshake:
    """What both ends do first. Noise and yamux alone: libp2p's others are slow or unsafe."""

    def __init__(self, identity: Identity, key: NetworkKey | None, *, timeout_s: float) -> None:
        self.key_pair: KeyPair = create_new_key_pair(identity.seed())
        self._secret = None if key is None else key.secret
        self._timeout_s = timeout_s
        noise = NoiseTransport(self.key_pair, create_new_x25519_key_pair().private_key)
        self.upgrader = TransportUpgrader({NOISE: noise}, {TProtocol(YAMUX): Yamux})

    async def outbound(self, tcp: TcpConnection, peer: PeerId | None) -> Proven:
        """Prove that `peer` is there; None: find out who is. Cuts the connection when it fails.

        Raises Denied (another network key or none), Untrusted (somebody else, or a bad proof),
        Unavailable (gone, silent, or no libp2p).
        """
        return await self._run(tcp, peer, ours=True)

    async def inbound(self, tcp: TcpConnection) -> Proven:
        """Find out who dialled. Raises and cuts as `outbound`."""
        return await self._run(tcp, None, ours=False)

    async def _run(self, tcp: TcpConnection, peer: PeerId | None, *, ours: bool) -> Proven:
        raw: IRawConnection = RawConnection(tcp, ours)
        if self._secret is not None:
            raw = PrivateConnection(raw, self._secret)
        proven = None
        try:
            with trio.move_on_after(self._timeout_s):
                proven = await self._upgrade(raw, peer, ours)
        except P2PCacheError:
            raise
        except Exception as exc:  # a remote chooses what goes wrong in there
            raise _as_ours(exc, raw, tcp) from exc
        finally:
            if proven is None:
                tcp.cut(reset=False)  # so that the other end still reads what we said
        if proven is None:
            raise Unavailable(
                f"{tcp.remote} did not finish the handshake in {self._timeout_s:.0f} s",
                hint="is that a p2pcache agent, is it alive, and has it the same network key?",
            )
        return proven

    async def _upgrade(self, raw: IRawConnection, peer: PeerId | None, ours: bool) -> Proven:
        if ours and peer is None:  # the upgrader wants a name; the layer below takes any
            secured = await self.upgrader.security_multistream.secure_outbound(raw, cast(ID, None))
        else:
            expected = None if peer is None else ID(peer)
            secured = await self.upgrader.upgrade_security(raw, ours, expected)
        found = check_peer_id(secured.get_remote_peer().to_bytes())
        return Proven(found, await self.upgrader.upgrade_connection(secured, ID(found)))


def _as_ours(exc: Exception, raw: IRawConnection, tcp: TcpConnection) -> P2PCacheError:
    """The table: our error for what libp2p raised during a handshake."""
    causes = list(_causes(exc))
    for cause in causes:
        if isinstance(cause, OtherNetwork):
            return Denied(f"{tcp.remote} is in another network: {cause}", hint=_JOIN)
    for cause in causes:
        if isinstance(cause, PeerIDMismatchesPubkey):
            return Untrusted(f"somebody else answers at {tcp.remote}")
        if isinstance(cause, InvalidSignature):
            return Untrusted(f"{tcp.remote} cannot prove its identity")
    return Unavailable(f"{tcp.remote} broke off the handshake: {type(exc).__name__}: {exc}")


def _causes(exc: BaseException) -> Iterator[BaseException]:
    """An exception, what it came from, and the members of groups on the way."""
    found: BaseException | None = exc
    while found is not None:
        yield found
        if isinstance(found, BaseExceptionGroup):
            for member in found.exceptions:
                yield from _causes(member)
        found = found.__cause__ or found.__context__
