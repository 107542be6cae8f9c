"""A DNS name with one address per agent: a headless service in Kubernetes, or any A/AAAA set."""

from __future__ import annotations

import logging
import socket
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import trio

from p2pcache.errors import Untrusted, UsageError
from p2pcache.net.discovery.found import Found, How
from p2pcache.net.remote_address import format_ip_address

if TYPE_CHECKING:
    from collections.abc import Sequence

    from p2pcache.net.discovery.found import Report

MAX_RESOLVED = 256  # addresses of one answer
ASK_S = 10.0  # the system resolver's own patience is longer

Resolve = Callable[[str, int], Awaitable[list[str]]]  # the IPs of a name; raises OSError

log = logging.getLogger(__name__)


def parse_dns_name(text: str) -> tuple[str, int]:
    """`agents.default.svc:4001` of a user. Raises UsageError."""
    host, mark, port = text.strip().rpartition(":")
    number = int(port) if port.isascii() and port.isdecimal() and len(port) <= 5 else 0
    if not mark or not host or len(host) > 253 or "/" in host or not 0 < number < 65536:
        raise UsageError(
            f"`{text[:300]}` is not a DNS name with a port",
            hint="one looks like `agents.default.svc.cluster.local:4001`",
        )
    return host, number


async def resolve_with_system(name: str, port: int) -> list[str]:
    """A and AAAA by the system's resolver, in a thread. Raises OSError."""
    answers = await trio.socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
    return [str(answer[4][0]) for answer in answers]


async def run_dns(
    name: str,
    port: int,
    own: Callable[[], Sequence[str]],
    report: Report,
    *,
    every_s: float = 30.0,
    choose: Callable[[float, float], float],
    resolve: Resolve = resolve_with_system,
) -> None:
    """Ask now and again every `every_s` (+-20 %, `choose(low, high)`), until cancelled.

    Reports each address alone, without a peer. A name that does not resolve is said once, and once
    more when it does; during a roll-out that is normal.
    """
    failing = False
    while True:
        try:
            with trio.fail_after(ASK_S):
                hosts = await resolve(name, port)
        except (OSError, UnicodeError, trio.TooSlowError) as exc:
            if not failing:
                reason = exc if str(exc) else "no answer in time"
                log.warning("`%s` does not resolve, asking again and again: %s", name, reason)
            failing = True
        else:
            if failing:
                log.info("`%s` resolves now", name)
            failing = False
            ours = set(own())
            for address in _addresses(hosts, port):
                if address not in ours:
                    report(Found(None, (address,), How.DNS))
        await trio.sleep(choose(0.8 * every_s, 1.2 * every_s))


def _addresses(hosts: Sequence[str], port: int) -> list[str]:
    found: dict[str, None] = {}
    for host in hosts[:MAX_RESOLVED]:
        try:
            found[format_ip_address(host.partition("%")[0], port)] = None
        except Untrusted:
            continue
    return list(found)
