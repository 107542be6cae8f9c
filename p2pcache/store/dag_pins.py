"""Pins of DAGs: by their root, with what each keeps written down when it is pinned.

What a pin keeps is loose blocks, by multihash, and blobs, by the name that the DAG has for them (a
raw sha2-256, or a UnixFS root as long as nobody hashed the whole). A DAG never changes, so what is
below a root is walked once, and an eviction asks one question.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2pcache.store.index import insert_many

if TYPE_CHECKING:
    from collections.abc import Collection

    from p2pcache.store.index import Index


class DagPins:
    """Of one store. Any thread may call. Errors: LocalFault, DiskFull."""

    def __init__(self, index: Index) -> None:
        self._index = index

    def add(
        self, root: bytes, recursive: bool, blocks: Collection[bytes], blobs: Collection[bytes]
    ) -> None:
        """Pin, in one transaction; replaces an earlier pin of this root."""
        with self._index.write("pinning") as connection:
            for table in ("block_pins", "pinned_blocks", "pinned_blobs"):
                connection.execute(f"DELETE FROM {table} WHERE root = ?", (root,))
            insert = "INSERT INTO pinned_blocks VALUES"
            insert_many(connection, insert, [(root, block) for block in blocks])
            insert = "INSERT INTO pinned_blobs VALUES"
            insert_many(connection, insert, [(root, name) for name in blobs])
            connection.execute("INSERT INTO block_pins VALUES (?,?)", (root, recursive))

    def drop(self, root: bytes) -> bool:
        """Whether it was pinned."""
        with self._index.write("unpinning") as connection:
            gone = connection.execute("DELETE FROM block_pins WHERE root = ?", (root,)).rowcount
            connection.execute("DELETE FROM pinned_blocks WHERE root = ?", (root,))
            connection.execute("DELETE FROM pinned_blobs WHERE root = ?", (root,))
        return gone > 0

    def roots(self) -> dict[bytes, bool]:
        """Every root, and whether all below it is kept."""
        rows = self._index.read("SELECT root, recursive FROM block_pins")
        return {bytes(root): bool(recursive) for root, recursive in rows}

    def blocks(self) -> set[bytes]:
        """Multihashes of the loose blocks that pins keep."""
        rows = self._index.read("SELECT DISTINCT multihash FROM pinned_blocks")
        return {bytes(multihash) for (multihash,) in rows}

    def is_pinned(self, multihash: bytes) -> bool:
        """Whether a pin keeps this loose block."""
        query = "SELECT 1 FROM pinned_blocks WHERE multihash = ? LIMIT 1"
        return bool(self._index.read(query, (multihash,)))

    def blobs(self) -> set[bytes]:
        """What evictions call the blobs that pins keep: raw sha2-256, and roots."""
        rows = self._index.read(
            "SELECT name FROM pinned_blobs UNION "
            "SELECT n.sha256 FROM pinned_blobs p JOIN names n ON n.name = p.name"
        )
        return {bytes(name) for (name,) in rows}
