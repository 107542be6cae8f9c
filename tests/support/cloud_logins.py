"""Servers that give out logins at Google and Azure: scripted, for the vendors' own libraries."""

from __future__ import annotations

import base64
import contextlib
import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from tests.support.faulty_http import FaultyServer, status

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.faulty_http import Exchange


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _text(said: object) -> str:
    return _base64(json.dumps(said).encode())


def _plain(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


@dataclass
class GoogleLogins:
    """Checks what a service account signed, and gives a token that lasts `lasts_s`.

    `tokens`: those given, with their ends; `account`: the file that users get.
    """

    server: FaultyServer
    lasts_s: float = 3600.0
    tokens: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._key = rsa.generate_private_key(65537, 2048)

    @property
    def account(self) -> str:
        pem = self._key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )  # fmt: skip
        return json.dumps({
            "type": "service_account", "client_email": "tester@project.example",
            "private_key": pem.decode(), "token_uri": self.server.url("/token"),
        })  # fmt: skip

    def other_account(self) -> str:
        """The same with a key that nobody knows."""
        return GoogleLogins(self.server).account

    def accepts(self, headers: dict[str, str]) -> bool:
        """Whether a request carries a token that holds."""
        token = headers.get("authorization", "").removeprefix("Bearer ")
        return time.time() < self.tokens.get(token, 0.0)

    def answer(self, ask: Exchange) -> bool:
        signed, _, signature = parse_qs(ask.body.decode())["assertion"][0].rpartition(".")
        try:
            self._key.public_key().verify(
                _plain(signature), signed.encode(), padding.PKCS1v15(), hashes.SHA256()
            )
        except Exception:  # noqa: BLE001 - of the library, whichever it has for this
            body = b'{"error": "invalid_grant", "error_description": "wrong signature"}'
            return status(400, body, Content_Type="application/json")(ask)
        assert "devstorage" in json.loads(_plain(signed.split(".")[1]))["scope"]
        token = f"google-token-{len(self.tokens)}"
        self.tokens[token] = time.time() + self.lasts_s
        said = {"access_token": token, "expires_in": int(self.lasts_s), "token_type": "Bearer"}
        return status(200, json.dumps(said).encode(), Content_Type="application/json")(ask)


@contextlib.contextmanager
def google_logins(lasts_s: float = 3600.0) -> Iterator[GoogleLogins]:
    """Serves while the context is open."""
    with FaultyServer() as server:
        made = GoogleLogins(server, lasts_s)
        server.on("/token", made.answer)
        yield made


def azure_token(lasts_s: int = 3600) -> str:
    """As Azure's login server gives them; Azurite reads what is in it, and no signature."""
    now = int(time.time())
    tenant = "11111111-1111-1111-1111-111111111111"
    claims = {
        "aud": "https://storage.azure.com", "iss": f"https://sts.windows.net/{tenant}/",
        "iat": now - 10, "nbf": now - 10, "exp": now + lasts_s, "ver": "1.0", "tid": tenant,
    }  # fmt: skip
    return f"{_text({'alg': 'RS256', 'typ': 'JWT'})}.{_text(claims)}.{_base64(b'unsigned')}"


def managed_identity(ask: Exchange, lasts_s: int = 3600) -> bool:
    """The machine's own identity, as App Service offers it: `/msi/token`."""
    assert ask.headers["x-identity-header"] == "msi-secret"
    said = {
        "access_token": azure_token(lasts_s), "expires_on": str(int(time.time()) + lasts_s),
        "resource": "https://storage.azure.com", "token_type": "Bearer",
    }  # fmt: skip
    return status(200, json.dumps(said).encode(), Content_Type="application/json")(ask)
