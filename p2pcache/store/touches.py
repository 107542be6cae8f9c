"""Last uses of blobs, held in memory, written together: a warm `get` must not wait for a disk."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from p2pcache.store.index import Index

MOST_KEPT = 4096  # last-use times held in memory before they are written in one transaction


class Touches:
    """Of one index, from any thread. A crash forgets some; only eviction order suffers."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._lock = threading.RLock()
        self._touched: dict[bytes, float] = {}

    def note(self, sha256s: Iterable[bytes], now: float) -> None:
        """Note a use (unix seconds). Raises LocalFault, when it is time to write."""
        with self._lock:
            self._touched.update(dict.fromkeys(sha256s, now))
            if len(self._touched) > MOST_KEPT:
                self.write()

    def write(self) -> None:
        """Into the index, unless that is read-only. Raises LocalFault."""
        with self._lock:
            touched, self._touched = self._touched, {}
        if touched and not self._index.readonly:
            with self._index.write("noting uses") as connection:
                connection.executemany(
                    "UPDATE blobs SET last_used = max(last_used, ?) WHERE sha256 = ?",
                    [(now, sha256) for sha256, now in touched.items()],
                )
