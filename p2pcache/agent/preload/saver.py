"""What the book of preloads knows, from and to the index, in worker threads.

A disk that does not take it, or cannot be read, costs nothing but what a restart would find: it is
logged and tried again.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from p2pcache.errors import LocalFault

if TYPE_CHECKING:
    from p2pcache.agent.preload.book import Book

_log = logging.getLogger(__name__)

AGAIN_S = 10.0  # after the disk failed


class Saver:
    """See the module. For the trio thread."""

    def __init__(self, book: Book) -> None:
        self._book = book
        self._busy = trio.Lock()
        self._is_loaded = False
        self._next_at = float("-inf")

    async def tick(self) -> None:
        """Read and write what is to be, unless the disk failed a moment ago."""
        if trio.current_time() >= self._next_at:
            await self.load()
            await self.save()

    async def load(self) -> None:
        """What was kept, once; what was heard before that could be read counts more."""
        async with self._busy:
            if self._is_loaded:
                return
            try:
                rows = await trio.to_thread.run_sync(self._book.read)
            except LocalFault as exc:
                self._failed("what was kept of preloads cannot be read", exc)
            else:
                self._book.load(rows)
                self._is_loaded = True

    async def save(self) -> None:
        """What is new, once what was kept is read, for it would be written over. Members choose how
        much that is, so the trio thread does not wait for it.
        """
        async with self._busy:
            changes = self._book.changes() if self._is_loaded else None
            if changes is None:
                return
            try:
                await trio.to_thread.run_sync(self._book.write, changes)
            except LocalFault as exc:
                self._failed("preloads are not kept on the disk", exc)
            else:
                self._book.written(changes)

    def _failed(self, what: str, exc: LocalFault) -> None:
        self._next_at = trio.current_time() + AGAIN_S
        _log.warning("%s: %s", what, exc.message)
