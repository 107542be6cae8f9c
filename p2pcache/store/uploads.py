"""Uploads to registries that have begun: where each goes on after a crash. Rows of the index."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from p2pcache.store.index import Index

KEPT_S = 7 * 86_400.0  # registries forget sessions after a day to a week (distribution: a week)
MAX_ROWS = 10_000  # each at most 9 KB; the oldest go


class Uploads:
    """Queries over one index, from any thread. A location is the registry's secret with us: it is
    never shown. Errors: LocalFault.
    """

    def __init__(self, index: Index, now: Callable[[], float] = time.time) -> None:
        self.busy: set[tuple[str, str]] = set()  # place and digest, of the agent's event loop
        self._index = index
        self._now = now

    def find(self, where: str, digest: str) -> str | None:
        """Where the next bytes of a blob go, in a repository (its URL)."""
        rows = self._index.read(
            "SELECT location FROM uploads WHERE place = ? AND digest = ? AND kept_at > ?",
            (where, digest, self._now() - KEPT_S),
        )
        return str(rows[0][0]) if rows else None

    def keep(self, where: str, digest: str, location: str) -> None:
        """Remember it, durably, before its bytes go out."""
        now = self._now()
        with self._index.write("keeping where an upload goes") as connection:
            connection.execute(
                "INSERT OR REPLACE INTO uploads VALUES (?,?,?,?)", (where, digest, location, now)
            )
            connection.execute("DELETE FROM uploads WHERE kept_at <= ?", (now - KEPT_S,))
            connection.execute(
                "DELETE FROM uploads WHERE rowid NOT IN "
                "(SELECT rowid FROM uploads ORDER BY kept_at DESC LIMIT ?)",
                (MAX_ROWS,),
            )

    def drop(self, where: str, digest: str) -> None:
        """It is over."""
        with self._index.write("forgetting an upload") as connection:
            connection.execute(
                "DELETE FROM uploads WHERE place = ? AND digest = ?", (where, digest)
            )
