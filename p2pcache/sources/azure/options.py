"""How Azure's containers are asked: plain values; `config` reads them."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import urlsplit

from p2pcache.sources.rest_options import RestOptions

PUBLIC_AZURE = "https://{account}.blob.core.windows.net"


@dataclass(frozen=True, slots=True)
class AzureOptions:
    """`endpoint`: of every account, `{account}` stands for its name. `anonymous`: no login is used,
    whatever there is. `public`: what was read with a login is not kept from other agents.
    """

    endpoint: str = PUBLIC_AZURE
    anonymous: bool = False
    public: bool = False
    url_valid_s: int = 3600  # of a signed address; a pull that takes longer gets fresh ones
    rest: RestOptions = field(default_factory=RestOptions)
    max_files: int = 1_000_000  # as a manifest
    grant_s: float = 300.0  # how long a token is used without asking whether the login changed
    max_grants: int = 64  # logins in use at once


def account_url(endpoint: str, account: str) -> str:
    """The address of one account."""
    return endpoint.replace("{account}", account)


def parse_azure_endpoint(text: str) -> str:
    """A URL without a slash at its end, maybe with `{account}` in it. Raises ValueError."""
    word = text.strip().rstrip("/")
    url = urlsplit(word.replace("{account}", "account"))
    if url.scheme not in ("http", "https") or not url.hostname:
        raise ValueError(f"`{word[:200]}` is not an endpoint like {PUBLIC_AZURE}")
    if "@" in url.netloc or url.query or url.fragment:
        raise ValueError("an endpoint has neither a password, a query nor a fragment")
    _ = url.port  # raises for one that is no number
    return word
