"""Loose blocks: what no blob of ours implies. Nodes and leaves of DAGs that others made, dag-cbor.

    loose-v1/ab/<multihash hex>    one file a block

A block is hashed whenever it is read, so a file that a power cut left empty is no block, and `put`
waits for no disk: 10,000 nodes of a foreign folder would take a minute. `sync` makes blocks last;
a pin calls it. Rows of the index are written some hundred together; `reconcile` finds the files of
those that were lost.
"""

from __future__ import annotations

import logging
import os
import secrets
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from p2pcache.content import cid as cids
from p2pcache.content.dag.hashes import verify_cid
from p2pcache.errors import Untrusted
from p2pcache.store import durable
from p2pcache.store.holds import each_one
from p2pcache.store.index import insert_many

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from p2pcache.content.verify import VerifiedBlock
    from p2pcache.store.holds import Each
    from p2pcache.store.index import Index
    from p2pcache.store.layout import Layout

_log = logging.getLogger(__name__)

ROWS_KEPT = 256  # not yet written; after a kill `reconcile` finds their files
ROOM_BYTES = 16 << 20  # asked for at once: looking at the disk costs a millisecond


class Loose:
    """Those of one store. Any thread may call. `drafts`: a directory that dies with us.

    `room(bytes)` evicts until so much fits, or raises DiskFull. Errors: DiskFull, LocalFault.
    """

    def __init__(
        self, layout: Layout, index: Index, clock: Callable[[], float],
        drafts: Callable[[], Path], room: Callable[[int], None],
    ) -> None:  # fmt: skip
        self._layout = layout
        self._index = index
        self._clock = clock
        self._drafts = drafts
        self._room = room
        self._room_left = 0
        self._shards: set[Path] = set()
        self._lock = threading.Lock()
        self._rows: dict[bytes, tuple[int, float]] = {}  # new ones: size, last use
        self._used: dict[bytes, float] = {}

    def put(self, block: VerifiedBlock) -> None:
        """Keep a block, whatever there is of it. It survives a kill when this returns."""
        target, size = self._layout.loose_block(block.multihash), len(block.data)
        with durable.local_faults("keeping a block"):
            if _length(target) == size:
                self._note_use(block.multihash)
                return
            if self._room_left < size:
                self._room(ROOM_BYTES)
                self._room_left = ROOM_BYTES
            self._room_left -= size
            if target.parent not in self._shards:
                durable.make_dir(target.parent)
                self._shards.add(target.parent)
            draft = self._drafts() / secrets.token_hex(8)
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o444)
            try:
                durable.write_all(descriptor, block.data)
                draft.rename(target)
            except BaseException:
                draft.unlink(missing_ok=True)
                raise
            finally:
                os.close(descriptor)
        with self._lock:
            self._rows[block.multihash] = (size, self._clock())
            full = len(self._rows) >= ROWS_KEPT
        if full:
            self.flush()

    def read(self, cid: bytes) -> bytes | None:
        """The block of a CID; None when it is not here, or damaged: then it goes."""
        multihash = cids.multihash(cid)
        path = self._layout.loose_block(multihash)
        with durable.local_faults("reading a block"):
            try:
                data = path.read_bytes()
            except (FileNotFoundError, NotADirectoryError):
                return None
        try:
            verify_cid(cid, data)
        except Untrusted as exc:
            _log.warning("a block was damaged on disk and is gone: %s", exc.message)
            self.remove([multihash])
            return None
        self._note_use(multihash)
        return data

    def length(self, multihash: bytes) -> int | None:
        """Bytes of a block, None when it is not here. Nothing is hashed."""
        return _length(self._layout.loose_block(multihash))

    def sync(self, multihashes: Iterable[bytes]) -> None:
        """Wait until these blocks are on disk."""
        shards = set()
        with durable.local_faults("syncing blocks"):
            for multihash in multihashes:
                path = self._layout.loose_block(multihash)
                durable.fsync_path(path)
                shards.add(path.parent)
            for shard in shards:
                durable.fsync_path(shard)
        self.flush()

    def remove(
        self, multihashes: Sequence[bytes], each: Each = each_one
    ) -> tuple[int, list[bytes]]:
        """Files, then rows; bytes freed, and what went. `each`: see `Holds.removal`."""
        self.flush()
        with durable.local_faults("removing blocks"):
            freed, gone = each(multihashes, self._unlink)
        if gone and not self._index.readonly:
            with self._index.write("removing blocks") as connection:
                connection.executemany(
                    "DELETE FROM loose WHERE multihash = ?",
                    [(key,) for key in gone if self.length(key) is None],  # else it is back
                )
        return freed, gone

    def _unlink(self, multihash: bytes) -> int:
        path = self._layout.loose_block(multihash)
        size = _length(path) or 0
        path.unlink(missing_ok=True)
        return size

    def usage(self) -> tuple[int, int]:
        """Bytes of all of them, and how many they are."""
        self.flush()
        ((size, count),) = self._index.read("SELECT coalesce(sum(size), 0), count(*) FROM loose")
        return size, count

    def every(self) -> list[tuple[bytes, int, float]]:
        """Multihash, size and last use (unix seconds) of each."""
        self.flush()
        return [tuple(row) for row in self._index.read("SELECT * FROM loose")]

    def flush(self) -> None:
        """Write the rows that are still in memory."""
        with self._lock:
            rows, self._rows = self._rows, {}
            used, self._used = self._used, {}
        if self._index.readonly or not (rows or used):
            return
        with self._index.write("keeping blocks") as connection:
            insert_many(
                connection,
                "INSERT OR REPLACE INTO loose VALUES",
                [(multihash, *rest) for multihash, rest in rows.items()],
            )
            connection.executemany(
                "UPDATE loose SET last_used = max(last_used, ?) WHERE multihash = ?",
                [(at, multihash) for multihash, at in used.items()],
            )

    def reconcile(self) -> int:
        """Rows for files that have none, and none for those whose file is gone; how many came."""
        known = {multihash: size for multihash, size, _ in self.every()}
        found: dict[bytes, tuple[int, float]] = {}
        with durable.local_faults("looking for blocks"):
            for shard in self._layout.loose.iterdir():
                for entry in os.scandir(shard):
                    with suppress(ValueError, FileNotFoundError):  # not ours; gone meanwhile
                        stat = entry.stat()
                        found[bytes.fromhex(entry.name)] = (stat.st_size, stat.st_mtime)
        new = {key: row for key, row in found.items() if known.get(key) != row[0]}
        with self._lock:
            self._rows.update(new)
        self.remove([*(known.keys() - found.keys())])
        return len(new)

    def _note_use(self, multihash: bytes) -> None:
        with self._lock:
            self._used[multihash] = self._clock()
            full = len(self._used) >= 16 * ROWS_KEPT
        if full:
            self.flush()


def _length(path: Path) -> int | None:
    try:
        return os.stat(path).st_size
    except (FileNotFoundError, NotADirectoryError):
        return None
