"""Tokens for a registry, as distribution's token specification has it: signed by us, checked by the
real registry, which trusts our certificate.
"""

from __future__ import annotations

import base64
import contextlib
import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from tests.support.faulty_http import FaultyServer, status
from tests.support.registry import PASSWORD, USER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.certs import ServerCert
    from tests.support.faulty_http import Exchange

SERVICE, ISSUER = "test registry", "test issuer"


@dataclass
class TokenServer:
    """`open`: the repositories that everybody may pull. `lasts_s`: of a token; `says_s`: what the
    answer says of that. `given`: who got one, and for what.
    """

    server: FaultyServer
    cert: ServerCert
    open: str = "open/"
    lasts_s: float = 300.0
    says_s: float | None = None
    given: list[tuple[str, str]] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)

    @property
    def auth(self) -> dict[str, object]:
        """The part of the registry's settings."""
        return {
            "token": {
                "realm": self.server.url("/token"),
                "service": SERVICE,
                "issuer": ISSUER,
                "rootcertbundle": str(self.cert.ca_file),
            }
        }

    def answer(self, ask: Exchange) -> bool:
        query = parse_qs(urlsplit(ask.path).query)
        form = parse_qs(ask.body.decode()) if ask.body else {}
        scope = (query.get("scope") or form.get("scope") or [""])[0]
        _, _, rest = scope.partition(":")
        name, _, actions = rest.rpartition(":")
        login = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        sent = ask.headers.get("authorization")
        who = USER if sent == f"Basic {login}" or form.get("refresh_token") == [PASSWORD] else ""
        if (sent or form) and not who:
            return status(401)(ask)
        allowed = actions.split(",") if who or name.startswith(self.open) else []
        self.given.append((who, scope))
        says_s = self.lasts_s if self.says_s is None else self.says_s
        self.tokens.append(self._token(who, name, allowed))
        said = {"token": self.tokens[-1], "expires_in": int(says_s)}
        return status(200, json.dumps(said).encode(), Content_Type="application/json")(ask)

    def _token(self, who: str, name: str, actions: list[str]) -> str:
        now = time.time()
        chain = x509.load_pem_x509_certificate(self.cert.cert_file.read_bytes())
        der = chain.public_bytes(serialization.Encoding.DER)
        header = {"typ": "JWT", "alg": "ES256", "x5c": [base64.b64encode(der).decode()]}
        access = [{"type": "repository", "name": name, "actions": actions}] if actions else []
        claims = {
            "iss": ISSUER, "sub": who, "aud": SERVICE, "exp": int(now + self.lasts_s),
            "nbf": int(now - 10), "iat": int(now), "jti": f"{now}", "access": access,
        }  # fmt: skip
        signed = f"{_text(header)}.{_text(claims)}"
        key = serialization.load_pem_private_key(self.cert.key_file.read_bytes(), None)
        assert isinstance(key, EllipticCurvePrivateKey)
        r, s = decode_dss_signature(key.sign(signed.encode(), ECDSA(hashes.SHA256())))
        raw = r.to_bytes(32, "big") + s.to_bytes(32, "big")
        return f"{signed}.{_base64(raw)}"


@contextlib.contextmanager
def token_server(cert: ServerCert, **options: Any) -> Iterator[TokenServer]:
    """Run one on loopback."""
    with FaultyServer() as server:
        made = TokenServer(server, cert, **options)
        server.on("/token", made.answer)
        yield made


def _text(said: dict[str, object]) -> str:
    return _base64(json.dumps(said).encode())


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
