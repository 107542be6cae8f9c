from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pcache.content.peerid import peer_id_of
from p2pcache.errors import Untrusted
from p2pcache.net.discovery.mdns import (
    MAX_TEXT_BYTES,
    format_announcement,
    parse_announcement,
    service_type,
)
from p2pcache.net.network_key import NetworkKey
from p2pcache.net.remote_address import (
    MAX_ADDRESSES,
    decode_address,
    encode_address,
    is_loopback,
    parse_ip_address,
    reachable,
    reachable_hosts,
    split_peer,
)

if TYPE_CHECKING:
    import ipaddress

PEER, OTHER = peer_id_of(b"p" * 32), peer_id_of(b"q" * 32)
IPS = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6))
PORTS = st.integers(1, 65535)


def is_concrete(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    real = getattr(ip, "ipv4_mapped", None) or ip
    return not (
        real.is_unspecified or real.is_multicast or (real.version == 4 and real.is_reserved)
    )


@given(IPS, PORTS)
def test_text_and_binary_of_a_concrete_address_come_back_and_others_are_refused(ip, port):
    text = f"/ip{ip.version}/{ip}/tcp/{port}"
    if not is_concrete(ip):
        with pytest.raises(Untrusted):
            parse_ip_address(text, loopback=True)
        return
    assert parse_ip_address(text, loopback=True) == text
    assert decode_address(encode_address(text), loopback=True) == (None, text)
    assert decode_address(encode_address(text, PEER), loopback=True) == (PEER, text)


@given(st.binary(max_size=80))
def test_random_bytes_are_an_address_or_untrusted(data):
    try:
        peer, text = decode_address(data, loopback=False)
    except Untrusted:
        return
    assert encode_address(text, peer) == data


@given(st.text(max_size=200))
def test_random_text_is_an_address_or_untrusted(text):
    with contextlib.suppress(Untrusted):
        assert len(parse_ip_address(text, loopback=False)) < 128


@pytest.mark.parametrize(
    "text",
    [
        "/ip4/0.0.0.0/tcp/4001",
        "/ip4/127.0.0.1/tcp/4001",
        "/ip4/224.0.0.251/tcp/4001",
        "/ip4/255.255.255.255/tcp/4001",
        "/ip4/10.0.0.1/tcp/0",
        "/ip4/10.0.0.1/tcp/65536",
        "/ip4/10.0.0.1/tcp/0x10",
        "/ip4/10.0.0.1/tcp/\uff14\uff10\uff10\uff11",
        "/ip4/10.0.0.1/udp/4001",
        "/ip4/10.0.0.1/tcp/4001/ws",
        "/ip4/010.0.0.1/tcp/4001",
        "/ip4/::1/tcp/4001",
        "/ip6/::1/tcp/4001",
        "/ip6/::ffff:127.0.0.1/tcp/4001",
        "/ip6/fe80::1%eth0/tcp/4001",
        "/dns4/example.org/tcp/4001",
        "ip4/10.0.0.1/tcp/4001",
        "",
    ],
)
def test_what_nobody_or_only_ourselves_could_be_reached_at_is_refused(text):
    with pytest.raises(Untrusted):
        parse_ip_address(text, loopback=False)


def test_loopback_is_known_as_such():
    assert is_loopback("/ip4/127.0.0.1/tcp/1")
    assert is_loopback("/ip6/::1/tcp/1")
    assert not is_loopback("/ip4/10.0.0.1/tcp/1")
    assert not is_loopback("/dns4/localhost/tcp/1")


@given(st.lists(st.tuples(IPS.filter(is_concrete), PORTS), min_size=1, max_size=12))
def test_an_announcement_comes_back(places):
    addresses = [f"/ip{ip.version}/{ip}/tcp/{port}" for ip, port in places]
    text = format_announcement(PEER, addresses)
    assert len(text) <= MAX_TEXT_BYTES
    assert parse_announcement(text, loopback=True) == (
        PEER,
        tuple(dict.fromkeys(addresses[:MAX_ADDRESSES])),
    )


@given(st.binary(max_size=300))
def test_random_announcements_are_untrusted_at_worst(data):
    for text in (data, b"\x10dnsaddr=" + data, bytes([min(255, len(data))]) + data):
        with contextlib.suppress(Untrusted):
            parse_announcement(text, loopback=True)


def test_an_announcement_may_say_more_but_not_lie_about_who():
    good = format_announcement(PEER, ["/ip4/10.0.0.1/tcp/1"])
    bad = format_announcement(OTHER, ["/ip4/10.0.0.2/tcp/1"])
    quic = b"dnsaddr=/ip4/10.0.0.1/udp/4001/quic-v1/p2p/x"
    said = (PEER, ("/ip4/10.0.0.1/tcp/1",))
    assert parse_announcement(b"\x03a=b" + good, loopback=False) == said
    assert parse_announcement(bytes([len(quic)]) + quic + good, loopback=False) == said
    for text in (good + bad, b"", b"\x03a=b", good[:-1], good * 40):
        with pytest.raises(Untrusted):
            parse_announcement(text, loopback=False)
    with pytest.raises(Untrusted):
        split_peer("/ip4/10.0.0.1/tcp/1")


def test_service_types_differ_by_network_conform_and_tell_nothing_of_the_key():
    one, other = (NetworkKey(bytes([n]) * 32) for n in (1, 2))
    assert service_type(one.fingerprint) != service_type(other.fingerprint)
    label = service_type(one.fingerprint).split(".")[0]
    assert label.startswith("_p2p-")
    assert len(label) <= 16  # RFC 6763 7.2: 15 and the underscore
    assert one.secret.hex()[:8] not in label


@pytest.mark.parametrize(
    ("host", "seen", "may"),
    [
        ("10.0.0.2", "10.0.0.1", True),
        ("127.0.0.1", "10.0.0.1", False),
        ("127.0.0.1", "127.0.0.1", True),
        ("169.254.169.254", "10.0.0.1", False),
        ("169.254.169.254", "127.0.0.1", False),
        ("169.254.1.2", "169.254.1.1", True),
        ("0.0.0.0", "127.0.0.1", False),
        ("::ffff:127.0.0.1", "10.0.0.1", False),
        ("::ffff:169.254.169.254", "10.0.0.1", False),
        ("2001:db8::2", "10.0.0.1", True),
    ],
)
def test_a_remote_leads_nobody_to_services_of_his_own(host, seen, may):
    text, end = f"/ip{6 if ':' in host else 4}/{host}/tcp/4001", f"/ip4/{seen}/tcp/999"
    assert reachable([text], end) == ((text,) if may else ())
    assert reachable_hosts((host,), 4001, end) == ((host,) if may else ())


def test_names_are_dialled_where_agents_announce_them_and_never_as_a_byte_server():
    assert reachable(["/dns4/node.example/tcp/4001"], None) == ("/dns4/node.example/tcp/4001",)
    assert reachable_hosts(("node.example", "127.0.0.1", ""), 4001, None) == ()
