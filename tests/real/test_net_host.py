"""Hosts over real sockets: who gets in, what a remote can break (nothing), their ports."""

from __future__ import annotations

import json
import os
import socket
import struct
import sys
from contextlib import AsyncExitStack, suppress

import pytest
import trio

from p2pcache.content.peerid import parse_peer_id, peer_id_of
from p2pcache.errors import Denied, LocalFault, Unavailable, Untrusted
from p2pcache.net.address import parse_address
from p2pcache.net.dialer import DialOptions
from p2pcache.net.host import HostOptions, open_host
from p2pcache.net.identity import Identity
from p2pcache.net.listener import MAX_HANDSHAKES_PER_IP
from p2pcache.net.network_key import NetworkKey
from p2pcache.net.port import Down, Up
from tests.support.host_pairs import KEY, failed_connect, meet, talks, two, until
from tests.support.net_node import ECHO, LOOPBACK, echo, node_process

NOBODY = peer_id_of(bytes(32))
CLOSED = "/ip4/127.0.0.1/tcp/1"  # a port on which nothing listens


@pytest.fixture(autouse=True)
async def _bounded():
    with trio.fail_after(45):
        yield


async def test_both_ends_see_a_link_and_talk_both_ways():
    async with two() as (a, b):
        events_a, events_b = a.watch(), b.watch()
        await a.connect(b.peer_id, b.addresses(), timeout_s=5)
        assert a.connected() == {b.peer_id}
        assert a.address_of(b.peer_id) == b.addresses()[0]
        assert await talks(a, b.peer_id)
        assert await talks(b, a.peer_id)
        assert await events_a.receive() == Up(b.peer_id, b.addresses()[0], inbound=False)
        up = await events_b.receive()
        assert (up.peer, up.inbound) == (a.peer_id, True)


async def test_large_messages_arrive_whole():
    async with two() as (a, b):
        got = trio.Event()
        data = os.urandom(5_000_000)

        async def take(stream):
            assert await stream.receive_exactly(len(data)) == data
            got.set()

        b.set_handler("/test/take/1", take)
        await a.connect(b.peer_id, b.addresses(), timeout_s=5)
        stream = await a.open_stream(b.peer_id, "/test/take/1", timeout_s=5)
        await stream.send_all(data)
        await got.wait()


async def test_a_connect_to_a_connected_peer_returns_at_once_also_with_useless_addresses():
    async with two() as (a, b):
        await a.connect(b.peer_id, b.addresses(), timeout_s=5)
        with trio.fail_after(0.1):
            await a.connect(b.peer_id, [CLOSED], timeout_s=5)


@pytest.mark.parametrize("dialer_key", [NetworkKey(bytes(32)), None], ids=["wrong", "missing"])
@pytest.mark.parametrize("away", [False, True], ids=["dialed", "dialing"])
async def test_a_wrong_or_missing_key_fails_in_seconds_on_both_sides(dialer_key, away):
    async with node_process(KEY) as node, open_host(Identity.generate(), KEY, LOOPBACK) as ours:
        async with open_host(Identity.generate(), dialer_key, LOOPBACK) as stranger:
            if away:
                error = await failed_connect(stranger, node.peer, node.addresses, within_s=5)
                if dialer_key is not None:
                    assert isinstance(error, Denied)
            else:
                error = await failed_connect(
                    ours, stranger.peer_id, stranger.addresses(), within_s=5
                )
                assert isinstance(error, Denied)
                assert "network" in error.message
            assert stranger.connected() == frozenset()
        await ours.connect(node.peer, node.addresses, timeout_s=5)  # nobody was harmed
        assert await talks(ours, node.peer)


async def test_somebody_else_at_an_address_is_untrusted():
    async with two() as (a, b):
        error = await failed_connect(a, NOBODY, b.addresses(), within_s=5)
        assert isinstance(error, Untrusted)


async def test_nobody_there_is_unavailable_and_names_every_address():
    async with two() as (a, _):
        error = await failed_connect(a, NOBODY, [CLOSED, "/ip4/127.0.0.1/tcp/2"], within_s=5)
        assert isinstance(error, Unavailable)
        assert "127.0.0.1" in error.message
        assert isinstance(await failed_connect(a, NOBODY, [], within_s=1), Unavailable)


async def test_a_server_that_says_nothing_costs_the_handshake_limit():
    options = HostOptions(dial=DialOptions(handshake_s=0.5))
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"/ip4/127.0.0.1/tcp/{server.getsockname()[1]}"
        async with open_host(Identity.generate(), KEY, LOOPBACK, options) as host:
            error = await failed_connect(host, NOBODY, [address], within_s=2)
            assert isinstance(error, Unavailable)


async def test_bad_addresses_before_a_good_one_do_not_matter():
    with socket.create_server(("127.0.0.1", 0)) as server:
        silent_one = f"/ip4/127.0.0.1/tcp/{server.getsockname()[1]}"
        async with two() as (a, b):
            bad = [CLOSED, "/ip4/127.0.0.1/udp/1/quic-v1", "nonsense", silent_one]
            started = trio.current_time()
            await a.connect(b.peer_id, [*bad, *b.addresses()], timeout_s=5)
            assert trio.current_time() - started < 2
            assert await talks(a, b.peer_id)


async def test_a_name_is_resolved():
    async with two() as (a, b):
        port = parse_address(b.addresses()[0]).port
        await a.connect(b.peer_id, [f"/dns4/localhost/tcp/{port}"], timeout_s=5)
        assert await talks(a, b.peer_id)


async def test_a_connect_keeps_its_deadline():
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"/ip4/127.0.0.1/tcp/{server.getsockname()[1]}"
        async with two() as (a, _):
            started = trio.current_time()
            with pytest.raises(Unavailable):
                await a.connect(NOBODY, [address], timeout_s=0.3)
            assert trio.current_time() - started < 1


async def test_dialing_each_other_at_once_leaves_working_links():
    options = HostOptions(spare_link_s=0.5, shutdown_s=0.3)
    for _ in range(5):
        async with two(options=options) as (a, b):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(meet, a, b)
                nursery.start_soon(meet, b, a)
            assert await talks(a, b.peer_id)
            events = a.watch()
            await trio.sleep(1.5)  # by now a spare link is closed
            assert len(a._links[b.peer_id]) == len(b._links[a.peer_id]) == 1
            assert await talks(a, b.peer_id)
            assert await talks(b, a.peer_id)
            with pytest.raises(trio.WouldBlock):
                events.receive_nowait()  # nobody was told of an end


async def test_many_hosts_dial_each_other_at_once():
    count = 6
    async with trio.open_nursery() as nursery:
        hosts: list = []
        done = trio.Event()

        async def run():
            async with open_host(Identity.generate(), KEY, LOOPBACK) as host:
                host.set_handler(ECHO, echo)
                hosts.append(host)
                await done.wait()

        for _ in range(count):
            nursery.start_soon(run)
        await until(lambda: len(hosts) == count, within_s=10)
        async with trio.open_nursery() as dialing:
            for a in hosts:
                for b in hosts:
                    if a is not b:
                        dialing.start_soon(meet, a, b)
        for a in hosts:
            assert len(a.connected()) == count - 1
            assert await talks(a, next(iter(a.connected())))
        done.set()


async def test_what_a_handler_raises_ends_its_stream_alone(caplog):
    async with two() as (a, b):

        async def broken(stream):
            await stream.receive_exactly(1)
            raise RuntimeError("a bug in a handler")

        async def group(stream):
            await stream.receive_exactly(1)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(broken, stream)
                await trio.sleep_forever()

        b.set_handler("/test/broken/1", broken)
        b.set_handler("/test/group/1", group)
        b.libp2p.set_stream_handler("/test/raw/1", lambda stream: 1 / 0)
        await a.connect(b.peer_id, b.addresses(), timeout_s=5)
        for protocol in ("/test/broken/1", "/test/group/1"):
            stream = await a.open_stream(b.peer_id, protocol, timeout_s=5)
            await stream.send_all(b"xy")
            with pytest.raises(Unavailable):
                await stream.receive_exactly(1)
        with suppress(Unavailable):
            stream = await a.open_stream(b.peer_id, "/test/raw/1", timeout_s=5)
            await stream.receive_exactly(1)
        with pytest.raises(Unavailable):
            await a.open_stream(b.peer_id, "/test/unknown/1", timeout_s=5)
        assert await talks(a, b.peer_id)
        assert a.connected() == {b.peer_id}
    assert "a bug in a handler" in caplog.text


PROTOCOLS = ["/ipfs/id/1.0.0", "/ipfs/id/push/1.0.0", "/ipfs/ping/1.0.0", ECHO]


async def test_junk_on_every_protocol_and_in_the_muxer_does_not_end_a_host():
    junk = [b"", b"\0", b"\xff" * 40, os.urandom(3000), b"\x85\x01" + os.urandom(133)]
    async with two() as (a, b):
        await a.connect(b.peer_id, b.addresses(), timeout_s=5)
        for protocol in PROTOCOLS:
            for data in junk:
                stream = await a.open_stream(b.peer_id, protocol, timeout_s=5)
                await stream.send_all(data)
                await stream.aclose()
        conn = a._links[b.peer_id][0].conn
        raw = await conn.new_stream()  # no protocol negotiated
        await raw.write(os.urandom(500))
        await trio.sleep(0.3)
        assert await talks(a, b.peer_id)
        frames = [
            struct.pack("!BBHII", 0, 1, 1, 2, 0),  # a stream id of the wrong parity
            struct.pack("!BBHII", 0, 0, 1, 1, 0),  # one that is in use
            struct.pack("!BBHII", 9, 9, 0xFFFF, 77, 5),
            struct.pack("!BBHII", 0, 0, 0, 999, 0xFFFFFFFF),  # 4 GiB to come
        ]
        for frame in frames:
            if not a.connected():
                await a.connect(b.peer_id, b.addresses(), timeout_s=5)
            await a._links[b.peer_id][0].muxed._write_frame(frame + os.urandom(300))
            await trio.sleep(0.3)
        await until(lambda: not b.connected(), within_s=5)  # the last one cost the link
        await until(lambda: not a.connected(), within_s=5)
        await a.connect(b.peer_id, b.addresses(), timeout_s=5)
        assert await talks(a, b.peer_id)


async def test_junk_on_a_socket_and_idle_strangers_do_not_end_a_host_or_keep_others_out():
    options = HostOptions(dial=DialOptions(handshake_s=1))
    async with two(options=options) as (a, b):
        address = parse_address(b.addresses()[0])
        strangers = []
        for number in range(200):
            stream = await trio.open_tcp_stream(address.host, address.port)
            strangers.append(stream)
            if number % 2:
                with suppress(trio.BrokenResourceError):  # over the limit
                    await stream.send_all(os.urandom(200))
        await a.connect(b.peer_id, b.addresses(), timeout_s=5)
        assert await talks(a, b.peer_id)
        await until(lambda: not b._listener._running, within_s=4)
        for stream in strangers:
            await stream.aclose()


async def test_one_address_that_takes_all_it_gets_leaves_room_for_others():
    options = HostOptions(dial=DialOptions(handshake_s=2))
    async with open_host(Identity.generate(), KEY, LOOPBACK, options) as host:
        address = parse_address(host.addresses()[0])
        async with AsyncExitStack() as strangers:
            for _ in range(MAX_HANDSHAKES_PER_IP + 20):
                with suppress(OSError):  # refused so soon that connecting fails
                    stream = await trio.open_tcp_stream(address.host, address.port)
                    await strangers.enter_async_context(stream)
            await until(lambda: host._listener.refused_count > 0, within_s=1)
            assert sum(host._listener._running.values()) <= MAX_HANDSHAKES_PER_IP
            other = await strangers.enter_async_context(
                await trio.open_tcp_stream(address.host, address.port, local_address="127.0.0.2")
            )
            heard = b""
            with trio.move_on_after(0.3) as waited:
                while True:  # our greeting is no end
                    heard += await other.receive_some() or pytest.fail("it was refused")
            assert waited.cancelled_caught


async def test_a_taken_port_is_a_fault_that_says_so():
    async with open_host(Identity.generate(), KEY, LOOPBACK) as host:
        with pytest.raises(LocalFault, match="in use") as caught:
            async with open_host(Identity.generate(), KEY, host.addresses()):
                pass
        assert "another program" in (caught.value.hint or "")
        with pytest.raises(LocalFault):
            async with open_host(Identity.generate(), KEY, ("/ip4/192.0.2.1/tcp/0",)):
                pass


async def test_a_restarted_host_has_its_port_back_at_once():
    async with open_host(Identity.generate(), KEY, LOOPBACK) as host:
        async with open_host(Identity.generate(), KEY, LOOPBACK) as other:
            await other.connect(host.peer_id, host.addresses(), timeout_s=5)
            listen = other.addresses()
        async with open_host(Identity.generate(), KEY, listen) as again:
            assert again.addresses() == listen


async def test_a_wildcard_is_advertised_as_the_addresses_behind_it():
    async with open_host(Identity.generate(), KEY) as host:
        assert host.addresses()
        for address in host.addresses():
            assert parse_address(address).host not in ("0.0.0.0", "::")
            assert parse_address(address).port != 0
        told = [str(address) for address in host.libp2p.get_addrs()]
        assert all(a.startswith(b) for a, b in zip(told, host.addresses(), strict=True))


async def test_peers_that_are_not_admitted_do_not_get_in():
    b_id = Identity.generate()
    async with (
        open_host(Identity.generate(), KEY, LOOPBACK, admit=lambda peer: peer != b_id.peer_id) as a,
        open_host(b_id, KEY, LOOPBACK) as b,
    ):
        error = await failed_connect(a, b.peer_id, b.addresses(), within_s=5)
        assert isinstance(error, Denied)
        with suppress(Unavailable):
            await b.connect(a.peer_id, a.addresses(), timeout_s=5)
        await until(lambda: not b.connected(), within_s=2)
        assert a.connected() == frozenset()


async def test_a_reader_that_lags_behind_loses_the_oldest_events():
    async with two(options=HostOptions(watch_events=2)) as (a, b):
        events = a.watch()
        left = a.watch()
        left.close()
        for _ in range(3):
            await a.connect(b.peer_id, b.addresses(), timeout_s=5)
            a.cut(b.peer_id)
        assert isinstance(events.receive_nowait(), Up)
        assert events.receive_nowait() == Down(b.peer_id)
        with pytest.raises(trio.WouldBlock):
            events.receive_nowait()


async def test_what_strangers_do_is_not_printed_and_a_host_ends_cleanly():
    command = [sys.executable, "-m", "tests.support.net_node", KEY.secret.hex()]
    process = await trio.lowlevel.open_process(command, stdin=-1, stdout=-1, stderr=-1)
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    said = json.loads(await process.stdout.receive_some(4096))
    address = parse_address(said["addresses"][0])
    for junk in (b"", b"GET / HTTP/1.0\r\n\r\n", os.urandom(500)):
        stream = await trio.open_tcp_stream(address.host, address.port)
        await stream.send_all(junk)
        await stream.aclose()
    peer = parse_peer_id(said["peer"])
    for key in (None, NetworkKey(bytes(32))):
        async with open_host(Identity.generate(), key, LOOPBACK) as stranger:
            await failed_connect(stranger, peer, said["addresses"], within_s=5)
    async with open_host(Identity.generate(), KEY, LOOPBACK) as friend:
        await friend.connect(peer, said["addresses"], timeout_s=5)
        assert await talks(friend, peer)
        with pytest.raises(Unavailable):
            await friend.open_stream(peer, "/test/unknown/1", timeout_s=5)
        events = friend.watch()
        started = trio.current_time()
        await process.stdin.aclose()
        assert await events.receive() == Down(peer)
        assert await process.wait() == 0
        assert trio.current_time() - started < 3
    assert await process.stderr.receive_some(10_000) == b""
    await process.stdout.aclose()
    await process.stderr.aclose()


async def test_more_connections_than_places_over_time_are_no_trouble():
    """libp2p's own listener keeps one of its places for every connection that ever was."""
    options = HostOptions(max_connections=4)
    async with open_host(Identity.generate(), KEY, LOOPBACK, options) as host:
        for _ in range(8):
            async with open_host(Identity.generate(), KEY, LOOPBACK) as guest:
                await guest.connect(host.peer_id, host.addresses(), timeout_s=5)
            await until(lambda: not host.connected(), within_s=2)
