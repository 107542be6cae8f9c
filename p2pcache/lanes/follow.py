"""The whole digest of a blob, computed in order behind its out-of-order writers.

CPU-s/GB from the page cache (512 MiB on tmpfs, SHA-NI, one process): the hash alone 0.63, with
pread into one buffer of 64 KiB to 4 MiB 0.73-0.75, mapped 0.72-0.73, mapped with MADV_POPULATE_READ
0.74-0.76. The buffer begins at a page: with a bytearray some processes took 1.25 instead of 0.92
beside two busy workers. On another machine (Xeon, other work beside it) the copy costs more: alone
1.02, pread 1.20-1.26, a block mapped at a time 1.04-1.16. Behind writers somebody waits for this
process, so there a block is mapped.

A page that cannot be read (a file that became shorter, a broken disk) is SIGBUS under a mapping. So
the kernel is asked to bring a block's pages first, which fails as a call; pread then tells why.
What others may write to meanwhile (adopted files) is never mapped.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import sys
import threading
import time
from concurrent.futures import Future
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from p2pcache.lanes.faults import Ended, disk_fault, ended
from p2pcache.lanes.orders import BLOCK_BYTES, FaultKind, FollowOrder, FollowReport

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Order = TypeVar("Order")
Report = TypeVar("Report")

IDLE_S = 0.002  # a block takes about 1 ms to arrive: a shorter sleep only burns CPU
LOOK_AHEAD_BLOCKS = 4096  # live bytes read at once: one page
_MADV_POPULATE_READ = 22  # linux/mman.h, from Linux 5.14 on; `mmap` has no name for it yet


def follow(order: FollowOrder) -> FollowReport:
    """Hash until every block is live and read; ends with a LOCAL fault if the files go away."""
    cpu_began = time.process_time()
    sha256, git = hashlib.sha256(), None
    if order.git_sha1:
        git = hashlib.sha1(b"blob %d\0" % order.blob_bytes, usedforsecurity=False)
    blocks = bytearray() if order.live_path is None else None
    fault = idle_at = None
    hashed = 0
    try:
        for chunk in _in_order(order):
            hashed += len(chunk)
            sha256.update(chunk)
            if git is not None:
                git.update(chunk)
            if blocks is not None:
                blocks += hashlib.sha256(chunk).digest()
    except Ended as exc:
        fault = exc.fault
    except _Idle:
        idle_at = hashed
    nothing = fault is not None or idle_at is not None
    return FollowReport(
        sha256=b"" if nothing else sha256.digest(),
        git_sha1=None if nothing or git is None else git.digest(),
        block_digests=None if fault or blocks is None else bytes(blocks),
        cpu_s=time.process_time() - cpu_began,
        fault=fault,
        idle_at=idle_at,
    )


def follow_aside(order: FollowOrder) -> FollowReport:
    """`follow` for what nobody waits for."""
    return at_lowest_priority(follow, order)


def at_lowest_priority(work: Callable[[Order], Report], order: Order) -> Report:
    """Do it at the lowest priority, which costs others about 2 %; a disk's scheduler follows it.

    In a thread of its own: on Linux a priority is a thread's, and cannot be raised again.
    """
    found: Future[Report] = Future()

    def run() -> None:
        try:
            if sys.platform == "linux":
                with suppress(OSError):  # a sandbox may forbid it: then it costs others more
                    os.setpriority(os.PRIO_PROCESS, 0, 19)
            found.set_result(work(order))
        except BaseException as exc:  # noqa: BLE001  (raised where it is waited for)
            found.set_exception(exc)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return found.result()


class _Idle(Exception):
    """No further block came in time."""


def _in_order(order: FollowOrder) -> Iterator[memoryview]:
    """Every block, in order, each as soon as it is live. The view is valid until the next one."""
    fds: list[int] = []
    try:
        fds.append(os.open(order.data_path, os.O_RDONLY | os.O_CLOEXEC))
        if order.live_path is not None:
            fds.append(os.open(order.live_path, os.O_RDONLY | os.O_CLOEXEC))
        yield from _blocks(order, *fds)
    except OSError as exc:
        raise Ended(disk_fault(exc, "hash the blob")) from exc
    finally:
        for fd in fds:
            os.close(fd)


def _blocks(order: FollowOrder, data: int, live: int | None = None) -> Iterator[memoryview]:
    buffer = memoryview(mmap.mmap(-1, BLOCK_BYTES))  # begins at a page: see `receive`
    count = -(-order.blob_bytes // BLOCK_BYTES)
    number, ready = 0, count if live is None else 0
    while number < count:
        if number >= ready and live is not None:
            ready = number + _wait_live(live, number, count, order.idle_s)
        size = min(BLOCK_BYTES, order.blob_bytes - number * BLOCK_BYTES)
        block = None if live is None else _mapped(data, number * BLOCK_BYTES, size)
        if block is None:
            block = buffer[:size]
            if os.preadv(data, [block], number * BLOCK_BYTES) != size:
                raise ended(FaultKind.LOCAL, "the blob became shorter while it was hashed")
        yield block
        number += 1


def _mapped(data: int, offset: int, size: int) -> memoryview | None:
    """A part of a file of ours, its pages there; None where that cannot be had."""
    if sys.platform != "linux":
        return None
    try:
        found = mmap.mmap(data, size, prot=mmap.PROT_READ, offset=offset)
    except (OSError, ValueError):  # ValueError: the file is shorter
        return None
    return memoryview(found) if bring_pages(found) else None


def bring_pages(mapped: mmap.mmap) -> bool:
    """Have all of it in memory. False where a page cannot be had, which to touch would be deadly,
    and with a Linux before 5.14.
    """
    try:
        mapped.madvise(_MADV_POPULATE_READ)
    except OSError:
        return False
    return True


def _wait_live(live: int, number: int, count: int, idle_s: float | None) -> int:
    """How many blocks from `number` on are live, at least one; sleeps until there is one.

    Raises `_Idle` after `idle_s`.
    """
    give_up = None if idle_s is None else time.monotonic() + idle_s
    while True:
        marks = os.pread(live, min(LOOK_AHEAD_BLOCKS, count - number), number)
        if not marks:
            raise ended(FaultKind.LOCAL, "the partial blob was discarded while it was hashed")
        run = len(marks) - len(marks.lstrip(b"\x01"))
        if run:
            return run
        if os.fstat(live).st_nlink == 0:
            raise ended(FaultKind.LOCAL, "the partial blob was discarded while it was hashed")
        if give_up is not None and time.monotonic() >= give_up:
            raise _Idle
        time.sleep(IDLE_S)
