"""Addresses that a user configured or an invite carried."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from p2pcache.errors import UsageError
from p2pcache.net.address import Address, parse_address
from p2pcache.net.discovery.found import Found, How
from p2pcache.net.remote_address import MAX_ADDRESSES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from p2pcache.content.peerid import PeerId
    from p2pcache.net.discovery.found import Report


def parse_bootstrap(texts: Iterable[str], me: PeerId) -> list[Found]:
    """Configured multiaddrs with `/p2p/`, one entry per peer; ourselves are left out.

    Raises UsageError that quotes the bad one.
    """
    grouped: dict[PeerId, dict[str, None]] = {}
    for text in texts:
        address = parse_address(text.strip())
        if address.peer is None or not address.port:
            raise UsageError(
                f"`{text[:200]}` does not say which peer is there",
                hint="add its peer id: `/ip4/192.0.2.1/tcp/4001/p2p/12D3KooW...`",
            )
        where = str(Address(address.kind, address.host, address.port))
        grouped.setdefault(address.peer, {})[where] = None
    return [
        Found(peer, tuple(addresses)[:MAX_ADDRESSES], How.BOOTSTRAP)
        for peer, addresses in grouped.items()
        if peer != me
    ]


async def run_bootstrap(
    entries: list[Found],
    report: Report,
    *,
    every_s: float = 60.0,
    choose: Callable[[float, float], float],
) -> None:
    """Report all now and again every `every_s` (+-20 %): they may start after us."""
    while True:
        for found in entries:
            report(found)
        await trio.sleep(choose(0.8 * every_s, 1.2 * every_s))
