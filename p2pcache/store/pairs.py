"""The two names of blobs: which UnixFS root was proven for which sha2-256.

Who was complete here had both computed from its bytes. Of a blob that is here its row tells; of one
that left, a pair that was kept, of the last MAX_PAIRS to leave: so a file that is known by its
digest can be asked of who goes by roots. A pair is never the only check: what comes by the root is
hashed as a whole, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from p2pcache.store.index import IN_CHUNK

if TYPE_CHECKING:
    from collections.abc import Sequence

    from p2pcache.store.index import Index

_BOTH = (
    "SELECT sha256, root, size FROM pairs WHERE {0} UNION "
    "SELECT sha256, root, size FROM blobs WHERE root IS NOT NULL AND {0}"
)


@dataclass(frozen=True, slots=True)
class Pair:
    """One blob of more than a block, here or not. `sha256`: raw; `root`: a binary CID."""

    sha256: bytes
    root: bytes
    size: int


class Pairs:
    """Of one store. Any thread may call. Errors: LocalFault."""

    def __init__(self, index: Index) -> None:
        self._index = index

    def of_sha256s(self, sha256s: Sequence[bytes]) -> dict[bytes, Pair]:
        """By raw sha2-256; those that are not known are left out."""
        found: dict[bytes, Pair] = {}
        for start in range(0, len(sha256s), IN_CHUNK // 2):
            some = sha256s[start : start + IN_CHUNK // 2]
            where = f"sha256 IN ({','.join('?' * len(some))})"
            rows = self._index.read(_BOTH.format(where), [*some, *some])
            found |= {row[0]: Pair(*row) for row in rows}
        return found

    def of_root(self, root: bytes) -> Pair | None:
        """By the binary CID of a root."""
        rows = self._index.read(
            "SELECT sha256, root, size FROM pairs WHERE root = ?1 UNION SELECT b.sha256, b.root, "
            "b.size FROM names n JOIN blobs b USING (sha256) WHERE n.name = ?1",
            (root,),
        )
        return Pair(*rows[0]) if rows else None
