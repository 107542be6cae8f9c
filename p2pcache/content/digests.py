"""Digests: multihashes in, multihashes out; the streaming hasher of a whole blob.

A `Digest` is a binary multihash. Two functions exist here: sha2-256 of the content, and sha1 of
the *git object* ("blob <length>\\0" + content), which is what small Hugging Face files are named
by. A sha1 multihash always means the latter in p2pcache. SHA-1 is collision-broken: it finds and
checks a file against the origin that named it; what is shared afterwards is the sha2-256.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from p2pcache.errors import Untrusted

Digest = bytes

SHA1 = 0x11  # multicodec table
SHA2_256 = 0x12
_LENGTH = {SHA1: 20, SHA2_256: 32}


def _multihash(code: int, raw_digest: bytes) -> Digest:
    if len(raw_digest) != _LENGTH[code]:
        raise ValueError(f"a {code:#x} digest has {_LENGTH[code]} bytes, not {len(raw_digest)}")
    return bytes([code, len(raw_digest)]) + raw_digest


def sha256_digest(raw32: bytes) -> Digest:
    """The multihash of a raw sha2-256."""
    return _multihash(SHA2_256, raw32)


def git_sha1_digest(raw20: bytes) -> Digest:
    """The multihash of a git blob id."""
    return _multihash(SHA1, raw20)


def provisional_name(origin: str) -> bytes:
    """A name for a blob that only its bytes can name, until they are here: by where it comes from.

    Multihash code 0x00 (identity) with 32 bytes: no digest of content ever looks like it.
    """
    return b"\x00\x20" + hashlib.sha256(origin.encode()).digest()


def is_provisional(name: bytes) -> bool:
    """Whether `provisional_name` made it."""
    return len(name) == 34 and name[:2] == b"\x00\x20"


def is_sha256(digest: Digest) -> bool:
    """Whether it is a sha2-256 multihash of the right length."""
    return len(digest) == 34 and digest[0] == SHA2_256 and digest[1] == 32


def is_git_sha1(digest: Digest) -> bool:
    """Whether it is a git blob id."""
    return len(digest) == 22 and digest[0] == SHA1 and digest[1] == 20


def raw(digest: Digest) -> bytes:
    """The digest without its multihash prefix."""
    return digest[2:]


def parse_multihash(data: bytes) -> Digest:
    """Check a multihash from outside. Raises Untrusted for anything but the two kinds."""
    if not isinstance(data, bytes) or not (is_sha256(data) or is_git_sha1(data)):
        raise Untrusted("a digest is neither a sha2-256 nor a git blob id")
    return data


def describe(digest: Digest) -> str:
    """For people: `sha256:<hex>` or `git:<hex>`."""
    return ("git:" if is_git_sha1(digest) else "sha256:") + raw(digest).hex()


@dataclass(frozen=True, slots=True)
class WholeDigests:
    """The digests of a whole blob, raw bytes. `git_sha1` None: it was not computed."""

    size: int
    sha256: bytes
    git_sha1: bytes | None


class WholeHasher:
    """Hashes one blob front to back. `git` needs the length first: it is part of the object."""

    def __init__(self, size: int | None, git: bool = False) -> None:
        if git and size is None:
            raise ValueError("a git blob id needs the length before the first byte")
        self._sha256 = hashlib.sha256()
        self._git = hashlib.sha1(b"blob %d\0" % (size or 0), usedforsecurity=False) if git else None
        self._expected = size
        self._size = 0

    def update(self, data: bytes | bytearray | memoryview) -> None:
        """Take the next bytes. Releases the interpreter lock for buffers above 2 KiB."""
        self._sha256.update(data)
        if self._git is not None:
            self._git.update(data)
        self._size += len(data)

    def digests(self) -> WholeDigests:
        """The digests of what came so far; the git id only if the promised length came."""
        git = self._git if self._size == self._expected else None
        return WholeDigests(
            self._size, self._sha256.digest(), None if git is None else git.digest()
        )


def whole_digests(data: bytes) -> WholeDigests:
    """Both digests of bytes in memory."""
    hasher = WholeHasher(len(data), git=True)
    hasher.update(data)
    return hasher.digests()
