"""Runs every way of discovery and hands what they find to one callback."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

from p2pcache.net.discovery.bootstrap import parse_bootstrap, run_bootstrap
from p2pcache.net.discovery.dns import Resolve, parse_dns_name, resolve_with_system, run_dns
from p2pcache.net.discovery.gate import Gate
from p2pcache.net.discovery.mdns import MdnsOptions, run_mdns
from p2pcache.net.discovery.peerbook import PeerBook, run_peerbook

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from p2pcache.content.peerid import PeerId
    from p2pcache.net.discovery.found import Found, Report


@dataclass(frozen=True, slots=True)
class DiscoveryOptions:
    """What to use. Times in seconds."""

    mdns: bool = True
    bootstrap: tuple[str, ...] = ()  # multiaddrs with /p2p/
    dns: tuple[str, ...] = ()  # `name:port`
    dns_every_s: float = 30.0  # a headless service changes with its pods
    again_s: float = 20.0  # the same finding is handed on no more often
    per_s: float = 20.0  # of each way: a dial costs 10 ms
    burst: int = 256  # a large network's first answer
    mdns_options: MdnsOptions = field(default_factory=MdnsOptions)


async def discover(
    fingerprint: str,
    me: PeerId,
    addresses: Callable[[], Sequence[str]],
    report: Report,
    options: DiscoveryOptions | None = None,
    *,
    book: PeerBook | None = None,
    choose: Callable[[float, float], float] = random.uniform,
    resolve: Resolve = resolve_with_system,
) -> None:
    """Look for members until cancelled; then withdraw the announcements (at most 2 s).

    `fingerprint` names the network (`NetworkKey.fingerprint`). `addresses` are ours (concrete,
    without `/p2p/`); `report` is called in this thread, quickly, with each new finding, never with
    ourselves by peer id or address; it may come again, and it may be wrong. `book` is the caller's:
    it says who was really there. Raises UsageError for options that do not parse, before anything
    starts.
    """
    options = options or DiscoveryOptions()
    entries = parse_bootstrap(options.bootstrap, me)
    names = [parse_dns_name(name) for name in options.dns]
    gate = Gate(again_s=options.again_s, per_s=options.per_s, burst=options.burst)

    def found_one(found: Found) -> None:
        if found.peer != me and gate.admit(found, trio.current_time()):
            report(found)

    async with trio.open_nursery() as nursery:
        if entries:
            nursery.start_soon(lambda: run_bootstrap(entries, found_one, choose=choose))
        if book is not None:
            nursery.start_soon(run_peerbook, book, found_one)
        for name, port in names:
            nursery.start_soon(
                _run_name, name, port, addresses, found_one, options, choose, resolve
            )
        if options.mdns:
            nursery.start_soon(
                run_mdns, fingerprint, me, addresses, found_one, options.mdns_options
            )


async def _run_name(
    name: str,
    port: int,
    addresses: Callable[[], Sequence[str]],
    report: Report,
    options: DiscoveryOptions,
    choose: Callable[[float, float], float],
    resolve: Resolve,
) -> None:
    await run_dns(
        name, port, addresses, report,
        every_s=options.dns_every_s, choose=choose, resolve=resolve,
    )  # fmt: skip
