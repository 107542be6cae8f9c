"""The connection below libp2p: every wait ends, and its end is told once."""

from __future__ import annotations

from contextlib import suppress

import pytest
import trio
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.peer.id import ID
from libp2p.stream_muxer.yamux.yamux import Yamux, YamuxStream

from p2pcache.net import py_libp2p_fixes
from p2pcache.net.free_lock import GIVES_WAY, FreeLock
from p2pcache.net.stream import HostStream
from p2pcache.net.tcp import TcpConnection


@pytest.fixture
async def pair():
    """A tcp and the plain stream at its other end."""
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    port = listener.socket.getsockname()[1]
    far = await trio.open_tcp_stream("127.0.0.1", port)
    tcp = TcpConnection(await listener.accept(), stall_s=0.3)
    await listener.aclose()
    yield tcp, far
    tcp.cut()
    await far.aclose()


async def test_a_peer_that_takes_no_bytes_is_cut_after_the_limit_even_behind_a_shield(pair):
    tcp, far = pair
    ends = []
    tcp.when_closed(lambda: ends.append(trio.current_time()))
    refused = pytest.raises(ConnectionClosedError, match="takes no bytes")
    with trio.fail_after(5), refused, trio.CancelScope(shield=True):
        await tcp.write(bytes(50_000_000))
    assert tcp.closed
    assert len(ends) == 1
    with trio.fail_after(5), suppress(trio.BrokenResourceError):
        while True:
            await far.receive_some()


async def test_a_slow_but_living_peer_is_waited_for(pair):
    tcp, far = pair

    async def drip():
        while not tcp.closed:
            await far.receive_some(300_000)
            await trio.sleep(0.005)

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(drip)
            started = trio.current_time()
            await tcp.write(bytes(40_000_000))
            assert trio.current_time() - started > 0.35  # longer than the limit, with progress
            nursery.cancel_scope.cancel()


async def test_a_cut_wakes_the_reader_and_the_writer_at_once(pair):
    tcp, _ = pair
    woken = []

    async def read():
        with pytest.raises(ConnectionClosedError):
            await tcp.read(10)
        woken.append("reader")

    async def write():
        with pytest.raises(ConnectionClosedError):
            await tcp.write(bytes(50_000_000))
        woken.append("writer")

    with trio.fail_after(0.25):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            nursery.start_soon(write)
            await trio.sleep(0.1)
            tcp.cut()
    assert sorted(woken) == ["reader", "writer"]
    late = []
    tcp.when_closed(lambda: late.append(1))
    assert late == [1]


async def test_the_end_of_the_other_side_closes_both_ways(pair):
    tcp, far = pair
    await far.send_all(b"last words")
    await far.send_eof()
    assert await tcp.read(4) == b"last"
    assert await tcp.read(100) == b" words"
    assert not tcp.closed
    assert await tcp.read(1) == b""
    assert tcp.closed
    with pytest.raises(ConnectionClosedError):
        await tcp.write(b"x")


async def test_close_still_sends_what_was_written(pair):
    tcp, far = pair
    await tcp.write(b"goodbye")
    await tcp.close()
    assert await far.receive_some() == b"goodbye"
    assert await far.receive_some() == b""


class Sent:
    """What noise and the private network are above a connection: here, nothing."""

    is_initiator = True

    def __init__(self, tcp: TcpConnection) -> None:
        self._tcp = tcp

    async def write(self, data: bytes) -> None:
        await self._tcp.write(data)


class Plain:
    """A libp2p stream that is open."""

    def __init__(self, muxed: YamuxStream) -> None:
        self.muxed_stream = muxed
        self._state_lock = FreeLock()

    async def write(self, data: bytes) -> None:
        async with self._state_lock:
            pass
        await self.muxed_stream.write(data)

    async def reset(self) -> None:
        await trio.lowlevel.checkpoint()


@pytest.fixture
def plain(pair) -> Plain:
    py_libp2p_fixes.apply()
    muxer = Yamux(Sent(pair[0]), ID(b"\x12\x20" + bytes(32)), is_initiator=True)
    return Plain(YamuxStream(1, muxer, True))


async def test_a_small_write_behind_another_writer_ends_when_its_caller_leaves(pair, plain):
    """The other may be one whose turn has come and who has not begun: the socket looks free."""
    tcp, _ = pair
    async with trio.open_nursery() as nursery:
        stream = HostStream(plain, b"peer", tcp, nursery)
        async with plain.muxed_stream.conn._write_lock:
            assert tcp.takes_some()
            with trio.fail_after(5), trio.move_on_after(0.1) as patience:
                await stream.send_all(b"hello")
            assert patience.cancelled_caught
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("which", ["state", "write"])
async def test_a_small_write_that_gives_way_to_a_large_one_ends_when_its_caller_leaves(
    pair, plain, which: str
):
    tcp, _ = pair
    lock = plain._state_lock if which == "state" else plain.muxed_stream.conn._write_lock
    async with trio.open_nursery() as nursery:
        stream = HostStream(plain, b"peer", tcp, nursery)
        for _ in range(GIVES_WAY - 1):
            async with lock:
                pass

        async def fill() -> None:
            with suppress(BlockingIOError):
                while True:
                    tcp._socket._sock.send(bytes(1 << 20))

        nursery.start_soon(fill)
        assert tcp.takes_some()
        with trio.fail_after(5), trio.move_on_after(0.1) as patience:
            await stream.send_all(b"hello")
        assert patience.cancelled_caught
        nursery.cancel_scope.cancel()
