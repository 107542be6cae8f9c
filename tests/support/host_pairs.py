"""Two hosts of one network in this process, and what tests of links do with them."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio

from p2pcache.errors import Denied, Unavailable, Untrusted
from p2pcache.net.host import open_host
from p2pcache.net.identity import Identity
from p2pcache.net.network_key import NetworkKey
from tests.support.net_node import ECHO, LOOPBACK, echo

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from p2pcache.content.peerid import PeerId
    from p2pcache.net.host import Libp2pHost

KEY = NetworkKey(bytes(range(32)))


@asynccontextmanager
async def two(
    key: NetworkKey | None = KEY, **kwargs: Any
) -> AsyncIterator[tuple[Libp2pHost, Libp2pHost]]:
    """Two hosts that answer ECHO."""
    async with (
        open_host(Identity.generate(), key, LOOPBACK, **kwargs) as a,
        open_host(Identity.generate(), key, LOOPBACK, **kwargs) as b,
    ):
        a.set_handler(ECHO, echo)
        b.set_handler(ECHO, echo)
        yield a, b


async def talks(host: Libp2pHost, peer: PeerId) -> bool:
    """Whether it echoes."""
    stream = await host.open_stream(peer, ECHO, timeout_s=5)
    await stream.send_all(b"hello")
    heard = await stream.receive_exactly(5)
    await stream.aclose()
    return heard == b"hello"


async def meet(a: Libp2pHost, b: Libp2pHost) -> None:
    await a.connect(b.peer_id, b.addresses(), timeout_s=10)


async def until(condition: Callable[[], object], *, within_s: float) -> float:
    """Seconds until it holds."""
    started = trio.current_time()
    with trio.fail_after(within_s):
        while not condition():  # noqa: ASYNC110 - what others do, without an event
            await trio.sleep(0.005)
    return trio.current_time() - started


async def failed_connect(
    host: Libp2pHost, peer: PeerId, addresses: Sequence[str], *, within_s: float
) -> Denied | Unavailable | Untrusted:
    """The error of a connect that must fail, and soon."""
    started = trio.current_time()
    with pytest.raises((Denied, Unavailable, Untrusted)) as caught:
        await host.connect(peer, addresses, timeout_s=20)
    assert trio.current_time() - started < within_s
    assert host.connected() == frozenset()
    return caught.value
