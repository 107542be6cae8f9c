"""What the rest of `net` needs of a host: `net.host` has it from libp2p, `net.memory` for tests."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from p2pcache.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Sequence

    import trio

    from p2pcache.content.peerid import PeerId


class Stream(Protocol):
    """One protocol conversation with one peer. Reading and writing may go on in two tasks.

    Ends raise Unavailable. I/O is never cancelled in the middle: a deadline around a call cuts the
    stream (and with a frozen peer the connection), it does not leave half a frame.
    """

    @property
    def peer(self) -> PeerId:
        """Who is at the other end (proven by the handshake)."""
        ...

    async def receive_exactly(self, count: int) -> bytes:
        """`count` bytes. Raises Unavailable at the end of the stream."""
        ...

    async def send_all(self, data: bytes) -> None:
        """Send; waits while the peer is slow. Raises Unavailable."""
        ...

    async def aclose(self) -> None:
        """Close both ways; bounded, never raises."""
        ...


class Unspoken(Unavailable):
    """The peer is connected, and does not speak the protocol: a Kubo where an agent was thought."""


@dataclass(frozen=True, slots=True)
class Up:
    """A connection to a peer stands. `address`: its remote end, `/ip4/../tcp/..`."""

    peer: PeerId
    address: str
    inbound: bool


@dataclass(frozen=True, slots=True)
class Down:
    """No connection to that peer is left."""

    peer: PeerId


Handler = Callable[[Stream], Awaitable[None]]


class Host(Protocol):
    """Our end of the network: connections to peers that hold the network key."""

    @property
    def peer_id(self) -> PeerId:
        """Who we are."""
        ...

    def addresses(self) -> tuple[str, ...]:
        """Concrete multiaddrs that others can dial, without `/p2p/...`."""
        ...

    def set_handler(self, protocol: str, handler: Handler) -> None:
        """Answer streams of a protocol. What the handler raises ends its stream, nothing else."""
        ...

    async def connect(self, peer: PeerId, addresses: Sequence[str], *, timeout_s: float) -> None:
        """Dial the addresses until one stands; returns at once when connected.

        Raises Unavailable (nobody answers), Denied (another network key or none), Untrusted
        (somebody else answers). Never longer than `timeout_s`.
        """
        ...

    async def open_stream(self, peer: PeerId, protocol: str, *, timeout_s: float) -> Stream:
        """A new stream over the standing connection. Raises Unavailable."""
        ...

    def cut(self, peer: PeerId) -> None:
        """Close every connection to a peer now, at the socket; also of a frozen one."""
        ...

    def connected(self) -> frozenset[PeerId]:
        """Who is connected now."""
        ...

    def address_of(self, peer: PeerId) -> str | None:
        """The remote end of the connection to a peer."""
        ...

    def watch(self) -> trio.MemoryReceiveChannel[Up | Down]:
        """Changes from now on, in order; a reader that lags behind loses the oldest."""
        ...
