"""A client of a table among real servers: it serves nothing, and finds and tells all the same."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio

from p2pcache.errors import Unavailable
from p2pcache.net.dht import DhtOptions
from p2pcache.net.dht.client import NEAR, DhtClient, open_dht_client
from p2pcache.net.host import open_host
from p2pcache.net.identity import Identity
from tests.support.dht_hosts import KEY, Node, network, running_node, until
from tests.support.net_node import LOOPBACK

TABLE = DhtOptions(protocol="/test/kad/1.0.0", of_agents=False)
CLIENT = replace(NEAR, protocol=TABLE.protocol)


@pytest.fixture(autouse=True)
async def _bounded():
    with trio.fail_after(120):
        yield


@asynccontextmanager
async def client_of(*servers: Node, options: DhtOptions = CLIENT, listen=LOOPBACK):
    async with (
        open_host(Identity.generate(), KEY, listen) as host,
        open_dht_client(host, options) as client,
    ):
        for server in servers:
            await host.connect(server.peer, server.addresses(), timeout_s=5)
        await until(lambda: client.statistics()["servers"] >= len(servers))
        yield host, client


async def found(client: DhtClient, name: bytes) -> dict:
    return {peer: addresses async for peer, addresses in client.find(name)}


def a_name() -> bytes:
    return b"\x12\x20" + os.urandom(32)


async def test_what_a_client_provides_is_found_through_the_servers_and_it_serves_nothing():
    async with (
        network(4, TABLE) as servers,
        client_of(servers[0]) as (giver_host, giver),
        client_of(servers[1]) as (_, seeker),
    ):
        name = a_name()
        giver.provide([name])
        await until(lambda: giver.statistics()["told"] == 1)
        assert await found(seeker, name) == {giver_host.peer_id: giver_host.addresses()}
        assert sum(s.dht.statistics()["records"] for s in servers) == 4, "with all that are near"
        with pytest.raises(Unavailable):
            await servers[0].host.open_stream(giver_host.peer_id, TABLE.protocol, timeout_s=5)


async def test_a_server_that_comes_later_is_told_too_and_nothing_after_the_end():
    async with client_of() as (host, giver), running_node(TABLE) as late:
        gone, name = a_name(), a_name()
        giver.provide([gone, name])
        giver.withdraw([gone])
        await host.connect(late.peer, late.addresses(), timeout_s=5)
        await until(lambda: late.dht.statistics()["records"] == 1)
        async with running_node(TABLE) as later:
            await host.connect(later.peer, later.addresses(), timeout_s=5)
            await until(lambda: later.dht.statistics()["records"] == 1)
        assert giver.statistics()["provided"] == giver.statistics()["told"] == 1


async def test_a_record_is_renewed_before_it_is_old():
    async with (
        running_node(TABLE) as server,
        client_of(server, options=replace(CLIENT, refresh_s=0.2)) as (_, giver),
    ):
        name = a_name()
        giver.provide([name])
        await until(lambda: server.dht.statistics()["records"] == 1)
        (record,) = server.dht._records._providers.values()
        heard_at = record.heard_at
        await trio.sleep(0.3)
        giver.provide([name])  # it looks at once, not in some seconds
        await until(lambda: record.heard_at > heard_at)


async def test_who_cannot_be_dialled_tells_nobody():
    async with running_node(TABLE) as server, client_of(server, listen=()) as (_, silent):
        silent.provide([a_name()])
        await trio.sleep(1)
        assert silent.statistics()["told"] == server.dht.statistics()["records"] == 0


async def test_the_addresses_of_a_peer_are_found_by_who_knows_it():
    async with network(3, TABLE) as servers, client_of(servers[0]) as (_, seeker):
        assert await seeker.where(servers[2].peer) == servers[2].addresses()
        assert await seeker.where(Identity.generate().peer_id) == ()


async def test_servers_that_leave_are_forgotten():
    async with client_of() as (host, seeker):
        async with running_node(TABLE) as server:
            await host.connect(server.peer, server.addresses(), timeout_s=5)
            await until(lambda: seeker.statistics()["servers"] == 1)
        assert await found(seeker, a_name()) == {}
        assert seeker.statistics()["servers"] == 0
