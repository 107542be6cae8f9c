"""The limits of a host that strangers can dial: idle ones make room, who talks is left alone."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import trio

from p2pcache.errors import LocalFault, Unavailable
from p2pcache.net.host import HostOptions, Libp2pHost, open_host
from p2pcache.net.identity import Identity
from p2pcache.net.public import PublicOptions, open_public
from tests.support.bitswap_store import MemoryBlocks
from tests.support.host_pairs import until
from tests.support.net_node import LOOPBACK, SILENT, silent


@pytest.fixture(autouse=True)
async def _bounded():
    with trio.fail_after(60):
        yield


@asynccontextmanager
async def limited(**limits: int):
    options = HostOptions(**limits)
    async with AsyncExitStack() as stack:
        host = await stack.enter_async_context(
            open_host(Identity.generate(), None, LOOPBACK, options)
        )
        host.set_handler(SILENT, silent)

        async def guest() -> Libp2pHost:
            return await stack.enter_async_context(open_host(Identity.generate(), None, LOOPBACK))

        yield host, guest


async def came(host: Libp2pHost, guest: Libp2pHost) -> bool:
    """Whether its connection lasts."""
    try:
        await guest.connect(host.peer_id, host.addresses(), timeout_s=5)
        await guest.open_stream(host.peer_id, SILENT, timeout_s=5)
    except Unavailable:
        return False
    return host.peer_id in guest.connected() and guest.peer_id in host.connected()


@pytest.mark.parametrize("limit", ["max_connections", "max_inbound", "max_inbound_per_ip"])
async def test_who_is_idle_makes_room_and_who_talks_does_not(limit):
    async with limited(**{limit: 3}) as (host, guest):
        idle = await guest()
        await idle.connect(host.peer_id, host.addresses(), timeout_s=5)
        await until(lambda: idle.peer_id in host.connected(), within_s=5)
        await trio.sleep(0.5)  # identify is over
        for _ in range(3):
            assert await came(host, await guest())
        assert idle.peer_id not in host.connected()
        assert not await came(host, await guest()), "all of them talk"
        assert len(host.connected()) == 3


async def test_what_others_may_dial_leaves_room_for_whom_we_dial():
    async with limited(max_connections=4, max_inbound=2) as (host, guest):
        for _ in range(2):
            assert await came(host, await guest())
        assert not await came(host, await guest())
        ours = await guest()
        await host.connect(ours.peer_id, ours.addresses(), timeout_s=5)
        assert len(host.connected()) == 3


async def test_an_address_that_is_not_reached_is_neither_dialled_nor_told():
    async with limited() as (_, guest):
        other = await guest()
        options = HostOptions(reaches=lambda address: "/ip4/127." not in address)
        async with open_host(Identity.generate(), None, LOOPBACK, options) as closed:
            assert closed.addresses() == ()
            with pytest.raises(Unavailable):
                await closed.connect(other.peer_id, other.addresses(), timeout_s=5)
            assert not other.connected()


async def test_the_public_host_says_that_its_port_is_taken():
    async with limited() as (host, _):
        options = PublicOptions(listen=host.addresses())
        with pytest.raises(LocalFault, match="cannot listen"):
            async with open_public(Identity.generate(), MemoryBlocks(), options):
                pass
