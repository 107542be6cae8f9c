"""How Google's buckets are asked: plain values; `config` reads them."""

from __future__ import annotations

from dataclasses import dataclass, field

from p2pcache.sources.rest_options import RestOptions

PUBLIC_GCS = "https://storage.googleapis.com"


@dataclass(frozen=True, slots=True)
class GcsOptions:
    """`anonymous`: no login is sent, whatever there is. `public`: what was read with a login is not
    kept from other agents.
    """

    endpoint: str = PUBLIC_GCS
    anonymous: bool = False
    public: bool = False
    rest: RestOptions = field(default_factory=RestOptions)
    max_files: int = 1_000_000  # as a manifest
    grant_s: float = 300.0  # how long a token is used without asking whether the login changed
    max_grants: int = 64  # logins in use at once
