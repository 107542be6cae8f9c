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
    """`gateway` None: there is none, which is the default: every program and user of this machine
    can read what it shows. `bitswap`: whether nodes of the network that speak nothing else (Kubo,
    Helia) get our blocks, and are asked for theirs.
    """

    gateway: ListenAt | None = None
    bitswap: bool = False


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


def never(text: str) -> bool:
    """`off`. Raises ValueError for anything else: there is nothing to switch on yet."""
    if text.strip().lower() in ("0", "false", "no", "off"):
        return False
    raise ValueError(
        "p2pcache does not join the public IPFS network; `ipfs.bitswap` trades blocks with Kubo "
        "and Helia in the private one: give them its network.key as their swarm.key"
    )
