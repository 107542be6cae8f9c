"""Which blob has the block of a sha2-256, and where. A cache: block maps and manifests say it too.

A row a block, of two integers: the first 8 bytes of its digest, and `number of the owner << 32 |
1 + leaf` (0: a node above the leaves, which is made again when it is asked for). The digests
themselves are compared in the owner's block map. Measured with 140,000 blocks (1,000 blobs, 140
GB), on one core at 2.1 GHz:

    this table                           23 B a block, 1.1 us to add, 8 us to look up or to miss
    a table with whole digests           45 B, 12.5 us, 31 us
    a sorted file for each blob          16 B; 355 us to look up: a miss looks into all of them
    one sorted array                     16 B, 1.4 us; to add one blob is to write it all again

so the index has 0.002 % of the bytes, and the blocks of a blob of 1 GiB are added in 1 ms. Rows of
blobs that are gone are skipped, and dropped when the next ones are added.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from p2pcache.store.index import insert_many

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from p2pcache.store.index import Index

_LEAF_BITS = 32
_FIND = (  # CROSS: in this order; SQLite would go through all owners, 100 times slower
    "SELECT o.key, p.place FROM block_places p CROSS JOIN block_owners o "
    f"ON o.number = p.place >> {_LEAF_BITS} WHERE p.prefix = ?"
)


@dataclass(frozen=True, slots=True)
class Place:
    """`owner`: raw sha2-256 of a blob, root of one without, or CID of a manifest. `leaf`: number of
    its block, None for a dag-pb node.
    """

    owner: bytes
    leaf: int | None


class BlockIndex:
    """Of one store. Any thread may call. Errors: LocalFault, DiskFull."""

    def __init__(self, index: Index) -> None:
        self._index = index

    def find(self, sha256: bytes) -> list[Place]:
        """Where that block may be: rarely another block has the same first 8 bytes."""
        rows = self._index.read(_FIND, (_prefix(sha256),))
        mask = (1 << _LEAF_BITS) - 1
        return [Place(bytes(key), (at & mask) - 1 if at & mask else None) for key, at in rows]

    def owners(self) -> set[bytes]:
        """All whose blocks are here."""
        return {bytes(key) for (key,) in self._index.read("SELECT key FROM block_owners")}

    def add(self, owner: bytes, leaves: bytes, nodes: Iterable[bytes]) -> None:
        """The blocks of one owner, at once: `leaves` joined, `nodes` each of 32 bytes."""
        with self._index.write("noting where blocks are") as connection:
            cursor = connection.execute("INSERT INTO block_owners (key) VALUES (?)", (owner,))
            base = int(cursor.lastrowid or 0) << _LEAF_BITS
            rows = [
                (_prefix(leaves[at : at + 8]), base + at // 32 + 1)
                for at in range(0, len(leaves), 32)
            ]
            rows += [(_prefix(node), base) for node in nodes]
            insert_many(connection, "INSERT OR IGNORE INTO block_places VALUES", sorted(rows))

    def drop(self, owners: Collection[bytes]) -> None:
        """Forget owners and their rows: one pass over all rows."""
        with self._index.write("forgetting where blocks were") as connection:
            connection.execute("CREATE TEMP TABLE IF NOT EXISTS gone (number INTEGER PRIMARY KEY)")
            for owner in owners:
                connection.execute(
                    "INSERT OR IGNORE INTO gone SELECT number FROM block_owners WHERE key = ?",
                    (owner,),
                )
            connection.execute(
                f"DELETE FROM block_places WHERE place >> {_LEAF_BITS} IN (SELECT * FROM gone)"
            )
            connection.execute("DELETE FROM block_owners WHERE number IN (SELECT * FROM gone)")
            connection.execute("DELETE FROM gone")


def _prefix(sha256: bytes) -> int:
    return int.from_bytes(sha256[:8], "big", signed=True)
