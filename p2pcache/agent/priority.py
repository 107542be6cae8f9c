"""Whose turn it is to pull: somebody who waits comes before what may take its time.

A background pull is stopped as soon as a foreground one begins, and goes on after it: what it had
verified stays. Its sockets, workers and partials are free then, so the foreground has its lone
speed, also where both want the same bytes.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

LINGER_S = 1.0  # after a foreground pull: a script that gets file after file is one reader
YIELD_S = 0.2  # for background pulls to free workers and sockets; they flush and take back what
#                they shared beside the foreground, which waits for the leases it needs by itself


class Priority:
    """See the module. For the trio thread."""

    def __init__(self) -> None:
        self._foreground = 0
        self._background: set[trio.CancelScope] = set()
        self._ended = trio.lowlevel.ParkingLot()
        self._free = trio.Event()
        self._free.set()
        self._free_since = float("-inf")

    @property
    def busy(self) -> bool:
        """Whether somebody waits for a pull now."""
        return self._foreground > 0

    @asynccontextmanager
    async def foreground(self) -> AsyncIterator[None]:
        """Enter when what runs in the background has stopped, or after YIELD_S."""
        if self._foreground == 0:
            self._free = trio.Event()
        self._foreground += 1
        try:
            for scope in self._background:
                scope.cancel()
            with trio.move_on_after(YIELD_S):
                while self._background:
                    await self._ended.park()
            yield
        finally:
            self._foreground -= 1
            if self._foreground == 0:
                self._free_since = trio.current_time()
                self._free.set()

    async def wait_free(self) -> None:
        """Until nobody waits for a pull, and has not for LINGER_S."""
        while True:
            await self._free.wait()
            await trio.sleep_until(self._free_since + LINGER_S)
            if not self._foreground:
                return

    async def background(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do `work` when nobody waits for a pull; again whenever it had to stop for one."""
        while True:
            await self.wait_free()
            scope = trio.CancelScope()
            self._background.add(scope)
            try:
                with scope:
                    await work()
            finally:
                self._background.discard(scope)
                self._ended.unpark_all()
            if not scope.cancelled_caught:
                return
