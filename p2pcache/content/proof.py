"""Proof that an agent may read restricted content: it fetches some of it from the origin itself.

The holder of a manifest that was resolved with a credential asks for the hash of a short, random
range of one of its files, keyed with a nonce. Whoever has access gets those bytes from the origin
with its own credential and answers; the holder has the same bytes and compares. No credential
leaves its owner, and a claim is worth nothing. What it cannot tell: an accomplice with access who
answers for a friend could as well hand over the bytes.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from p2pcache.errors import Untrusted

if TYPE_CHECKING:
    from collections.abc import Callable

    from p2pcache.content.manifest import FileEntry, Manifest
    from p2pcache.content.peerid import PeerId

NONCE_BYTES = 32
MAX_RANGE_BYTES = 64 << 10  # enough that nobody guesses it, little enough for any origin
_TAG = b"p2pcache proof of access 1\0"


@dataclass(frozen=True, slots=True)
class Challenge:
    """Bytes `[start, end)` of one file of a manifest, to be hashed with a nonce used once."""

    manifest: bytes
    digest: bytes
    start: int
    end: int
    nonce: bytes

    def to_wire(self) -> list[Any]:
        """A plain list for `parse_challenge`."""
        return [self.manifest, self.digest, self.start, self.end, self.nonce]


def make_challenge(
    cid: bytes, files: list[FileEntry], choose: Callable[[int], int], nonce: bytes
) -> Challenge | None:
    """A challenge about files that the asker holds; None when they are all empty.

    `choose(n)` gives a number in [0, n). Every byte is as likely as every other, so that large
    files, which nobody can guess, are asked about more than small ones.
    """
    total = sum(file.size for file in files)
    if total == 0:
        return None
    at = choose(total)
    for file in files:
        if at < file.size:
            start = min(at, max(0, file.size - MAX_RANGE_BYTES))
            end = min(file.size, start + MAX_RANGE_BYTES)
            return Challenge(cid, file.digest, start, end, nonce)
        at -= file.size
    raise AssertionError("the sum of the sizes was wrong")


def answer(challenge: Challenge, prover: PeerId, verifier: PeerId, data: bytes) -> bytes:
    """What `prover` owes `verifier`: bound to both, so that nobody can pass it on as his own."""
    c = challenge
    head = b"".join(
        [_TAG, prover, verifier, c.manifest, c.digest, b"%d %d\0" % (c.start, c.end), c.nonce]
    )
    return hashlib.sha256(head + data).digest()


def is_proof(given: bytes, expected: bytes) -> bool:
    """Compare in constant time."""
    return hmac.compare_digest(given, expected)


def parse_challenge(wire: object, manifest: Manifest) -> Challenge:
    """A challenge from a peer, about a file of the manifest we asked for. Raises Untrusted.

    A peer that could name any range of anything would have us fetch for it.
    """
    if not isinstance(wire, list) or len(wire) != 5:
        raise Untrusted("a challenge has the wrong shape")
    cid, digest, start, end, nonce = wire
    if not (isinstance(nonce, bytes) and len(nonce) == NONCE_BYTES and cid == manifest.cid()):
        raise Untrusted("a challenge is not about what was asked for")
    if not (type(start) is int and type(end) is int and 0 < end - start <= MAX_RANGE_BYTES):
        raise Untrusted("a challenge asks for too much or nothing")
    if not any(f.digest == digest and start >= 0 and end <= f.size for f in manifest.files):
        raise Untrusted("a challenge names no range of a file of the manifest")
    return Challenge(cid, digest, start, end, nonce)
