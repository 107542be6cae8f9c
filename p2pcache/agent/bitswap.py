"""Bitswap in the agent's network, while there is one: Kubo and Helia get the blocks that everybody
may have, and are asked for those that are not here.

They find us by the table of a local network that Kubo keeps (`/ipfs/lan/kad/1.0.0`), where folders,
files and manifests are announced by their roots, and we them.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import trio

from p2pcache.agent.access import without_restricted
from p2pcache.agent.network import ANNOUNCED_BLOBS
from p2pcache.content import cid as cids
from p2pcache.content import digests
from p2pcache.errors import LocalFault, NotFound, UsageError
from p2pcache.transfer.folders import folder_root

if TYPE_CHECKING:
    from collections.abc import Sequence

    from p2pcache.agent.network import AgentNetwork
    from p2pcache.agent.network_slot import NetworkSlot
    from p2pcache.net.bitswap.driver import Bitswap, Session
    from p2pcache.net.dht import Dht
    from p2pcache.store.store import Store
    from p2pcache.transfer.blocks import BlockService

_log = logging.getLogger(__name__)

FETCH_S = 30.0  # for one block, with the search for somebody who has it
MAX_UNTOLD = 4096  # manifests that wait to be announced


class AgentBitswap:
    """Of one agent; a `content.blocks.Fetcher`. For the trio thread. `blocks`: those that everybody
    may have.
    """

    def __init__(self, network: NetworkSlot, store: Store, blocks: BlockService) -> None:
        self._network = network
        self._store = store
        self._blocks = blocks
        self._open: tuple[Bitswap, Dht, Session] | None = None

    async def run(self) -> None:
        """Speak it in every network that the agent opens; until cancelled."""
        while True:
            opened = await self._network.wait_any()
            try:
                await self._speak(opened)
            finally:
                self._open = None

    async def _speak(self, opened: AgentNetwork) -> None:
        from p2pcache.net.bitswap.driver import open_bitswap  # libp2p is imported by now
        from p2pcache.net.dht import LAN, open_dht

        async with (
            open_dht(opened.host, LAN) as lan,
            open_bitswap(
                opened.host, self._blocks, find=lambda cid: lan.find(cids.multihash(cid))
            ) as bitswap,
            bitswap.session() as session,
            trio.open_nursery() as nursery,
        ):
            announced = _Announced(self._store, lan, bitswap)
            unwatch = self._blocks.watch(bitswap.arrived)
            opened.watchers.append(announced)
            try:
                self._open = bitswap, lan, session
                nursery.start_soon(announced.run)
                nursery.start_soon(opened.host.tell_protocols)  # who was faster knows them too
                await self._network.wait_closed(opened)
                nursery.cancel_scope.cancel()
            finally:
                opened.watchers.remove(announced)
                unwatch()

    async def fetch(self, cid: bytes) -> bytes | None:
        """See the port."""
        if self._open is None:
            return None
        try:
            return await self._open[2].get(cid, timeout_s=FETCH_S)
        except NotFound:
            return None

    def lied(self, cid: bytes) -> None:
        """Never: bitswap itself verifies what it gives."""

    @property
    def table(self) -> Dht | None:
        """Kubo's, of multihashes; None while no network is open."""
        return None if self._open is None else self._open[1]

    def status(self) -> dict[str, Any] | None:
        """Counts; None while no network is open."""
        if self._open is None:
            return None
        bitswap, lan, _ = self._open
        return {**bitswap.statistics(), "dht": lan.statistics()}


class _Announced:
    """What Kubo's table is told: the multihashes of roots. An `agent.network.Watcher`."""

    def __init__(self, store: Store, lan: Dht, bitswap: Bitswap) -> None:
        self._store = store
        self._lan = lan
        self._bitswap = bitswap
        self._names: dict[bytes, set[bytes]] = {}  # by manifest
        self._untold: dict[bytes, None] = {}
        self._more = trio.Event()

    def possess(self, manifests: Sequence[bytes]) -> None:
        """See the port."""
        for manifest in manifests:
            if len(self._untold) < MAX_UNTOLD:
                self._untold[manifest] = None
        self._more.set()
        self._bitswap.arrived(None)

    def removed(self, names: Sequence[bytes], manifests: Sequence[bytes]) -> None:
        """See the port."""
        gone = {_multihash(name) for name in names}
        for manifest in manifests:
            self._untold.pop(manifest, None)
            gone |= self._names.pop(manifest, set())
        self._lan.withdraw(gone.difference(*self._names.values()))

    async def run(self) -> None:
        """Announce; until cancelled."""
        complete = await trio.to_thread.run_sync(self._complete)
        self.possess(complete)
        while True:
            await self._more.wait()
            self._more = trio.Event()
            while self._untold:
                manifest = next(iter(self._untold))
                try:
                    names = await trio.to_thread.run_sync(self._names_of, manifest)
                except LocalFault as exc:
                    _log.warning("not announced to IPFS: %s", exc.message)
                    names = set()
                if manifest in self._untold:  # not removed meanwhile
                    del self._untold[manifest]
                    self._names[manifest] = names
                    self._lan.provide(names)

    def _complete(self) -> list[bytes]:
        return without_restricted(self._store, list(self._store.complete_manifests()))

    def _names_of(self, manifest: bytes) -> set[bytes]:
        """The manifest, its folder, and its files where they are few. In a thread: 50 us a file."""
        body = self._store.get_manifest(manifest)
        if body is None:
            return set()
        found = self._store.find_many([file.digest for file in body.files])
        blobs = {file.path: found[file.digest] for file in body.files if file.digest in found}
        rooted = [blob for blob in blobs.values() if blob.root_cid is not None]
        names = [manifest]
        if len(rooted) == len(body.files):
            with suppress(UsageError):  # a file and a folder of one name
                names.append(folder_root(blobs))
        largest = sorted(rooted, key=lambda blob: -blob.size)[:ANNOUNCED_BLOBS]
        names += [blob.root_cid for blob in largest if blob.root_cid is not None]
        names += self._store.ties.roots_of(manifest)
        return {cids.multihash(cid) for cid in names}


def _multihash(name: bytes) -> bytes:
    """Of a name that is one, or a CID."""
    return name if digests.is_sha256(name) or digests.is_git_sha1(name) else cids.multihash(name)
