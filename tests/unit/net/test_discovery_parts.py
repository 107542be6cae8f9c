"""The gate, the peer book and the DNS names of discovery."""

from __future__ import annotations

import contextlib
import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pcache.content.peerid import peer_id_of
from p2pcache.errors import LocalFault, Untrusted, UsageError
from p2pcache.net.discovery.dns import parse_dns_name
from p2pcache.net.discovery.found import Found, How
from p2pcache.net.discovery.gate import Gate
from p2pcache.net.discovery.peerbook import MAX_PEERS, PeerBook, parse_book


def a_peer(n: int) -> bytes:
    return peer_id_of(n.to_bytes(32, "big"))


def found(n: int, how: How = How.MDNS) -> Found:
    return Found(a_peer(n), ("/ip4/10.0.0.1/tcp/4001",), how)


def test_the_same_finding_passes_once_in_a_while_and_a_moved_one_at_once():
    gate = Gate(again_s=20, per_s=10, burst=10)
    moved = Found(a_peer(1), ("/ip4/10.0.0.2/tcp/4001",), How.MDNS)
    assert gate.admit(found(1), 0)
    assert not gate.admit(found(1), 19)
    assert gate.admit(moved, 19)
    assert gate.admit(found(1), 21)


def test_a_flood_on_one_way_is_cut_and_does_not_starve_another():
    gate = Gate(again_s=20, per_s=2, burst=5)
    passed = sum(gate.admit(found(n), n / 1000) for n in range(1000))
    assert 5 <= passed <= 8
    assert gate.refused_count == 1000 - passed
    assert gate.admit(found(5000, How.DNS), 1)
    assert gate.admit(found(6000), 3)


@given(st.lists(st.tuples(st.integers(0, 30), st.floats(0, 100)), max_size=200))
def test_the_gate_never_lets_the_same_through_too_early(tries):
    gate = Gate(again_s=7, per_s=5, burst=3)
    last: dict[int, float] = {}
    now = 0.0
    for n, step in tries:
        now += step / 10
        if gate.admit(found(n), now):
            assert n not in last or now - last[n] >= 7
            last[n] = now


def test_the_book_is_kept_over_a_restart_and_bounded(tmp_path):
    path = tmp_path / "peers.json"
    clock = iter(range(1_700_000_000, 1_800_000_000)).__next__
    book = PeerBook(path, clock=clock)
    for n in range(MAX_PEERS + 5):
        book.saw(a_peer(n), [f"/ip4/10.0.{n // 250}.{n % 250 + 1}/tcp/4001"])
    book.saw(a_peer(5), ["/ip6/fd00::1/tcp/4001"])
    book.saw(a_peer(9999), [])  # nobody could dial it
    for odd in (
        "/dns4/agents.lan/tcp/4001",
        "/ip4/0.0.0.0/tcp/1",
        "x" * 5000,
        "/ip4/10.0.0.1/udp/1",
    ):
        book.saw(a_peer(9998), [odd])  # a member says what it likes; the others are kept
    book.forget(a_peer(6))
    book.save()
    again = PeerBook(path, clock=time.time).peers()
    assert len(again) == MAX_PEERS - 1
    assert again[0] == Found(a_peer(5), ("/ip6/fd00::1/tcp/4001",), How.PEERBOOK)
    assert again[-1].peer == a_peer(7)
    assert [p.name for p in tmp_path.iterdir()] == ["peers.json"]


@given(
    st.one_of(
        st.binary(max_size=200),
        st.recursive(
            st.none() | st.booleans() | st.floats() | st.text() | st.integers(),
            lambda inner: st.lists(inner) | st.dictionaries(
                st.sampled_from(["version", "peers", "peer", "addresses", "seen"]), inner
            ),
        ).map(lambda value: json.dumps({"version": 1, "peers": value}).encode()),
    )
)  # fmt: skip
def test_a_damaged_book_is_untrusted_at_worst(data):
    with contextlib.suppress(Untrusted):
        assert parse_book(data) == {}


def test_a_damaged_book_is_said_and_the_agent_starts_without(tmp_path, caplog):
    path = tmp_path / "peers.json"
    for data in (b"{", b"[" * 100_000, b"x" * (2 << 20)):
        path.write_bytes(data)
        caplog.clear()
        assert PeerBook(path, clock=time.time).peers() == []
        assert "peers of last time" in caplog.text


def test_a_book_that_cannot_be_written_is_a_local_fault_and_the_old_one_stays(tmp_path):
    path = tmp_path / "peers.json"
    book = PeerBook(path, clock=time.time)
    book.saw(a_peer(1), ["/ip4/10.0.0.1/tcp/4001"])
    path.mkdir()
    with pytest.raises(LocalFault):
        book.save()
    path.rmdir()
    book.save()
    assert len(PeerBook(path, clock=time.time).peers()) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["peers.json"]


def test_dns_names_have_a_port():
    assert parse_dns_name("agents.default.svc:4001") == ("agents.default.svc", 4001)
    for bad in ("agents", ":1", "agents:", "agents:0", "agents:65536", "a/b:1", "x" * 300 + ":1"):
        with pytest.raises(UsageError):
            parse_dns_name(bad)
