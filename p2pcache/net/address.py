"""Multiaddr text as far as we dial it: `/ip4|ip6|dns|dns4|dns6/HOST/tcp/PORT[/p2p/PEER]`. Pure."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from p2pcache.content.peerid import PeerId, format_peer_id, parse_peer_id
from p2pcache.errors import UsageError

MAX_ADDRESS_CHARS = 400  # a DNS name has at most 253
_NAME = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Address:
    """Where a peer can be dialled. `kind`: ip4, ip6, dns, dns4 or dns6."""

    kind: str
    host: str
    port: int
    peer: PeerId | None = None

    def __str__(self) -> str:
        tail = "" if self.peer is None else f"/p2p/{format_peer_id(self.peer)}"
        return f"/{self.kind}/{self.host}/tcp/{self.port}{tail}"


def parse_address(text: str) -> Address:
    """Text to an address. Raises UsageError for everything that we cannot dial (QUIC, relays)."""
    parts = text.split("/") if len(text) <= MAX_ADDRESS_CHARS else []
    peer = None
    if len(parts) == 7 and parts[5] in ("p2p", "ipfs"):
        peer = parse_peer_id(parts[6])
        parts = parts[:5]
    if len(parts) != 5 or parts[0] or parts[3] != "tcp" or not _is_port(parts[4]):
        raise _bad(text)
    kind, host, port = parts[1], parts[2], int(parts[4])
    try:
        match kind:
            case "ip4":
                host = str(ipaddress.IPv4Address(host))
            case "ip6":
                host = str(ipaddress.IPv6Address(host))
            case "dns" | "dns4" | "dns6":
                if len(host) > 253 or not _NAME.fullmatch(host):
                    raise _bad(text)
            case _:
                raise _bad(text)
    except ValueError as exc:
        raise _bad(text) from exc
    return Address(kind, host, port, peer)


def ip_address(host: str, port: int) -> Address:
    """The address of one end of a connection."""
    ip = ipaddress.ip_address(host.partition("%")[0])
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    ip = mapped or ip
    return Address(f"ip{ip.version}", str(ip), port)


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= 65535


def _bad(text: str) -> UsageError:
    return UsageError(
        f"`{text[:MAX_ADDRESS_CHARS]}` is not an address that can be dialled",
        hint="one looks like `/ip4/192.0.2.7/tcp/4001/p2p/12D3KooW...`",
    )
