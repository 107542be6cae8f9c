"""What the settings say about the network, as plain values for `agent.network_open`."""

from __future__ import annotations

import ipaddress
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
    zone: str = ""  # where this agent is; "": not known
    rack: str = ""
    full_mesh: int = 64  # as `net.mesh.MeshOptions` has it
    lane_tls: bool = True
    lane_port: int = 0
    limit_up_bytes_per_s: float | None = None


def words(text: str) -> tuple[str, ...]:
    """`a, b` as ("a", "b"); `none` and the empty text are no words."""
    found = tuple(word.strip() for word in text.split(",") if word.strip())
    return () if found == ("none",) else found


MAX_PLACE_BYTES = 64  # a Kubernetes label has 63; as `net.sync.wire` has it


def place(text: str) -> str:
    """The name of a zone or a rack; `none` and the empty text are no name."""
    name = text.strip()
    if len(name.encode()) > MAX_PLACE_BYTES or not name.isprintable():
        raise ValueError(f"`{text}` is not a name of at most {MAX_PLACE_BYTES} bytes")
    return "" if name == "none" else name


def hosts(text: str) -> tuple[str, ...]:
    """Addresses to listen on, at least one."""
    found = words(text)
    try:
        if found and not any("%" in str(ipaddress.ip_address(word)) for word in found):
            return found
    except ValueError:
        pass
    raise ValueError(
        f"`{text}` is not what can be listened on; write IP addresses of this machine, "
        "separated by commas: `0.0.0.0, ::`"
    )


def announce(text: str) -> tuple[str, ...]:
    """Where others can dial this agent; our peer id is added to each."""
    for word in words(text):
        if _is_peer_named(word) is not False:
            raise ValueError(
                f"`{word}` is not an address of this agent; write them like "
                "`/ip4/192.0.2.7/tcp/4801` or `/dns/a.example/tcp/4801`, separated by commas"
            )
    return words(text)


def bootstrap(text: str) -> tuple[str, ...]:
    """Where others are, and who."""
    for word in words(text):
        if not _is_peer_named(word):
            raise ValueError(
                f"`{word}` is not the address of an agent; write them like "
                "`/ip4/192.0.2.7/tcp/4801/p2p/12D3KooW...`, separated by commas"
            )
    return words(text)


def _is_peer_named(word: str) -> bool | None:
    """Whether an address names its peer; None: it is no address."""
    from p2pcache.net.address import parse_address  # late: `net` prepares the import of libp2p

    try:
        address = parse_address(word)
    except UsageError:
        return None
    return address.peer is not None if address.port else None


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
