"""Push whenever the Hugging Face cache has changed, and nothing has changed since for a while.

The folders are looked at every few seconds. Notices of the kernel would not do: caches lie on
network file systems, where it tells nothing of what other hosts write, and their number is limited.
What changes when a download is done is a folder: a blob is renamed into `blobs/`, a link appears in
a snapshot; so their times are all that is read, some microseconds for each.
"""

from __future__ import annotations

import contextlib
import math
import os
from typing import TYPE_CHECKING, Any

import trio

from p2pcache.agent.args import Args
from p2pcache.agent.bucket.place import place_of
from p2pcache.agent.bucket.push import bucket_push
from p2pcache.errors import LocalFault, P2PCacheError, UsageError
from p2pcache.store.durable import local_faults
from p2pcache.store.hfcache import read
from p2pcache.store.hfcache.layout import RepoFolder
from p2pcache.store.lease import Busy, LeaseBook

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    from p2pcache.agent.parts import Emit, Parts
    from p2pcache.store.lease import Lease

LOOK_S = 2.0  # between two looks at most; a tenth of the debounce where that is less
DEBOUNCE_S = 30.0  # as hf-cache-sync: between two files of a download there may be some
BEAT_S = 10.0  # of the lease
STALE_S = 60.0  # another host's lease that stood still so long is of the dead
AGAIN_S = 300.0  # after a push that failed, if nothing changes before
LEASE = ".locks/p2pcache-watch"  # huggingface_hub passes over this folder


async def bucket_watch(parts: Parts, args: Args, emit: Emit) -> dict[str, Any]:
    """Each push as an item, the first at once, until the caller goes away. `once`: until the first
    push after a change is done. Raises Busy where another process watches this cache.
    """
    place = place_of(args)
    debounce_s = DEBOUNCE_S if (said := args.positive("debounce")) is None else said
    call = {**args.all(), "dry_run": False}
    if args.flag("dry_run"):
        raise UsageError("a watch has no dry run", hint="`p2pcache bucket push --dry-run`")
    async with _alone(place.cache):
        watched = _Watched(place.cache, debounce_s)
        await watched.look()
        failed = not await _push(parts, call, emit)
        while True:
            with trio.move_on_after(AGAIN_S if failed else math.inf):
                await watched.wait_changed()
            failed = not await _push(parts, call, emit)
            if args.flag("once") and not failed:
                break
    return {"cache": str(place.cache)}


async def _push(parts: Parts, call: Mapping[str, Any], emit: Emit) -> bool:
    """One push; a failure is an item, too, and the next change is another chance."""

    async def quiet(frame: Mapping[str, Any]) -> None:
        if frame.get("type") == "progress":
            await emit(frame)

    try:
        answer = await bucket_push(parts, Args(call), quiet)
    except P2PCacheError as exc:
        await emit({"type": "item", "value": {"error": exc.to_wire()}})
        return False
    await emit({"type": "item", "value": answer})
    return not answer["failed"]


class _Watched:
    """A cache, and what it was when it was last looked at."""

    def __init__(self, cache: Path, debounce_s: float) -> None:
        self._cache = cache
        self._debounce_s = debounce_s
        self._seen: dict[str, int] = {}

    async def look(self) -> bool:
        """Whether it has changed since the last look."""
        before = self._seen
        self._seen = await trio.to_thread.run_sync(fingerprint, self._cache)
        return self._seen != before

    async def wait_changed(self) -> None:
        """Until it has changed, and nothing has changed since for `debounce_s`."""
        changed_at: float | None = None
        while changed_at is None or trio.current_time() - changed_at < self._debounce_s:
            await trio.sleep(min(LOOK_S, self._debounce_s / 10))
            if await self.look():
                changed_at = trio.current_time()


def fingerprint(cache: Path) -> dict[str, int]:
    """When each folder that tells of a finished download last changed. Blocking."""
    found: dict[str, int] = {}
    for repo_type, repo_id in read.repos(cache):
        top = cache / RepoFolder(repo_type, repo_id).name
        for name in ("blobs", "refs", "snapshots"):
            for folder, _, _ in os.walk(top / name):
                with contextlib.suppress(OSError):
                    found[folder] = os.stat(folder).st_mtime_ns
    return found


@contextlib.asynccontextmanager
async def _alone(cache: Path, stale_s: float = STALE_S) -> AsyncIterator[None]:
    """Hold the cache's lease; one that a dead process held is taken over. Of a process that cannot
    be seen from here (of another host or container) only time tells: that takes `stale_s`.
    """
    clock = trio.lowlevel.current_clock()  # which threads may ask, unlike trio.current_time()
    book = LeaseBook(stale_after_s=stale_s, monotonic=clock.current_time)

    def take() -> Lease:
        with local_faults(f"taking {cache / LEASE}"):
            (cache / LEASE).parent.mkdir(parents=True, exist_ok=True)
            return book.take(cache / LEASE)

    until = trio.current_time() + stale_s * 1.5
    while True:
        try:
            lease = await trio.to_thread.run_sync(take)
        except Busy as exc:
            if exc.is_seen or trio.current_time() > until:
                raise
            await trio.sleep(min(BEAT_S, stale_s / 4))
        else:
            break
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_beat, lease)
            yield
            nursery.cancel_scope.cancel()
    finally:
        lease.release()


async def _beat(lease: Lease) -> None:
    while True:
        await trio.sleep(BEAT_S)
        with contextlib.suppress(LocalFault):  # who took it over pushes the same
            await trio.to_thread.run_sync(lease.heartbeat)
