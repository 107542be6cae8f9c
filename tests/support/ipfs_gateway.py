"""The IPFS gateway over a real store in a thread of its own, and requests to it or to Kubo's."""

from __future__ import annotations

import contextlib
import http.client
import threading
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import trio

from p2pcache.content import verify
from p2pcache.content.carstream import CarReader
from p2pcache.gateway.http import HttpOptions, serve
from p2pcache.gateway.ipfs.gateway import GatewayOptions, IpfsGateway
from p2pcache.store.implied import everything
from p2pcache.store.layout import StoreOptions
from p2pcache.store.store import Store
from p2pcache.transfer.blocks import BlockOptions, LocalBlocks, open_blocks

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@dataclass
class Answer:
    """One answer; header names in lower case. `whole`: nothing of the body is missing."""

    status: int
    headers: dict[str, str]
    body: bytes
    whole: bool = True


@dataclass
class Gateway:
    """Where a gateway listens."""

    host: str
    port: int
    store: Store | None = None
    fetchers: list = field(default_factory=list)

    def ask(self, target: str, *, method: str = "GET", **headers: str) -> Answer:
        """One request; `If_None_Match="x"` is the header `If-None-Match`."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=60)
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, target, headers=named)
            answer = connection.getresponse()
            try:
                body, whole = answer.read(), True
            except http.client.IncompleteRead as exc:
                body, whole = exc.partial, False
            found = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, found, body, whole)
        finally:
            connection.close()


def keep(store: Store, cid: bytes, block: bytes) -> None:
    """A loose block."""
    store.loose.put(verify.verify_loose(cid, block))


def keep_car(store: Store, car: bytes) -> list[bytes]:
    """All blocks of a CAR; its CIDs in order."""
    reader = CarReader()
    found = []
    for one in reader.feed(car):
        keep(store, one.cid, one.block)
        found.append(one.cid)
    reader.close()
    return found


def cids_of(car: bytes) -> list[bytes]:
    """The CIDs in a CAR, in order; every block was verified."""
    reader = CarReader()
    found = [one.cid for one in reader.feed(car)]
    reader.close()
    return found


def roots_of(car: bytes) -> list[bytes]:
    """The roots that a CAR names."""
    reader = CarReader()
    list(reader.feed(car))
    return list(reader.roots or ())


@contextlib.contextmanager
def gateway(
    folder: Path, *, shows=everything, answer_s: float = 5.0, fetch_s: float = 3.0,
    http_options: HttpOptions | None = None, bring=None,
) -> Iterator[Gateway]:  # fmt: skip
    """Ready; its store is in `folder`. Appending to `fetchers` adds one."""
    ready = threading.Event()
    found: list[Gateway] = []
    ends: list[tuple[trio.CancelScope, trio.lowlevel.TrioToken]] = []

    async def main() -> None:
        fetchers: list = []
        with Store.open(folder / "store", StoreOptions(reserve_bytes=0)) as store:
            options = BlockOptions(fetch_s=fetch_s, hedge_s=0.05)
            async with (
                open_blocks(LocalBlocks(store, shows), fetchers, options) as blocks,
                trio.open_nursery() as nursery,
            ):
                more = {} if bring is None else {"bring": bring}
                handler = IpfsGateway(blocks, options=GatewayOptions(answer_s), **more).handle
                run = partial(serve, handler, http_options or HttpOptions())
                server = await nursery.start(run)
                found.append(Gateway(server.host, server.port, store, fetchers))
                ends.append((nursery.cancel_scope, trio.lowlevel.current_trio_token()))
                ready.set()

    thread = threading.Thread(target=trio.run, args=(main,), daemon=True)
    thread.start()
    assert ready.wait(30)
    try:
        yield found[0]
    finally:
        ends[0][1].run_sync_soon(ends[0][0].cancel)
        thread.join(30)
