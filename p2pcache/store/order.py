"""Order: sweep what dead processes left, give blobs that lost their index row a new one.

Everything here may run while other processes use the store: directories are only removed under
their lease.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from p2pcache.content import cid as cids
from p2pcache.content import digests, unixfs
from p2pcache.store import durable
from p2pcache.store.index import Row
from p2pcache.store.layout import BLOCK_BYTES, Layout, block_count
from p2pcache.store.lease import Busy, Lease, LeaseBook
from p2pcache.store.partial import HASH_BYTES, read_intent
from p2pcache.store.repair import was_damaged

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from p2pcache.store.blobs import Blobs
    from p2pcache.store.index import Index
    from p2pcache.store.rooted import Rooted

_HASH_STEP_BYTES = 1 << 20


class Order:
    """Cleaning of one store. Calls may run side by side with everything else."""

    def __init__(
        self, layout: Layout, index: Index, blobs: Blobs, rooted: Rooted, leases: LeaseBook
    ) -> None:
        self._layout = layout
        self._index = index
        self._blobs = blobs
        self._rooted = rooted
        self._leases = leases

    def sweep(self) -> bool:
        """Remove what dead processes left; whether one of them died with work in hand.

        Never touches what a live process holds. Progress of unfinished downloads is kept.
        """
        with durable.local_faults("cleaning the store"):
            for grave in self._layout.trash.iterdir():
                durable.empty_grave(grave)
            crashed = False
            for directory in subdirectories(self._layout.temporary):
                crashed = self.discard(directory) or crashed
            for directory in subdirectories(self._layout.partials):
                self._sweep_partial(directory)
            for path in _files(self._layout.quarantine):
                name = b"\x12\x20" + bytes.fromhex(path.name)
                with self._leased(self._layout.partial(name), make=False) as lease:
                    if lease is not None:
                        path.unlink(missing_ok=True)
        return crashed

    def _sweep_partial(self, directory: Path) -> None:
        intent = read_intent(directory)
        if intent is None and (_has_progress(directory) or was_damaged(directory)):
            return
        with self._leased(directory) as lease:
            if lease is None:
                return
            if intent is not None and self._blobs.finish_publish(intent) is None:
                (directory / "publishing.json").unlink(missing_ok=True)
                return  # it died before the rename: the data are still here and complete
            if intent is not None or not (_has_progress(directory) or was_damaged(directory)):
                durable.discard_dir(directory, self._layout.trash)

    def discard(self, directory: Path) -> bool:
        """Remove a directory that nobody alive holds; whether it is gone."""
        with self._leased(directory) as lease:
            if lease is None:
                return False
            durable.discard_dir(directory, self._layout.trash)
            return True

    @contextmanager
    def _leased(self, directory: Path, *, make: bool = True) -> Iterator[Lease | bool | None]:
        """The lease of a directory, None when somebody alive holds it.

        `make` False: a directory that is not there yields True (nobody holds it).
        """
        if not make and not directory.exists():
            yield True
            return
        if self._leases.holder(directory) is not None:
            yield None
            return
        try:
            lease = self._leases.take(directory)
        except Busy:
            yield None
            return
        try:
            yield lease
        finally:
            lease.release()

    def reconcile(self) -> int:
        """Give blob files without a row their row again; gives their number.

        Small ones are hashed for it: that brings their git sha1 back, and costs little. One that
        does not match its name is moved to quarantine.
        """
        known = {row.sha256 for row in self._index.every_row() if row.path is None}
        rows = []
        with durable.local_faults("rebuilding the index"):
            for shard in subdirectories(self._layout.blobs):
                for path in _files(shard):
                    sha256 = bytes.fromhex(path.name)
                    if sha256 not in known:
                        row = self._row_of(path, sha256)
                        if row is not None:
                            rows.append(row)
            if rows:
                self._index.put(rows, "rebuilding the index")
            self._drop_orphan_maps()
            self._rooted.sweep()
        return len(rows)

    def _row_of(self, path: Path, sha256: bytes) -> Row | None:
        try:
            stat = path.stat()
        except FileNotFoundError:
            return None  # evicted meanwhile
        if stat.st_size > BLOCK_BYTES:
            return Row(
                sha256, stat.st_size, self._root_from_map(sha256, stat.st_size), None, stat.st_mtime
            )
        hasher = digests.WholeHasher(stat.st_size, git=True)
        with path.open("rb") as file:
            while chunk := file.read(_HASH_STEP_BYTES):
                hasher.update(chunk)
        whole = hasher.digests()
        if whole.sha256 != sha256:
            path.rename(self._layout.quarantined(sha256))
            return None
        return Row(sha256, stat.st_size, cids.raw_cid(sha256), whole.git_sha1, stat.st_mtime)

    def _root_from_map(self, sha256: bytes, size: int) -> bytes | None:
        hashes = self._blobs.block_map(sha256)
        if hashes is None or len(hashes) != block_count(size) * HASH_BYTES:
            return None
        starts = range(0, len(hashes), HASH_BYTES)
        return unixfs.file_root((hashes[at : at + HASH_BYTES] for at in starts), size).cid

    def _drop_orphan_maps(self) -> None:
        adopted = {row.sha256 for row in self._index.every_row() if row.path is not None}
        for path in _files(self._layout.maps):
            sha256 = bytes.fromhex(path.name)
            # a blob's file always comes before its map
            if sha256 not in adopted and not self._layout.blob(sha256).exists():
                path.unlink(missing_ok=True)


def subdirectories(directory: Path) -> Iterable[Path]:
    """Those of a directory that may not be there."""
    try:
        return [entry for entry in directory.iterdir() if entry.is_dir()]
    except FileNotFoundError:
        return []


def _files(directory: Path) -> Iterable[Path]:
    """Files whose name is a sha2-256; anything else is not ours to touch."""
    try:
        entries = list(os.scandir(directory))
    except FileNotFoundError:
        return []
    return [directory / entry.name for entry in entries if _is_sha256_hex(entry.name)]


def _is_sha256_hex(name: str) -> bool:
    return len(name) == 64 and not set(name) - set("0123456789abcdef")


def _has_progress(directory: Path) -> bool:
    for name in ("live", "have"):
        try:
            data = (directory / name).read_bytes()
        except FileNotFoundError:
            continue
        if data.count(0) != len(data):
            return True
    return False
