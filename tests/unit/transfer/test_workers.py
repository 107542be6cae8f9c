"""Worker processes are there before their orders, and no more of them than asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from p2pcache.lanes.orders import FollowOrder
from p2pcache.transfer.workers import WorkerOptions, Workers, open_workers

if TYPE_CHECKING:
    from pathlib import Path

ENDS_S = 60.0  # of a busy machine; a process starts in 0.02 s to 0.4 s


def an_order(folder: Path) -> FollowOrder:
    path = folder / "blob"
    path.write_bytes(b"bytes")
    return FollowOrder(str(path), None, 5)


def idle(workers: Workers) -> int:
    count: int = workers._fetchers.statistics().idle_workers
    return count


async def wait_idle(workers: Workers, count: int) -> None:
    while idle(workers) < count:  # noqa: ASYNC110 - processes send no event
        await trio.sleep(0.01)


async def test_processes_that_are_prepared_are_there_for_orders_and_are_no_more_than_asked_for(
    tmp_path: Path,
) -> None:
    with trio.fail_after(ENDS_S):
        async with open_workers(WorkerOptions()) as workers:
            workers.prepare(2)
            await wait_idle(workers, 2)
            workers.prepare(2)
            await workers.follow(an_order(tmp_path))
            assert workers._fetchers.statistics().running_workers == 0
            assert idle(workers) == 2


async def test_processes_are_prepared_a_few_at_a_time() -> None:
    with trio.fail_after(ENDS_S):
        async with open_workers(WorkerOptions(max_ahead=1)) as workers:
            workers.prepare(3)
            await wait_idle(workers, 1)
            await trio.sleep(0.1)
            assert idle(workers) == 1, "the others found the first one"
