"""The process that workers are forked from, only while somebody may need one.

It has imported the lanes, so that a worker starts in 20 ms instead of 400. With the resource
tracker that multiprocessing starts beside it, it holds 20 MB: when nothing was asked of workers for
a while and all have left, both are ended. The next order starts them again, 0.3 s later.
"""

from __future__ import annotations

import multiprocessing
from contextlib import contextmanager
from multiprocessing import forkserver, resource_tracker
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

LOOKS = 4  # in the time that it may idle


class ForkServer:
    """One for this process, as multiprocessing has it. For the trio thread."""

    def __init__(self, preloaded: Sequence[str], idle_s: float) -> None:
        multiprocessing.set_forkserver_preload(list(preloaded))
        self._idle_s = idle_s
        self._users = 0
        self._used_at = 0.0
        self._ending: trio.Event | None = None
        self._needed = trio.Event()
        self._left = trio.Event()

    def start(self) -> None:
        """Have it ready; returns at once, it imports meanwhile."""
        self._used_at = trio.current_time()
        forkserver.ensure_running()
        self._needed.set()

    async def wait_usable(self) -> None:
        """Wait while it is being ended, some milliseconds. Then `use` it without another wait."""
        while self._ending is not None:
            await self._ending.wait()

    @contextmanager
    def use(self) -> Iterator[None]:
        """It is not ended inside; multiprocessing starts it when it is not there."""
        self._users += 1
        self._needed.set()
        try:
            yield
        finally:
            self._users -= 1
            self._used_at = trio.current_time()

    async def wait_left(self) -> None:
        """Until it is ended the next time, because nobody needed it."""
        await self._left.wait()

    async def keep(self, count_workers: Callable[[], int]) -> None:
        """End it whenever nobody needed it for `idle_s`; until cancelled.

        It cannot end before its last worker: that one holds its life line too.
        """
        while True:
            await self._needed.wait()
            await trio.sleep(self._idle_s / LOOKS)
            idle_s = trio.current_time() - self._used_at
            if self._users or idle_s < self._idle_s or count_workers():
                continue
            self._needed = trio.Event()
            self._ending = trio.Event()
            try:
                await trio.to_thread.run_sync(_end)
            finally:
                self._ending.set()
                self._ending = None
            self._left.set()
            self._left = trio.Event()


def _end() -> None:
    """What CPython's own tests call; without it there is no way but the end of this process."""
    forkserver._forkserver._stop()  # type: ignore[attr-defined]
    resource_tracker._resource_tracker._stop()  # type: ignore[attr-defined]
