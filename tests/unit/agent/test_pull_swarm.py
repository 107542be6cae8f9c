"""The lanes that a pull is told of: which of them it may use."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from p2pcache.agent.pull_swarm import PullSwarm
from p2pcache.errors import Denied, Unavailable
from p2pcache.net.holders import Lane
from tests.support.swarms import Key

PEER = Key(1).peer_id
PINNED = bytes(32)


async def lane(hosts: tuple[str, ...], seen: str, *, fingerprint: bytes | None, tls: bool):
    async def told(peer, *, name, timeout_s):
        return Lane(hosts, 8080, fingerprint, b"ticket", 9.0)

    mine = SimpleNamespace(client_cert="cert", client_key="key") if tls else None
    host = SimpleNamespace(address_of=lambda _: f"/ip4/{seen}/tcp/4001")
    opened = SimpleNamespace(client_tls=mine, host=host)
    return await PullSwarm(opened, SimpleNamespace(lane=told)).lane(PEER, timeout_s=1)


async def test_a_plain_lane_is_refused_while_ours_are_tls():
    with pytest.raises(Denied, match="without TLS"):
        await lane(("10.0.0.1",), "10.0.0.1", fingerprint=None, tls=True)
    assert (await lane(("10.0.0.1",), "10.0.0.1", fingerprint=None, tls=False)).client_cert is None
    assert (await lane(("10.0.0.1",), "10.0.0.1", fingerprint=PINNED, tls=True)).client_cert


async def test_a_lane_leads_to_no_service_of_our_own():
    hosts = ("127.0.0.1", "localhost", "169.254.169.254", "10.0.0.1")
    assert (await lane(hosts, "10.0.0.1", fingerprint=PINNED, tls=True)).hosts == ("10.0.0.1",)
    assert "127.0.0.1" in (await lane(hosts, "127.0.0.1", fingerprint=PINNED, tls=True)).hosts
    with pytest.raises(Unavailable, match="no address"):
        await lane(hosts[:3], "10.0.0.1", fingerprint=PINNED, tls=True)
