"""An invitation: one line that lets another machine join the network.

`p2pcache1-` and base64url of msgpack [key, [address with peer id, ...], expiry, admin | nil] behind
a checksum. It holds the network key: whoever reads it is in, so it travels like a password. The
expiry keeps a forgotten one from being used by an honest agent; it does not change the key.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgpack

from p2pcache.content.peerid import PeerId, check_peer_id
from p2pcache.errors import Untrusted, UsageError
from p2pcache.net.address import Address, parse_address
from p2pcache.net.network_key import KEY_BYTES, NetworkKey
from p2pcache.units import format_duration

if TYPE_CHECKING:
    from collections.abc import Sequence

PREFIX = "p2pcache1-"  # 1: the version of what follows
MAX_ADDRESSES = 16
MAX_TOKEN_CHARS = 8192  # 16 long addresses fit
_ADDRESS_BYTES = 400
_CHECKSUM_BYTES = 8  # finds slips of copy and paste; nobody gains by forging one
_CHECKSUM_TAG = b"p2pcache invite 1\0"
_AGAIN = "copy the whole line again, or ask for a new one (`p2pcache invite`)"


@dataclass(frozen=True, slots=True)
class Invite:
    """What a token carries. `addresses` name their peers; `expires_at` in unix seconds."""

    key: NetworkKey
    addresses: tuple[Address, ...]
    expires_at: int
    admin: PeerId | None = None


def format_invite(invite: Invite) -> str:
    """The token, one line. Raises UsageError when there are no or too many addresses."""
    if not 1 <= len(invite.addresses) <= MAX_ADDRESSES:
        raise UsageError(f"an invitation carries 1 to {MAX_ADDRESSES} addresses")
    if any(address.peer is None for address in invite.addresses):
        raise UsageError("an invitation needs the peer id of every address")
    addresses = [str(address) for address in invite.addresses]
    body: bytes = msgpack.packb([invite.key.secret, addresses, invite.expires_at, invite.admin])
    return PREFIX + base64.urlsafe_b64encode(_checksum(body) + body).decode().rstrip("=")


def parse_invite(text: str, *, now: float) -> Invite:
    """What a token says. Raises UsageError: damaged, of another version, or expired."""
    text = "".join(text.split())  # mail programs wrap lines
    if not text.startswith(PREFIX):
        known = text.startswith("p2pcache")
        raise UsageError(
            "this invitation is of another version" if known else "this is not an invitation",
            hint="update p2pcache on both machines" if known else f"one starts with `{PREFIX}`",
        )
    if len(text) > MAX_TOKEN_CHARS:
        raise UsageError("this invitation is too long", hint=_AGAIN)
    try:
        invite = _fields(_open(text[len(PREFIX) :]))
    except (ValueError, binascii.Error, Untrusted, UsageError, msgpack.UnpackException) as exc:
        raise UsageError("this invitation is damaged", hint=_AGAIN) from exc
    if now >= invite.expires_at:
        raise UsageError(
            f"this invitation expired {format_duration(now - invite.expires_at)} ago",
            hint="ask for a new one (`p2pcache invite`), and check that both clocks are right",
        )
    return invite


def _checksum(body: bytes) -> bytes:
    return hashlib.sha256(_CHECKSUM_TAG + body).digest()[:_CHECKSUM_BYTES]


def _open(text: str) -> Sequence[object]:
    packed = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    body = packed[_CHECKSUM_BYTES:]
    if _checksum(body) != packed[:_CHECKSUM_BYTES]:
        raise ValueError("checksum")
    fields = msgpack.unpackb(
        body, max_array_len=MAX_ADDRESSES, max_str_len=_ADDRESS_BYTES, max_bin_len=64, max_map_len=0
    )
    if not isinstance(fields, list) or len(fields) < 4:  # a later minor version may add fields
        raise ValueError("fields")
    return fields


def _fields(fields: Sequence[object]) -> Invite:
    secret, texts, expires_at, admin = fields[:4]
    if not isinstance(secret, bytes) or len(secret) != KEY_BYTES:
        raise ValueError("key")
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError("addresses")
    if not isinstance(expires_at, int) or isinstance(expires_at, bool):
        raise ValueError("expiry")
    if admin is not None and not isinstance(admin, bytes):
        raise ValueError("admin")
    addresses = tuple(parse_address(text) for text in texts)
    if not addresses or any(address.peer is None for address in addresses):
        raise ValueError("an address without peer id")
    return Invite(
        NetworkKey(secret),
        addresses,
        expires_at,
        None if admin is None else check_peer_id(admin),
    )
