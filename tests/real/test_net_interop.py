"""Other implementations of libp2p with the same `swarm.key` are in, without it they are not."""

from __future__ import annotations

import pytest
import trio

from p2pcache.content.peerid import format_peer_id, parse_peer_id
from p2pcache.errors import Denied, Unavailable
from p2pcache.net.host import open_host
from p2pcache.net.identity import Identity
from p2pcache.net.network_key import NetworkKey, format_network_key
from tests.support.js_peer import js_peer
from tests.support.kubo_daemon import KuboError, kubo_daemon
from tests.support.net_node import ECHO, LOOPBACK, echo

KEY = NetworkKey(bytes(range(32)))
IDENTIFIED_S = 5.0


@pytest.fixture(autouse=True)
async def _bounded():
    with trio.fail_after(300):  # Kubo may have to be built
        yield


@pytest.fixture
async def host():
    async with open_host(Identity.generate(), KEY, LOOPBACK) as host:
        host.set_handler(ECHO, echo)
        yield host


def full_address(host) -> str:
    return f"{host.addresses()[0]}/p2p/{format_peer_id(host.peer_id)}"


async def protocols_known_here(host, peer) -> list[str]:
    """What the peer's identify told us, once it has."""
    peerstore = host.libp2p.get_peerstore()
    with trio.fail_after(IDENTIFIED_S):
        while True:
            known = [str(p) for p in _protocols(peerstore, peer)]
            if known:
                return known
            await trio.sleep(0.05)


def _protocols(peerstore, peer):
    from libp2p.peer.id import ID
    from libp2p.peer.peerstore import PeerStoreError

    try:
        return peerstore.get_protocols(ID(peer))
    except PeerStoreError:
        return []


@pytest.fixture(scope="module")
def kubo(tmp_path_factory):
    repo = tmp_path_factory.mktemp("kubo-in")
    with kubo_daemon(repo, format_network_key(KEY)) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    """A Kubo without the key."""
    with kubo_daemon(tmp_path_factory.mktemp("kubo-out"), None) as daemon:
        yield daemon


async def call(daemon, *args):
    return await trio.to_thread.run_sync(lambda: daemon.rpc(*args))


async def kubo_knows(daemon, host) -> dict:
    with trio.fail_after(IDENTIFIED_S):
        while True:
            said = await call(daemon, "id", format_peer_id(host.peer_id))
            if said["Protocols"]:
                return said
            await trio.sleep(0.05)


async def test_we_dial_a_kubo_with_our_key_and_both_see_each_others_identify(kubo, host):
    peer = parse_peer_id(kubo.peer)
    with trio.fail_after(5):
        await host.connect(peer, kubo.addresses, timeout_s=5)
    assert "/ipfs/bitswap/1.2.0" in await protocols_known_here(host, peer)
    said = await kubo_knows(kubo, host)
    assert ECHO in said["Protocols"]
    assert full_address(host) in said["Addresses"]
    host.cut(peer)


async def test_a_kubo_with_our_key_dials_us_and_both_see_each_others_identify(kubo, host):
    await call(kubo, "swarm/connect", full_address(host))
    peer = parse_peer_id(kubo.peer)
    assert peer in host.connected()
    assert "/ipfs/id/1.0.0" in await protocols_known_here(host, peer)
    assert ECHO in (await kubo_knows(kubo, host))["Protocols"]
    answer = await host.open_stream(peer, "/ipfs/ping/1.0.0", timeout_s=5)
    await answer.send_all(bytes(range(32)))
    assert await answer.receive_exactly(32) == bytes(range(32))
    await answer.aclose()


async def test_a_kubo_that_stops_is_noticed(host, tmp_path):
    with kubo_daemon(tmp_path, format_network_key(KEY)) as daemon:
        await host.connect(parse_peer_id(daemon.peer), daemon.addresses, timeout_s=5)
        assert host.connected()
    with trio.fail_after(1):
        while host.connected():  # noqa: ASYNC110 - the host is what is being watched
            await trio.sleep(0.01)


async def test_a_kubo_without_the_key_is_denied_in_both_directions(stranger, host):
    started = trio.current_time()
    with pytest.raises(Denied, match="network"):
        await host.connect(parse_peer_id(stranger.peer), stranger.addresses, timeout_s=10)
    assert trio.current_time() - started < 5
    with pytest.raises(KuboError):
        await call(stranger, "swarm/connect", full_address(host))
    assert trio.current_time() - started < 10
    assert host.connected() == frozenset()


async def test_a_kubo_with_another_key_is_denied_in_both_directions(host, tmp_path):
    with kubo_daemon(tmp_path, format_network_key(NetworkKey(bytes(32)))) as daemon:
        started = trio.current_time()
        with pytest.raises(Denied, match="network"):
            await host.connect(parse_peer_id(daemon.peer), daemon.addresses, timeout_s=10)
        with pytest.raises(KuboError):
            await call(daemon, "swarm/connect", full_address(host))
        assert trio.current_time() - started < 10
        assert host.connected() == frozenset()


async def js_knows(js, host) -> dict:
    with trio.fail_after(IDENTIFIED_S):
        while True:
            known = await js.ask(do="known", peer=format_peer_id(host.peer_id))
            if known and known["protocols"]:
                return known
            await trio.sleep(0.05)


async def test_a_js_libp2p_with_our_key_is_in_whoever_dials(host):
    with js_peer(format_network_key(KEY)) as js:
        peer = parse_peer_id(js.peer)
        await host.connect(peer, js.addresses, timeout_s=5)
        assert "/ipfs/ping/1.0.0" in await protocols_known_here(host, peer)
        known = await js_knows(js, host)
        assert ECHO in known["protocols"]
        assert host.addresses()[0] in known["addresses"]
        host.cut(peer)
        with trio.fail_after(2):
            while await js.ask(do="connected"):  # noqa: ASYNC110 - it has no event for us
                await trio.sleep(0.05)
        await js.ask(do="dial", address=full_address(host))
        with trio.fail_after(2):  # it knows a moment before us
            while peer not in host.connected():  # noqa: ASYNC110
                await trio.sleep(0.05)
        assert await js.ask(do="ping", address=full_address(host)) < 1000


@pytest.mark.parametrize("key", [NetworkKey(bytes(32)), None], ids=["wrong", "missing"])
async def test_a_js_libp2p_without_our_key_is_out_whoever_dials(host, key):
    with js_peer(None if key is None else format_network_key(key)) as js:
        started = trio.current_time()
        with pytest.raises((Denied, Unavailable)):  # without a key it stays silent
            await host.connect(parse_peer_id(js.peer), js.addresses, timeout_s=10)
        assert trio.current_time() - started < 5
        with pytest.raises(RuntimeError, match="EncryptionFailed"):
            await js.ask(do="dial", address=full_address(host))
        assert host.connected() == frozenset()
        assert await js.ask(do="connected") == []
