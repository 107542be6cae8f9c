"""Bitswap with Helia in a private network."""

from __future__ import annotations

import base64
import hashlib
from random import Random

import pytest
import trio

from p2pcache.content import cid as cids
from p2pcache.content.peerid import parse_peer_id
from p2pcache.net.bitswap.driver import open_bitswap
from p2pcache.net.host import open_host
from p2pcache.net.identity import Identity
from p2pcache.net.network_key import NetworkKey, format_network_key
from tests.support.bitswap_store import MemoryBlocks
from tests.support.helia_peer import helia_peer
from tests.support.net_node import LOOPBACK

pytestmark = pytest.mark.slow  # its packages are 350 MB

KEY = NetworkKey(b"helia".ljust(32, b"."))
SIZES = [1, 3000, 1 << 20]


@pytest.fixture(scope="module")
def helia():
    with helia_peer(format_network_key(KEY)) as helia:
        yield helia


@pytest.fixture
async def node(helia):
    """Blocks and bitswap of ours, connected with it."""
    blocks = MemoryBlocks()
    with trio.fail_after(300):
        async with (
            open_host(Identity.generate(), KEY, LOOPBACK) as host,
            open_bitswap(host, blocks) as bitswap,
        ):
            blocks.tell = bitswap.arrived
            await host.connect(parse_peer_id(helia.peer), helia.addresses, timeout_s=10)
            yield blocks, bitswap


async def wanted(helia, cid: bytes) -> bytes:
    return base64.b64decode(await helia.ask(do="want", cid=cids.format_cid(cid)))


@pytest.mark.parametrize("size", SIZES)
async def test_helia_gets_a_block_from_us(helia, node, size):
    blocks, bitswap = node
    data = Random(size).randbytes(size)
    assert await wanted(helia, blocks.put(data)) == data
    assert bitswap.statistics()["blocks_sent_total"] == 1


@pytest.mark.parametrize("size", SIZES)
async def test_we_get_a_block_from_helia(helia, node, size):
    _, bitswap = node
    data = Random(-size).randbytes(size)
    text = await helia.ask(do="put", data=base64.b64encode(data).decode(), codec=cids.RAW)
    async with bitswap.session() as session:
        assert await session.get(cids.parse_cid(text), timeout_s=30) == data


async def test_a_block_that_helia_waits_for_is_served_when_it_arrives(helia, node):
    blocks, _ = node
    data = Random(7).randbytes(3000)
    cid = cids.raw_cid(hashlib.sha256(data).digest())
    took: list[float] = []

    async def wait() -> None:
        assert await wanted(helia, cid) == data
        took.append(trio.current_time())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.sleep(11)  # longer than it keeps a stream that says nothing
        put_at = trio.current_time()
        blocks.put(data)
    assert took[0] - put_at < 3
