"""Settings of what speaks IPFS."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from p2pcache.sources.kubo_place import AUTO, parse_kubo, parse_url

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["IpfsSettings", "ipfs_repository", "kubo", "kubo_gateway"]


@dataclass(frozen=True, slots=True)
class IpfsSettings:
    """`kubo`: URL of a Kubo's RPC, or the folder of its repository; None: no Kubo is asked, which
    is the default: what runs on a machine by chance is not asked for everything that is missing.
    """

    kubo: str | None = None
    kubo_gateway: str | None = None


def kubo(text: str) -> str:
    """`http://127.0.0.1:5001`, a repository's folder, or `auto`. Raises ValueError."""
    return parse_kubo(text)


def kubo_gateway(text: str) -> str:
    """`http://127.0.0.1:8080`. Raises ValueError."""
    return parse_url(text)


def ipfs_repository(environment: Mapping[str, str]) -> str:
    """The folder of this user's Kubo, by its own rule."""
    named = environment.get("IPFS_PATH")
    return str(Path(named or "~/.ipfs").expanduser().absolute())


def where_kubo(said: str | None, environment: Mapping[str, str]) -> str | None:
    """What `kubo` gave, with `auto` replaced by the repository that it means here."""
    return ipfs_repository(environment) if said == AUTO else said
