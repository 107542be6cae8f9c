"""An agent that rests gives back memory that was only of use to the work before."""

from __future__ import annotations

import ctypes
import logging
from typing import TYPE_CHECKING

import trio

from p2pcache.errors import LocalFault

if TYPE_CHECKING:
    from p2pcache.store.store import Store
    from p2pcache.transfer.workers import Workers

_log = logging.getLogger(__name__)


async def keep_lean(store: Store, workers: Workers) -> None:
    """Whenever the workers have left, the store's caches and free memory go too; until cancelled.

    After a push of 10,000 files these are 12 MB (docs/performance.md).
    """
    while True:
        await workers.wait_rest()
        try:
            await trio.to_thread.run_sync(store.shrink)
        except LocalFault as exc:  # a disk that cannot be read now: it stays as it is
            _log.warning("no memory is given back: %s", exc.message)
        await trio.to_thread.run_sync(trim_heap)


def trim_heap() -> None:
    """Give free memory back to the system: malloc(3) keeps it for what comes. 10 ms of 40 MB.

    Where there is no glibc nothing happens.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
