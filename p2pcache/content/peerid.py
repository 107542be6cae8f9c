"""Peer ids: who an agent is. Binary inside, base58 text at the edges.

A libp2p peer id of an Ed25519 key is the identity multihash of the protobuf-encoded public key
(libp2p specs, peer-ids): the key can be read out of the name, so a signature needs no directory.
Other key types are hashed ids; agents of ours never have them, so they are refused.
"""

from __future__ import annotations

from functools import lru_cache

import base58

from p2pcache.errors import Untrusted, UsageError

PeerId = bytes

_PREFIX = bytes.fromhex("002408011220")  # identity multihash, 36 bytes: {1: Ed25519, 2: 32 bytes}
KEY_BYTES = 32
PEER_ID_BYTES = len(_PREFIX) + KEY_BYTES
MAX_TEXT_CHARS = 64  # ours have 52
MAX_KEPT_TEXTS = 4096  # 0.6 MB; a base58 text costs 10 us to make, and a pull asks for it often


def peer_id_of(public_key: bytes) -> PeerId:
    """The peer id of a raw Ed25519 public key (32 bytes)."""
    if len(public_key) != KEY_BYTES:
        raise ValueError(f"an Ed25519 public key has {KEY_BYTES} bytes, not {len(public_key)}")
    return _PREFIX + public_key


def public_key_of(peer: PeerId) -> bytes:
    """The raw Ed25519 public key inside a peer id. Raises Untrusted for any other kind."""
    if len(peer) != PEER_ID_BYTES or not peer.startswith(_PREFIX):
        raise Untrusted("a peer id is not one of an Ed25519 key")
    return peer[len(_PREFIX) :]


def check_peer_id(peer: bytes) -> PeerId:
    """A peer id from outside, unchanged. Raises Untrusted."""
    public_key_of(peer)
    return peer


@lru_cache(maxsize=MAX_KEPT_TEXTS)
def format_peer_id(peer: PeerId) -> str:
    """The usual text: base58, `12D3KooW...`."""
    return base58.b58encode(peer).decode()


def parse_peer_id(text: str) -> PeerId:
    """Text to a peer id. Raises UsageError."""
    try:
        if len(text) > MAX_TEXT_CHARS:
            raise ValueError("too long")
        return check_peer_id(base58.b58decode(text))
    except (ValueError, Untrusted) as exc:
        raise UsageError(
            f"`{text[:MAX_TEXT_CHARS]}` is not a peer id", hint="one looks like `12D3KooW...`"
        ) from exc
