"""What was fetched of origins in each month, by member: plain rows of the index."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from p2pcache.store.index import Index

MAX_ROWS = 200_000  # of all origins, months and members together: 20 MB; the largest are read


@dataclass(frozen=True, slots=True)
class SpentRow:
    """One member's figures of one origin and month. `member` empty: this agent, while it had no
    identity. `host`: what `origin`, its key, stands for.
    """

    origin: bytes
    month: int
    member: bytes
    host: str
    bytes_total: int
    requests_total: int


class SpentRows:
    """Queries over one index. Reads from any thread; every write is one durable transaction."""

    def __init__(self, index: Index) -> None:
        self._index = index

    def put(self, rows: Iterable[SpentRow], *, since: int) -> None:
        """Keep these; no figure ever falls. Months before `since` go. Raises LocalFault."""
        with self._index.write("keeping what was fetched of origins") as connection:
            connection.executemany(
                "INSERT INTO spent VALUES (?,?,?,?,?,?) ON CONFLICT (origin, month, member) DO "
                "UPDATE SET host = excluded.host, "
                "bytes_total = max(bytes_total, excluded.bytes_total), "
                "requests_total = max(requests_total, excluded.requests_total)",
                [
                    (r.origin, r.month, r.member, r.host, r.bytes_total, r.requests_total)
                    for r in rows
                ],
            )
            connection.execute("DELETE FROM spent WHERE month < ?", (since,))

    def all(self) -> list[SpentRow]:
        """What is kept."""
        rows = self._index.read(
            "SELECT origin, month, member, host, bytes_total, requests_total FROM spent "
            "ORDER BY bytes_total DESC LIMIT ?",
            (MAX_ROWS,),
        )
        return [
            SpentRow(bytes(origin), month, bytes(member), host, count, requests)
            for origin, month, member, host, count, requests in rows
        ]
