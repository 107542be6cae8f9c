"""What a registry asks for in `WWW-Authenticate` (RFC 9110 11.6.1, distribution's token.md): pure.

A realm is an address that the registry chooses, and a login is sent there: only to where a login of
this registry belongs.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlencode, urlsplit

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

LOOPBACK = "loopback"  # among hosts: every name of this machine
MAX_CHALLENGE_CHARS = 4096  # GitLab's have 200

_FIELD = re.compile(
    r"\s*,?\s*(?:([A-Za-z][A-Za-z0-9-]*)\s+)?"
    r'([A-Za-z_]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))'
)


@dataclass(frozen=True, slots=True)
class Challenge:
    """`realm` None: a name and a password with each request (Basic). Else where tokens are."""

    realm: str | None
    service: str | None = None

    def token_url(self, scopes: Sequence[str], **more: str) -> str:
        """Where a token for all of `scopes` is asked for."""
        parts = urlsplit(self.realm or "")
        query = {**dict(parse_qsl(parts.query)), **more}
        query.pop("scope", None)
        if self.service is not None:
            query["service"] = self.service
        pairs = [*query.items(), *(("scope", scope) for scope in scopes)]
        # by name, as Go's libraries write it: Ollama's signature is over this very text
        pairs.sort(key=lambda pair: pair[0])
        return parts._replace(query=urlencode(pairs), fragment="").geturl()


def parse_challenge(fields: Iterable[str]) -> Challenge | None:
    """The challenge that we can answer, a token rather than a password; None: there is none."""
    found: dict[str, dict[str, str]] = {}
    for field in fields:
        _parse_into(found, field[:MAX_CHALLENGE_CHARS])
    bearer = found.get("bearer", {})
    if _is_url(bearer.get("realm", "")):
        return Challenge(bearer["realm"], bearer.get("service"))
    return Challenge(None) if "basic" in found else None


def _parse_into(found: dict[str, dict[str, str]], field: str) -> None:
    if field.strip().lower() == "basic":
        found["basic"] = {}
    current: dict[str, str] = {}
    at = 0
    while (one := _FIELD.match(field, at)) is not None:
        if one[1]:
            current = found.setdefault(one[1].lower(), {})
        value = one[4] if one[3] is None else re.sub(r"\\(.)", r"\1", one[3])
        current.setdefault(one[2].lower(), value)
        at = one.end()


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and "@" not in parts.netloc


def is_loopback(host: str) -> bool:
    """Whether a host is this machine by its very name."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def may_see_login(realm: str, registry: str, trusted: Collection[str]) -> bool:
    """Whether a login of the registry (a URL) may be sent to a realm: the same host, one below the
    domain that the registry's host is in, both this machine, or one of `trusted`.

    Never over plain HTTP, unless the registry itself is asked so and it is the same host.
    """
    to, of = urlsplit(realm), urlsplit(registry)
    there, here = (to.hostname or "").lower(), (of.hostname or "").lower()
    same = there == here or (is_loopback(there) and is_loopback(here))
    if to.scheme != "https" and not (of.scheme == "http" and same):
        return False
    if same or there in trusted:
        return True
    domain = here.partition(".")[2]
    named = "." in domain and not domain.rpartition(".")[2].isdigit()  # an address has no domain
    return named and (there == domain or there.endswith(f".{domain}"))


def may_see_key(realm: str, registry: str) -> bool:
    """Whether a request to a realm may be signed with Ollama's key: the registry's own host alone,
    as Ollama has it.
    """
    to, of = urlsplit(realm), urlsplit(registry)
    return to.hostname == of.hostname and (to.scheme == "https" or of.scheme == "http")
