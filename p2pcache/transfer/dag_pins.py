"""Pins of whole DAGs over the block service: `content.blocks.Pins`."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import trio

from p2pcache.content import cid as cids
from p2pcache.content import digests
from p2pcache.content.dag.links import links
from p2pcache.content.verify import verify_loose
from p2pcache.errors import Denied, Untrusted

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from p2pcache.content.dag.walk import Get
    from p2pcache.store.store import Hold
    from p2pcache.transfer.blocks import BlockService

FILES = b"files"  # the owner of what the files API pins
MAX_BLOCKS = 2_000_000  # of one DAG, each once: 2 TB of leaves of 1 MiB, 0.3 GB of memory


class DagPinner:
    """See the port. A blob that is here stands for all below its root, and is not walked. Pins of
    an `owner` are its own: the user's are those without one.
    """

    def __init__(self, blocks: BlockService, owner: bytes = b"") -> None:
        self._owner = owner
        self._blocks = blocks
        self._local = blocks.local
        self._store = blocks.local.store

    async def pin(self, root: bytes, *, recursive: bool = True, local: bool = False) -> None:
        """See the port. `local`: nobody is asked for what is missing."""
        with self._store.running() as hold:
            await trio.to_thread.run_sync(self._pin, root, recursive, local, hold)

    def holding(self) -> AbstractContextManager[Hold]:
        """See the port."""
        return self._store.running()

    async def unpin(self, root: bytes) -> bool:
        """See the port."""
        drop = self._store.dag_pins.drop
        return await trio.to_thread.run_sync(drop, cids.as_v1(root), self._owner)

    async def forget(self, root: bytes) -> int:
        """Unpin it, and remove its loose blocks, as far as they are here and nothing else keeps
        them; bytes freed.
        """
        return await trio.to_thread.run_sync(self._forget, cids.as_v1(root))

    async def pins(self) -> dict[bytes, bool]:
        """See the port."""
        return await trio.to_thread.run_sync(self._store.dag_pins.roots, self._owner)

    async def pinned_below(self) -> set[bytes]:
        """See the port."""
        return await trio.to_thread.run_sync(self._store.dag_pins.blocks_of_users)

    async def remove(self, cid: bytes) -> bool:
        """See the port."""
        return await trio.to_thread.run_sync(self._remove, cids.multihash(cid))

    def _remove(self, multihash: bytes) -> bool:
        store = self._store
        if store.dag_pins.is_pinned(multihash):
            raise Denied("the block is pinned", hint="unpin the DAG that it is part of")
        if store.loose.length(multihash) is None:
            return False
        if not store.remove_loose([multihash])[1]:
            raise Denied("the block is in use", hint="it is being pinned; unpin the DAG after that")
        return True

    # -- in a thread -----------------------------------------------------------------------------

    def _forget(self, root: bytes) -> int:
        todo, loose = [root], dict[bytes, None]()
        while todo:
            trio.from_thread.check_cancelled()
            cid = todo.pop()
            multihash = cids.multihash(cid)
            if multihash in loose or self._store.loose.length(multihash) is None:
                continue
            loose[multihash] = None
            data = None if cids.codec(cid) == cids.RAW else self._store.loose.read(cid)
            with suppress(Untrusted):  # of a codec that we do not know: it is a leaf
                todo += [] if data is None else map(cids.as_v1, links(cid, data))
            if len(loose) > MAX_BLOCKS:
                break
        self._store.dag_pins.drop(root, self._owner)
        return self._store.remove_loose(list(loose))[0]

    def _pin(self, root: bytes, recursive: bool, local: bool, hold: Hold) -> None:
        def get(cid: bytes) -> bytes:
            data = self._local.read(cid)
            return trio.from_thread.run(fetched, cid) if data is None else data

        fetched = partial(self._blocks.get, local=local)
        blocks: set[bytes] = set()
        blobs: set[bytes] = set()
        todo, seen = [cids.as_v1(root)], {cids.multihash(root)}
        while todo:
            trio.from_thread.check_cancelled()
            cid = todo.pop()
            blob = self._local.file_of(cid)
            if blob is not None:
                hold([blob.key])
                blobs.add(blob.key)
                continue
            for child in self._keep(get, cid, recursive, blocks, blobs, hold):
                if cids.multihash(child) not in seen:
                    seen.add(cids.multihash(child))
                    todo.append(cids.as_v1(child))
            if len(seen) > MAX_BLOCKS:
                raise Untrusted(f"a DAG of more than {MAX_BLOCKS} blocks cannot be pinned")
        self._store.loose.sync(blocks)
        self._store.dag_pins.add(cids.as_v1(root), recursive, blocks, blobs, self._owner)

    def _keep(
        self, get: Get, cid: bytes, recursive: bool,
        blocks: set[bytes], blobs: set[bytes], hold: Hold,
    ) -> list[bytes]:  # fmt: skip
        """Bring one block to stay; its children. Leaves that are here are not read."""
        parts = cids.parts(cid)
        leaf = not recursive or parts.codec == cids.RAW
        if parts.hash_code == cids.IDENTITY:
            return [] if leaf else links(cid, parts.digest)
        data = None if leaf and self._local.length(cid) is not None else get(cid)
        multihash = cids.multihash(cid)
        hold([multihash])
        if self._store.loose.length(multihash) is None:
            owner = None
            if parts.hash_code == digests.SHA2_256:
                owner = self._store.implied.blob_of(parts.digest)
            if owner is not None:
                hold([owner.key])
                blobs.add(owner.key)
            else:  # of a folder's manifest, which may be forgotten
                self._store.loose.put(verify_loose(cid, data or get(cid)))
        if self._store.loose.length(multihash) is not None:
            blocks.add(multihash)
        return [] if leaf or data is None else links(cid, data)
