"""Tickets are worth something to one reader, for one scope, for a while, and to nobody else."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pcache.errors import Denied
from p2pcache.lanes.orders import Tls
from p2pcache.lanes.reach import Reach
from p2pcache.lanes.tickets import (
    MAX_TOKEN_CHARS,
    Ticket,
    address_binding,
    certificate_binding,
    check_ticket,
    issue_ticket,
)

SECRET = bytes(range(32))
TICKET = Ticket(b"reader", b"scope", 100.0)
BINDING = certificate_binding(bytes(32))
FIELDS = st.binary(max_size=64)


def token_of(ticket: Ticket = TICKET, binding: bytes = BINDING) -> str:
    return issue_ticket(SECRET, ticket, binding)


def raw_of(token: str) -> bytes:
    return base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))


def text_of(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


@given(reader=FIELDS, scope=FIELDS, expires_ms=st.integers(1, 2**52))
def test_what_is_issued_is_what_is_checked(reader: bytes, scope: bytes, expires_ms: int) -> None:
    ticket = Ticket(reader, scope, expires_ms / 1000)
    token = token_of(ticket)
    assert len(token) <= MAX_TOKEN_CHARS
    assert check_ticket(SECRET, token, BINDING, 0.0) == ticket


def test_it_ends_at_its_time() -> None:
    assert check_ticket(SECRET, token_of(), BINDING, 99.999) == TICKET
    with pytest.raises(Denied, match="expired"):
        check_ticket(SECRET, token_of(), BINDING, 100.0)


def test_another_readers_certificate_or_address_gets_nothing_for_it() -> None:
    others = [certificate_binding(b"\x01" + bytes(31)), address_binding("10.0.0.1"), b""]
    for other in others:
        with pytest.raises(Denied, match="not valid here"):
            check_ticket(SECRET, token_of(), other, 0.0)


def test_another_agents_secret_gets_nothing() -> None:
    with pytest.raises(Denied, match="not valid here"):
        check_ticket(bytes(32), token_of(), BINDING, 0.0)


def test_a_forger_learns_nothing_about_times() -> None:
    raw = bytearray(raw_of(token_of()))
    raw[-1] ^= 1
    with pytest.raises(Denied, match="not valid here"):
        check_ticket(SECRET, text_of(bytes(raw)), BINDING, 1000.0)


@given(st.integers(0, 60), st.integers(0, 7))
def test_no_changed_bit_survives(index: int, bit: int) -> None:
    raw = bytearray(raw_of(token_of()))
    raw[index % len(raw)] ^= 1 << bit
    with pytest.raises(Denied):
        check_ticket(SECRET, text_of(bytes(raw)), BINDING, 0.0)


def test_fields_cannot_be_shifted_into_each_other() -> None:
    """reader "ab" + scope "c" is not reader "a" + scope "bc", nor the binding's first byte."""
    moved = raw_of(token_of(Ticket(b"ab", b"c", 1.0)))[-32:]
    for other in (Ticket(b"a", b"bc", 1.0), Ticket(b"abc", b"", 1.0)):
        assert raw_of(token_of(other))[-32:] != moved
    assert token_of(Ticket(b"a", b"b", 1.0), b"cd") != token_of(Ticket(b"a", b"bc", 1.0), b"d")


@given(st.one_of(st.text(max_size=400), st.binary(max_size=300).map(text_of)))
def test_only_denied_comes_out_of_any_text(token: str) -> None:
    with pytest.raises(Denied):
        check_ticket(SECRET, token, BINDING, 0.0)


def test_text_that_base64_would_forgive_is_not_a_second_token() -> None:
    token = token_of()
    for other in (token + "!", token[:5] + "\n" + token[5:], token + "=" * 300):
        with pytest.raises(Denied, match="malformed"):
            check_ticket(SECRET, other, BINDING, 0.0)


def test_an_ipv4_reader_of_a_dual_stack_listener_is_the_same_reader() -> None:
    assert address_binding("::ffff:10.1.2.3") == address_binding("10.1.2.3")
    assert address_binding("fe80::1%eth0") == address_binding("fe80::1")
    with pytest.raises(ValueError, match="not appear"):
        address_binding("localhost")


def test_a_lane_is_addressed_by_name_and_pin_only() -> None:
    plain = Reach("fd00::1", 99, "token")
    assert plain.blob(b"\x12\x20").url == "http://[fd00::1]:99/blob/1220"
    assert plain.blob(b"\x12").headers == (("Authorization", "Ticket token"),)
    pinned = Reach("10.0.0.1", 99, "token", b"\xaa" * 32, "/cert", "/key").bundle()
    assert pinned.url == "https://10.0.0.1:99/bundle"
    assert pinned.tls == Tls(None, "aa" * 32, "/cert", "/key")
    assert pinned.direct
    assert "token" not in repr(pinned) + repr(plain)
