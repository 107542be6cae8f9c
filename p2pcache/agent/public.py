"""The agent in the public IPFS network, where its user wants that: strangers are asked for blocks,
and given those that were published.

Whoever is asked learns what is wanted here. So only single blocks are asked for by CID, as the
gateway, the RPC and `get` of a CID need them, when nobody nearer has them; a pull of `hf://` and
other origins asks nothing here, nor does anything that is restricted.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import trio

from p2pcache.agent.network_files import Files
from p2pcache.config.ipfs import PUBLIC_LISTEN, Public
from p2pcache.content import cid as cids
from p2pcache.content import digests
from p2pcache.errors import LocalFault, NotFound
from p2pcache.units import format_count

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from p2pcache.config.ipfs import IpfsSettings
    from p2pcache.net.bitswap.options import Served
    from p2pcache.net.identity import Identity
    from p2pcache.net.public import PublicNode
    from p2pcache.store.store import Store
    from p2pcache.transfer.blocks import LocalBlocks
    from p2pcache.transfer.publishing import Publisher

_log = logging.getLogger(__name__)

FETCH_S = 30.0  # for one block, with the search for somebody who has it
LOOK_S = 600.0  # between two looks at what of it may still be given
AGAIN_S = 5.0  # until a port that was taken is tried again
THREADS = 4  # that look blocks up for strangers: they hold up nobody else
BURST_S = 1.0  # what a slow moment may be caught up with, at the limited rate


class AgentPublic:
    """Of one agent; a `content.blocks.Fetcher`. For the trio thread. `here`: all that is here."""

    def __init__(
        self, home: Path, settings: IpfsSettings, here: LocalBlocks, publisher: Publisher
    ) -> None:
        self._files = Files(home)
        self._settings = settings
        self._here = here
        self._publisher = publisher
        self._shares = settings.public is Public.SHARE
        self._node: PublicNode | None = None
        self._provided: set[bytes] = set()
        self.trouble: str | None = None

    async def run(self) -> None:
        """Be there while it can; until cancelled."""
        while True:
            try:
                await self._be()
            except LocalFault as exc:
                self.trouble = exc.message
                _log.warning("not in the public IPFS network: %s", exc.message)
            await trio.sleep(AGAIN_S)

    async def _be(self) -> None:
        from p2pcache.net.public import PublicOptions, open_public  # imports libp2p

        settings = self._settings
        served: Served = _Nothing()
        if self._shares:
            served = _Published(self._publisher, settings.public_limit_up_bytes_per_s)
        options = PublicOptions(
            listen=settings.public_listen or (PUBLIC_LISTEN if self._shares else ()),
            announce=settings.public_announce,
            bootstrap=settings.public_bootstrap,
        )
        identity = await trio.to_thread.run_sync(self._identity)
        try:
            async with open_public(identity, served, options) as node:
                self._node, self.trouble = node, None
                while self._shares:
                    await self._look()
                    await trio.sleep(LOOK_S)
                await trio.sleep_forever()
        finally:
            self._node = None

    def _identity(self) -> Identity:
        """A new one each time, unless strangers are to find us again."""
        from p2pcache.net.identity import Identity, load_or_create_identity

        if not self._shares:
            return Identity.generate()
        return load_or_create_identity(self._files.public)

    async def _look(self) -> None:
        """Announce what is given, and nothing that has become restricted since it was published."""
        given = await trio.to_thread.run_sync(self._publisher.given)
        gone = self._provided - {cids.multihash(root) for root in given}
        self._provided -= gone
        if self._node is not None:
            self._node.withdraw(gone)
        self.published(given)

    # -- what is published

    def published(self, roots: Iterable[bytes]) -> None:
        """These are public now: tell the tables, and whoever waits for a block of them."""
        names = {cids.multihash(root) for root in roots}
        self._provided |= names
        if self._node is not None and self._shares:
            self._node.provide(names)
            self._node.arrived()

    def unpublished(self, root: bytes) -> None:
        """It is public no longer. Its blocks are refused from now on by `Publisher` itself."""
        self._provided.discard(cids.multihash(root))
        if self._node is not None:
            self._node.withdraw([cids.multihash(root)])

    # -- what others publish

    async def fetch(self, cid: bytes) -> bytes | None:
        """See the port."""
        node = self._node
        if node is None or not await trio.to_thread.run_sync(self._may_ask, cid):
            return None
        try:
            return await node.get(cid, timeout_s=FETCH_S)
        except NotFound:
            return None

    def lied(self, cid: bytes) -> None:
        """Never: bitswap itself verifies what it gives."""

    def _may_ask(self, cid: bytes) -> bool:
        """Whether strangers may know that this is wanted: nothing restricted goes by that name."""
        if self._here.length(cid) is not None:
            return False  # it is hidden from who asks
        return not is_restricted(self._here.store, cid)

    # -- how it is

    def status(self) -> dict[str, Any]:
        """For `status`."""
        node = {} if self._node is None else self._node.status()
        return {
            "mode": self._settings.public.value,
            "why": self.trouble,
            "published": len(self._provided) if self._shares else 0,
            **node,
        }

    def check(self) -> tuple[str, bool, str, str]:
        """A row for `doctor`."""
        name = "public ipfs"
        if self._node is None:
            hint = "choose other addresses with `ipfs.public_listen`, or end the program there"
            return name, False, self.trouble or "it is being opened", hint
        found = self._node.status()
        public, near = found["dht"]["servers"], found["lan_dht"]["servers"]
        said = (
            f"{format_count(found['peers'], 'peer')}; {format_count(public, 'server')} of its DHT, "
            f"{near} of the local one"
        )
        if self._shares and not found["addresses"]:
            hint = (
                "`ipfs.public_announce` tells where this machine is reached from outside; in a "
                "local network `ipfs.public_listen` names its address there"
            )
            return name, False, f"{said}; it has no public address: nobody can dial it", hint
        hint = (
            "`ipfs.public_bootstrap` names nodes to begin with; `ipfs id` of a Kubo shows its own "
            "addresses (of those that begin with 12D3KooW, over TCP)"
        )
        return name, found["peers"] > 0, said, hint


def is_restricted(store: Store, cid: bytes) -> bool:
    """Whether restricted content, here or not, goes by this name. Some 0.1 ms."""
    restricted = store.restricted_manifests()
    if not restricted:
        return False
    names = [cids.multihash(cid), cids.as_v1(cid)]
    pair = store.pairs.of_root(cids.as_v1(cid))  # of a file that was here
    names += [] if pair is None else [digests.sha256_digest(pair.sha256)]
    listed = store.manifests_with(names)
    return cids.as_v1(cid) in restricted or any(found & restricted for found in listed.values())


class _Nothing:
    """`net.bitswap.driver.Served`: what is given to strangers where nothing is shared."""

    async def length(self, cid: bytes) -> int | None:
        """See the port."""
        return None

    async def get(self, cid: bytes, *, local: bool = False) -> bytes:
        """See the port."""
        raise NotFound("nothing is shared")


class _Published:
    """`net.bitswap.driver.Served`: what was published. `bytes_per_s`: of all strangers together."""

    def __init__(self, publisher: Publisher, bytes_per_s: float | None) -> None:
        self._publisher = publisher
        self._bytes_per_s = bytes_per_s
        self._free_at = 0.0
        self._turn = trio.Lock()  # who leaves while it waits has used up nothing
        self._threads = trio.CapacityLimiter(THREADS)

    async def length(self, cid: bytes) -> int | None:
        """See the port."""
        return await trio.to_thread.run_sync(self._publisher.length, cid, limiter=self._threads)

    async def get(self, cid: bytes, *, local: bool = False) -> bytes:
        """See the port."""
        if self._bytes_per_s is None:
            return await self._read(cid)
        async with self._turn:
            await trio.sleep(max(0.0, self._free_at - trio.current_time()))
            data = await self._read(cid)
            since = max(self._free_at, trio.current_time() - BURST_S)
            self._free_at = since + len(data) / self._bytes_per_s
            return data

    async def _read(self, cid: bytes) -> bytes:
        read = self._publisher.read
        data = await trio.to_thread.run_sync(read, cid, limiter=self._threads)
        if data is None:
            raise NotFound("it is not published")
        return data
