"""Preloads that this agent heard of, and how far it is itself: plain rows of the index.

The records inside were checked when they arrived (content/preload), and are checked again when they
are read: the file may have been changed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from p2pcache.content.preload import Cancel, Intent, parse
from p2pcache.errors import Untrusted

if TYPE_CHECKING:
    from collections.abc import Iterable

    from p2pcache.content.peerid import PeerId
    from p2pcache.store.index import Index


@dataclass(frozen=True, slots=True)
class PreloadRow:
    """What is kept of one preload by one signer: its intent, its end, or both.

    `teller`: the member that told it. `origin_bytes`: what this agent took from origins for it.
    `done`: it was complete here once.
    """

    id: bytes
    signer: PeerId
    teller: PeerId
    expires_at: int
    intent: Intent | None
    cancel: Cancel | None
    origin_bytes: int = 0
    done: bool = False


class PreloadRows:
    """Queries over one index. Reads from any thread; every write is one durable transaction."""

    def __init__(self, index: Index) -> None:
        self._index = index

    def put(self, rows: Iterable[PreloadRow]) -> None:
        """Keep these; each replaces the one of its id and signer. Raises LocalFault."""
        with self._index.write("keeping a preload") as connection:
            connection.executemany(
                "INSERT OR REPLACE INTO preloads VALUES (?,?,?,?,?,?,?,?)",
                [
                    (
                        row.id, row.signer, row.teller, row.expires_at,
                        b"" if row.intent is None else row.intent.record,
                        None if row.cancel is None else row.cancel.record,
                        row.origin_bytes, row.done,
                    )
                    for row in rows
                ],
            )  # fmt: skip

    def drop(self, keys: Iterable[tuple[bytes, PeerId]]) -> None:
        """Forget these. Raises LocalFault."""
        with self._index.write("forgetting a preload") as connection:
            connection.executemany("DELETE FROM preloads WHERE id = ? AND signer = ?", list(keys))

    def all(self) -> list[PreloadRow]:
        """Those whose signatures still hold."""
        rows = self._index.read(
            "SELECT id, signer, teller, expires_at, record, cancel, origin_bytes, done "
            "FROM preloads ORDER BY expires_at, id"
        )
        found = []
        for id_, signer, teller, expires_at, record, cancel, origin_bytes, done in rows:
            try:
                intent = parse(record) if record else None
                end = parse(cancel) if cancel is not None else None
            except Untrusted:
                continue
            if isinstance(intent, Cancel) or isinstance(end, Intent):
                continue
            made = PreloadRow(
                id_, signer, teller, expires_at, intent, end, origin_bytes, bool(done)
            )
            if _fits(made):
                found.append(made)
        return found


def _fits(row: PreloadRow) -> bool:
    named = [one for one in (row.intent, row.cancel) if one is not None]
    return bool(named) and all((one.id, one.signer) == (row.id, row.signer) for one in named)
