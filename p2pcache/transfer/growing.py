"""One large blob on its way: its partial and lease, the hash behind its writers, its flushes."""

from __future__ import annotations

import uuid
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from p2pcache.content.address_secrets import plain_key
from p2pcache.content.digests import (
    WholeDigests,
    is_git_sha1,
    is_sha256,
    provisional_name,
    raw,
)
from p2pcache.content.unixfs import file_root
from p2pcache.content.verify import verify_root, verify_whole
from p2pcache.errors import Untrusted
from p2pcache.lanes.orders import BLOCK_BYTES, FollowOrder, FollowReport
from p2pcache.store.durable import local_faults
from p2pcache.store.lease import Busy
from p2pcache.transfer.faults import local_error

if TYPE_CHECKING:
    from p2pcache.content.verify import VerifiedBlob, VerifiedRoot
    from p2pcache.store.blobs import BlobInfo
    from p2pcache.store.partial import Partial
    from p2pcache.store.rooted import AnyBlob, RootedBlob
    from p2pcache.store.store import Hold, Store
    from p2pcache.transfer.want import Wanted
    from p2pcache.transfer.workers import Workers

BUSY_BEAT_S = 0.1  # how often to look whether the other holder of a lease is done
FOLLOW_BEAT_S = 0.1
FOLLOW_IDLE_S = 1.0  # without a block for so long, a follower's process is worth more elsewhere
FLUSH_BEAT_S = 0.05  # at 1 GB/s this is 50 MB: with the flush size it bounds what a crash costs
SLOW_BEAT_S = 0.2  # while less than a quarter of the flush size comes in that time
CLOSE_S = 30.0  # 64 MiB to a disk that others keep busy; what hangs for longer may never end
FILL_BLOCKS = 256  # hashed in a thread before it can be cancelled: 0.2 s
HASH_ONCE_BYTES = 64 << 20  # below, a second hash takes 40 ms at most
FLUSH_AGE_S = 2.0  # slow transfers are flushed by age

# The old stubs that libp2p's dependency trio-typing installs do not know `abandon_on_cancel`.
_run_in_thread: Any = trio.to_thread.run_sync


class GrowingBlob:
    """Owned by the driver of one pull; `aclose` gives the lease back and keeps what is verified."""

    def __init__(
        self, wanted: Wanted, store: Store, workers: Workers, hold: Hold, patience_s: float,
        *, hash_once: bool = False,
    ) -> None:  # fmt: skip
        self.wanted = wanted
        self._hash_once = hash_once and wanted.size_bytes >= HASH_ONCE_BYTES
        self.hashes_later = False  # blocks come without their hashes: the whole digest tells
        self._may_have_gaps = False  # in the map
        self.waits_for: str | None = None  # who brings it, while it is not us
        self._patience_s = patience_s
        self._hold = hold
        self._store = store
        self._workers = workers
        self._partial: Partial | None = None
        self.proven: bytes | None = wanted.block_map  # hashes that need no further check
        self._publishing = False  # from then on its files move away under whoever looks
        self.final_map: bytes | None = None  # of `finish`
        self._report: FollowReport | None = None
        self._followed = trio.Event()
        self._complete = trio.Event()
        self._by_root = False  # what was asked for is proven by its blocks; it is hashed later
        self._refuted = False  # the last whole digest was wrong: what is here is somebody's lie
        self._disk = trio.Lock()  # a flush in a thread must not meet the rename of `finish`

    @property
    def partial(self) -> Partial:
        """The partial; only after `open` returned None."""
        assert self._partial is not None, "the machine sends jobs only after Opened"
        return self._partial

    async def open(self) -> AnyBlob | None:
        """Take the partial. Returns the blob instead when somebody else completed it meanwhile.

        While another pull or another agent on this store holds the lease, wait for it: it brings
        the same bytes. Raises Busy when another process holds it and brings nothing for
        `patience_s`; a pull of our own has a patience of its own.
        """
        wanted = self.wanted
        name = wanted.name or provisional_name(plain_key(wanted.key))
        # a file that nothing tells apart from its other versions is never continued
        version = uuid.uuid4().hex if wanted.whole else wanted.validator or ""
        seen, since = -1, trio.current_time()
        while (found := self._found()) is None:
            try:
                self._partial = await trio.to_thread.run_sync(
                    partial(self._store.partial, name, wanted.size_bytes, version=version)
                )
            except Busy as exc:
                self.waits_for = exc.holder
                before = seen
                seen = await trio.to_thread.run_sync(self._store.others_progress, name)
                if seen != before or exc.ours:
                    since = trio.current_time()
                elif trio.current_time() - since >= self._patience_s:
                    raise
                await trio.sleep(BUSY_BEAT_S)
                continue
            finally:
                self.waits_for = self.waits_for if self._partial is None else None
            found = self._found()
            if found is not None:  # its last holder published it between our look and our take
                taken, self._partial = self._partial, None
                await trio.to_thread.run_sync(taken.discard)
                break
            # blocks that an earlier process left are hashed once more before they count as proven
            by_root = wanted.root is not None
            self._by_root = by_root and self._partial.have_count() == 0
            if is_sha256(name):
                self.proven = self._store.block_map(raw(name)) or self.proven
            await self._begin_map()
            return None
        return found

    async def _begin_map(self) -> None:
        """Where nobody asks for the blocks' hashes while it grows and none are known, a large blob
        is hashed once, as a whole; its root follows when there is time (`agent.naming`). What an
        earlier pull left so is hashed now where this one is another kind.
        """
        self.hashes_later = self._hash_once and self.wanted.root is None and self.proven is None
        self._may_have_gaps = self.hashes_later
        if not self.hashes_later:
            self._may_have_gaps = await trio.to_thread.run_sync(self.partial.has_gaps)
            if self._may_have_gaps:
                await self.fill_map()

    def hash_at_once(self) -> None:
        """Blocks of jobs that begin from now on come with their hashes."""
        self._hash_once = self.hashes_later = False

    async def fill_map(self) -> None:
        """Hash the blocks that came without it. No job that began with `hashes_later` may run."""
        self.hash_at_once()
        async with self._disk:
            # also when it was done before: a worker that was stopped may have written one more
            while self._may_have_gaps and self.is_open:
                if not await trio.to_thread.run_sync(self.partial.hash_missing, FILL_BLOCKS):
                    break

    def _found(self) -> AnyBlob | None:
        """The blob, held, when somebody else completed it."""
        name = self.wanted.name
        return None if name is None else self._store.find_any_held(name, self._hold)

    def live(self) -> bytes:
        """One byte a block, nonzero when verified."""
        return self.partial.live()

    def live_bytes(self) -> int:
        """Verified bytes so far."""
        if self._publishing:
            return self.wanted.size_bytes  # its files are on their way out
        if self._partial is None:
            return 0
        live = self.live()
        blocks = len(live) - live.count(0)
        return min(blocks * BLOCK_BYTES, self.wanted.size_bytes)

    def verified_to(self, start: int, end: int) -> int:
        """The end of the verified run that begins at `start` (for a job that was cut off)."""
        live = self.live()
        block = start // BLOCK_BYTES
        while block * BLOCK_BYTES < end and live[block]:
            block += 1
        return min(max(start, block * BLOCK_BYTES), end)

    def expected(self, start: int, end: int) -> bytes | None:
        """Block hashes that are proven already (a blob under repair), else None."""
        if self.proven is None:
            return None
        return self.proven[32 * (start // BLOCK_BYTES) : 32 * -(-end // BLOCK_BYTES)]

    def hashes(self, start: int, end: int) -> bytes:
        """sha2-256 of blocks `[start, end)`, which are live."""
        what = f"reading the map of {self.wanted.path}"
        with local_faults(what), self.partial.map_path.open("rb") as file:
            file.seek(32 * start)
            return file.read(32 * (end - start))

    @property
    def is_open(self) -> bool:
        """Whether its files are where they were: not published, not closed."""
        return self._partial is not None and not self._publishing

    async def follow(self) -> None:
        """Hash in order behind the writers; `finish` waits for the result.

        Slow writers lose their follower to others. A hash cannot be put aside, so the next one
        starts over, when twice as much is there: all of them together cost one more hash. What
        has none when it is complete is hashed then. What its root proves needs no hash now.
        """
        if self._by_root:
            return
        size, worth = self.wanted.size_bytes, 0
        while not self._complete.is_set():
            if self.verified_to(0, size) >= min(size, worth):
                with suppress(trio.WouldBlock):
                    report = await self._hash_behind()
                    if report.idle_at is None:
                        self._report = report
                        self._followed.set()
                        return
                    worth = 2 * max(report.idle_at, BLOCK_BYTES)
            with trio.move_on_after(FOLLOW_BEAT_S):
                await self._complete.wait()
        self._report = await self._hash()
        self._followed.set()

    async def _hash_behind(self) -> FollowReport:
        order = replace(
            self._follow_order(), live_path=str(self.partial.live_path), idle_s=FOLLOW_IDLE_S
        )
        return _good(await self._workers.follow_growing(order))

    async def _hash(self) -> FollowReport:
        return _good(await self._workers.follow(self._follow_order()))

    def _follow_order(self) -> FollowOrder:
        git = self.wanted.digest is not None and is_git_sha1(self.wanted.digest)
        path, size = str(self.partial.data_path), self.wanted.size_bytes
        return FollowOrder(path, None, size, git_sha1=git)

    async def keep_flushed(self) -> None:
        """Make progress durable every so many bytes, and by age when it is slow."""
        flushed, since = self.live_bytes(), trio.current_time()
        before, beat_s = flushed, FLUSH_BEAT_S
        while True:
            await trio.sleep(beat_s)
            now, bytes_ = trio.current_time(), self.live_bytes()
            rate = (bytes_ - before) / beat_s
            slow = rate * SLOW_BEAT_S < self._store.options.flush_bytes / 4
            before, beat_s = bytes_, SLOW_BEAT_S if slow else FLUSH_BEAT_S
            old = now - since >= FLUSH_AGE_S
            if bytes_ - flushed >= self._store.options.flush_bytes or (old and bytes_ > flushed):
                async with self._disk:
                    if self._partial is None:
                        return
                    await trio.to_thread.run_sync(self._partial.flush)
                flushed, since = bytes_, now
            flushed = min(flushed, bytes_)  # a refuted blob begins anew

    async def finish(self, again: bool) -> AnyBlob:
        """Check the name that was asked for and make the blob visible. Raises Untrusted when it is
        another blob's.

        The first time the blocks stay, to be compared with what comes next. When the digest is
        wrong again, the source lies: nothing of it is kept, for the next one or the next pull.
        """
        if self._by_root:
            return await self._finish_by_root()
        if again:
            report = await self._hash()
        else:
            self._complete.set()
            await self._followed.wait()
            assert self._report is not None
            report = self._report
        size = self.wanted.size_bytes
        self._refuted = True
        try:
            blob = verify_whole(
                self.wanted.digest, size, WholeDigests(size, report.sha256, report.git_sha1)
            )
        except Untrusted:
            await self.fill_map()  # what comes next is compared with it
            raise
        self._refuted = False
        if not self.hashes_later:
            await self.fill_map()
        root_cid = None if self.hashes_later else self._root()
        async with self._disk:
            self._publishing = True
            info = await trio.to_thread.run_sync(self._publish, blob, root_cid)
            self._partial = None
        return info

    def _root(self) -> bytes:
        """What the map makes. Raises Untrusted when another root was asked for."""
        hashes = self.final_map = self.partial.block_hashes()
        blocks = (hashes[i : i + 32] for i in range(0, len(hashes), 32))
        root = file_root(blocks, self.wanted.size_bytes)
        if self.wanted.root is not None and root.cid != self.wanted.root:
            raise Untrusted("the blocks do not make the root that was asked for")
        return root.cid

    async def _finish_by_root(self) -> RootedBlob:
        try:
            proven = await trio.to_thread.run_sync(self._prove)
        except Untrusted:
            self._refuted = True
            raise
        self._refuted = False
        self._hold([proven.root_cid])
        async with self._disk:
            self._publishing = True
            blob = await trio.to_thread.run_sync(self._store.rooted.publish, self.partial, proven)
            self._partial = None
        return blob

    def _prove(self) -> VerifiedRoot:
        """Blocking: the root of a GiB is 12 ms of CPU. Raises Untrusted."""
        assert self.wanted.root is not None
        self.final_map = self.partial.block_hashes()
        return verify_root(self.wanted.root, self.wanted.size_bytes, self.final_map)

    def _publish(self, blob: VerifiedBlob, root_cid: bytes | None) -> BlobInfo:
        self._hold([blob.sha256])
        return self._store.publish(self.partial, blob, root_cid=root_cid)

    async def aclose(self) -> None:
        """Flush and give the lease back; safe to call twice.

        Bounded: behind a disk that hangs (NFS without its server) the flush goes on in its thread
        and gives the lease back when it ends.
        """
        with trio.move_on_after(CLOSE_S, shield=True):
            async with self._disk:
                left, self._partial = self._partial, None
                if left is not None:
                    useless = self.wanted.whole or self._refuted
                    await _run_in_thread(_leave, left, not useless, abandon_on_cancel=True)


def _good(report: FollowReport) -> FollowReport:
    if report.fault is not None:
        raise local_error(report.fault)
    return report


def _leave(left: Partial, continued: bool) -> None:
    """Keep the progress for the next opener; what is of no use to it would only take up space."""
    if left.live_path.exists() and not (continued and left.have_count()):
        left.discard()
    else:
        left.close()
