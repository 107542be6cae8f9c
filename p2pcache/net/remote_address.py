"""Addresses in the words of remotes: strict text and binary forms of IP and TCP, nothing else.

`/ip4/192.0.2.1/tcp/4001`, `/ip6/2001:db8::1/tcp/4001`, each perhaps followed by `/p2p/<peer id>`.
What users configure is `address.py`'s; what anybody may claim is parsed here, narrowly, in about
5 us and without the multiaddr library (50 us). Codes: multiformats/multiaddr protocols.csv.
"""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache
from typing import TYPE_CHECKING

from p2pcache.content.peerid import PEER_ID_BYTES, PeerId, check_peer_id, parse_peer_id
from p2pcache.errors import Untrusted, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_ADDRESS_CHARS = 128  # the longest: IPv6 in full, a port and a peer id: 110
REMEMBERED = 1024  # lanes whose hosts were looked at: 65 us each
MAX_ADDRESSES = 8  # of one peer; more are cut off, the first are the best

_PORT = re.compile(r"[1-9][0-9]{0,4}", re.ASCII)
_IP4, _TCP, _IP6 = b"\x04", b"\x06", b"\x29"
_P2P = b"\xa5\x03"  # 421 as a varint

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


def parse_ip_address(text: str, *, loopback: bool) -> str:
    """The canonical form of a concrete IP and TCP port in the word of a remote. Raises Untrusted.

    Refuses what nobody can be reached at (unspecified, multicast, reserved) and, unless
    `loopback`, what would be ourselves: a remote must not make us talk to our own services.
    """
    kind, host, port = _split(text)
    return _format(_concrete(_ip(kind, host), loopback), port)


def split_peer(text: str) -> tuple[PeerId, str]:
    """The two halves of `<address>/p2p/<peer>` of a remote. Raises Untrusted; checks only who."""
    if len(text) > MAX_ADDRESS_CHARS:
        raise Untrusted("an address is too long")
    head, mark, tail = text.partition("/p2p/")
    try:
        if not mark:
            raise Untrusted("an address names no peer")
        return parse_peer_id(tail), head
    except UsageError as exc:
        raise Untrusted("an address names something that is no peer id") from exc


def format_ip_address(host: str, port: int) -> str:
    """The multiaddr of an IP (as `socket` gives it) and a port. Raises Untrusted."""
    try:
        ip = ipaddress.ip_address(host)
    except ValueError as exc:
        raise Untrusted("not an IP address") from exc
    return _format(_concrete(ip, loopback=True), port)


def is_loopback(text: str) -> bool:
    """Whether an address of ours is only good on this machine."""
    try:
        kind, host, _ = _split(text)
        return _ip(kind, host).is_loopback
    except Untrusted:  # a name that is announced for us
        return False


def reachable(texts: Iterable[str], seen: str | None) -> tuple[str, ...]:
    """Those of a remote's addresses that we may dial; `seen`: where its own connection ends.

    Loopback and link-local ones only in the word of who is itself seen there: they would lead to
    services of ours, or of our network. Names stay: users announce them.
    """
    return tuple(text for text in texts if _may_dial(text, seen or ""))


@lru_cache(maxsize=REMEMBERED)
def reachable_hosts(hosts: tuple[str, ...], port: int, seen: str | None) -> tuple[str, ...]:
    """The same of bare hosts; only IPs. Asked for every request of a pull: 330 times a GiB."""
    return tuple(
        host
        for host in hosts
        if _may_dial(f"/ip{6 if ':' in host else 4}/{host}/tcp/{port}", seen or "")
    )


def _may_dial(text: str, seen: str) -> bool:
    if not text.startswith(("/ip4/", "/ip6/")):
        return True
    try:
        plain = parse_ip_address(text.partition("/p2p/")[0], loopback=is_loopback(seen))
        return not _is_link_local(plain) or _is_link_local(seen)
    except Untrusted:
        return False


def _is_link_local(text: str) -> bool:
    try:
        kind, host, _ = _split(text)
        ip = _ip(kind, host)
    except Untrusted:
        return False
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return (mapped or ip).is_link_local


def encode_address(text: str, peer: PeerId | None = None) -> bytes:
    """The binary form. Raises Untrusted for a name."""
    kind, host, port = _split(text)
    code = _IP4 if kind == "ip4" else _IP6
    tail = b"" if peer is None else _P2P + bytes([len(peer)]) + peer
    return code + _ip(kind, host).packed + _TCP + port.to_bytes(2, "big") + tail


def decode_address(data: bytes, *, loopback: bool) -> tuple[PeerId | None, str]:
    """What `encode_address` made, from a remote: who (if said) and the text. Raises Untrusted."""
    size = {_IP4: 4, _IP6: 16}.get(data[:1])
    if size is None or data[1 + size : 2 + size] != _TCP:
        raise Untrusted("an address is not IP and TCP")
    ip = ipaddress.ip_address(data[1 : 1 + size])
    port = int.from_bytes(data[2 + size : 4 + size], "big")
    tail = data[4 + size :]
    if len(data) < 4 + size or port == 0:
        raise Untrusted("an address has no port")
    peer: PeerId | None = None
    if tail:
        if tail[:3] != _P2P + bytes([PEER_ID_BYTES]) or len(tail) != 3 + PEER_ID_BYTES:
            raise Untrusted("an address ends in something unknown")
        peer = check_peer_id(tail[3:])
    return peer, _format(_concrete(ip, loopback), port)


def _split(text: str) -> tuple[str, str, int]:
    if len(text) > MAX_ADDRESS_CHARS:
        raise Untrusted("an address is too long")
    parts = text.split("/")
    if len(parts) != 5 or parts[0] or parts[1] not in ("ip4", "ip6") or parts[3] != "tcp":
        raise Untrusted("an address is not `/<ip4|ip6>/<host>/tcp/<port>`")
    _, kind, host, _, port = parts
    if not _PORT.fullmatch(port) or int(port) > 65535:
        raise Untrusted("an address has no valid port")
    return kind, host, int(port)


def _ip(kind: str, host: str) -> IpAddress:
    try:
        if kind == "ip4":
            return ipaddress.IPv4Address(host)
        if "%" in host:
            raise ValueError("a zone means nothing to others")
        return ipaddress.IPv6Address(host)
    except ValueError as exc:
        raise Untrusted("an address has no valid IP address") from exc


def _concrete(ip: IpAddress, loopback: bool) -> IpAddress:
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    real = mapped or ip
    if real.is_unspecified or real.is_multicast or (real.version == 4 and real.is_reserved):
        raise Untrusted("nobody can be reached at an address")
    if real.is_loopback and not loopback:
        raise Untrusted("an address leads back to ourselves")
    return ip


def _format(ip: IpAddress, port: int) -> str:
    return f"/ip{ip.version}/{ip}/tcp/{port}"
