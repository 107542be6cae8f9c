"""The network as `status` shows it, and why a peer is not found, as `doctor` explains it."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ifaddr
import trio

from p2pcache.config.network import DEFAULT_PORT
from p2pcache.content.peerid import format_peer_id
from p2pcache.errors import Denied, LocalFault
from p2pcache.net.port import Unspoken
from p2pcache.transfer.names import CLOCK_SKEW_S
from p2pcache.units import format_duration

if TYPE_CHECKING:
    from collections.abc import Iterator

    from p2pcache.agent.network import AgentNetwork
    from p2pcache.agent.parts import Parts

LANES_S = 2.0  # for the byte server to count; it answers in milliseconds
UP, MULTICAST = 0x1, 0x1000  # net_device flags (linux/if.h)
INTERFACES = Path("/sys/class/net")
TOLD = 3  # examples of a fault in one line
JOIN = "`p2pcache init` makes one, `p2pcache join TOKEN` joins one"


def row(check: str, ok: bool, detail: str, hint: str) -> dict[str, Any]:
    """One of doctor's checks; the hint is for when it is not `ok`."""
    return {"check": check, "ok": ok, "detail": detail, "hint": None if ok else hint}


async def network_status(parts: Parts) -> dict[str, Any]:
    """See `localapi.answers.NetworkStatus`."""
    opened, slot = parts.network.current, parts.network
    if opened is None:
        if not slot.files.network.exists():
            return {"state": "none", "why": "no network key"}
        if slot.settings.enabled and slot.trouble is None:
            return {"state": "opening", "why": None}
        return {"state": "off", "why": slot.why_off()}
    counts = await _lane_counts(opened)
    return {
        "state": "on",
        "why": None,
        "network": opened.key.fingerprint,
        "peer": format_peer_id(opened.peer_id),
        "addresses": opened.addresses(),
        "members": len(opened.network.members()),
        "dht": None if opened.dht is None else opened.dht.statistics(),
        "lanes": {
            "port": opened.server.port,
            "tls": opened.client_tls is not None,
            "limit_up_bytes_per_s": slot.settings.limit_up_bytes_per_s,
            "connections": None if counts is None else counts["connections"],
            "sent_bytes": None
            if counts is None
            else sum(sent for sent, *_ in counts["readers"].values()),
        },
    }


async def _lane_counts(opened: AgentNetwork) -> dict[str, Any] | None:
    with trio.move_on_after(LANES_S):
        try:
            return await opened.server.statistics()
        except LocalFault:
            return None
    return None


# -- why a peer is not found ---------------------------------------------------------------------


def network_checks(parts: Parts) -> Iterator[dict[str, Any]]:
    """Checks of the network; where nobody is connected, what could explain it is a fault."""
    slot, opened = parts.network, parts.network.current
    if not slot.files.network.exists():
        # No fault: an agent may well work alone. Others find nobody without a key.
        yield row("network", True, f"this agent is in no network, so it has no peers: {JOIN}", "")
        return
    if not slot.settings.enabled:
        yield row("network", True, "switched off by `network.enabled`: no peers are found", "")
        return
    if opened is None:
        yield _closed(slot.trouble, slot.hint)
        return
    alone = not opened.network.members()
    yield row("network", True, f"{opened.key.fingerprint}, {_count(opened)}", "")
    yield _addresses(opened, alone=alone)
    yield _port(parts, opened, alone=alone)
    if slot.settings.mdns:
        yield from _mdns(opened, alone=alone)
    yield from _entries(parts, opened)
    yield _absent(opened, alone=alone)
    yield from _others(parts, opened)
    yield _keys(opened)
    yield _admin(opened)
    yield _clock(parts.names.clock_skew_s)
    yield row(
        "members",
        not alone,
        _count(opened),
        "let somebody join with `p2pcache invite`; one who is in: `p2pcache doctor` there as well",
    )


def _count(opened: AgentNetwork) -> str:
    count = len(opened.network.members())
    if not count:
        return "nobody else is connected"
    return f"{count} other {'agent is' if count == 1 else 'agents are'} connected"


def _closed(trouble: str | None, do: str | None) -> dict[str, Any]:
    detail = trouble or "the network is being opened"
    hint = do or "the agent's log says more; it is tried again by itself, at least once a minute"
    if trouble is None:
        hint = "run this again in a few seconds"
    elif "in use" in trouble:
        hint = "another program has the port: set `network.port` or `lanes.port` to another or none"
    return row("network", False, f"it is off: {detail}", hint)


def _addresses(opened: AgentNetwork, *, alone: bool) -> dict[str, Any]:
    addresses = opened.host.addresses()
    hosts = [address.split("/")[2] for address in addresses if address.startswith("/ip")]
    local = all(ipaddress.ip_address(host).is_loopback for host in hosts)
    detail = ", ".join(addresses[:TOLD]) or "none"
    if local:
        detail += ": nobody on another machine can connect"
    return row(
        "addresses", not (alone and local), detail,
        "set `network.hosts` to an address of this machine, or to 0.0.0.0, ::",
    )  # fmt: skip


def _port(parts: Parts, opened: AgentNetwork, *, alone: bool) -> dict[str, Any]:
    # Where the usual one was taken, IPv4 and IPv6 may have one each.
    ports = list(dict.fromkeys(a.split("/")[4] for a in opened.host.addresses()))
    usual = parts.network.settings.port or DEFAULT_PORT
    told, lane = f"TCP {', '.join(ports)}", f"bytes on {opened.server.port}"
    if ports == [str(usual)]:
        return row("port", True, f"{told}, {lane}: both must be open in a firewall", "")
    return row(
        "port", not alone, f"{told} and not the usual {usual}, {lane}",
        f"open these in the firewall, or free {usual} and set `network.port` to it",
    )  # fmt: skip


def _mdns(opened: AgentNetwork, *, alone: bool) -> Iterator[dict[str, Any]]:
    from p2pcache.net.discovery.found import How

    able = multicast_interfaces()
    yield row(
        "multicast",
        bool(able) or not alone,
        f"interfaces that can: {', '.join(able)}" if able else "no interface can: mDNS is silent",
        "use `p2pcache join TOKEN`, `network.bootstrap` or `network.dns` instead",
    )
    heard = opened.seen[How.MDNS]
    if able:
        yield row(
            "mDNS",
            bool(heard) or not alone,
            f"heard others {heard} times" if heard else "nobody of this network was heard",
            "UDP 5353 may be blocked, or others are on another LAN: `p2pcache join TOKEN` needs "
            "no multicast",
        )


def multicast_interfaces() -> list[str]:
    """Interfaces with an IPv4 address, that are up, not loopback, and carry multicast."""
    found = []
    for adapter in ifaddr.get_adapters():
        ips = [ip.ip for ip in adapter.ips if isinstance(ip.ip, str)]
        if not any(not ipaddress.ip_address(ip).is_loopback for ip in ips):
            continue
        try:
            flags = int((INTERFACES / adapter.name / "flags").read_text(), 16)
        except (OSError, ValueError):
            continue
        if flags & UP and flags & MULTICAST:
            found.append(adapter.name)
    return found


def _entries(parts: Parts, opened: AgentNetwork) -> Iterator[dict[str, Any]]:
    """Those that the settings name."""
    settings = parts.network.settings
    here = {format_peer_id(member.peer) for member in opened.network.members()}
    why = {format_peer_id(peer): exc.message for peer, exc in opened.network.failures().items()}
    missing = [
        f"{text}: {why.get(text.rpartition('/p2p/')[2], 'not reached yet')}"
        for text in settings.bootstrap
        if text.rpartition("/p2p/")[2] not in here
    ]
    if settings.bootstrap:
        yield row(
            "bootstrap",
            len(missing) < len(settings.bootstrap),
            "; ".join(missing[:TOLD]) or "all are connected",
            "check that those agents run, and the addresses and ports in `network.bootstrap`",
        )
    if settings.dns:
        failed = [f"{where[0]}: {text}" for where, text in opened.unanswered.items() if where]
        yield row(
            "dns",
            bool(here),
            "; ".join(failed[:TOLD]) or f"{', '.join(settings.dns)}: {len(here)} connected",
            "check that the name resolves to other agents, and their port",
        )


def _absent(opened: AgentNetwork, *, alone: bool) -> dict[str, Any]:
    """Those of last time, and those that were heard of, who are not here: what each said last."""
    here = {member.peer for member in opened.network.members()}
    why = opened.network.failures()
    known = dict.fromkeys([*why, *(found.peer for found in opened.book.peers())])
    absent = [
        f"{format_peer_id(peer)}: {why[peer].message if peer in why else 'not reached yet'}"
        for peer in known
        if peer is not None and peer not in here and not isinstance(why.get(peer), Unspoken)
    ]
    more = f"; and {len(absent) - TOLD} more" if len(absent) > TOLD else ""
    return row(
        "absent", not (alone and absent), "; ".join(absent[:TOLD]) + more or "nobody who is known",
        "check that those agents run (`p2pcache doctor` there too), and that their ports are open",
    )  # fmt: skip


def _others(parts: Parts, opened: AgentNetwork) -> Iterator[dict[str, Any]]:
    """Those of the network that are no agents: no fault, where they are told apart."""
    failures = opened.network.failures().items()
    others = [format_peer_id(peer) for peer, exc in failures if isinstance(exc, Unspoken)]
    if not others:
        return
    more = f", and {len(others) - TOLD} more" if len(others) > TOLD else ""
    on = parts.config.ipfs.bitswap
    how = "they trade blocks by bitswap" if on else "`ipfs.bitswap` is off, so nothing is traded"
    told = f"{', '.join(others[:TOLD])}{more}: no agents, but nodes such as Kubo or Helia; {how}"
    yield row("other nodes", True, told, "")


def _keys(opened: AgentNetwork) -> dict[str, Any]:
    failures = opened.network.failures()
    denied = [exc.message for exc in failures.values() if isinstance(exc, Denied)]
    denied += [f"{host} dialled with another key" for host in dict.fromkeys(opened.host.strangers)]
    return row(
        "keys",
        not denied,
        "; ".join(denied[:TOLD]) or "nobody with another network key was met",
        "have that agent join again with a token of `p2pcache invite` from this network",
    )


def _admin(opened: AgentNetwork) -> dict[str, Any]:
    """No fault: a network may have none; but whoever wonders why a grant is refused looks here."""
    if opened.admin is None:
        return row("admin", True, "none: no `network.admin` is in the home, so no grant counts", "")
    who = format_peer_id(opened.admin)
    ours = opened.admin == opened.peer_id
    return row("admin", True, "this agent" if ours else f"{who}, and not this agent", "")


def _clock(ahead_s: float) -> dict[str, Any]:
    skewed = ahead_s > CLOCK_SKEW_S
    detail = (
        f"a member's clock is {format_duration(ahead_s)} ahead: its words on names do not count"
        if skewed
        else "no member's clock was seen to be ahead"
    )
    return row("clock", not skewed, detail, "set the clocks of both machines (NTP)")
