"""Settings of what speaks IPFS."""

from __future__ import annotations

import enum
import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from p2pcache.config.network import port, words
from p2pcache.errors import UsageError
from p2pcache.sources.kubo_place import AUTO, parse_kubo, parse_url

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class ListenAt:
    """A loopback address to listen on; port 0 is any."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Public(enum.Enum):
    """What this agent has to do with the public IPFS network."""

    OFF = "off"
    FETCH = "fetch"  # it asks for blocks, serves nothing and announces nothing
    SHARE = "share"  # and serves and announces what was published, nothing else


PUBLIC_LISTEN = ("/ip4/0.0.0.0/tcp/4802", "/ip6/::/tcp/4802")  # beside the port of the network


@dataclass(frozen=True, slots=True)
class IpfsSettings:
    """`gateway`, `rpc` None: there is none, which is the default: every program and user of this
    machine can read what the gateway shows, and change by the RPC what it keeps.

    `kubo`: URL of a Kubo's RPC, or the folder of its repository; None: no Kubo is asked, which is
    the default: what runs on a machine by chance is not asked for everything that is missing.

    `bitswap`: whether nodes of the network that speak nothing else (Kubo, Helia) get our blocks,
    and are asked for theirs.

    `public_listen` empty: with `share` PUBLIC_LISTEN, else nowhere. `public_bootstrap`: who is
    dialled first. `public_limit_up_bytes_per_s`: of what strangers get together.
    """

    gateway: ListenAt | None = None
    rpc: ListenAt | None = None
    kubo: str | None = None
    kubo_gateway: str | None = None
    bitswap: bool = False
    public: Public = Public.OFF
    public_listen: tuple[str, ...] = ()
    public_announce: tuple[str, ...] = ()
    public_bootstrap: tuple[str, ...] = ()
    public_limit_up_bytes_per_s: float | None = None


def listen_at(text: str) -> ListenAt:
    """`127.0.0.1:8080`, `localhost:8080`, `[::1]:8080`, or a port alone. Raises ValueError."""
    host, colon, number = text.strip().rpartition(":")
    host = host.strip("[]") if colon else "127.0.0.1"
    host = "127.0.0.1" if host.lower() == "localhost" else host
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise ValueError(f"`{text}` is not on a loopback address; write it like `127.0.0.1:8080`")
    return ListenAt(host, port(number))


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


def public(text: str) -> Public:
    """`off`, `fetch`, `share`. Raises ValueError."""
    word = text.strip().lower()
    try:
        return Public("off" if word in ("0", "false", "no") else word)
    except ValueError:
        raise ValueError(
            f"`{text}` is none of `off`, `fetch` (blocks are asked of the public IPFS network) and "
            "`share` (and what `p2pcache publish` names is given to it)"
        ) from None


def public_listen(text: str) -> tuple[str, ...]:
    """Where the public host listens."""
    from p2pcache.net.address import parse_address  # late: `net` prepares the import of libp2p

    for word in words(text):
        try:
            address = parse_address(word)
        except UsageError:
            address = None
        if address is None or address.peer is not None or not address.kind.startswith("ip"):
            raise ValueError(
                f"`{word}` is not what can be listened on; write addresses of this machine like "
                "`/ip4/0.0.0.0/tcp/4802`, separated by commas"
            )
    return words(text)
