"""Settings of what speaks IPFS."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from p2pcache.config.network import port


@dataclass(frozen=True, slots=True)
class ListenAt:
    """A loopback address to listen on; port 0 is any."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class IpfsSettings:
    """`gateway`, `rpc` None: there is none, which is the default: every program and user of this
    machine can read what the gateway shows, and change by the RPC what it keeps.
    """

    gateway: ListenAt | None = None
    rpc: ListenAt | None = None


def listen_at(text: str) -> ListenAt:
    """`127.0.0.1:8080`, `[::1]:8080`, or a port alone. Raises ValueError."""
    host, colon, number = text.strip().rpartition(":")
    host = host.strip("[]") if colon else "127.0.0.1"
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise ValueError(f"`{text}` is not on a loopback address; write it like `127.0.0.1:8080`")
    return ListenAt(host, port(number))
