"""The SQLite index (WAL): which blobs there are and by which names they go.

For blobs it is a cache: the files are the truth, and `order.reconcile` rebuilds their rows. Reads
and writes go over two connections, because a reader of a WAL never waits for a writer; each has a
lock, so any thread may call. One host at a time: a WAL does not work across a network file system.
"""

from __future__ import annotations

import sqlite3
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from p2pcache.content import cid as cids
from p2pcache.content import digests
from p2pcache.content.unixfs import LEAF_BYTES
from p2pcache.errors import LocalFault, UsageError
from p2pcache.store.durable import local_faults

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

IN_CHUNK = 500  # SQLite allows 999 variables in old builds
_CACHE_KIB = 4096  # page cache of a connection; an index of 10,000 blobs is about 3 MB

MAX_PAIRS = 1_000_000  # blobs that left, whose names are kept: 200 bytes each

_SCHEMA = """
CREATE TABLE blobs (
  sha256 BLOB PRIMARY KEY, size INTEGER NOT NULL, root BLOB, git_sha1 BLOB,
  last_used REAL NOT NULL, path TEXT, device INTEGER, inode INTEGER, mtime_ns INTEGER
) WITHOUT ROWID;
CREATE TABLE names (name BLOB PRIMARY KEY, sha256 BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE manifests (
  cid BLOB PRIMARY KEY, body BLOB NOT NULL, total_bytes INTEGER NOT NULL, files INTEGER NOT NULL
);
CREATE TABLE manifest_files (
  cid BLOB NOT NULL, digest BLOB NOT NULL, PRIMARY KEY (cid, digest)
) WITHOUT ROWID;
CREATE INDEX manifest_files_by_digest ON manifest_files (digest);
CREATE TABLE resolutions (
  canonical TEXT PRIMARY KEY, manifest BLOB NOT NULL, immutable TEXT, source TEXT NOT NULL,
  endpoint TEXT NOT NULL, resolved_at REAL NOT NULL, gated INTEGER NOT NULL,
  credential_used INTEGER NOT NULL, extras BLOB NOT NULL
);
CREATE TABLE pins (target BLOB PRIMARY KEY, label TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE receipts (id INTEGER PRIMARY KEY AUTOINCREMENT, ref TEXT NOT NULL, body TEXT NOT NULL);
CREATE INDEX receipts_by_ref ON receipts (ref, id);
"""
# Other agents: who is banned, what their signed word on a name was, what the admin granted.
_SCHEMA_2 = """
CREATE TABLE bans (
  peer BLOB PRIMARY KEY, reason TEXT NOT NULL, banned_at REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE words (
  canonical TEXT NOT NULL, signer BLOB NOT NULL, resolved_at REAL NOT NULL,
  heard_at REAL NOT NULL, body BLOB NOT NULL, PRIMARY KEY (canonical, signer)
) WITHOUT ROWID;
CREATE TABLE grants (
  repo TEXT NOT NULL, peer BLOB NOT NULL, expires_at REAL NOT NULL, body BLOB NOT NULL,
  PRIMARY KEY (repo, peer)
) WITHOUT ROWID;
"""
# Manifests that were gated at their origin, whatever the refs that meant them mean today.
_SCHEMA_3 = """
CREATE TABLE restricted (manifest BLOB PRIMARY KEY) WITHOUT ROWID;
INSERT OR IGNORE INTO restricted SELECT manifest FROM resolutions WHERE gated;
"""
# Preloads that were heard of, by whose word; `record` is empty where only its end is known.
_SCHEMA_4 = """
CREATE TABLE preloads (
  id BLOB NOT NULL, signer BLOB NOT NULL, teller BLOB NOT NULL, expires_at INTEGER NOT NULL,
  record BLOB NOT NULL, cancel BLOB, origin_bytes INTEGER NOT NULL, done INTEGER NOT NULL,
  PRIMARY KEY (id, signer)
) WITHOUT ROWID;
"""
# What was fetched of origins, by month and member; `member` is empty for this agent.
_SCHEMA_5 = """
CREATE TABLE spent (
  origin BLOB NOT NULL, month INTEGER NOT NULL, member BLOB NOT NULL, host TEXT NOT NULL,
  bytes_total INTEGER NOT NULL, requests_total INTEGER NOT NULL,
  PRIMARY KEY (origin, month, member)
) WITHOUT ROWID;
"""
# IPFS: where blocks stand in blobs (`store.block_index`), loose blocks, and what pins of DAGs keep:
# loose blocks by multihash, blobs by the name that the DAG has for them.
_SCHEMA_6 = """
CREATE TABLE block_owners (number INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE);
CREATE TABLE block_places (
  prefix INTEGER NOT NULL, place INTEGER NOT NULL, PRIMARY KEY (prefix, place)
) WITHOUT ROWID;
CREATE TABLE loose (
  multihash BLOB PRIMARY KEY, size INTEGER NOT NULL, last_used REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE block_pins (root BLOB PRIMARY KEY, recursive INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE pinned_blocks (
  root BLOB NOT NULL, multihash BLOB NOT NULL, PRIMARY KEY (root, multihash)
) WITHOUT ROWID;
CREATE TABLE pinned_blobs (
  root BLOB NOT NULL, name BLOB NOT NULL, PRIMARY KEY (root, name)
) WITHOUT ROWID;
"""
# The two names of blobs that were here (`store.pairs`), the newest to leave last; which pins keep a
# loose block.
_SCHEMA_7 = """
CREATE TABLE pairs (
  number INTEGER PRIMARY KEY AUTOINCREMENT, sha256 BLOB NOT NULL UNIQUE, root BLOB NOT NULL,
  size INTEGER NOT NULL
);
CREATE INDEX pairs_by_root ON pairs (root);
CREATE INDEX pinned_blocks_by_block ON pinned_blocks (multihash);
"""
# Folders of others that are read in place, and what their files were when they were hashed.
_SCHEMA_8 = """
CREATE TABLE adopted_folders (
  path TEXT PRIMARY KEY, kind TEXT NOT NULL, private INTEGER NOT NULL, added_at REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE adopted_files (
  folder TEXT NOT NULL, path TEXT NOT NULL, device INTEGER NOT NULL, inode INTEGER NOT NULL,
  size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, sha256 BLOB NOT NULL,
  PRIMARY KEY (folder, path)
) WITHOUT ROWID;
"""
# What this agent's use of origins comes to (`store.origin_costs`), by month.
_SCHEMA_9 = """
CREATE TABLE origin_costs (
  origin BLOB NOT NULL, month INTEGER NOT NULL, host TEXT NOT NULL, errors INTEGER NOT NULL,
  sent_bytes INTEGER NOT NULL, sent_requests INTEGER NOT NULL, PRIMARY KEY (origin, month)
) WITHOUT ROWID;
CREATE TABLE origin_content (
  origin BLOB NOT NULL, month INTEGER NOT NULL, sha256 BLOB NOT NULL, size INTEGER NOT NULL,
  PRIMARY KEY (origin, month, sha256)
) WITHOUT ROWID;
"""
# Where uploads went on, before `destinations.sessions` kept that.
_SCHEMA_10 = """
CREATE TABLE uploads (
  place TEXT NOT NULL, digest TEXT NOT NULL, location TEXT NOT NULL, kept_at REAL NOT NULL,
  PRIMARY KEY (place, digest)
);
"""
# Who restricted a manifest (`store.rights`; of older indexes that is not known, so nobody's word
# lifts it), and which files of a manifest an origin was seen to give to everybody; of adopted
# Hugging Face caches which hub is asked, whether the user says that all of it is open, and what is
# by the hub's word.
_SCHEMA_11 = """
CREATE TABLE restricted_by (
  manifest BLOB NOT NULL, origin TEXT NOT NULL, PRIMARY KEY (manifest, origin)
) WITHOUT ROWID;
CREATE TABLE given (
  digest BLOB NOT NULL, manifest BLOB NOT NULL, PRIMARY KEY (digest, manifest)
) WITHOUT ROWID;
CREATE TABLE adopted_hubs (
  folder TEXT PRIMARY KEY, endpoint TEXT NOT NULL, is_open INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE adopted_open (
  folder TEXT NOT NULL, path TEXT NOT NULL, PRIMARY KEY (folder, path)
) WITHOUT ROWID;
INSERT OR IGNORE INTO restricted_by SELECT manifest, '' FROM restricted;
"""
_SCHEMA_12 = "DROP TABLE IF EXISTS uploads;\n"
# step n turns schema n into schema n + 1; an empty file is schema 0
_STEPS = (
    _SCHEMA,
    _SCHEMA_2,
    _SCHEMA_3,
    _SCHEMA_4,
    _SCHEMA_5,
    _SCHEMA_6,
    _SCHEMA_7,
    _SCHEMA_8,
    _SCHEMA_9,
    _SCHEMA_10,
    _SCHEMA_11,
    _SCHEMA_12,
)
SCHEMA_VERSION = len(_STEPS)


@dataclass(frozen=True, slots=True)
class Row:
    """One blob as the index knows it. `path`, `device`, `inode`: adopted in place.

    `mtime_ns`: of an adopted file, or of our own when it was stored (None: not known).
    """

    sha256: bytes
    size: int
    root: bytes | None
    git_sha1: bytes | None
    last_used: float
    path: str | None = None
    device: int | None = None
    inode: int | None = None
    mtime_ns: int | None = None

    @property
    def digest(self) -> bytes:
        """Its sha2-256 multihash."""
        return digests.sha256_digest(self.sha256)

    def is_unchanged(self, stat: os.stat_result) -> bool:
        """Whether an adopted file is still the one that was hashed."""
        now = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)
        return now == (self.device, self.inode, self.size, self.mtime_ns)


# Of one block the root is the digest: that needs no memory.
_KEEP_PAIR = (
    "INSERT OR REPLACE INTO pairs (sha256, root, size) SELECT sha256, root, size FROM blobs "
    f"WHERE sha256 = ? AND root IS NOT NULL AND size > {LEAF_BYTES}"
)
_OLD_PAIRS = "DELETE FROM pairs WHERE number <= (SELECT max(number) FROM pairs) - ?"

_COLUMNS = (
    "b.sha256, b.size, b.root, b.git_sha1, b.last_used, b.path, b.device, b.inode, b.mtime_ns"
)


def sha256_of_name(name: bytes) -> bytes | None:
    """The raw sha2-256 that a name states by itself; None for an alias (git sha1, UnixFS root)
    and for a provisional name.

    `name`: a multihash or a binary CIDv1. Raises UsageError for anything else.
    """
    if name[:2] == b"\x12\x20" and len(name) == 34:
        return name[2:]
    if name[:4] == b"\x01\x55\x12\x20" and len(name) == 36:
        return name[4:]
    if name[:2] == b"\x11\x14" and len(name) == 22:
        return None
    if name[:4] == b"\x01\x70\x12\x20" and len(name) == 36:
        return None
    if digests.is_provisional(name):
        return None
    raise UsageError(
        f"`{cids.format_cid(name)[:100]}` is no name of a file",
        hint="a file goes by the sha2-256 of its bytes or by its UnixFS root; other blocks are "
        "read through the IPFS gateway and RPC",
    )


def canonical_name(name: bytes) -> bytes:
    """One spelling for each name: a raw CID becomes the sha2-256 multihash that it contains."""
    sha256 = sha256_of_name(name)
    return name if sha256 is None else b"\x12\x20" + sha256


def aliases(row: Row) -> list[bytes]:
    """The names of a blob that do not state its sha2-256."""
    found = [] if row.git_sha1 is None else [digests.git_sha1_digest(row.git_sha1)]
    if row.root is not None and row.root != cids.raw_cid(row.sha256):
        found.append(row.root)
    return found


def all_names(row: Row) -> list[bytes]:
    """Every name that a blob may be asked for by: multihashes, raw and UnixFS CID."""
    return list(dict.fromkeys([row.digest, cids.raw_cid(row.sha256), *aliases(row)]))


class Index:
    """Open connections to one index file. `readonly`: nothing is created and writes are refused."""

    def __init__(self, path: Path, *, readonly: bool, busy_timeout_s: float) -> None:
        self.readonly = readonly
        self._timeout_s = busy_timeout_s
        self._read_lock = threading.Lock()
        self._write_lock = threading.RLock()
        self.changes = 0  # transactions of ours so far: who caches what it read compares it
        self._writer = None if readonly else self._connect(path, "rwc")
        try:
            if self._writer is not None:
                self._prepare(self._writer)
            self._reader = self._connect_reader(path)
        except BaseException:
            if self._writer is not None:
                self._writer.close()
            raise

    def _connect(self, path: Path, mode: str) -> sqlite3.Connection:
        uri = f"{path.absolute().as_uri()}?mode={mode}"
        connection = sqlite3.connect(
            uri, uri=True, timeout=self._timeout_s, isolation_level=None, check_same_thread=False
        )
        try:
            connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        except BaseException:
            connection.close()
            raise
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA journal_mode = WAL")
        # FULL: a pin or a resolution that was acknowledged survives a power cut; one fsync each
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("BEGIN IMMEDIATE")
        try:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version < SCHEMA_VERSION:
                for statement in "".join(_STEPS[version:]).split(";\n"):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        if version > SCHEMA_VERSION:
            raise LocalFault(
                f"the index was written by a newer p2pcache (schema {version})",
                hint="upgrade p2pcache, or use another P2PCACHE_HOME",
            )

    def _connect_reader(self, path: Path) -> sqlite3.Connection:
        if self.readonly and not path.exists():
            connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
            connection.executescript("".join(_STEPS))
            return connection
        try:
            return self._connect_sound(path, "ro")
        except sqlite3.OperationalError:
            if not self.readonly:
                raise
            # a WAL needs its -shm file; on a read-only disk without one nobody writes either
            return self._connect_sound(path, "ro&immutable=1")

    def _connect_sound(self, path: Path, mode: str) -> sqlite3.Connection:
        """A connection that has read something: opening alone does not touch the file."""
        connection = self._connect(path, mode)
        try:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except BaseException:
            connection.close()
            raise
        return connection

    def check(self) -> None:
        """Raise sqlite3.DatabaseError when the file is damaged."""
        (verdict,) = self._reader.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise sqlite3.DatabaseError(str(verdict))

    def shrink(self) -> None:
        """Give back the page caches, up to `_CACHE_KIB` each; they fill again with use."""
        with self._read_lock:
            self._reader.execute("PRAGMA shrink_memory")
        with self._write_lock:
            if self._writer is not None:
                self._writer.execute("PRAGMA shrink_memory")

    def close(self) -> None:
        """Close both connections; the last process to do so folds the WAL into the file."""
        with self._read_lock:
            self._reader.close()
        with self._write_lock:
            if self._writer is not None:
                self._writer.close()

    @contextmanager
    def write(self, doing: str) -> Iterator[sqlite3.Connection]:
        """One transaction, committed (durably) at the end and rolled back on any exception."""
        if self._writer is None:
            raise LocalFault(
                f"the store is read-only: no {doing}",
                hint="mount it read-write, or set P2PCACHE_HOME to a place that can be written",
            )
        with self._write_lock, local_faults(doing):
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer
                self._writer.execute("COMMIT")
                self.changes += 1
            except BaseException:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise

    def read(self, query: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """Every row of a query."""
        with self._read_lock, local_faults("reading the index"):
            return self._reader.execute(query, parameters).fetchall()

    def row(self, name: bytes) -> Row | None:
        """The blob that goes by `name`."""
        sha256 = sha256_of_name(name)
        if sha256 is not None:
            found = self.read(f"SELECT {_COLUMNS} FROM blobs b WHERE sha256 = ?", (sha256,))
        else:
            found = self.read(
                f"SELECT {_COLUMNS} FROM names n JOIN blobs b USING (sha256) WHERE n.name = ?",
                (name,),
            )
        return Row(*found[0]) if found else None

    def rows(self, names: Sequence[bytes]) -> dict[bytes, Row]:
        """The blobs that go by these names, one query for each 500."""
        by_sha256: dict[bytes, list[bytes]] = {}
        alias: list[bytes] = []
        for name in names:
            sha256 = sha256_of_name(name)
            if sha256 is None:
                alias.append(name)
            else:
                by_sha256.setdefault(sha256, []).append(name)
        result: dict[bytes, Row] = {}
        for chunk in _chunks(list(by_sha256)):
            marks = ",".join("?" * len(chunk))
            query = f"SELECT {_COLUMNS} FROM blobs b WHERE sha256 IN ({marks})"
            for found in self.read(query, chunk):
                result.update((name, Row(*found)) for name in by_sha256[found[0]])
        for chunk in _chunks(alias):
            marks = ",".join("?" * len(chunk))
            query = f"SELECT n.name, {_COLUMNS} FROM names n JOIN blobs b USING (sha256)"
            for name, *found in self.read(f"{query} WHERE n.name IN ({marks})", chunk):
                result[name] = Row(*found)
        return result

    def every_row(self) -> list[Row]:
        """All blobs."""
        return [Row(*found) for found in self.read(f"SELECT {_COLUMNS} FROM blobs b")]

    def put(self, rows: Iterable[Row], doing: str) -> None:
        """Add blobs in one transaction. Known names of a blob are kept; a stored copy wins."""
        with self.write(doing) as connection:
            for row in rows:
                connection.execute(
                    "INSERT INTO blobs VALUES (?,?,?,?,?,?,?,?,?) ON CONFLICT (sha256) DO UPDATE "
                    "SET root = coalesce(excluded.root, root), "
                    "git_sha1 = coalesce(excluded.git_sha1, git_sha1), "
                    "last_used = max(excluded.last_used, last_used), path = excluded.path, "
                    "device = excluded.device, inode = excluded.inode, "
                    "mtime_ns = excluded.mtime_ns",
                    (
                        row.sha256, row.size, row.root, row.git_sha1, row.last_used, row.path,
                        row.device, row.inode, row.mtime_ns,
                    ),
                )  # fmt: skip
                connection.executemany(
                    "INSERT OR REPLACE INTO names VALUES (?,?)",
                    [(name, row.sha256) for name in aliases(row)],
                )

    def forget(self, sha256s: Iterable[bytes]) -> None:
        """Drop blobs and their names; which root was proven for which digest is kept."""
        keys = [(sha256,) for sha256 in sha256s]
        with self.write("forgetting a blob") as connection:
            connection.executemany(_KEEP_PAIR, keys)
            connection.execute(_OLD_PAIRS, (MAX_PAIRS,))
            connection.executemany("DELETE FROM names WHERE sha256 = ?", keys)
            connection.executemany("DELETE FROM blobs WHERE sha256 = ?", keys)


def _chunks(items: list[bytes]) -> Iterator[list[bytes]]:
    for start in range(0, len(items), IN_CHUNK):
        yield items[start : start + IN_CHUNK]


def insert_many(connection: sqlite3.Connection, insert: str, rows: Sequence[Sequence[Any]]) -> None:
    """`insert` ends with VALUES. Many rows a statement: between two short ones a thread takes the
    interpreter's lock again before any other wakes, so that `executemany` makes the agent deaf.
    """
    columns = len(rows[0]) if rows else 1
    marks = "(" + ",".join("?" * columns) + ")"
    together = IN_CHUNK // columns
    for start in range(0, len(rows), together):
        part = rows[start : start + together]
        values = [value for row in part for value in row]
        connection.execute(f"{insert} {','.join([marks] * len(part))}", values)
