"""What is done for pulls and evictions in the agent's own time, such as telling the byte server.

Trouble there (it is being restarted, the disk is full) is logged, and ends no pull.
"""

from __future__ import annotations

import logging
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from p2pcache.errors import P2PCacheError, bug

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_log = logging.getLogger(__name__)


class Chores:
    """Does what `soon` is given while `run` runs. For the trio thread."""

    def __init__(self) -> None:
        self._nursery: trio.Nursery | None = None
        self._waiting: dict[bytes, deque[Callable[[], Awaitable[None]]]] = {}

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                task_status.started()
                await trio.sleep_forever()
        finally:
            self._nursery = None

    def soon(self, name: bytes | None, job: Callable[..., Awaitable[None]], *args: object) -> None:
        """Have a job done: those of one name in the order of the calls, all others beside each
        other. Nothing is done when the network has closed.
        """
        if self._nursery is None:
            return
        call = partial(job, *args)
        if name is None:
            self._nursery.start_soon(_do, call)
        elif name in self._waiting:
            self._waiting[name].append(call)
        else:
            self._waiting[name] = deque([call])
            self._nursery.start_soon(self._in_order, name)

    async def wait_done(self, name: bytes) -> None:
        """Until nothing is left to be done for this name."""
        if self._nursery is not None and name in self._waiting:
            done = trio.Event()
            self.soon(name, _tell, done)
            await done.wait()

    async def _in_order(self, name: bytes) -> None:
        calls = self._waiting[name]
        try:
            while calls:
                await _do(calls[0])
                calls.popleft()
        finally:
            del self._waiting[name]


async def _tell(done: trio.Event) -> None:
    done.set()


async def _do(call: Callable[..., Any]) -> None:
    try:
        await call()
    except P2PCacheError as exc:
        _log.warning("the byte server was not told: %s", exc.message)
    except Exception as exc:  # noqa: BLE001 - the border: no pull ends for it
        bug(exc, _log)
