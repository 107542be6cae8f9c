"""Invitations: whole or refused with a hint, one line, never older than they say."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pcache.content.peerid import peer_id_of
from p2pcache.errors import UsageError
from p2pcache.net.address import Address, parse_address
from p2pcache.net.invite import (
    MAX_ADDRESSES,
    MAX_TOKEN_CHARS,
    PREFIX,
    Invite,
    format_invite,
    parse_invite,
)
from p2pcache.net.network_key import NetworkKey

NOW = 1_800_000_000
PEERS = st.binary(min_size=32, max_size=32).map(peer_id_of)
HOSTS = st.one_of(
    st.tuples(st.just("ip4"), st.ip_addresses(v=4).map(str)),
    st.tuples(st.just("ip6"), st.ip_addresses(v=6).map(str)),
    st.tuples(st.sampled_from(["dns", "dns4", "dns6"]), st.just("a.example")),
)
ADDRESSES = st.builds(
    lambda where, port, peer: Address(*where, port, peer), HOSTS, st.integers(0, 65535), PEERS
)
INVITES = st.builds(
    Invite,
    st.binary(min_size=32, max_size=32).map(NetworkKey),
    st.lists(ADDRESSES, min_size=1, max_size=MAX_ADDRESSES).map(tuple),
    st.integers(NOW + 1, NOW + 10**9),
    st.none() | PEERS,
)
INVITE = Invite(
    NetworkKey(bytes(range(32))),
    (Address("ip4", "192.0.2.7", 4001, peer_id_of(bytes(32))),),
    NOW + 3600,
    peer_id_of(bytes(range(32))),
)


@given(INVITES)
def test_what_is_invited_is_joined(invite):
    token = format_invite(invite)
    assert len(token.split()) == 1
    assert len(token) <= MAX_TOKEN_CHARS
    assert parse_invite(token, now=NOW) == invite


@given(ADDRESSES)
def test_addresses_survive_their_text(address):
    assert parse_address(str(address)) == address


def test_a_token_broken_over_lines_is_joined():
    token = format_invite(INVITE)
    assert parse_invite(f"  {token[:40]}\r\n {token[40:]}\n", now=NOW) == INVITE


@given(st.data())
def test_any_one_slip_is_noticed(data):
    token = format_invite(INVITE)
    place = data.draw(st.integers(0, len(token) - 1))
    other = data.draw(st.sampled_from("abcXYZ059-_").filter(lambda c: c != token[place]))
    damaged = data.draw(
        st.sampled_from(
            [token[:place], token[:place] + other + token[place + 1 :], token + other * 4]
        )
    )
    if place == len(token) - 1 and len(damaged) == len(token):
        with suppress(UsageError):  # the last character of base64 has bits that mean nothing
            assert parse_invite(damaged, now=NOW) == INVITE
        return
    with pytest.raises(UsageError) as caught:
        parse_invite(damaged, now=NOW)
    assert caught.value.hint


@given(st.text(max_size=300) | st.binary(max_size=300).map(lambda b: PREFIX + b.hex()))
def test_anything_else_is_a_usage_error_with_a_hint(text):
    with pytest.raises(UsageError) as caught:
        parse_invite(text, now=NOW)
    assert caught.value.hint


def test_an_expired_one_says_since_when_and_what_to_do():
    token = format_invite(INVITE)
    parse_invite(token, now=NOW + 3599.9)
    with pytest.raises(UsageError, match="expired 2h00m ago") as caught:
        parse_invite(token, now=NOW + 3600 * 3 + 1)
    assert "p2pcache invite" in (caught.value.hint or "")
    with pytest.raises(UsageError, match="expired 1m00s ago"):
        parse_invite(token, now=NOW + 3660)


def test_a_later_version_is_told_from_nonsense():
    with pytest.raises(UsageError, match="another version"):
        parse_invite("p2pcache2-" + "a" * 50, now=NOW)
    with pytest.raises(UsageError, match="not an invitation"):
        parse_invite("hello", now=NOW)
    with pytest.raises(UsageError, match="too long"):
        parse_invite(PREFIX + "a" * MAX_TOKEN_CHARS, now=NOW)


def test_an_invitation_without_a_dialable_peer_is_not_made():
    for addresses in ((), (Address("ip4", "192.0.2.7", 1),), INVITE.addresses * 17):
        with pytest.raises(UsageError):
            format_invite(Invite(INVITE.key, addresses, NOW, None))


@pytest.mark.parametrize(
    "text",
    [
        "", "/", "nonsense", "/ip4/1.2.3.4", "/ip4/1.2.3.4/tcp/65536", "/ip4/1.2.3/tcp/1",
        "/ip4/1.2.3.4/udp/1/quic-v1", "/ip4/1.2.3.4/tcp/1/ws", "/ip4/1.2.3.4/tcp/-1",
        "/ip6/1.2.3.4/tcp/1", "/dns4/a b/tcp/1", "/dns4/-a/tcp/1", "/ip4/1.2.3.4/tcp/1/p2p/QmX",
        "/ip4/1.2.3.4/tcp/1/p2p/", "/dns4/" + "a." * 200 + "/tcp/1", "/unix/a/tcp/1",
        "/ip4/1.2.3.4/tcp/" + "1" * 999, "/ip4/1.2.3.4/tcp/\u0661",
    ],
)  # fmt: skip
def test_what_cannot_be_dialled_is_a_usage_error(text):
    with pytest.raises(UsageError):
        parse_address(text)
