"""How links between hosts over real sockets end: streams, killed and frozen peers, shutdown."""

from __future__ import annotations

import gc
import signal
import struct
from contextlib import suppress
from pathlib import Path

import pytest
import trio
from libp2p.io.exceptions import ConnectionClosedError

from p2pcache.errors import Unavailable
from p2pcache.net.host import HostOptions, open_host
from p2pcache.net.identity import Identity
from p2pcache.net.port import Down
from tests.support.host_pairs import KEY, talks, two, until
from tests.support.net_node import ECHO, LOOPBACK, SILENT, node_process


@pytest.fixture(autouse=True)
async def _bounded():
    with trio.fail_after(45):
        yield


async def _reads_to_the_end(stream):
    with trio.fail_after(2), pytest.raises(Unavailable):
        await stream.receive_exactly(5)


async def test_a_reader_is_woken_when_another_task_ends_the_stream():
    async with two() as (a, b):
        await a.connect(b.peer_id, b.addresses(), timeout_s=5)
        for end in ("abort", "aclose"):
            stream = await a.open_stream(b.peer_id, ECHO, timeout_s=5)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_reads_to_the_end, stream)
                await trio.sleep(0.1)
                with trio.fail_after(1):
                    if end == "abort":
                        stream.abort()
                    else:
                        await stream.aclose()
        assert await talks(a, b.peer_id)


async def test_too_many_streams_are_refused_and_the_link_stays():
    options = HostOptions(max_streams_per_link=10)
    async with two(options=options) as (a, b):
        b.set_handler(SILENT, lambda stream: stream.receive_exactly(1))
        await a.connect(b.peer_id, b.addresses(), timeout_s=5)
        opened = []
        with suppress(Unavailable):
            while len(opened) < 20:
                opened.append(await a.open_stream(b.peer_id, SILENT, timeout_s=5))
        assert 5 < len(opened) <= 10
        for stream in opened:
            stream.abort()
        await trio.sleep(0.5)
        assert await talks(a, b.peer_id)


async def test_a_handler_that_waits_for_something_else_ends_with_its_link():
    async with two() as (a, b):
        ended = trio.Event()

        async def handler(stream):
            try:
                await trio.sleep_forever()
            finally:
                ended.set()

        b.set_handler(SILENT, handler)
        await a.connect(b.peer_id, b.addresses(), timeout_s=5)
        await a.open_stream(b.peer_id, SILENT, timeout_s=5)
        await trio.sleep(0.1)
        a.cut(b.peer_id)
        with trio.fail_after(1):
            await ended.wait()


async def test_cancelled_streams_do_not_hurt_the_others_on_their_link():
    async with two() as (a, b):
        await a.connect(b.peer_id, b.addresses(), timeout_s=5)
        events = a.watch()

        async def impatient(delay_s):
            with trio.move_on_after(delay_s):
                stream = await a.open_stream(b.peer_id, ECHO, timeout_s=5)
                while True:
                    await stream.send_all(bytes(100_000))
                    await stream.receive_exactly(100_000)

        async with trio.open_nursery() as nursery:
            for number in range(60):
                nursery.start_soon(impatient, 0.002 * number)
        assert await talks(a, b.peer_id)
        with pytest.raises(trio.WouldBlock):
            events.receive_nowait()


async def test_a_killed_peer_is_noticed_at_once():
    async with node_process(KEY) as node, open_host(Identity.generate(), KEY, LOOPBACK) as host:
        await host.connect(node.peer, node.addresses, timeout_s=5)
        events = host.watch()
        stream = await host.open_stream(node.peer, ECHO, timeout_s=5)
        node.process.kill()
        with trio.fail_after(1):
            assert await events.receive() == Down(node.peer)
            with pytest.raises(Unavailable):
                await stream.receive_exactly(5)
        assert host.connected() == frozenset()
        with pytest.raises(Unavailable):
            await host.open_stream(node.peer, ECHO, timeout_s=5)


async def test_a_frozen_peer_with_a_write_pending_is_cut_at_once():
    async with node_process(KEY) as node, open_host(Identity.generate(), KEY, LOOPBACK) as host:
        await host.connect(node.peer, node.addresses, timeout_s=5)
        stream = await host.open_stream(node.peer, SILENT, timeout_s=5)
        node.process.send_signal(signal.SIGSTOP)
        ended = trio.Event()

        async def flood():
            with suppress(Unavailable):
                while True:
                    await stream.send_all(bytes(1 << 20))
            ended.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(flood)
            for _ in range(40):  # more of them, until the socket is full and the link is stuck
                other = trio.CancelScope(deadline=trio.current_time() + 0.05)
                nursery.start_soon(_push, host, node.peer, other)
            await trio.sleep(1)
            started = trio.current_time()
            host.cut(node.peer)
            await ended.wait()
            assert host.connected() == frozenset()
            assert trio.current_time() - started < 0.5


async def _push(host, peer, scope):
    with scope, suppress(ConnectionClosedError):
        await host._links[peer][0].muxed._write_frame(
            struct.pack("!BBHII", 0, 0, 0, 1, 65000) + bytes(65000)
        )


async def test_a_deadline_around_a_write_to_a_frozen_peer_holds_and_cuts_it():
    async with node_process(KEY) as node, open_host(Identity.generate(), KEY, LOOPBACK) as host:
        await host.connect(node.peer, node.addresses, timeout_s=5)
        streams = [await host.open_stream(node.peer, SILENT, timeout_s=5) for _ in range(40)]
        node.process.send_signal(signal.SIGSTOP)
        started = trio.current_time()
        async with trio.open_nursery() as nursery:

            async def push(stream):
                with trio.move_on_after(1):
                    await stream.send_all(bytes(1 << 20))

            for stream in streams:
                nursery.start_soon(push, stream)
        assert trio.current_time() - started < 2
        await until(lambda: not host.connected(), within_s=4)


def sockets() -> set[str]:
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            target = str(entry.readlink())
        except OSError:
            continue
        if target.startswith("socket:"):
            found.add(target)
    return found


@pytest.mark.parametrize("frozen", [False, True])
async def test_a_shutdown_is_quick_and_leaves_no_socket(frozen):
    gc.collect()
    before = sockets()
    async with node_process(KEY) as node:
        events = None
        async with two() as (a, b):
            await a.connect(b.peer_id, b.addresses(), timeout_s=5)
            await a.connect(node.peer, node.addresses, timeout_s=5)
            stream = await a.open_stream(node.peer, SILENT, timeout_s=5)
            await a.open_stream(b.peer_id, ECHO, timeout_s=5)
            events = b.watch()
            if frozen:
                node.process.send_signal(signal.SIGSTOP)
                with trio.move_on_after(0.3):
                    await stream.send_all(bytes(30_000_000))
            started = trio.current_time()
        assert trio.current_time() - started < 5
        assert [type(event) async for event in events] == [Down]
    await trio.sleep(0.1)
    assert sockets() - before == set()


async def test_a_host_that_fails_inside_says_what_and_leaves_no_socket():
    before = sockets()
    with pytest.raises(ZeroDivisionError):
        async with open_host(Identity.generate(), KEY, LOOPBACK):
            raise ZeroDivisionError
    assert sockets() - before == set()
