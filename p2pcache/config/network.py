"""What the settings say about the network, as plain values for `agent.network_open`."""

from __future__ import annotations

from dataclasses import dataclass

from p2pcache.content.peerid import PeerId, format_peer_id, parse_peer_id
from p2pcache.errors import UsageError

DEFAULT_PORT = 4801  # unassigned by IANA; another free one is taken when nobody asked for this one


@dataclass(frozen=True, slots=True)
class NetworkSettings:
    """One agent's network. `port` None: DEFAULT_PORT if it is free, else any."""

    enabled: bool = True
    hosts: tuple[str, ...] = ("0.0.0.0", "::")
    port: int | None = None
    announce: tuple[str, ...] = ()
    bootstrap: tuple[str, ...] = ()
    dns: tuple[str, ...] = ()
    mdns: bool = True
    dht: bool = True
    full_mesh: int = 64  # as `net.mesh.MeshOptions` has it
    lane_tls: bool = True
    lane_port: int = 0
    limit_up_bytes_per_s: float | None = None


def words(text: str) -> tuple[str, ...]:
    """`a, b` as ("a", "b"); `none` and the empty text are no words."""
    found = tuple(word.strip() for word in text.split(",") if word.strip())
    return () if found == ("none",) else found


def port(text: str) -> int:
    """A TCP port, 0 for any."""
    if not (text.strip().isdecimal() and int(text) <= 65535):
        raise ValueError(f"`{text}` is not a port")
    return int(text)


def trust(text: str) -> frozenset[PeerId] | None:
    """`any`: every member; `none`: nobody; else peer ids."""
    if text.strip() == "any":
        return None
    try:
        return frozenset(parse_peer_id(word) for word in words(text))
    except UsageError as exc:
        raise ValueError(exc.message) from exc


def format_trust(trusted: frozenset[PeerId] | None) -> str:
    """What `trust` reads."""
    if trusted is None:
        return "any"
    return ", ".join(sorted(map(format_peer_id, trusted))) or "none"
