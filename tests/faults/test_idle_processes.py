"""An agent that nobody asks keeps no process but the ones that answer others."""

from __future__ import annotations

import os
import time
from pathlib import Path

import trio

from p2pcache.agent.lean import keep_lean
from p2pcache.store.layout import StoreOptions
from p2pcache.store.store import Store
from p2pcache.transfer.workers import WorkerOptions, open_workers


def children() -> set[str]:
    """The command lines of this process's children."""
    found = set()
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit():
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(fields[1]) == os.getpid() and fields[0] != "Z":
                    found.add((entry / "cmdline").read_text())
        except OSError:
            continue
    return found


def helpers() -> int:
    return sum("multiprocessing" in line for line in children())


async def wait_until_helpers(count: int) -> None:
    with trio.fail_after(20):
        while helpers() != count:  # noqa: ASYNC110 - processes send no event
            await trio.sleep(0.05)


async def test_the_fork_server_ends_when_nobody_needs_it_and_comes_back():
    async with open_workers(WorkerOptions(idle_s=1.0)) as workers:
        assert helpers() == 2  # with multiprocessing's resource tracker
        for _ in range(2):
            assert await workers.call(abs, -3) == 3
            await wait_until_helpers(0)
        assert await workers.call(abs, -4) == 4


def anonymous_bytes() -> int:
    """Memory of this process that no file is behind."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Anonymous:"))


async def test_when_the_last_has_left_the_agent_gives_memory_back(tmp_path):
    with Store.open(tmp_path, StoreOptions(reserve_bytes=0)) as store:
        async with open_workers(WorkerOptions(idle_s=0.5)) as workers, trio.open_nursery() as tasks:
            tasks.start_soon(keep_lean, store, workers)
            for number in range(2):  # after every work, not only once
                await wait_until_helpers(0)
                with store._index.write("filling its cache") as connection:
                    connection.executemany(
                        "INSERT INTO bans VALUES (?, ?, 0)",
                        ((b"%d %d" % (number, n), "x" * 300) for n in range(10_000)),
                    )
                held = anonymous_bytes()
                assert await workers.call(abs, -3) == 3
                with trio.fail_after(20):
                    while anonymous_bytes() > held - 2_000_000:  # noqa: ASYNC110 - nor does memory
                        await trio.sleep(0.05)
            tasks.cancel_scope.cancel()


async def test_it_stays_while_a_worker_is_at_work():
    async with open_workers(WorkerOptions(idle_s=0.2)) as workers:
        await workers.call(time.sleep, 2.0)  # a fork server that is ended would wait for it
        assert helpers() >= 2


async def test_an_order_that_comes_while_it_ends_waits_and_is_done():
    async with open_workers(WorkerOptions(idle_s=0.1)) as workers:
        with trio.fail_after(60):
            for number in range(20):
                await trio.sleep(0.1 + number / 200)  # around its end
                assert await workers.call(abs, -number) == number


async def test_a_worker_does_not_import_trio():
    async with open_workers(WorkerOptions()) as workers:
        assert await workers.call(eval, "__import__('sys').modules.get('trio') is None")
