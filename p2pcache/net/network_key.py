"""The key that a network shares: libp2p's pre-shared key, in the file format that Kubo reads.

Three lines (libp2p specs, pnet/Private-Networks-PSK-V1): the path `/key/swarm/psk/1.0.0/`, the
encoding `/base16/` (`/base64/` and `/bin/` are allowed too), the 32 bytes. Whoever has them is in.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from p2pcache.errors import LocalFault, UsageError
from p2pcache.net.secret_file import create_secret, read_secret

if TYPE_CHECKING:
    from pathlib import Path

KEY_BYTES = 32
MAX_FILE_BYTES = 1024  # a base16 one has 95
_HEADER = b"/key/swarm/psk/1.0.0/"
_FINGERPRINT_TAG = b"p2pcache network fingerprint 1\0"
_HINT = "a network key file has three lines: `/key/swarm/psk/1.0.0/`, `/base16/` and 64 hex digits"
_AWAY = "restore it, or move it away and `p2pcache join TOKEN` again; then start the agent anew"


@dataclass(frozen=True, slots=True)
class NetworkKey:
    """The shared secret. Its repr shows the fingerprint only."""

    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.secret) != KEY_BYTES:
            raise ValueError(f"a network key has {KEY_BYTES} bytes, not {len(self.secret)}")

    @classmethod
    def generate(cls) -> NetworkKey:
        """A new one."""
        return cls(secrets.token_bytes(KEY_BYTES))

    @property
    def fingerprint(self) -> str:
        """The network's public name: 32 hex digits that tell nothing about the key."""
        return hashlib.sha256(_FINGERPRINT_TAG + self.secret).hexdigest()[:32]

    def __repr__(self) -> str:
        return f"NetworkKey({self.fingerprint})"


def format_network_key(key: NetworkKey) -> bytes:
    """The file's content, as Kubo's `swarm.key`."""
    return _HEADER + b"\n/base16/\n" + key.secret.hex().encode() + b"\n"


def parse_network_key(data: bytes) -> NetworkKey:
    """The key in a file's content. Raises UsageError."""
    try:
        if len(data) > MAX_FILE_BYTES:
            raise ValueError("too long")
        header, encoding, rest = data.split(b"\n", 2)
        if header.strip() != _HEADER:
            raise ValueError("another header")
        return NetworkKey(_decode(encoding.strip(), rest))
    except (ValueError, binascii.Error) as exc:
        raise UsageError("this is no network key", hint=_HINT) from exc


def load_network_key(path: Path) -> NetworkKey:
    """The key in a file. Raises LocalFault: none there, damaged, or readable for others."""
    try:
        data = read_secret(path, MAX_FILE_BYTES)
    except FileNotFoundError as exc:
        raise LocalFault(
            f"there is no network key `{path}`",
            hint="run `p2pcache init` to make one, or `p2pcache join TOKEN`",
        ) from exc
    try:
        return parse_network_key(data)
    except UsageError as exc:
        raise LocalFault(f"the network key `{path}` is damaged", hint=f"{_HINT}; {_AWAY}") from exc


def save_network_key(path: Path, key: NetworkKey) -> None:
    """Keep a key; the same one again is fine. Raises UsageError if another one is there."""
    if not create_secret(path, format_network_key(key)) and load_network_key(path) != key:
        raise UsageError(
            f"this agent is already in another network (`{path}`)",
            hint="an agent is in one network: move that file away to leave it",
        )


def _decode(encoding: bytes, rest: bytes) -> bytes:
    match encoding:
        case b"/base16/":
            return bytes.fromhex(rest.strip().decode("ascii"))
        case b"/base64/":
            return base64.b64decode(rest.strip(), validate=True)
        case b"/bin/":
            return rest[:KEY_BYTES]
        case _:
            raise ValueError("unknown encoding")
