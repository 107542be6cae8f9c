"""Gives blobs that are known by their UnixFS root alone their sha2-256, and the reverse, when no
pull runs.

One at a time, in a worker at the lowest priority. What an earlier agent left is found at the start.
A blob that turns out to be damaged is taken out of sight, and its good blocks stay for the next
pull of it.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import trio

from p2pcache.content.cid import format_cid
from p2pcache.content.digests import WholeDigests
from p2pcache.content.unixfs import file_root
from p2pcache.content.verify import verify_whole
from p2pcache.errors import LocalFault
from p2pcache.lanes.orders import FollowOrder
from p2pcache.transfer.faults import local_error

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from p2pcache.agent.priority import Priority
    from p2pcache.store.blobs import BlobInfo
    from p2pcache.store.rooted import RootedBlob
    from p2pcache.store.store import Store
    from p2pcache.transfer.workers import Workers

_log = logging.getLogger(__name__)
TRIES = 3  # to hash one that somebody touches meanwhile; then at the next start, or when needed


@dataclass(frozen=True, slots=True)
class Damaged:
    """It was not what had been proven, and is out of sight. How many of its blocks were bad."""

    bad_blocks: int


class Naming:
    """Of one agent. For the trio thread."""

    def __init__(self, store: Store, workers: Workers, priority: Priority) -> None:
        self._store = store
        self._workers = workers
        self._priority = priority
        self._more = trio.Event()
        self._one = trio.Lock()
        self._failed: set[bytes] = set()  # not read again for their roots until somebody asks
        self.after: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint  # each round

    def wake(self) -> None:
        """There is, or may be, another one."""
        self._more.set()

    async def run(self) -> None:
        """Until cancelled; a hash that was begun then is begun again by the next agent."""
        while not self._store.readonly:
            self._more = trio.Event()
            for blob in await trio.to_thread.run_sync(self._store.rooted.every):
                await self._priority.wait_free()
                try:
                    await self.name(blob.root_cid)
                except LocalFault as exc:  # said again at the next start, or when it is needed
                    _log.warning("%s has no sha2-256 yet: %s", format_cid(blob.root_cid), exc)
            for whole in await trio.to_thread.run_sync(self._store.rootless):
                if whole.sha256 in self._failed:
                    continue
                await self._priority.wait_free()
                try:
                    await self.give_root(whole.digest)
                except LocalFault as exc:
                    self._failed.add(whole.sha256)
                    _log.warning("%s has no root yet: %s", whole.sha256.hex(), exc)
            await self.after()
            await self._more.wait()

    async def name(self, root_cid: bytes) -> BlobInfo | Damaged | None:
        """The blob of a root with its sha2-256; None when it is not here.

        Raises LocalFault when it cannot be read now, or somebody writes to it again and again. If
        cancelled, nothing has changed.
        """
        unnamed = partial(self._store.rooted.unnamed, root_cid)
        async with self._one:
            for _ in range(TRIES):
                blob = await trio.to_thread.run_sync(unnamed)
                if blob is None:
                    return await trio.to_thread.run_sync(self._store.find, root_cid)
                info = await self._hash(blob)
                if info is not None:
                    return info
                if await trio.to_thread.run_sync(unnamed) == blob:
                    return await trio.to_thread.run_sync(self._take_out, root_cid, blob.size)
        raise LocalFault(f"{format_cid(root_cid)} is being written to on this disk")

    async def _hash(self, blob: RootedBlob) -> BlobInfo | None:
        """With its name; None when it is not what was proven, or was touched or evicted meanwhile.

        A touch alone is no damage, but what was read then may be neither of two versions.
        """
        report = await self._workers.follow_aside(FollowOrder(str(blob.path), None, blob.size))
        if report.fault is not None:
            if await trio.to_thread.run_sync(self._store.rooted.unnamed, blob.root_cid) is None:
                return None
            raise local_error(report.fault)
        whole = verify_whole(None, blob.size, WholeDigests(blob.size, report.sha256, None))
        assert report.block_digests is not None, "nothing is writing it"
        name = partial(self._store.rooted.name, blob, whole, report.block_digests)
        return await trio.to_thread.run_sync(name)

    async def give_root(self, digest: bytes) -> None:
        """Make the root of a blob that has none yet; nothing where there is no such blob.

        Raises LocalFault when it is damaged or cannot be read. If cancelled, nothing has changed.
        """
        async with self._one:
            blob = await trio.to_thread.run_sync(self._store.find, digest)
            if blob is not None and blob.root_cid is None:
                await self._give_root(blob)
                self._failed.discard(blob.sha256)

    async def _give_root(self, blob: BlobInfo) -> None:
        """Its blocks hashed, and the whole once more: they are of the bytes that were proven."""
        report = await self._workers.follow_aside(FollowOrder(str(blob.path), None, blob.size))
        if report.fault is not None or report.sha256 != blob.sha256:
            if await trio.to_thread.run_sync(self._store.find, blob.digest) is None:
                return  # evicted, or written to, meanwhile
            if report.fault is not None:
                raise local_error(report.fault)
            raise LocalFault("it is damaged on this disk", hint="`p2pcache verify` mends it")
        hashes = report.block_digests
        assert hashes is not None, "nothing is writing it"
        root = file_root((hashes[i : i + 32] for i in range(0, len(hashes), 32)), blob.size)
        keep = partial(self._store.give_root, blob.sha256, root.cid, hashes)
        await trio.to_thread.run_sync(keep)

    def _take_out(self, root_cid: bytes, size: int) -> Damaged | None:
        if self._store.rooted.unnamed(root_cid) is None:
            return None  # evicted meanwhile
        bad = self._store.take_out_rooted(root_cid, size)
        _log.warning("%s was damaged on this disk: get it again", format_cid(root_cid))
        return Damaged(bad)
