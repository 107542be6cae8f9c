"""Pins of DAGs: by their root, with what each keeps written down when it is pinned.

What a pin keeps is loose blocks, by multihash, and blobs, by the name that the DAG has for them (a
raw sha2-256, or a UnixFS root as long as nobody hashed the whole). A DAG never changes, so what is
below a root is walked once, and an eviction asks one question. Several owners may pin one root: the
user, and parts of the agent under a name of theirs; neither takes the other's pin away.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2pcache.store.index import insert_many

if TYPE_CHECKING:
    from collections.abc import Collection

    from p2pcache.store.index import Index

CONTENT = b"content"  # the owner of what goes with content (`store.ties`): no pin to a user


class DagPins:
    """Of one store. Any thread may call. Errors: LocalFault, DiskFull."""

    def __init__(self, index: Index) -> None:
        self._index = index

    def add(
        self, root: bytes, recursive: bool, blocks: Collection[bytes], blobs: Collection[bytes],
        owner: bytes = b"",
    ) -> None:  # fmt: skip
        """Pin, in one transaction; replaces this owner's earlier pin of this root (a CIDv1)."""
        root = _prefix(owner) + root
        with self._index.write("pinning") as connection:
            for table in ("block_pins", "pinned_blocks", "pinned_blobs"):
                connection.execute(f"DELETE FROM {table} WHERE root = ?", (root,))
            insert = "INSERT INTO pinned_blocks VALUES"
            insert_many(connection, insert, [(root, block) for block in blocks])
            insert = "INSERT INTO pinned_blobs VALUES"
            insert_many(connection, insert, [(root, name) for name in blobs])
            connection.execute("INSERT INTO block_pins VALUES (?,?)", (root, recursive))

    def drop(self, root: bytes, owner: bytes = b"") -> bool:
        """Whether this owner had it pinned."""
        root = _prefix(owner) + root
        with self._index.write("unpinning") as connection:
            gone = connection.execute("DELETE FROM block_pins WHERE root = ?", (root,)).rowcount
            connection.execute("DELETE FROM pinned_blocks WHERE root = ?", (root,))
            connection.execute("DELETE FROM pinned_blobs WHERE root = ?", (root,))
        return gone > 0

    def roots(self, owner: bytes = b"") -> dict[bytes, bool]:
        """Every root of this owner, and whether all below it is kept."""
        prefix = _prefix(owner)
        query = "SELECT root, recursive FROM block_pins WHERE root >= ? AND root < ?"
        rows = self._index.read(query, (prefix + b"\1", prefix + b"\2"))
        return {bytes(root)[len(prefix) :]: bool(recursive) for root, recursive in rows}

    def kept_by(self, root: bytes) -> tuple[list[bytes], list[bytes]]:
        """What the user's pin of this root keeps: multihashes of loose blocks, names of blobs."""
        blocks = self._index.read("SELECT multihash FROM pinned_blocks WHERE root = ?", (root,))
        blobs = self._index.read("SELECT name FROM pinned_blobs WHERE root = ?", (root,))
        return [bytes(m) for (m,) in blocks], [bytes(name) for (name,) in blobs]

    def blocks(self) -> set[bytes]:
        """Multihashes of the loose blocks that pins keep."""
        rows = self._index.read("SELECT DISTINCT multihash FROM pinned_blocks")
        return {bytes(multihash) for (multihash,) in rows}

    def blocks_of(self, root: bytes, owner: bytes = b"") -> set[bytes]:
        """Multihashes of the loose blocks that one pin keeps."""
        query = "SELECT multihash FROM pinned_blocks WHERE root = ?"
        return {bytes(key) for (key,) in self._index.read(query, (_prefix(owner) + root,))}

    def blocks_of_users(self) -> set[bytes]:
        """As `blocks`, without what goes with content."""
        prefix = _prefix(CONTENT)
        query = "SELECT DISTINCT multihash FROM pinned_blocks WHERE NOT (root >= ? AND root < ?)"
        rows = self._index.read(query, (prefix + b"\1", prefix + b"\2"))
        return {bytes(multihash) for (multihash,) in rows}

    def is_pinned(self, multihash: bytes) -> bool:
        """Whether a pin keeps this loose block."""
        query = "SELECT 1 FROM pinned_blocks WHERE multihash = ? LIMIT 1"
        return bool(self._index.read(query, (multihash,)))

    def keeps(self, multihash: bytes, owner: bytes) -> bool:
        """Whether a pin of this owner has written down a block: 5 us for each of its roots."""
        prefix = _prefix(owner)
        query = (
            "SELECT 1 FROM block_pins p JOIN pinned_blocks b ON b.root = p.root "
            "WHERE p.root >= ? AND p.root < ? AND b.multihash = ? LIMIT 1"
        )
        return bool(self._index.read(query, (prefix + b"\1", prefix + b"\2", multihash)))

    def blobs(self) -> set[bytes]:
        """What evictions call the blobs that pins keep: raw sha2-256, and roots."""
        rows = self._index.read(
            "SELECT name FROM pinned_blobs UNION "
            "SELECT n.sha256 FROM pinned_blobs p JOIN names n ON n.name = p.name"
        )
        return {bytes(name) for (name,) in rows}


def _prefix(owner: bytes) -> bytes:
    """What a root is kept under; a CIDv1 begins with one."""
    return b"\0" + owner + b"\0" if owner else b""
