"""Who we are: one Ed25519 key per agent, in the file `identity.key` (PKCS 8, PEM)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from p2pcache.content.peerid import PeerId, peer_id_of
from p2pcache.errors import LocalFault
from p2pcache.net.secret_file import create_secret, read_secret

if TYPE_CHECKING:
    from pathlib import Path

MAX_FILE_BYTES = 4096  # ours have 119


class Identity:
    """An agent's key: a `content.signed.Signer`. Its repr shows no secret."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self._peer_id = peer_id_of(key.public_key().public_bytes_raw())

    @classmethod
    def generate(cls) -> Identity:
        """A new one, nowhere kept."""
        return cls(Ed25519PrivateKey.generate())

    @property
    def peer_id(self) -> PeerId:
        """Whose key it is."""
        return self._peer_id

    def sign(self, message: bytes) -> bytes:
        """The 64-byte Ed25519 signature of a message."""
        return self._key.sign(message)

    def seed(self) -> bytes:
        """The 32 secret bytes, for the handshake."""
        return self._key.private_bytes_raw()


def load_identity(path: Path) -> Identity:
    """The key in a file. Raises LocalFault: none there, damaged, or readable for others."""
    try:
        data = read_secret(path, MAX_FILE_BYTES)
    except FileNotFoundError as exc:
        raise LocalFault(
            f"there is no identity key `{path}`", hint="run `p2pcache init` to make one"
        ) from exc
    try:
        key = serialization.load_pem_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as exc:
        raise _damaged(path) from exc
    if not isinstance(key, Ed25519PrivateKey):
        raise _damaged(path)
    return Identity(key)


def load_or_create_identity(path: Path) -> Identity:
    """The key in a file, made if there is none. Raises LocalFault."""
    if not path.exists():
        pem = Ed25519PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        create_secret(path, pem)  # if somebody else was faster, theirs is loaded
    return load_identity(path)


def _damaged(path: Path) -> LocalFault:
    return LocalFault(
        f"the identity key `{path}` is damaged or not an Ed25519 key",
        hint="restore it from a backup, or move it away: then this agent gets a new name, "
        "and grants for the old one are void; then start the agent anew",
    )
