"""The worker processes as trio sees them: one method a kind of work, each bounded.

Bytes are moved and hashed in processes of their own (DESIGN 4), because a busy thread beside a
byte loop in one interpreter costs two orders of magnitude. SDK calls run there too: they import
much and block. Cancelling a call kills its process: its socket closes at once, and what it had
verified stays, by the order of its writes (lanes/orders).
"""

from __future__ import annotations

import os
from contextlib import asynccontextmanager, nullcontext, suppress
from copy import copy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import trio
import trio_parallel

from p2pcache.errors import LocalFault, plain_errors
from p2pcache.lanes.bundle import fetch_bundle
from p2pcache.lanes.fetch import fetch
from p2pcache.lanes.follow import follow, follow_aside
from p2pcache.lanes.joined import JoinedOrder, fetch_joined
from p2pcache.lanes.parent import end_with_parent
from p2pcache.lanes.small import fetch_small
from p2pcache.transfer.fork_server import ForkServer
from p2pcache.transfer.link import Link

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from p2pcache.lanes.dag import DagOrder, DagReport
    from p2pcache.lanes.in_place import Hashed, HashOrder
    from p2pcache.lanes.orders import (
        BatchReport,
        BundleOrder,
        FetchLimits,
        FetchOrder,
        FetchReport,
        FollowOrder,
        FollowReport,
        SmallOrder,
    )
    from p2pcache.lanes.send_car import SendOrder, SendReport
    from p2pcache.lanes.send_part import PartOrder, PartReport

T = TypeVar("T")

PRELOADED = [
    "_trio_parallel_workers",  # what a worker needs of trio_parallel: without trio
    "p2pcache.lanes.fetch",
    "p2pcache.lanes.follow",
    "p2pcache.lanes.small",
    "p2pcache.lanes.bundle",
    "p2pcache.lanes.joined",
]
_NO_LIMIT: Any = nullcontext()  # of a call that is over at once
GRACE_S = 5.0  # for an idle worker to leave by itself when the agent ends; it takes milliseconds


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """How many processes, and for how long they stay."""

    max_fetchers: int = 16  # the driver keeps fewer in flight: no more than cores when CPU-bound
    max_ahead: int = 4  # of them, that are being started before an order is there
    max_followers: int = 4  # behind growing blobs; one core hashes 1.8 GB/s
    max_hashers: int = 4  # of what is complete: never queued behind a transfer
    max_sdk_calls: int = 2
    small_threads: int = 8  # connections a batch: hides the round trip of a far origin
    idle_s: float = 60.0  # then a worker's 25 MB are given back, and when none is left 20 MB more


class WorkerDied(LocalFault):
    """A process was killed with an order in hand."""


class Workers:
    """Runs orders in worker processes. Made by `open_workers`; ends with its scope."""

    def __init__(
        self,
        fetchers: object,
        sdk: object,
        server: ForkServer,
        options: WorkerOptions,
        nursery: trio.Nursery,
    ) -> None:
        self._server = server
        self._nursery = nursery
        self._fetchers: trio_parallel.WorkerContext = fetchers
        self._sdk: trio_parallel.WorkerContext = sdk
        self._options = options
        self._fetch_limit = trio.CapacityLimiter(options.max_fetchers)
        self._ahead = trio.CapacityLimiter(options.max_ahead)
        self._own_limit: trio.CapacityLimiter | None = None
        self.downlink = Link()
        self.uplink = Link()
        self._follow_limit = trio.CapacityLimiter(options.max_followers)
        self._hash_limit = trio.CapacityLimiter(options.max_hashers)
        self._sdk_limit = trio.CapacityLimiter(options.max_sdk_calls)

    def share(self) -> Workers:
        """The same workers as one pull sees them: one fetch slot is its own.

        Requests of slow origins hold their slots for long; one pull with many of them must not
        stop the others.
        """
        shared = copy(self)
        shared._own_limit = trio.CapacityLimiter(1)
        return shared

    def _slot(self) -> trio.CapacityLimiter:
        own = self._own_limit
        return own if own is not None and own.available_tokens > 0 else self._fetch_limit

    async def fetch(self, order: FetchOrder) -> FetchReport:
        """One ranged GET. Cancel-safe: verified blocks stay, the socket is closed."""
        with self.downlink.request(order.location.url, order.limits) as limits:
            bounded = replace(order, limits=limits)
            return await self._again(self._fetchers, self._slot(), fetch, bounded)

    async def fetch_small(self, orders: tuple[SmallOrder, ...], limits: FetchLimits) -> BatchReport:
        """A batch of small blobs. If cancelled, some `dst_path`s may be left to the caller."""
        url = orders[0].location.url if orders else ""
        with self.downlink.request(url, limits) as bounded:
            call = partial(fetch_small, limits=bounded, threads=self._options.small_threads)
            return await self._run_small(call, orders, orders)

    async def fetch_joined(self, order: JoinedOrder, limits: FetchLimits) -> BatchReport:
        """The same as one body, where a source gives that."""
        with self.downlink.request(order.location.url, limits) as bounded:
            call = partial(fetch_joined, limits=bounded, threads=self._options.small_threads)
            return await self._run_small(call, order, order.blobs)

    async def _run_small(
        self, call: Callable[[T], BatchReport], order: T, blobs: tuple[SmallOrder, ...]
    ) -> BatchReport:
        try:
            return await self._run(self._fetchers, self._slot(), call, order)
        except WorkerDied:  # as `_again`, without what it had written
            _remove_drafts(blobs)
            return await self._run(self._fetchers, self._slot(), call, order)

    async def fetch_dag(self, order: DagOrder) -> DagReport:
        """A file by the blocks of its DAG. If cancelled, `dst_path` may be left to the caller."""
        from p2pcache.lanes.dag import fetch_dag  # workers that never do this stay small

        with self.downlink.request(order.location.url, order.limits) as limits:
            bounded = replace(order, limits=limits)
            return await self._run(self._fetchers, self._slot(), fetch_dag, bounded)

    async def send_car(self, order: SendOrder) -> SendReport:
        """Blocks of ours to another server. If cancelled, the connection is cut."""
        from p2pcache.lanes.send_car import send_car

        with self.uplink.request(order.url, order.limits) as limits:
            bounded = replace(order, limits=limits)
            return await self._run(self._fetchers, self._slot(), send_car, bounded)

    async def send_part(self, order: PartOrder) -> PartReport:
        """A part of a file to a store or a registry. If cancelled, the connection is cut."""
        from p2pcache.lanes.send_part import send_part

        with self.uplink.request(order.url, order.limits) as limits:
            bounded = replace(order, limits=limits)
            return await self._again(self._fetchers, self._slot(), send_part, bounded)

    async def fetch_bundle(self, order: BundleOrder, limits: FetchLimits) -> BatchReport:
        """A batch of small blobs of one peer. Cancelling leaves what `fetch_small` leaves."""
        with self.downlink.request(order.location.url, limits) as bounded:
            return await self._run(self._fetchers, self._fetch_limit, fetch_bundle, order, bounded)

    async def follow(self, order: FollowOrder) -> FollowReport:
        """The whole digest of a blob that is complete."""
        return await self._again(self._fetchers, self._hash_limit, follow, order)

    async def follow_aside(self, order: FollowOrder) -> FollowReport:
        """The same, at the lowest priority."""
        return await self._again(self._fetchers, self._hash_limit, follow_aside, order)

    async def hash_in_place(self, order: HashOrder) -> list[Hashed | str]:
        """Files of others where they lie, at the lowest priority."""
        from p2pcache.lanes.in_place import hash_in_place  # workers that never do this stay small

        return await self._again(self._fetchers, self._hash_limit, hash_in_place, order)

    async def follow_growing(self, order: FollowOrder) -> FollowReport:
        """The same behind the writers of a blob. Raises trio.WouldBlock when all slots are taken:
        a growing blob has no need to wait for one, it can be hashed when it is complete.
        """
        slot = object()
        self._follow_limit.acquire_on_behalf_of_nowait(slot)
        try:
            return await self._again(self._fetchers, trio.CapacityLimiter(1), follow, order)
        finally:
            self._follow_limit.release_on_behalf_of(slot)

    async def call(self, fn: Callable[..., T], *args: object) -> T:
        """A blocking, picklable call of an SDK; raises what it raises."""
        return await self._run(self._sdk, self._sdk_limit, fn, *args)

    def prepare(self, count: int) -> None:
        """Have so many fetch processes soon, so that a pull does not wait for them. Returns at
        once; they leave as all others do when nothing is asked of them.
        """
        there = self._fetchers.statistics().idle_workers + self._ahead.borrowed_tokens
        for _ in range(count - there):
            self._nursery.start_soon(self._prepare)

    async def _prepare(self) -> None:
        with suppress(WorkerDied, OSError, EOFError):  # the order that needs it will tell
            await self._run(self._fetchers, self._ahead, _here)

    async def warm_up(self, count: int) -> None:
        """The same; returns when they are there. Each of the calls takes a process of its own, for
        none is done before the last is made.
        """
        async with trio.open_nursery() as nursery:
            for _ in range(count):
                nursery.start_soon(self._run, self._fetchers, _NO_LIMIT, _here)

    async def wait_rest(self) -> None:
        """Until nothing was fetched or hashed for `idle_s`, and all processes have left."""
        await self._server.wait_left()

    async def _again(
        self,
        context: trio_parallel.WorkerContext,
        limiter: trio.CapacityLimiter,
        fn: Callable[..., T],
        *args: object,
    ) -> T:
        """`_run` for an order that can be given twice: a worker that was killed is replaced once.

        The OOM killer likes our 25 MB processes; the memory is often there a moment later.
        """
        try:
            return await self._run(context, limiter, fn, *args)
        except WorkerDied:
            return await self._run(context, limiter, fn, *args)

    async def _run(
        self,
        context: trio_parallel.WorkerContext,
        limiter: trio.CapacityLimiter,
        fn: Callable[..., T],
        *args: object,
    ) -> T:
        await self._server.wait_usable()
        try:
            with self._server.use():
                result: T = await context.run_sync(fn, *args, kill_on_cancel=True, limiter=limiter)
        except trio_parallel.BrokenWorkerError as exc:
            raise WorkerDied(
                "a worker process died (killed, or out of memory)",
                hint="look at the kernel log for the OOM killer; what was verified is kept",
            ) from exc
        return result


def _remove_drafts(orders: tuple[SmallOrder, ...]) -> None:
    for order in orders:
        Path(order.dst_path).unlink(missing_ok=True)


def _here() -> None:
    """Done as soon as a worker is there."""


@asynccontextmanager
async def open_workers(options: WorkerOptions) -> AsyncIterator[Workers]:
    """Worker processes for the time of the scope. None is started before it is needed.

    They are forked from a small server process that has imported the lanes: 20 ms and shared pages
    instead of 400 ms and 30 MB each, and nothing of the agent (threads, sockets) is inherited.
    """
    server = ForkServer(PRELOADED, options.idle_s)
    server.start()  # it imports while the agent starts
    open_context = partial(
        trio_parallel.open_worker_context,
        idle_timeout=options.idle_s,
        init=end_with_parent,
        grace_period=GRACE_S,
        worker_type=trio_parallel.WorkerType.FORKSERVER,
    )

    def count_workers() -> int:
        told = [context.statistics() for context in (fetchers, sdk)]
        return sum(one.idle_workers + one.running_workers for one in told)

    async with open_context() as fetchers, open_context() as sdk:
        with plain_errors():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(server.keep, count_workers)
                yield Workers(fetchers, sdk, server, options, nursery)
                nursery.cancel_scope.cancel()


def core_count() -> int:
    """Cores that this process may use (containers and taskset included)."""
    return len(os.sched_getaffinity(0))


def machine_core_count() -> int:
    """All cores of the machine: what `idle_cpu_s` adds up over."""
    return os.cpu_count() or 1


def idle_cpu_s() -> float:
    """Seconds that all cores of the machine have idled since it started (proc(5), /proc/stat).

    Waiting for a disk counts as busy: another stream would not help there either. Where there is
    no /proc/stat nothing ever idles, and pulls keep to one stream a core.
    """
    try:
        with open("/proc/stat") as stat:
            return int(stat.readline().split()[4]) / os.sysconf("SC_CLK_TCK")
    except OSError:
        return 0.0
