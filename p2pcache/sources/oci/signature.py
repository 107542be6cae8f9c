"""Ollama's signed requests: who asks for a token shows that it has the key of an account.

The token's URL carries a time and a nonce; `GET,<url>,<base64 of the hex sha256 of no body>` is
signed with the Ed25519 key that Ollama keeps in `id_ed25519`, and `<public key>:<signature>` is the
Authorization header (Ollama's `server/auth.go` and `auth/auth.go`).
"""

from __future__ import annotations

import base64
import hashlib

from p2pcache.errors import LocalFault

_NO_BODY = base64.b64encode(hashlib.sha256(b"").hexdigest().encode()).decode()


def signed(url: str, key: str) -> str:
    """The Authorization header of a GET. `key`: the text of an OpenSSH private key.

    Raises LocalFault for a key that cannot be used; nothing of it is shown.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    try:
        private = serialization.load_ssh_private_key(key.encode(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        private = None
    if not isinstance(private, Ed25519PrivateKey):
        raise LocalFault(
            "Ollama's key is no Ed25519 key without a passphrase",
            hint="`ollama serve` makes one at ~/.ollama/id_ed25519, where there is none",
        )
    public = private.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    signature = base64.b64encode(private.sign(f"GET,{url},{_NO_BODY}".encode())).decode()
    return f"{public.split()[1].decode()}:{signature}"
