"""Several addresses of a peer: all of them soon, each for a short time, the first that stands."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import trio

from p2pcache.errors import Denied, P2PCacheError, Unavailable, Untrusted, UsageError
from p2pcache.net.address import Address, parse_address
from p2pcache.net.tcp import TcpConnection

if TYPE_CHECKING:
    from collections.abc import Sequence

T = TypeVar("T")
Attempt = Callable[[Address], Awaitable[T]]
_GRAVEST = (Denied, Untrusted, Unavailable)  # what the user can act upon comes first


@dataclass(frozen=True, slots=True)
class DialOptions:
    """Limits of dialling."""

    connect_s: float = 3.0  # TCP alone; covers one lost SYN (retransmitted after 1 s)
    handshake_s: float = 4.0  # a loaded Python peer needs 10 to 500 ms
    stagger_s: float = 0.25  # RFC 8305: the next address does not wait for a slow one
    max_addresses: int = 8


def dialable(addresses: Sequence[str], options: DialOptions) -> list[Address]:
    """The addresses that we can dial, each once, in order; others' mistakes are passed over."""
    found: dict[Address, None] = {}
    for text in addresses:
        try:
            address = parse_address(text)
        except UsageError:
            continue  # QUIC, relays: no mistake, just not for us
        if address.port and address.host not in ("0.0.0.0", "::"):
            found[Address(address.kind, address.host, address.port)] = None
    return list(found)[: options.max_addresses]


async def race(addresses: Sequence[Address], attempt: Attempt[T], *, stagger_s: float) -> T:
    """The first attempt that succeeds; the others are cancelled.

    The next one starts when the one before failed, or after `stagger_s`. Raises Denied, Untrusted
    or Unavailable, naming what each address answered. Attempts that end at the same moment as the
    winner are the attempt's to undo: it is cancelled at its next checkpoint.
    """
    failures: dict[Address, P2PCacheError] = {}
    won: list[T] = []
    async with trio.open_nursery() as nursery:

        async def run(address: Address, failed: trio.Event) -> None:
            try:
                result = await attempt(address)
            except P2PCacheError as exc:
                failures[address] = exc
                failed.set()
            else:
                won.append(result)
                nursery.cancel_scope.cancel()

        for address in addresses:
            failed = trio.Event()
            nursery.start_soon(run, address, failed)
            with trio.move_on_after(stagger_s):
                await failed.wait()
    if won:
        return won[0]
    raise _one(failures)


async def connect_tcp(address: Address, options: DialOptions) -> TcpConnection:
    """A TCP connection. Raises Unavailable."""
    stream = None
    try:
        with trio.move_on_after(options.connect_s):
            stream = await trio.open_tcp_stream(
                address.host, address.port, happy_eyeballs_delay=options.stagger_s
            )
        if stream is None:
            raise Unavailable(f"{address} does not answer in {options.connect_s:.0f} s")
        return TcpConnection(stream)
    except OSError as exc:
        raise Unavailable(f"{address}: {_reason(exc)}") from exc


def _reason(exc: OSError) -> str:
    """What the system said; trio wraps it when it tried several resolved addresses."""
    cause = exc.__cause__
    while isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[0]
    found = cause if isinstance(cause, OSError) else exc
    return (found.strerror or str(found)).lower()


def _one(failures: dict[Address, P2PCacheError]) -> P2PCacheError:
    if not failures:
        return Unavailable("no address to dial is known")
    for kind in _GRAVEST:
        for exc in failures.values():
            if isinstance(exc, kind):
                told = "; ".join(dict.fromkeys(one.message for one in failures.values()))
                made = kind(told, hint=exc.hint)
                made.__cause__ = exc
                return made
    return next(iter(failures.values()))
