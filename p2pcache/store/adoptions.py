"""Folders of others that are read in place, and what was hashed of them: plain rows of the index.

A row says which file had which sha2-256, and how the file was then. The blob itself is a row of
`blobs` (`Blobs.adopt_many`), which goes with the first look that finds the file changed or gone;
the row here is what saves the next hash.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from p2pcache.store.index import insert_many

if TYPE_CHECKING:
    import os
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from p2pcache.store.blobs import Adoption, BlobInfo, Blobs
    from p2pcache.store.index import Index

HUB = "hub"  # the kind of a Hugging Face cache
_CHUNK = 500


@dataclass(frozen=True, slots=True)
class FileState:
    """What tells that a file is still the one that was hashed."""

    device: int
    inode: int
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, stat: os.stat_result) -> FileState:
        """The state of a file now."""
        return cls(stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)


@dataclass(frozen=True, slots=True)
class AdoptedFile:
    """A file that was hashed when it was in this state. `sha256`: raw."""

    state: FileState
    sha256: bytes


@dataclass(frozen=True, slots=True)
class AdoptedFolder:
    """`path`: absolute and real. `kind`: what lies there (`agent.adoption.look`). `private`: no
    other agent gets what is known from here alone. `added_at`: unix seconds. Of a Hugging Face
    cache: `public`: all of it is for others, by the user's word; `endpoint`: whose word decides
    else (`agent.adoption.hub_word`), "" for the configured hub.
    """

    path: str
    kind: str
    private: bool
    added_at: float
    public: bool = False
    endpoint: str = ""

    @property
    def by_word(self) -> bool:
        """Whether others get what its hub gives to everybody, and no more."""
        return self.kind == HUB and not (self.private or self.public)


class Adoptions:
    """Of one store. Any thread may call; every write is one durable transaction. Errors:
    LocalFault.
    """

    def __init__(self, index: Index, blobs: Blobs) -> None:
        self._index = index
        self._blobs = blobs
        self._private: tuple[int, frozenset[bytes]] = (-1, frozenset())

    def folders(self) -> list[AdoptedFolder]:
        """All of them, oldest first."""
        rows = self._index.read(
            "SELECT path, kind, private, added_at, coalesce(is_open, 0), coalesce(endpoint, '') "
            "FROM adopted_folders LEFT JOIN adopted_hubs ON folder = path ORDER BY added_at, path"
        )
        return [
            AdoptedFolder(path, kind, bool(private), at, bool(public), endpoint)
            for path, kind, private, at, public, endpoint in rows
        ]

    def add(self, folder: AdoptedFolder) -> None:
        """Keep a folder, or say anew what kind it is and who gets it."""
        with self._index.write("adopting a folder") as connection:
            connection.execute(
                "INSERT INTO adopted_folders VALUES (?,?,?,?) ON CONFLICT (path) DO UPDATE SET "
                "kind = excluded.kind, private = excluded.private",
                (folder.path, folder.kind, folder.private, folder.added_at),
            )
            connection.execute(  # what another hub said counts no more
                "DELETE FROM adopted_open WHERE folder = ?1 AND NOT EXISTS "
                "(SELECT 1 FROM adopted_hubs WHERE folder = ?1 AND endpoint = ?2)",
                (folder.path, folder.endpoint),
            )
            connection.execute(
                "INSERT OR REPLACE INTO adopted_hubs VALUES (?,?,?)",
                (folder.path, folder.endpoint, folder.public),
            )

    def remove(self, folder: str) -> None:
        """Forget a folder and all that was hashed of it."""
        with self._index.write("letting a folder go") as connection:
            for table in ("adopted_files", "adopted_hubs", "adopted_open"):
                connection.execute(f"DELETE FROM {table} WHERE folder = ?", (folder,))
            connection.execute("DELETE FROM adopted_folders WHERE path = ?", (folder,))

    def adopt(self, items: Sequence[Adoption]) -> list[BlobInfo | None]:
        """Read these in place from now on; see `Blobs.adopt_many`."""
        return self._blobs.adopt_many(items)

    def let_go(self, files: Collection[tuple[bytes, str]]) -> None:
        """Read these files (raw sha2-256, path) in place no more; see `Blobs.let_go`."""
        self._blobs.let_go(files)

    def files(self, folder: str) -> dict[str, AdoptedFile]:
        """What was hashed of a folder, by the path below it."""
        rows = self._index.read(
            "SELECT path, device, inode, size, mtime_ns, sha256 FROM adopted_files "
            "WHERE folder = ?",
            (folder,),
        )
        return {path: AdoptedFile(FileState(*state), sha) for path, *state, sha in rows}

    def put(self, folder: str, files: Mapping[str, AdoptedFile]) -> None:
        """These were hashed."""
        if files:
            with self._index.write("noting what was hashed") as connection:
                insert_many(
                    connection,
                    "INSERT OR REPLACE INTO adopted_files VALUES",
                    [
                        (folder, path, s.device, s.inode, s.size, s.mtime_ns, file.sha256)
                        for path, file in files.items()
                        for s in (file.state,)
                    ],
                )

    def drop(self, folder: str, paths: Collection[str]) -> None:
        """These are not there any more, or are other files now."""
        with self._index.write("forgetting files") as connection:
            for table in ("adopted_files", "adopted_open"):
                connection.executemany(
                    f"DELETE FROM {table} WHERE folder = ? AND path = ?",
                    [(folder, path) for path in paths],
                )

    def open_paths(self, folder: str) -> set[str]:
        """The files of a Hugging Face cache that everybody may read, by its hub's word."""
        rows = self._index.read("SELECT path FROM adopted_open WHERE folder = ?", (folder,))
        return {path for (path,) in rows}

    def set_open(self, folder: str, paths: Collection[str]) -> None:
        """Everybody may read these, and no others of the folder."""
        with self._index.write("noting what a hub said") as connection:
            connection.execute("DELETE FROM adopted_open WHERE folder = ?", (folder,))
            rows = [(folder, path) for path in paths]
            if rows:
                insert_many(connection, "INSERT INTO adopted_open VALUES", rows)

    def missing(self, sha256s: Iterable[bytes]) -> set[bytes]:
        """Those of which no blob is known."""
        asked = list(dict.fromkeys(sha256s))
        known: set[bytes] = set()
        for start in range(0, len(asked), _CHUNK):
            part = asked[start : start + _CHUNK]
            marks = ",".join("?" * len(part))
            rows = self._index.read(f"SELECT sha256 FROM blobs WHERE sha256 IN ({marks})", part)
            known.update(sha256 for (sha256,) in rows)
        return set(asked) - known

    def private(self) -> frozenset[bytes]:
        """Raw sha2-256 of the files of private folders, and of Hugging Face caches without their
        hub's word, that no other folder has. Cheap to ask again: it is read anew when the index
        changed.
        """
        changes = self._index.changes
        if self._private[0] != changes:
            rows = self._index.read(
                "SELECT sha256 FROM adopted_files f JOIN adopted_folders d ON d.path = f.folder "
                "LEFT JOIN adopted_hubs h ON h.folder = f.folder "
                "LEFT JOIN adopted_open o ON o.folder = f.folder AND o.path = f.path "
                "GROUP BY sha256 HAVING min(d.private OR "
                "(d.kind = ? AND NOT coalesce(h.is_open, 0) AND o.path IS NULL)) = 1",
                (HUB,),
            )
            self._private = changes, frozenset(sha256 for (sha256,) in rows)
        return self._private[1]
