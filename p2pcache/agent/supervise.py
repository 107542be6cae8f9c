"""Keeps a part of the agent running: a bug in one must not end the others."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from p2pcache.errors import bug

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_log = logging.getLogger(__name__)

FIRST_PAUSE_S, LAST_PAUSE_S = 1.0, 60.0  # before it runs again; doubled while it keeps failing
GOOD_LIFE_S = 60.0  # after such a run, its trouble counts as the first again


async def keep_running(part: Callable[..., Awaitable[None]], *args: object) -> None:
    """Run a part until it ends by itself or is cancelled; after an exception, again.

    The exception is logged with its traceback; what a part cannot mend by starting anew it must
    tell in its own way (`status`, `doctor`).
    """
    pause_s = FIRST_PAUSE_S
    while True:
        started = trio.current_time()
        try:
            await part(*args)
        except Exception as exc:  # noqa: BLE001 - the border: the agent serves on
            bug(exc, _log)
        else:
            return
        if trio.current_time() - started > GOOD_LIFE_S:
            pause_s = FIRST_PAUSE_S
        await trio.sleep(pause_s)
        pause_s = min(2 * pause_s, LAST_PAUSE_S)
