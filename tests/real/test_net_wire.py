"""The connection below libp2p: every wait ends, and its end is told once."""

from __future__ import annotations

from contextlib import suppress

import pytest
import trio
from libp2p.io.exceptions import ConnectionClosedError

from p2pcache.net.wire import Wire


@pytest.fixture
async def pair():
    """A wire and the plain stream at its other end."""
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    port = listener.socket.getsockname()[1]
    far = await trio.open_tcp_stream("127.0.0.1", port)
    wire = Wire(await listener.accept(), stall_s=0.3)
    await listener.aclose()
    yield wire, far
    wire.cut()
    await far.aclose()


async def test_a_peer_that_takes_no_bytes_is_cut_after_the_limit_even_behind_a_shield(pair):
    wire, far = pair
    ends = []
    wire.when_closed(lambda: ends.append(trio.current_time()))
    refused = pytest.raises(ConnectionClosedError, match="takes no bytes")
    with trio.fail_after(5), refused, trio.CancelScope(shield=True):
        await wire.write(bytes(50_000_000))
    assert wire.closed
    assert len(ends) == 1
    with trio.fail_after(5), suppress(trio.BrokenResourceError):
        while True:
            await far.receive_some()


async def test_a_slow_but_living_peer_is_waited_for(pair):
    wire, far = pair

    async def drip():
        while not wire.closed:
            await far.receive_some(300_000)
            await trio.sleep(0.005)

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(drip)
            started = trio.current_time()
            await wire.write(bytes(40_000_000))
            assert trio.current_time() - started > 0.35  # longer than the limit, with progress
            nursery.cancel_scope.cancel()


async def test_a_cut_wakes_the_reader_and_the_writer_at_once(pair):
    wire, _ = pair
    woken = []

    async def read():
        with pytest.raises(ConnectionClosedError):
            await wire.read(10)
        woken.append("reader")

    async def write():
        with pytest.raises(ConnectionClosedError):
            await wire.write(bytes(50_000_000))
        woken.append("writer")

    with trio.fail_after(0.25):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            nursery.start_soon(write)
            await trio.sleep(0.1)
            wire.cut()
    assert sorted(woken) == ["reader", "writer"]
    late = []
    wire.when_closed(lambda: late.append(1))
    assert late == [1]


async def test_the_end_of_the_other_side_closes_both_ways(pair):
    wire, far = pair
    await far.send_all(b"last words")
    await far.send_eof()
    assert await wire.read(4) == b"last"
    assert await wire.read(100) == b" words"
    assert not wire.closed
    assert await wire.read(1) == b""
    assert wire.closed
    with pytest.raises(ConnectionClosedError):
        await wire.write(b"x")


async def test_close_still_sends_what_was_written(pair):
    wire, far = pair
    await wire.write(b"goodbye")
    await wire.close()
    assert await far.receive_some() == b"goodbye"
    assert await far.receive_some() == b""
