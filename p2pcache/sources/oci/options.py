"""How registries are asked: where their API is, over what, and with whose login."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from p2pcache.content.registry_refs import DOCKER_HUB
from p2pcache.sources.oci.challenge import LOOPBACK, is_loopback

if TYPE_CHECKING:
    from p2pcache.sources.port import Credentials, RegistryLogin

# Docker Hub answers elsewhere than it is called.
API_HOSTS = {DOCKER_HUB: "registry-1.docker.io"}


@dataclass(frozen=True, slots=True)
class OciOptions:
    """How registries are asked. Proxies come from the environment, as for every HTTP client.

    `insecure`: hosts, with their port where they have one, that are asked over plain HTTP.
    `realms`: hosts that may see logins beside those that belong to a registry.
    """

    ca_file: str | None = None
    insecure: frozenset[str] = frozenset({LOOPBACK})
    realms: frozenset[str] = frozenset()
    timeout_s: float = 10.0  # for each of connect, write and the next byte
    deadline_s: float = 60.0  # one whole reply: a slow drip cannot hold a listing for ever
    max_redirects: int = 8  # as lanes/orders.FetchLimits


def registry_url(registry: str, options: OciOptions) -> str:
    """Scheme, host and port of the API of what a ref calls `host[:port]`."""
    insecure = options.insecure
    host = registry.rpartition(":")[0] if registry[-1].isdigit() else registry
    local = LOOPBACK in insecure and is_loopback(host or registry)
    plain = local or registry in insecure or host in insecure
    return f"{'http' if plain else 'https'}://{API_HOSTS.get(registry, registry)}"


def login_for(registry: str, credentials: Credentials) -> RegistryLogin | None:
    """The caller's login, where it is for this registry."""
    login = credentials.registry
    asked = {registry, *(name for name, api in API_HOSTS.items() if api == registry)}
    return login if login is not None and login.host in asked else None
