"""Ports of ours: bound alone, advertised with concrete addresses, with limits for strangers."""

from __future__ import annotations

import errno
import ipaddress
import logging
import socket
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING

import ifaddr
import trio

from p2pcache.errors import LocalFault, UsageError
from p2pcache.net.address import Address, parse_address
from p2pcache.net.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

BACKLOG = 256
MAX_HANDSHAKES = 256  # at once; each ends by its deadline
MAX_HANDSHAKES_PER_IP = 128  # so that one stranger leaves room for the others
_ACCEPT_PAUSE_S = 0.1  # when the process is out of file descriptors
_LOG = logging.getLogger(__name__)


class Listener:
    """The listening sockets of a host. `serve` accepts until it is cancelled."""

    def __init__(self, sockets: list[tuple[Address, trio.SocketListener]]) -> None:
        self._sockets = sockets
        self._running: Counter[str] = Counter()
        self.refused_count = 0  # connections that came while too many handshakes were running

    @property
    def bound(self) -> tuple[Address, ...]:
        """What is listened on; wildcards as they are, ports as they became."""
        return tuple(address for address, _ in self._sockets)

    async def serve(
        self, accepted: Callable[[Wire], Awaitable[None]], nursery: trio.Nursery
    ) -> None:
        """Start `accepted` in the nursery for every connection within the limits."""
        async with trio.open_nursery() as accepting:
            for _, listener in self._sockets:
                accepting.start_soon(self._accept, listener, accepted, nursery)

    def close(self) -> None:
        """Stop listening now."""
        for _, listener in self._sockets:
            listener.socket.close()

    async def _accept(
        self,
        listener: trio.SocketListener,
        accepted: Callable[[Wire], Awaitable[None]],
        nursery: trio.Nursery,
    ) -> None:
        while True:
            try:
                stream = await listener.accept()
                wire = Wire(stream)
            except trio.ClosedResourceError:
                return
            except OSError as exc:  # out of descriptors, or the other end left already
                _LOG.debug("accept: %s", exc)
                await trio.sleep(_ACCEPT_PAUSE_S if exc.errno in _CROWDED else 0)
                continue
            host = wire.remote.host
            if (
                self._running.total() >= MAX_HANDSHAKES
                or self._running[host] >= MAX_HANDSHAKES_PER_IP
            ):
                self.refused_count += 1
                wire.cut()
                continue
            self._running[host] += 1
            nursery.start_soon(self._run, host, accepted, wire)

    async def _run(
        self, host: str, accepted: Callable[[Wire], Awaitable[None]], wire: Wire
    ) -> None:
        try:
            await accepted(wire)
        finally:
            self._running[host] -= 1
            if not self._running[host]:
                del self._running[host]


_NO_IPV6 = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL})
_CROWDED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


async def open_listener(listen: Sequence[str]) -> Listener:
    """Bind all addresses (`/ip4/../tcp/..`, port 0 for any).

    Raises LocalFault when one is in use or not ours, UsageError when one makes no sense.
    """
    sockets: list[tuple[Address, trio.SocketListener]] = []
    try:
        for text in listen:
            wanted = parse_address(text)
            if wanted.kind not in ("ip4", "ip6"):
                raise UsageError(
                    f"cannot listen on `{text}`", hint="give an IP address, `/ip4/0.0.0.0/tcp/4001`"
                )
            with _bind_errors(wanted):
                try:
                    sockets.append(await _bind(wanted))
                except OSError as exc:
                    if wanted.host != "::" or exc.errno not in _NO_IPV6 or len(listen) < 2:
                        raise
                    _LOG.info("this machine has no IPv6: not listening on %s", wanted)
    except BaseException:
        for _, listener in sockets:
            listener.socket.close()
        raise
    return Listener(sockets)


async def _bind(wanted: Address) -> tuple[Address, trio.SocketListener]:
    family = socket.AF_INET if wanted.kind == "ip4" else socket.AF_INET6
    listening = trio.socket.socket(family, socket.SOCK_STREAM)
    try:
        # REUSEADDR lets a restarted agent have its port back at once; REUSEPORT would let two
        # agents have it together, each with some of the connections.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        await listening.bind((wanted.host, wanted.port))
        listening.listen(BACKLOG)
    except BaseException:
        listening.close()
        raise
    port = listening.getsockname()[1]
    return Address(wanted.kind, wanted.host, port), trio.SocketListener(listening)


@contextmanager
def _bind_errors(wanted: Address) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        hint = {
            errno.EADDRINUSE: "another program (a second agent?) listens there: "
            "stop it, or give this agent another port",
            errno.EADDRNOTAVAIL: "that address is not one of this machine",
            errno.EACCES: "ports below 1024 need privileges: take a higher one",
        }.get(exc.errno or 0)
        raise LocalFault(f"cannot listen on {wanted}: {exc.strerror}", hint=hint) from exc


def concrete(bound: Sequence[Address]) -> tuple[Address, ...]:
    """What others can dial: wildcards become the machine's addresses.

    Loopback only if that was asked for, or there is nothing else; never link-local, which has no
    meaning on another machine.
    """
    found: dict[Address, None] = {}
    for address in bound:
        if not ipaddress.ip_address(address.host).is_unspecified:
            found[address] = None
            continue
        found |= {
            Address(address.kind, host, address.port): None for host in _own_addresses(address.kind)
        }
    return tuple(found)


def _own_addresses(kind: str) -> list[str]:
    found: list[ipaddress.IPv4Address | ipaddress.IPv6Address] = []
    for adapter in ifaddr.get_adapters():
        for entry in adapter.ips:
            text = entry.ip if isinstance(entry.ip, str) else entry.ip[0]
            address = ipaddress.ip_address(text.partition("%")[0])
            if f"ip{address.version}" == kind and not address.is_link_local:
                found.append(address)
    return [str(a) for a in found if not a.is_loopback] or [str(a) for a in found]
