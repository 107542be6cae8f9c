"""Walks over blocks, in threads: a hostile block of 2 MiB takes a second to decode, and the loop
answers others meanwhile.

A thread goes on over blocks that are here, until one is missing or a batch of results is there;
what is missing is brought in the trio thread. So many small blocks cost few threads, and what is
held is a batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

import trio

from p2pcache.content.dag.walk import Need
from p2pcache.errors import P2PCacheError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from p2pcache.content.dag.walk import AsyncGet, Flow, Walk

T = TypeVar("T")

Here = Callable[[bytes], bytes | None]
"""A block of this machine, for threads; None when it is not here."""

MAX_THREADS = 4  # that decode at once: each more makes the loop wait 5 ms longer for its turn
BATCH_COUNT = 256  # results of one thread; what becomes of them takes the loop some milliseconds
BATCH_BYTES = 1 << 20  # of blocks that one thread reads: it ends soon when the call is cancelled

_threads = trio.CapacityLimiter(MAX_THREADS)


async def in_thread(job: Callable[..., T], *args: object) -> T:
    """What may take more than some milliseconds. It is waited for also when cancelled."""
    return await trio.to_thread.run_sync(job, *args, limiter=_threads)


@dataclass(slots=True)
class _Batch(Generic[T]):
    """What one thread came to. `missing`: the block that comes next, and is not here."""

    found: list[T] = field(default_factory=list)
    missing: bytes | None = None
    over: bool = False
    result: object = None  # of a walk that is over
    error: P2PCacheError | None = None


async def result(walk: Walk[T], here: Here, get: AsyncGet) -> T:
    """The walk's result. Raises what it does, and as `here` and `get`."""
    block: bytes | None = None
    try:
        while True:
            batch: _Batch[T] = await in_thread(_advance, walk, here, block)
            if batch.error is not None:
                raise batch.error
            if batch.over:
                return cast("T", batch.result)
            assert batch.missing is not None, "a walk has no results on its way"
            block = await get(batch.missing)
    finally:
        walk.close()


async def results(flow: Flow[T], here: Here, get: AsyncGet) -> AsyncGenerator[T, None]:
    """The flow's results, each as it comes; close it (`aclosing`). Raises as `result`."""
    block: bytes | None = None
    try:
        while True:
            batch: _Batch[T] = await in_thread(_advance, flow, here, block)
            for one in batch.found:
                yield one
            if batch.error is not None:
                raise batch.error
            if batch.over:
                return
            block = None if batch.missing is None else await get(batch.missing)
    finally:
        flow.close()


def _advance(walk: Flow[Any] | Walk[Any], here: Here, block: bytes | None) -> _Batch[Any]:
    """`block`: the one that was missing."""
    batch: _Batch[Any] = _Batch()
    read_bytes = 0
    try:
        step = next(walk) if block is None else walk.send(block)
        while True:
            if isinstance(step, Need):
                trio.from_thread.check_cancelled()
                block = here(step.cid)
                if block is None:
                    batch.missing = step.cid
                    return batch
                read_bytes += len(block)
                step = walk.send(block)
                continue
            batch.found.append(step)
            if len(batch.found) == BATCH_COUNT or read_bytes >= BATCH_BYTES:
                return batch
            step = next(walk)
    except StopIteration as stop:
        batch.over, batch.result = True, stop.value
    except P2PCacheError as exc:
        batch.error = exc
    return batch
