"""Tickets: a short-lived capability of one reader to read the blobs of one scope over a lane.

A ticket says who may read what until when, and carries an HMAC-SHA256 under a secret that only the
agent and its byte server know, so it is checked without a database. The MAC also covers the
*binding*, which the ticket does not carry: what the byte server sees of the reader itself (its
certificate's fingerprint over TLS, its address without). A ticket that somebody else presents is
therefore worth nothing.

Token: base64url, unpadded, of
    version 1 B | expiry u64 ms | reader length u8, reader | scope length u8, scope | MAC 32 B
MAC over: domain text | all of the above | binding length u8, binding. Big-endian.

`now_s` and `expires_s` are seconds of one clock that issuer and checker share. Both run on one
machine and use `time.monotonic()`: a wall clock that jumps makes no ticket live longer.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
import struct
from dataclasses import dataclass

from p2pcache.errors import Denied

SECRET_BYTES = 32  # as long as the MAC; made anew with each agent process
MAX_FIELD_BYTES = 64  # peer ids have 38, manifest CIDs 36, blob names at most 64
MAX_TOKEN_CHARS = 256  # both fields at their longest make 232

_VERSION = b"\x01"
_DOMAIN = b"p2pcache lane ticket 1\0"
_MAC_BYTES = 32
_TO_BYTES = str.maketrans("-_", "+/")  # `urlsafe_b64decode` skips what is not base64; this must not
_TO_TEXT = str.maketrans("+/", "-_")


@dataclass(frozen=True, slots=True)
class Ticket:
    """`reader`: binary peer id. `scope`: a manifest CID or a blob name."""

    reader: bytes
    scope: bytes
    expires_s: float


def certificate_binding(fingerprint: bytes) -> bytes:
    """Binds to the sha2-256 of the reader's DER certificate (lanes with TLS)."""
    return b"c" + fingerprint


def address_binding(address: str) -> bytes:
    """Binds to the reader's IP address (plain lanes). Raises ValueError for what is none.

    An IPv4 address mapped into IPv6, as a dual-stack listener reports it, is the IPv4 address.
    """
    parsed = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(parsed, "ipv4_mapped", None)
    return b"a" + (mapped or parsed).packed


def issue_ticket(secret: bytes, ticket: Ticket, binding: bytes) -> str:
    """The token of a ticket: text fit for an HTTP header."""
    body = _VERSION + struct.pack(">Q", round(ticket.expires_s * 1000))
    body += _field(ticket.reader) + _field(ticket.scope)
    raw = body + _mac(secret, body, binding)
    return base64.b64encode(raw).decode().rstrip("=").translate(_TO_TEXT)


def check_ticket(secret: bytes, token: str, binding: bytes, now_s: float) -> Ticket:
    """The ticket behind a token. Raises Denied, whose text is fit for whoever presented it.

    Only a ticket that is genuine is told that it expired: that is no news for its holder, while a
    forger learns the same about every guess.
    """
    body, mac = _split(token)
    if not hmac.compare_digest(mac, _mac(secret, body, binding)):
        raise Denied("this ticket is not valid here")
    reader, rest = _take(body[9:])
    scope, rest = _take(rest)
    if rest or body[:1] != _VERSION:  # ours alone could make such a MAC: another version of us
        raise Denied("this ticket is not valid here")
    expires_s = int.from_bytes(body[1:9], "big") / 1000
    if now_s >= expires_s:
        raise Denied("this ticket has expired", hint="ask for a new one")
    return Ticket(reader, scope, expires_s)


def _split(token: str) -> tuple[bytes, bytes]:
    if len(token) > MAX_TOKEN_CHARS or not token.isascii():
        raise Denied("this ticket is malformed")
    padded = token.translate(_TO_BYTES) + "=" * (-len(token) % 4)
    try:
        raw = base64.b64decode(padded, validate=True)
    except binascii.Error as exc:
        raise Denied("this ticket is malformed") from exc
    if len(raw) < 1 + 8 + 1 + 1 + _MAC_BYTES:
        raise Denied("this ticket is malformed")
    return raw[:-_MAC_BYTES], raw[-_MAC_BYTES:]


def _mac(secret: bytes, body: bytes, binding: bytes) -> bytes:
    return hmac.digest(secret, _DOMAIN + body + _field(binding), "sha256")


def _field(data: bytes) -> bytes:
    """Length and bytes, so that no two lists of fields are the same message."""
    if len(data) > MAX_FIELD_BYTES:
        raise ValueError(f"a field of a ticket has {len(data)} bytes, at most {MAX_FIELD_BYTES}")
    return bytes([len(data)]) + data


def _take(data: bytes) -> tuple[bytes, bytes]:
    length = data[0] if data else MAX_FIELD_BYTES + 1
    if length > MAX_FIELD_BYTES or len(data) < 1 + length:
        raise Denied("this ticket is not valid here")
    return data[1 : 1 + length], data[1 + length :]
