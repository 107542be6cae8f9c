"""Who may read which content: what an origin restricts, and what one was seen to give to everybody.

A manifest is *restricted* when its origin said so, and *claimed* when an origin that we asked lists
it for everybody. A claim names content, and names are no secret: whoever knows a digest can write
it into a bucket. So what is restricted is opened, file by file, by what was *given* alone: bytes
that were seen to come from the claiming origin without a login (`agent.openings`, `transfer.pull`).
It counts while that origin claims the manifest.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from p2pcache.content import refs
from p2pcache.errors import UsageError
from p2pcache.store.index import IN_CHUNK, insert_many

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Collection, Sequence

    from p2pcache.store.index import Index
    from p2pcache.store.records import Resolution

OTHERS = "peers"  # the source of a resolution that is another agent's word, and no origin's
MAX_SHARED = 10_000  # of one look; the rest comes with the next
NAMES_OF_FILES = (  # a manifest's digest -> the blob: sha2-256 by itself, git sha1 by its alias
    "SELECT f.cid, f.digest, coalesce(n.sha256, substr(f.digest, 3)) AS sha256 "
    "FROM manifest_files f LEFT JOIN names n ON n.name = f.digest"
)
# Who tells what a name means without having been asked as its origin: opens nothing. A file of this
# machine says nothing of who may read it: what was downloaded with a token lies there as well.
NO_ORIGIN = (OTHERS, "blocks", "ipfs", "kubo", "file")
_STORES = ("s3", "gcs", "azure", "oci", "http")
_ANY = ""  # in `restricted_by`: nobody whose word on the whole of it could lift it


def _texts(values: Sequence[str]) -> str:
    return ",".join(f"'{value}'" for value in values)


_CLAIMED = (
    f"SELECT manifest FROM resolutions WHERE NOT gated AND source NOT IN ({_texts(NO_ORIGIN)})"
)
_SHUT = (
    f"SELECT r.manifest FROM restricted r WHERE r.manifest NOT IN ({_CLAIMED}) OR EXISTS "
    "(SELECT 1 FROM manifest_files f WHERE f.cid = r.manifest AND NOT EXISTS "
    "(SELECT 1 FROM given g WHERE g.digest = f.digest AND g.manifest = f.cid))"
)
_GIVEN = f"SELECT digest FROM given WHERE manifest IN ({_CLAIMED})"
# no manifest has them all: 0.2 s beside a restricted manifest of 50,000 files
_SHUT_BLOBS = (
    f"SELECT sha256 FROM ({NAMES_OF_FILES}) WHERE cid IN ({_SHUT}) "
    f"EXCEPT SELECT sha256 FROM ({NAMES_OF_FILES}) WHERE digest IN ({_GIVEN})"
)


@dataclass(frozen=True, slots=True)
class Shared:
    """A file of a claimed manifest that is here, and may be closed. `digest`: as the manifest names
    it.
    """

    manifest: bytes
    digest: bytes


class Rights:
    """Of one index. Any thread may call; every write is one durable transaction. Errors:
    LocalFault.
    """

    def __init__(self, index: Index) -> None:
        self._index = index

    def restrict(self, manifest: bytes) -> None:
        """Nobody may read a manifest without a right to, until all of it is given by an origin that
        claims it.
        """
        with self._index.write("restricting a manifest") as connection:
            connection.execute("INSERT OR IGNORE INTO restricted VALUES (?)", (manifest,))
            connection.execute("INSERT OR IGNORE INTO restricted_by VALUES (?,?)", (manifest, _ANY))

    def give(self, manifest: bytes, digests: Collection[bytes]) -> None:
        """The origin that claims a manifest was seen to give these of its files (as it names them)
        without a login.
        """
        if digests:
            with self._index.write("noting what an origin gives to everybody") as connection:
                insert_many(
                    connection,
                    "INSERT OR IGNORE INTO given VALUES",
                    [(digest, manifest) for digest in digests],
                )

    def given(self, names: Sequence[bytes]) -> set[bytes]:
        """Of these names of files those that an origin gave to everybody, and claims still."""
        found: set[bytes] = set()
        for start in range(0, len(names), IN_CHUNK):
            part = names[start : start + IN_CHUNK]
            marks = ",".join("?" * len(part))
            rows = self._index.read(
                f"SELECT DISTINCT digest FROM given WHERE digest IN ({marks}) "
                f"AND manifest IN ({_CLAIMED})",
                part,
            )
            found.update(bytes(digest) for (digest,) in rows)
        return found

    def restricted_manifests(self) -> set[bytes]:
        """Manifests that nobody may read without a right to: restricted at an origin, and not given
        as a whole by one that claims them.
        """
        return {bytes(cid) for (cid,) in self._index.read(_SHUT)}

    def private_stores(self) -> set[bytes]:
        """Restricted manifests that are so for a login to a store or a registry alone: no hub says
        that they are gated.
        """
        rows = self._index.read(
            "SELECT manifest FROM resolutions WHERE gated GROUP BY manifest "
            f"HAVING min(source IN ({_texts(_STORES)}))"
        )
        return {bytes(cid) for (cid,) in rows}

    def claimed_manifests(self) -> set[bytes]:
        """Manifests that an origin that we asked ourselves lists for everybody."""
        return {bytes(cid) for (cid,) in self._index.read(_CLAIMED)}

    def hidden_manifests(self, among: Collection[bytes]) -> set[bytes]:
        """Of these the restricted ones, and those that list a file of a restricted one that no
        origin gave to everybody.
        """
        restricted = self.restricted_manifests()
        hidden = restricted.intersection(among)
        if not restricted or len(hidden) == len(set(among)):
            return hidden
        rows = self._index.read(
            f"SELECT DISTINCT cid FROM ({NAMES_OF_FILES}) WHERE sha256 IN ({_SHUT_BLOBS})"
        )
        return hidden | {bytes(cid) for (cid,) in rows}.intersection(among)

    def shared(
        self,
        private: Collection[bytes],
        but: Callable[[Shared], bool] = lambda _: False,
        most: int = MAX_SHARED,
    ) -> list[Shared]:
        """Files that are here, in a claimed manifest that was not seen to give them, and closed:
        for a restricted manifest, or as `private` (raw sha2-256); at most so many, without those
        that `but` names.
        """
        rows = self._index.read(
            "SELECT cid, digest, sha256, is_shut FROM (SELECT a.cid, a.digest, a.sha256, "
            f"a.sha256 IN ({_SHUT_BLOBS}) AS is_shut FROM ({NAMES_OF_FILES}) a "
            f"JOIN blobs b ON b.sha256 = a.sha256 WHERE a.cid IN ({_CLAIMED}) "
            f"AND a.digest NOT IN ({_GIVEN})) "
            "WHERE is_shut OR sha256 IN (SELECT sha256 FROM adopted_files)"
        )
        found = (
            Shared(bytes(cid), bytes(digest))
            for cid, digest, sha256, is_shut in rows
            if is_shut or sha256 in private
        )
        return list(islice((one for one in found if not but(one)), most))


def note_word(connection: sqlite3.Connection, row: Resolution) -> None:
    """What a resolution says of who may read its manifest, in the transaction that records it. Who
    restricted it may lift that with a word; what another says is a claim.
    """
    who = _who(row)
    if row.gated:
        connection.execute("INSERT OR IGNORE INTO restricted VALUES (?)", (row.manifest,))
        connection.execute("INSERT OR IGNORE INTO restricted_by VALUES (?,?)", (row.manifest, who))
    elif row.source not in NO_ORIGIN:
        taken_back = connection.execute(
            "DELETE FROM restricted_by WHERE manifest = ? AND origin = ?", (row.manifest, who)
        ).rowcount
        if taken_back:
            connection.execute(
                "DELETE FROM restricted WHERE manifest = ?1 AND NOT EXISTS "
                "(SELECT 1 FROM restricted_by WHERE manifest = ?1)",
                (row.manifest,),
            )


def forget_given(connection: sqlite3.Connection, closed: Collection[bytes] = ()) -> None:
    """In a transaction that ends claims: what was given of manifests that no origin claims any
    more, and of `closed`, whose origin took its claim back. Or who names them next would open them.
    """
    connection.execute(f"DELETE FROM given WHERE manifest NOT IN ({_CLAIMED})")
    connection.executemany("DELETE FROM given WHERE manifest = ?", [(cid,) for cid in closed])


def _who(row: Resolution) -> str:
    """The repository, bucket or address at its origin, whatever its revision; of another agent's
    word nobody, for its endpoint is what that agent says.
    """
    if row.source in NO_ORIGIN:
        return _ANY
    repository = None
    if row.canonical.startswith("hf://"):
        with suppress(UsageError):  # what was kept and cannot be read any more is its own
            repository = refs.at_commit(row.canonical, "0" * 40)
    return f"{row.endpoint} {repository or row.canonical}"
