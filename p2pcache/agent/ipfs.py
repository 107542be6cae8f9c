"""What of the agent speaks IPFS: its block service, the gateway and the RPC where configured.

`blocks` shows all that is here, for the user's own tools; `open_blocks` hides what is restricted,
for whoever is not proven to be that user: every program of this machine, and other nodes.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from p2pcache.agent.access import open_to_all
from p2pcache.agent.listening import Listening
from p2pcache.agent.network_health import JOIN
from p2pcache.agent.peering import bring_named
from p2pcache.content import cid as cids
from p2pcache.content import digests
from p2pcache.content.refs import CidRef
from p2pcache.errors import P2PCacheError, bug
from p2pcache.transfer.blocks import BlockOptions, BlockService, LocalBlocks
from p2pcache.transfer.dag_pins import DagPinner
from p2pcache.transfer.publishing import Publisher

if TYPE_CHECKING:
    from collections.abc import Callable

    from p2pcache.agent.bitswap import AgentBitswap
    from p2pcache.agent.parts import Parts
    from p2pcache.agent.public import AgentPublic
    from p2pcache.config.ipfs import IpfsSettings
    from p2pcache.content.blocks import Fetcher
    from p2pcache.store.store import Store
    from p2pcache.transfer.progress import Progress

_log = logging.getLogger(__name__)

TOLD_S = 1.5  # for anybody to have it, while a client waits: members say so at once, the DHT in 0.5
NOBODY_S = 10.0  # for so long who was told that nobody has a file is not asked again
MAX_REMEMBERED = 1024  # names that nobody had
MAX_PULLS = 8  # for clients of the gateway and the RPC, which any web page can be: at once


@dataclass(slots=True)
class _Pull:
    """One file on its way. It goes on without a waiter once something of it `came`."""

    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    done: trio.Event = field(default_factory=trio.Event)
    waiters: int = 0
    came: bool = False


class Ipfs:
    """Of one agent. For the trio thread. `fetchers`: who is asked for blocks that are not here, in
    this order; whoever speaks to Kubo or bitswap adds itself.
    """

    def __init__(
        self, store: Store, settings: IpfsSettings, nursery: trio.Nursery,
        now: Callable[[], float],
    ) -> None:  # fmt: skip
        self.fetchers: list[Fetcher] = []
        self.blocks = BlockService(LocalBlocks(store), self.fetchers, BlockOptions(), nursery)
        self.open_blocks = self.blocks.seen_by(open_to_all(store, now))
        self.pins = DagPinner(self.blocks)
        self.bitswap: AgentBitswap | None = None  # None: it is switched off
        self.publisher = Publisher(self.blocks.local, self.open_blocks.local)
        self.public: AgentPublic | None = None  # None: it is switched off
        self._nursery = nursery
        self._gateway = Listening("ipfs gateway", "ipfs.gateway", settings.gateway)
        self._rpc = Listening("ipfs rpc", "ipfs.rpc", settings.rpc)
        self._coming: dict[bytes, _Pull] = {}
        self._pulls = 0  # that run, those among them that nobody waits for and that end now
        self._nobody: dict[bytes, float] = {}

    async def run(self, parts: Parts) -> None:
        """Serve what is configured until cancelled."""
        async with trio.open_nursery() as nursery:
            if self._gateway.wanted:
                nursery.start_soon(self._run_gateway, parts)
            if self._rpc.wanted:
                nursery.start_soon(self._run_rpc, parts)

    async def _run_gateway(self, parts: Parts) -> None:
        from p2pcache.gateway.ipfs.gateway import IpfsGateway

        gateway = IpfsGateway(self.open_blocks, partial(self.bring, parts))
        await self._gateway.run(gateway.handle)

    async def _run_rpc(self, parts: Parts) -> None:
        from p2pcache.agent.ipfs_rpc import rpc_context
        from p2pcache.gateway.kubo_rpc import answers
        from p2pcache.gateway.kubo_rpc.api import Api

        api = Api(rpc_context(parts))
        await self._rpc.run(api, on_error=answers.failed, listens=api.listens)

    async def bring(self, parts: Parts, cid: bytes) -> bool:
        """Have peers' copy of a whole file pulled into the store, by its root or sha2-256. A pull
        goes on when the callers have gone, if something came of it. Whether it is here now; False,
        too, while MAX_PULLS others run.
        """
        digest = digests.is_sha256(cids.multihash(cid))
        if not digest or cids.codec(cid) not in (cids.RAW, cids.DAG_PB):
            return False
        if not parts.network.wanted or self._nobody.get(cid, 0.0) > trio.current_time():
            return False
        pull = self._coming.get(cid)
        if pull is None:
            if self._pulls >= MAX_PULLS:
                return False
            self._pulls += 1
            pull = self._coming[cid] = _Pull()
            self._nursery.start_soon(self._pull, parts, cid, pull)
        pull.waiters += 1
        try:
            await pull.done.wait()
        finally:
            pull.waiters -= 1
            if not pull.waiters and not pull.came and self._coming.get(cid) is pull:
                del self._coming[cid]  # who comes now begins anew
                pull.scope.cancel()
        return await trio.to_thread.run_sync(self.blocks.local.file_of, cid) is not None

    async def _pull(self, parts: Parts, cid: bytes, pull: _Pull) -> None:
        async def note(progress: Progress) -> None:
            pull.came = pull.came or progress.done_bytes > 0

        try:
            with pull.scope, parts.store.running() as hold:
                await bring_named(
                    parts, CidRef(cid), note, None, hold, lambda _: None, told_s=TOLD_S
                )
                self.blocks.tell(None)
        except P2PCacheError as exc:
            _log.debug("%s does not come from peers: %s", cids.format_cid(cid), exc.message)
            if len(self._nobody) >= MAX_REMEMBERED:
                self._nobody.clear()
            self._nobody[cid] = trio.current_time() + NOBODY_S
        except Exception as exc:  # noqa: BLE001 - the border: one pull ends, not the agent
            bug(exc, _log)
        finally:
            self._pulls -= 1
            pull.done.set()
            if self._coming.get(cid) is pull:
                del self._coming[cid]

    def status(self) -> dict[str, Any]:
        """For `status`."""
        troubles = [one for one in (self._gateway.why, self._rpc.why) if one is not None]
        why = "; ".join(troubles) or None
        return {
            "gateway": self._gateway.url,
            "rpc": self._rpc.url,
            "why": why,
            "bitswap": None if self.bitswap is None else self.bitswap.status(),
            "public": None if self.public is None else self.public.status(),
            "waits": self.bitswap is not None and self.bitswap.status() is None,
        }

    def checks(self) -> list[tuple[str, bool, str, str]]:
        """Rows for `doctor`."""
        found = [one.check() for one in (self._gateway, self._rpc) if one.wanted]
        if self.bitswap is not None:
            is_on = self.bitswap.status() is not None
            said = "on" if is_on else "it is on, and there is no network that it could be spoken in"
            found.append(("bitswap", is_on, said, f"{JOIN}; or set `ipfs.bitswap` to off"))
        return found if self.public is None else [*found, self.public.check()]
