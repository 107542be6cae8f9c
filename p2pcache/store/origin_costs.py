"""What else is known of this agent's use of origins, by month: plain rows of the index.

Beside `spent`, which members share: requests that failed, what was sent there, and which content
came of it, each blob once, however it came.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from p2pcache.store.index import insert_many

if TYPE_CHECKING:
    from collections.abc import Iterable

    from p2pcache.store.index import Index


@dataclass(frozen=True, slots=True)
class OriginCost:
    """`host`: what the origin's key stands for. `content_bytes`: of distinct blobs."""

    host: str
    errors: int = 0
    sent_bytes: int = 0
    sent_requests: int = 0
    content_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Arrived:
    """A blob (raw sha2-256) of an origin that came in a month."""

    origin: bytes
    month: int
    sha256: bytes
    size: int


class OriginCosts:
    """Queries over one index. Any thread may call. Errors: LocalFault."""

    def __init__(self, index: Index) -> None:
        self._index = index

    def add(
        self,
        more: Iterable[tuple[bytes, int, OriginCost]],
        arrived: Iterable[Arrived],
        *,
        since: int,
    ) -> None:
        """Count more, by origin and month, in one durable transaction. Months before `since` go."""
        blobs = [(one.origin, one.month, one.sha256, one.size) for one in arrived]
        with self._index.write("keeping what origins cost") as connection:
            connection.executemany(
                "INSERT INTO origin_costs VALUES (?,?,?,?,?,?) ON CONFLICT (origin, month) DO "
                "UPDATE SET host = excluded.host, errors = errors + excluded.errors, "
                "sent_bytes = sent_bytes + excluded.sent_bytes, "
                "sent_requests = sent_requests + excluded.sent_requests",
                [
                    (origin, month, cost.host, cost.errors, cost.sent_bytes, cost.sent_requests)
                    for origin, month, cost in more
                ],
            )
            insert_many(connection, "INSERT OR IGNORE INTO origin_content VALUES", blobs)
            for table in ("origin_costs", "origin_content"):
                connection.execute(f"DELETE FROM {table} WHERE month < ?", (since,))

    def of_month(self, month: int) -> dict[bytes, OriginCost]:
        """By the origin's key."""
        rows = self._index.read(
            "SELECT origin, host, errors, sent_bytes, sent_requests FROM origin_costs "
            "WHERE month = ?",
            (month,),
        )
        found = {bytes(origin): OriginCost(host, *counts) for origin, host, *counts in rows}
        content = self._index.read(
            "SELECT origin, sum(size) FROM origin_content WHERE month = ? GROUP BY origin", (month,)
        )
        for origin, size in content:
            before = found.get(bytes(origin), OriginCost(""))
            found[bytes(origin)] = replace(before, content_bytes=size)
        return found
