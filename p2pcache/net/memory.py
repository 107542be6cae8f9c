"""A network in memory: hosts for simulations with trio's MockClock.

It behaves like `net.host` where that matters: writes take latency and a window, a write to a
frozen peer hangs and *no cancel reaches it* (only `Host.cut` does), a killed peer's streams end, a
handler's exception ends its stream. What a simulation can do to it: `freeze`, `thaw`, `kill` and
`unplug`, and look at `streams_open` for what was left over.
"""

from __future__ import annotations

from collections import deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from p2pcache.errors import Denied, P2PCacheError, Unavailable, Untrusted
from p2pcache.net.port import Down, Handler, Up

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from p2pcache.content.peerid import PeerId

WINDOW_BYTES = 1 << 18  # yamux's
_WATCH_EVENTS = 256


class MemoryNet:
    """The wires. `latency_s` is one way; never zero, so that no loop takes no time."""

    def __init__(self, nursery: trio.Nursery, latency_s: float) -> None:
        self.latency_s = latency_s
        self.handler_errors: list[Exception] = []
        self._nursery = nursery
        self._at: dict[str, MemoryHost] = {}
        self._count = 0
        self._unplugged: set[frozenset[PeerId]] = set()

    def host(self, peer: PeerId, *, key: str = "key", address: str | None = None) -> MemoryHost:
        """A host of its own address; a new one at an old address replaces it (a restart)."""
        self._count += 1
        made = MemoryHost(self, peer, address or f"/memory/{self._count}", key)
        self._at[made.address] = made
        return made

    def unplug(self, one: PeerId, other: PeerId) -> None:
        """Nothing passes between two hosts, and neither is told."""
        self._unplugged.add(frozenset((one, other)))

    def plug(self, one: PeerId, other: PeerId) -> None:
        """What waited passes."""
        self._unplugged.discard(frozenset((one, other)))
        for host in self._at.values():
            host.wake()

    def passes(self, one: MemoryHost, other: MemoryHost) -> bool:
        """Whether bytes go from one to the other now."""
        if one.frozen or other.frozen:
            return False
        return frozenset((one.peer_id, other.peer_id)) not in self._unplugged

    def find(self, address: str) -> MemoryHost | None:
        """Who lives there."""
        found = self._at.get(address)
        return None if found is None or found.dead else found

    def streams_open(self) -> int:
        """How many ends of streams are not closed."""
        return sum(len(streams) for host in self._at.values() for streams in host.wires.values())

    def start_handler(self, handler: Handler, stream: MemoryStream) -> None:
        """Run it; its errors are kept and end the stream."""
        self._nursery.start_soon(self._handle, handler, stream)

    async def _handle(self, handler: Handler, stream: MemoryStream) -> None:
        try:
            await handler(stream)
        except Exception as exc:  # noqa: BLE001  # what a handler raises ends its stream alone
            self.handler_errors.append(exc)
        finally:
            with trio.CancelScope(shield=True):
                await stream.aclose()


@asynccontextmanager
async def open_memory_net(latency_s: float = 0.001) -> AsyncIterator[MemoryNet]:
    """Wires that last as long as the block. Handlers that still run at its end are cancelled."""
    async with trio.open_nursery() as nursery:
        yield MemoryNet(nursery, latency_s)
        nursery.cancel_scope.cancel()


class MemoryHost:
    """A `net.port.Host`."""

    def __init__(self, net: MemoryNet, peer: PeerId, address: str, key: str) -> None:
        self.address = address
        self.key = key
        self.frozen = False
        self.dead = False
        self.wires: dict[MemoryHost, list[MemoryStream]] = {}
        self.dials: list[PeerId] = []
        self._net = net
        self._peer = peer
        self._handlers: dict[str, Handler] = {}
        self._watchers: list[trio.MemorySendChannel[Up | Down]] = []
        self._late_cuts: list[MemoryHost] = []

    @property
    def peer_id(self) -> PeerId:
        """See Host."""
        return self._peer

    def addresses(self) -> tuple[str, ...]:
        """See Host."""
        return (self.address,)

    def set_handler(self, protocol: str, handler: Handler) -> None:
        """See Host."""
        self._handlers[protocol] = handler

    async def connect(self, peer: PeerId, addresses: Sequence[str], *, timeout_s: float) -> None:
        """See Host."""
        if self._wired(peer) is not None:
            await trio.lowlevel.checkpoint()
            return
        self.dials.append(peer)
        with trio.move_on_after(timeout_s):
            error: P2PCacheError = Unavailable("no address")
            for address in addresses:
                await trio.sleep(2 * self._net.latency_s)
                other = self._net.find(address)
                if other is None:
                    error = Unavailable(f"{address}: connection refused")
                    continue
                await self._wait_passes(other)
                if other.key != self.key:
                    error = Denied("another network key")
                elif other.peer_id != peer:
                    error = Untrusted(f"somebody else answers at {address}")
                else:
                    self._wire(other)
                    return
            raise error
        raise Unavailable(f"nobody answered within {timeout_s} s")

    async def open_stream(self, peer: PeerId, protocol: str, *, timeout_s: float) -> MemoryStream:
        """See Host."""
        with trio.move_on_after(timeout_s):
            await trio.sleep(self._net.latency_s)
            while True:
                other = self._wired(peer)
                if other is None:
                    raise Unavailable("no connection")
                if self._net.passes(self, other):
                    break
                await self._wait_passes(other)
            handler = other._handlers.get(protocol)
            if handler is None:
                raise Unavailable(f"the peer does not speak {protocol}")
            ours, theirs = (
                MemoryStream(self._net, self, other),
                MemoryStream(self._net, other, self),
            )
            ours.far, theirs.far = theirs, ours
            self.wires[other].append(ours)
            other.wires[self].append(theirs)
            self._net.start_handler(handler, theirs)
            return ours
        raise Unavailable(f"no stream within {timeout_s} s")

    def cut(self, peer: PeerId) -> None:
        """See Host. What a frozen host cuts, it cuts when it thaws."""
        for other in [other for other in self.wires if other.peer_id == peer]:
            if self.frozen:
                self._late_cuts.append(other)
                for stream in list(self.wires[other]):
                    stream.end()
            else:
                self._unwire(other)

    def connected(self) -> frozenset[PeerId]:
        """See Host."""
        return frozenset(other.peer_id for other in self.wires)

    def address_of(self, peer: PeerId) -> str | None:
        """See Host."""
        other = self._wired(peer)
        return None if other is None else other.address

    def watch(self) -> trio.MemoryReceiveChannel[Up | Down]:
        """See Host."""
        send, receive = trio.open_memory_channel[Up | Down](_WATCH_EVENTS)
        self._watchers.append(send)
        return receive

    def freeze(self) -> None:
        """Nothing comes out of this host, and nothing goes in (SIGSTOP)."""
        self.frozen = True

    def thaw(self) -> None:
        """It goes on (SIGCONT)."""
        self.frozen = False
        for other in self._late_cuts:
            self._unwire(other)
        self._late_cuts.clear()
        self.wake()
        for other in list(self.wires):
            other.wake()

    def kill(self) -> None:
        """The process dies: the kernel closes its sockets."""
        self.dead = True
        self.frozen = False
        for other in list(self.wires):
            self._unwire(other)

    def wake(self) -> None:
        """Let whoever waits look again."""
        for streams in self.wires.values():
            for stream in streams:
                stream.changed.unpark_all()

    async def _wait_passes(self, other: MemoryHost) -> None:
        while not self._net.passes(self, other):  # noqa: ASYNC110  # its clock jumps
            await trio.sleep(0.1)

    def _wired(self, peer: PeerId) -> MemoryHost | None:
        return next((other for other in self.wires if other.peer_id == peer), None)

    def _wire(self, other: MemoryHost) -> None:
        if other not in self.wires:
            self.wires[other], other.wires[self] = [], []
            self._say(Up(other.peer_id, other.address, inbound=False))
            other._say(Up(self.peer_id, self.address, inbound=True))

    def _unwire(self, other: MemoryHost) -> None:
        for one, far in ((self, other), (other, self)):
            for stream in list(one.wires.get(far, ())):
                stream.end()
            if one.wires.pop(far, None) is not None and one._wired(far.peer_id) is None:
                one._say(Down(far.peer_id))

    def _say(self, change: Up | Down) -> None:
        for watcher in self._watchers:
            try:
                watcher.send_nowait(change)
            except (trio.WouldBlock, trio.BrokenResourceError):
                continue


class MemoryStream:
    """A `net.port.Stream`: one end."""

    far: MemoryStream

    def __init__(self, net: MemoryNet, host: MemoryHost, other: MemoryHost) -> None:
        self.changed = trio.lowlevel.ParkingLot()
        self.closed = False
        self._net = net
        self._host = host
        self._other = other
        self._arrived: deque[tuple[float, bytes]] = deque()  # when it is here, what
        self._buffer = bytearray()
        self._waiting_bytes = 0
        self._eof_at: float | None = None

    @property
    def peer(self) -> PeerId:
        """See Stream."""
        return self._other.peer_id

    async def receive_exactly(self, count: int) -> bytes:
        """See Stream."""
        while True:
            await trio.lowlevel.checkpoint()
            now = trio.current_time()
            passes = self._net.passes(self._other, self._host)
            while passes and self._arrived and self._arrived[0][0] <= now:
                self._buffer += self._arrived.popleft()[1]
            if len(self._buffer) >= count and not self._host.frozen:
                data = bytes(self._buffer[:count])
                del self._buffer[:count]
                self._waiting_bytes -= count
                self.far.changed.unpark_all()
                return data
            if self.closed:
                raise Unavailable("the stream was closed")
            if passes and not self._arrived and self._eof_at is not None and self._eof_at <= now:
                raise Unavailable("the stream ended")
            at = self._arrived[0][0] if self._arrived else self._eof_at
            with trio.move_on_at(at if passes and at is not None else float("inf")):
                await self.changed.park()

    async def send_all(self, data: bytes) -> None:
        """See Stream. No cancel reaches a write that waits; cutting does."""
        await trio.lowlevel.checkpoint()
        with trio.CancelScope(shield=True):
            while not self.closed and self._eof_at is None:
                full = self.far._waiting_bytes > WINDOW_BYTES
                if not full and not self._host.frozen:
                    self.far._waiting_bytes += len(data)
                    self.far._arrived.append((trio.current_time() + self._net.latency_s, data))
                    self.far.changed.unpark_all()
                    return
                await self.changed.park()
        raise Unavailable("the stream ended")

    async def aclose(self) -> None:
        """See Stream."""
        if not self.closed and not self._host.frozen:
            self.far._eof_at = trio.current_time() + self._net.latency_s
            self.far.changed.unpark_all()
        self._forget()
        await trio.lowlevel.checkpoint()

    def end(self) -> None:
        """The connection is gone: both directions fail at once."""
        self._forget()

    def _forget(self) -> None:
        self.closed = True
        streams = self._host.wires.get(self._other, [])
        if self in streams:
            streams.remove(self)
        self.changed.unpark_all()
