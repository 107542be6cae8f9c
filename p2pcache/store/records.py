"""What the index remembers beside blobs: manifests, resolutions, pins and receipts.

These are not derivable from files, so `salvage` carries over whatever of them a damaged index
still gives.
"""

from __future__ import annotations

import json
import re
import sqlite3
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from p2pcache.content import cid as cids
from p2pcache.content import refs
from p2pcache.content.manifest import Manifest, parse
from p2pcache.store.index import IN_CHUNK, insert_many
from p2pcache.store.rights import NAMES_OF_FILES, Rights, forget_given, note_word

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

    from p2pcache.store.index import Index

_CARRIED = (  # every table but those of blobs and blocks: their files say more
    "restricted",
    "restricted_by",
    "given",
    "names",
    "manifests",
    "manifest_files",
    "resolutions",
    "pins",
    "receipts",
    "bans",
    "words",
    "grants",
    "preloads",
    "spent",
    "pairs",
    "block_pins",
    "pinned_blocks",
    "pinned_blobs",
    "adopted_folders",
    "adopted_files",
    "adopted_hubs",
    "adopted_open",
    "origin_costs",
    "origin_content",
)


@dataclass(frozen=True, slots=True)
class Resolution:
    """What a ref meant, where that came from, and when (unix seconds).

    `extras`: what the resolver wants back with it (the listing's keys and oids), opaque here.
    """

    canonical: str
    manifest: bytes
    immutable: str | None
    source: str
    endpoint: str
    resolved_at: float
    gated: bool = False
    credential_used: bool = False
    extras: bytes = b""


@dataclass(frozen=True, slots=True)
class Pin:
    """`target`: a manifest CID or a raw sha2-256."""

    target: bytes
    label: str


@dataclass(frozen=True, slots=True)
class Listed:
    """One line of `ls`: a manifest, how much of it is here, and the refs that mean it."""

    manifest: bytes
    files: int
    total_bytes: int
    present_bytes: int
    last_used: float
    pinned: bool
    resolutions: tuple[Resolution, ...]


class Records:
    """Queries over one index. Reads from any thread; every write is one durable transaction."""

    def __init__(self, index: Index, *, max_receipts: int) -> None:
        self._index = index
        self._max_receipts = max_receipts
        self.rights = Rights(index)

    def put_manifest(self, manifest: Manifest) -> bytes:
        """Keep a manifest; gives its CID. Idempotent."""
        cid = manifest.cid()
        if self._index.read("SELECT 1 FROM manifests WHERE cid = ?", (cid,)):
            return cid
        with self._index.write("keeping a manifest") as connection:
            connection.execute(
                "INSERT OR IGNORE INTO manifests VALUES (?,?,?,?)",
                (cid, manifest.encode(), manifest.total_bytes, len(manifest.files)),
            )
            pairs = [(cid, file.digest) for file in manifest.files]
            insert_many(connection, "INSERT OR IGNORE INTO manifest_files VALUES", pairs)
        return cid

    def get_manifest(self, cid: bytes) -> Manifest | None:
        """The manifest, None when it is not kept."""
        found = self._index.read("SELECT body FROM manifests WHERE cid = ?", (cid,))
        return parse(found[0][0]) if found else None

    def record_resolution(self, row: Resolution) -> None:
        """Remember what a ref means now; replaces what it meant before. What a branch meant is kept
        by its commit, for as long as its manifest: its hub may still give it.

        A manifest that was gated once stays restricted when the ref moves on (`store.rights`).
        """
        with self._index.write("recording a resolution") as connection:
            closed = _close_all(connection, row) if row.gated else set()
            _keep_by_commit(connection, row)
            connection.execute(
                "INSERT OR REPLACE INTO resolutions VALUES (?,?,?,?,?,?,?,?,?)",
                (
                    row.canonical, row.manifest, row.immutable, row.source, row.endpoint,
                    row.resolved_at, row.gated, row.credential_used, row.extras,
                ),
            )  # fmt: skip
            note_word(connection, row)
            forget_given(connection, closed)

    def resolution(self, canonical: str) -> Resolution | None:
        """What the ref meant last time."""
        found = self._resolutions("WHERE canonical = ?", (canonical,))
        return found[0] if found else None

    def resolutions(self) -> list[Resolution]:
        """All of them, newest first."""
        return self._resolutions("ORDER BY resolved_at DESC", ())

    def _resolutions(self, rest: str, parameters: tuple[Any, ...]) -> list[Resolution]:
        query = (
            "SELECT canonical, manifest, immutable, source, endpoint, resolved_at, gated, "
            f"credential_used, extras FROM resolutions {rest}"
        )
        return [
            Resolution(ref, manifest, immutable, source, at, when, bool(gated), bool(used), extras)
            for ref, manifest, immutable, source, at, when, gated, used, extras in self._index.read(
                query, parameters
            )
        ]

    def resolutions_of(self, manifest: bytes) -> list[Resolution]:
        """The refs that mean a manifest, newest first."""
        return self._resolutions("WHERE manifest = ? ORDER BY resolved_at DESC", (manifest,))

    def manifests_with(self, digests: Sequence[bytes]) -> dict[bytes, set[bytes]]:
        """For each digest (as manifests name it) the manifests that have it."""
        found: dict[bytes, set[bytes]] = {}
        for start in range(0, len(digests), IN_CHUNK):
            chunk = digests[start : start + IN_CHUNK]
            marks = ",".join("?" * len(chunk))
            for cid, digest in self._index.read(
                f"SELECT cid, digest FROM manifest_files WHERE digest IN ({marks})", chunk
            ):
                found.setdefault(bytes(digest), set()).add(bytes(cid))
        return found

    def manifests_of_blobs(self, sha256s: Collection[bytes]) -> dict[bytes, set[bytes]]:
        """For each blob (raw sha2-256) the manifests that list it; goes through all of them."""
        found: dict[bytes, set[bytes]] = {}
        for cid, sha256 in self._index.read(f"SELECT cid, sha256 FROM ({NAMES_OF_FILES})"):
            if sha256 in sha256s:
                found.setdefault(bytes(sha256), set()).add(bytes(cid))
        return found

    def names_of(self, sha256s: Collection[bytes]) -> list[str]:
        """What manifests that list these blobs are called: by a ref, else by their CID. Sorted."""
        listed = set().union(*self.manifests_of_blobs(sha256s).values())
        refs = {row.manifest: row.canonical for row in self.resolutions()}
        return sorted(refs.get(cid) or cids.format_cid(cid) for cid in listed)

    def complete_manifests(self) -> set[bytes]:
        """Manifests whose blobs are all here."""
        rows = self._index.read(
            "SELECT cid FROM manifests EXCEPT SELECT a.cid FROM "
            f"({NAMES_OF_FILES}) a WHERE NOT EXISTS "
            "(SELECT 1 FROM blobs b WHERE b.sha256 = a.sha256)"
        )
        return {bytes(cid) for (cid,) in rows}

    def is_complete(self, cid: bytes) -> bool:
        """Whether a manifest is kept and all its blobs are here."""
        rows = self._index.read(
            "SELECT 1 FROM manifests m WHERE m.cid = ?1 AND NOT EXISTS (SELECT 1 FROM "
            f"({NAMES_OF_FILES} WHERE f.cid = ?1) a "
            "WHERE NOT EXISTS (SELECT 1 FROM blobs b WHERE b.sha256 = a.sha256))",
            (cid,),
        )
        return bool(rows)

    def forget_resolution(self, canonical: str) -> None:
        """Drop what one ref means."""
        with self._index.write("forgetting a ref") as connection:
            connection.execute("DELETE FROM resolutions WHERE canonical = ?", (canonical,))
            forget_given(connection)

    def forget_manifest(self, cid: bytes) -> None:
        """Drop a manifest, the refs that mean it, and its pin. Its blobs are not touched, and a
        restricted one stays so: a pull may still bring it.
        """
        with self._index.write("forgetting a manifest") as connection:
            for table, column in (
                ("resolutions", "manifest"), ("pins", "target"),
                ("manifest_files", "cid"), ("manifests", "cid"), ("given", "manifest"),
            ):  # fmt: skip
                connection.execute(f"DELETE FROM {table} WHERE {column} = ?", (cid,))

    def only_in(self, cid: bytes) -> set[bytes]:
        """Raw sha2-256 of the blobs that no other manifest and no pin refers to."""
        rows = self._index.read(
            f"SELECT a.sha256 FROM ({NAMES_OF_FILES} WHERE f.cid = ?) a "
            f"WHERE NOT EXISTS (SELECT 1 FROM pins p WHERE p.target = a.sha256)",
            (cid,),
        )
        mine = {bytes(sha256) for (sha256,) in rows}
        if mine:
            others = self._index.read(
                f"SELECT DISTINCT a.sha256 FROM ({NAMES_OF_FILES} WHERE f.cid != ?) a", (cid,)
            )
            mine.difference_update(bytes(sha256) for (sha256,) in others)
        return mine

    def alone(self) -> set[bytes]:
        """Raw sha2-256 of the blobs that no manifest lists, and of those that a pin keeps by their
        own name.
        """
        rows = self._index.read(
            f"SELECT sha256 FROM blobs EXCEPT SELECT a.sha256 FROM ({NAMES_OF_FILES}) a "
            "UNION SELECT b.sha256 FROM blobs b JOIN pins p ON p.target = b.sha256"
        )
        return {bytes(sha256) for (sha256,) in rows}

    def pin(self, target: bytes, label: str) -> None:
        """Keep a manifest's blobs (or one blob) whatever the budget says."""
        with self._index.write("pinning") as connection:
            connection.execute("INSERT OR REPLACE INTO pins VALUES (?,?)", (target, label))

    def unpin(self, target: bytes) -> bool:
        """Whether it was pinned."""
        with self._index.write("unpinning") as connection:
            return connection.execute("DELETE FROM pins WHERE target = ?", (target,)).rowcount > 0

    def pins(self) -> list[Pin]:
        """All pins."""
        return [Pin(*found) for found in self._index.read("SELECT target, label FROM pins")]

    def pinned(self) -> set[bytes]:
        """Raw sha2-256 of every blob that a pin keeps, and of the names still to be fetched."""
        rows = self._index.read(
            "SELECT target FROM pins WHERE length(target) = 32 UNION "
            f"SELECT a.sha256 FROM ({NAMES_OF_FILES}) a JOIN pins p ON p.target = a.cid"
        )
        return {bytes(target) for (target,) in rows}

    def ls(self) -> list[Listed]:
        """Every manifest, most recently used first."""
        refs: dict[bytes, list[Resolution]] = {}
        for resolution in self.resolutions():
            refs.setdefault(resolution.manifest, []).append(resolution)
        rows = self._index.read(
            "SELECT m.cid, m.files, count(a.digest), m.total_bytes, coalesce(sum(b.size), 0), "
            "coalesce(max(b.last_used), 0), EXISTS (SELECT 1 FROM pins WHERE target = m.cid) "
            f"FROM manifests m LEFT JOIN ({NAMES_OF_FILES}) a ON a.cid = m.cid "
            "LEFT JOIN blobs b ON b.sha256 = a.sha256 GROUP BY m.cid ORDER BY 6 DESC"
        )
        listed = []
        for cid, files, names, total, present, used, pinned in rows:
            if names != files:  # some files are equal: one blob shows all of them
                present = self._present_bytes(cid)
            known = tuple(refs.get(cid, ()))
            listed.append(Listed(cid, files, total, present, used, bool(pinned), known))
        return listed

    def _present_bytes(self, cid: bytes) -> int:
        manifest = self.get_manifest(cid)
        assert manifest is not None, "its row was read just now"
        rows = self._index.read(
            f"SELECT a.digest FROM ({NAMES_OF_FILES} WHERE f.cid = ?) a "
            "JOIN blobs b ON b.sha256 = a.sha256",
            (cid,),
        )
        here = {bytes(digest) for (digest,) in rows}
        return sum(file.size for file in manifest.files if file.digest in here)

    def save_receipt(self, receipt: dict[str, Any]) -> int:
        """Keep the account of a pull (JSON values; `ref` names it); gives its number."""
        body = json.dumps(receipt, separators=(",", ":"))
        with self._index.write("keeping a receipt") as connection:
            cursor = connection.execute(
                "INSERT INTO receipts (ref, body) VALUES (?,?)", (str(receipt.get("ref", "")), body)
            )
            number = int(cursor.lastrowid or 0)
            oldest = number - self._max_receipts
            connection.execute("DELETE FROM receipts WHERE id <= ?", (oldest,))
        return number

    def receipt(self, ref: str) -> dict[str, Any] | None:
        """The newest receipt of a ref, of number `ref`, or of all for "last"."""
        number = int(ref) if ref.isdecimal() and len(ref) < 18 else -1
        found = self._index.read(
            "SELECT body FROM receipts WHERE ? OR ref = ? OR id = ? ORDER BY id DESC LIMIT 1",
            (ref == "last", ref, number),
        )
        if not found:
            return None
        receipt: dict[str, Any] = json.loads(found[0][0])
        return receipt


def _keep_by_commit(connection: sqlite3.Connection, row: Resolution) -> None:
    """Of a ref that is about to mean something else."""
    found = connection.execute(
        "SELECT immutable FROM resolutions WHERE canonical = ? AND manifest != ?",
        (row.canonical, row.manifest),
    ).fetchone()
    kept = None if found is None else refs.at_commit(row.canonical, found[0])
    if kept is not None:
        connection.execute(
            "INSERT OR IGNORE INTO resolutions SELECT ?, manifest, immutable, source, endpoint, "
            "resolved_at, gated, credential_used, extras FROM resolutions WHERE canonical = ?",
            (kept, row.canonical),
        )


def _close_all(connection: sqlite3.Connection, row: Resolution) -> set[bytes]:
    """What is gated now is so by all refs of its repository, whatever they mean; gives the
    manifests of those that were open until now.
    """
    others = None
    if refs.at_commit(row.canonical, "0" * 40) is not None:
        start = row.canonical.partition("@")[0] + "@"
        others = re.sub(r"([\\%_])", r"\\\1", start) + "%"
    where = "NOT gated AND (canonical = ? OR canonical LIKE ? ESCAPE '\\')"
    names = (row.canonical, others)
    found = connection.execute(f"SELECT manifest FROM resolutions WHERE {where}", names)
    was_open = {bytes(cid) for (cid,) in found}
    connection.execute(f"UPDATE resolutions SET gated = 1 WHERE {where}", names)
    return was_open


def salvage(damaged: Path, index: Index) -> int:
    """Carry rows of a damaged index file over as far as they can be read; gives their number.

    Blobs are not carried: their files say more. Names are (a git sha1 needs hashing to find).
    """
    carried = 0
    try:
        old = sqlite3.connect(f"{damaged.absolute().as_uri()}?mode=rw", uri=True)
    except sqlite3.Error:
        return 0
    try:
        for table in _CARRIED:
            carried += _carry(old, index, table)
    finally:
        old.close()
    with index.write("salvaging the index") as connection:
        connection.execute(  # of a file from before `restricted`
            "INSERT OR IGNORE INTO restricted SELECT manifest FROM resolutions WHERE gated"
        )
        connection.execute(  # who else restricted it may be lost: nobody's word alone lifts it
            "INSERT OR IGNORE INTO restricted_by SELECT manifest, '' FROM restricted"
        )
    return carried


def _carry(old: sqlite3.Connection, index: Index, table: str) -> int:
    rows: list[Any] = []
    # after the damage the rest of a table is lost; what came before it is in `rows`
    with suppress(sqlite3.Error):
        rows.extend(old.execute(f"SELECT * FROM {table}"))
    if not rows:
        return 0
    with index.write("salvaging the index") as connection:
        insert_many(connection, f"INSERT OR IGNORE INTO {table} VALUES", rows)
    return len(rows)
