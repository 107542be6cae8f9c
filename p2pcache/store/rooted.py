"""Blobs that are proven by their UnixFS root, and whose sha2-256 is not known yet.

Where a root was asked for, the hashes of the blocks are the proof: the blob is shown under its root
at once, and hashed as a whole later, by whoever has the time (`name`). Until then it has this one
name: nothing that goes by a sha2-256 (manifests, pins, `Store.find`) sees it.

    roots-v1/<root>/data         the blob, read-only; once it is named a link to blobs-v1/, so that
                                 a path that was shown stays good as long as the blob is here
    roots-v1/<root>/map          hashes of its blocks
    roots-v1/<root>/proven.json  what tells that nobody wrote to it since

The directory is the partial's own, and appears by one rename after all of it is on disk.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from stat import S_ISLNK
from typing import TYPE_CHECKING, Any

from p2pcache.content import cid as cids
from p2pcache.content import digests
from p2pcache.content.verify import verify_root
from p2pcache.errors import Untrusted
from p2pcache.store import durable
from p2pcache.store.blobs import BlobInfo, seal, trim
from p2pcache.store.holds import each_one
from p2pcache.store.partial import HASH_BYTES
from p2pcache.store.repair import block_hashes, keep_good_blocks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from p2pcache.content.verify import VerifiedBlob, VerifiedRoot
    from p2pcache.store.blobs import Blobs
    from p2pcache.store.holds import Each
    from p2pcache.store.layout import Layout
    from p2pcache.store.partial import Partial

FACTS_VERSION = 1
_ROOT_PREFIX = bytes([1, cids.DAG_PB])
_OF_A_PARTIAL = ("live", "have", "meta.json", "publishing.json")


@dataclass(frozen=True, slots=True)
class RootedBlob:
    """A blob that is here, and whose only name is its root. `mtime_ns`: of the file now."""

    root_cid: bytes
    size: int
    path: Path
    mtime_ns: int

    @property
    def key(self) -> bytes:
        """What holds and evictions call it."""
        return self.root_cid

    @property
    def names(self) -> frozenset[bytes]:
        """The names it goes by: no multihash."""
        return frozenset([self.root_cid])

    @property
    def last_used(self) -> float:
        """Unix seconds."""
        return self.mtime_ns / 1e9

    @property
    def adopted(self) -> bool:
        """Never: it was fetched."""
        return False


AnyBlob = BlobInfo | RootedBlob
"""What can be read, whichever of its names are known."""


def is_root(name: bytes) -> bool:
    """Whether it is the binary CID of a UnixFS root under the one hash that our roots have."""
    return name[:2] == _ROOT_PREFIX and digests.is_sha256(name[2:])


@dataclass(frozen=True, slots=True)
class _Facts:
    """`mtime_ns` of the data, as they were proven."""

    size: int
    mtime_ns: int

    def encode(self) -> bytes:
        facts = {"version": FACTS_VERSION, "size": self.size, "mtime_ns": self.mtime_ns}
        return json.dumps(facts).encode()


def _read_facts(directory: Path) -> _Facts | None:
    """None where there are none that we understand. Raises LocalFault: what cannot be read now is
    not gone.
    """
    found = _read_any_facts(directory)
    try:
        if found.get("version") != FACTS_VERSION:
            return None
        return _Facts(int(found["size"]), int(found["mtime_ns"]))
    except (ValueError, KeyError, TypeError):
        return None


def _read_any_facts(directory: Path) -> dict[str, Any]:
    """Of whatever version; empty where there are none, or no JSON."""
    with durable.local_faults("reading what proves a blob"):
        try:
            found = json.loads((directory / "proven.json").read_bytes())
        except (FileNotFoundError, ValueError):
            return {}
    return found if isinstance(found, dict) else {}


def _are_of_others(directory: Path) -> bool:
    """Whether a later version of this program proved it by facts that only that understands."""
    version = _read_any_facts(directory).get("version")
    return isinstance(version, int) and version > FACTS_VERSION


class Rooted:
    """Those of one store. Any thread may call. Errors: DiskFull, LocalFault."""

    def __init__(self, layout: Layout, blobs: Blobs) -> None:
        self._layout = layout
        self._blobs = blobs
        self.removed: Callable[[list[bytes]], None] = lambda names: None
        # Told of a root and the raw sha2-256 that it is about to get.
        self.named: Callable[[bytes, bytes], None] = lambda root_cid, sha256: None

    def find(self, root_cid: bytes) -> RootedBlob | None:
        """The blob of a root, while it has no other name and nobody wrote to it."""
        found = self._look(root_cid)
        return found[0] if found is not None and found[1] else None

    def _look(self, root_cid: bytes) -> tuple[RootedBlob, bool] | None:
        """It, and whether its file is as it was when it was proven."""
        directory = self._layout.rooted(root_cid)
        facts, path = _read_facts(directory), directory / "data"
        try:
            stat = path.lstat()
        except FileNotFoundError:
            return None
        if facts is None or S_ISLNK(stat.st_mode):
            return None
        blob = RootedBlob(root_cid, facts.size, path, stat.st_mtime_ns)
        return blob, (stat.st_size, stat.st_mtime_ns) == (facts.size, facts.mtime_ns)

    def unnamed(self, root_cid: bytes) -> RootedBlob | None:
        """The same, also when somebody wrote to it: only a hash tells whether that did harm."""
        found = self._look(root_cid)
        return None if found is None else found[0]

    def every(self) -> list[RootedBlob]:
        """All that have no other name, oldest first; also those that somebody wrote to."""
        found = [self.unnamed(root) for root in self._roots()]
        return sorted((b for b in found if b is not None), key=lambda b: (b.last_used, b.root_cid))

    def here_of(self, roots: Iterable[bytes]) -> set[bytes]:
        """Those of these roots that may be found: one look for all of them."""
        return set(self._roots()).intersection(roots)

    def _roots(self) -> list[bytes]:
        try:
            names = os.listdir(self._layout.roots)
        except FileNotFoundError:
            return []
        found = []
        for name in names:
            with suppress(ValueError):  # anything else is not ours to touch
                if is_root(root := bytes.fromhex(name)):
                    found.append(root)
        return found

    def block_map(self, root_cid: bytes) -> bytes | None:
        """sha2-256 of every block, as it was kept; None where there is none."""
        try:
            return (self._layout.rooted(root_cid) / "map").read_bytes()
        except FileNotFoundError:
            return None

    def _proven_map(self, blob: RootedBlob) -> bytes | None:
        """The same, if it makes the root: 12 ms for a GiB. Where it rotted, the blob's own blocks
        may still make it.
        """
        kept = self.block_map(blob.root_cid)
        if kept is not None and _makes(blob, kept):
            return kept
        try:
            read = b"".join(block_hashes(blob.path, blob.size))
        except OSError:
            return None
        return read if _makes(blob, read) else None

    def publish(self, partial: Partial, blob: VerifiedRoot) -> RootedBlob:
        """Show a partial, of which every block was verified, under its root.

        May be called again after DiskFull. The partial is closed.
        """
        target = self._layout.rooted(blob.root_cid)
        with durable.local_faults("publishing a blob"):
            partial.heartbeat()
            trim(partial.map_path, partial.blocks * HASH_BYTES)
            seal(partial.data_path, blob.size)
            durable.fsync_path(partial.map_path)
            facts = _Facts(blob.size, partial.data_path.stat().st_mtime_ns)
            durable.replace_file(partial.dir / "proven.json", facts.encode())
            if target.exists():  # it was evicted, or somebody wrote to it
                durable.discard_dir(target, self._layout.trash)
            partial.dir.rename(target)
            durable.fsync_path(self._layout.roots)
            durable.fsync_path(self._layout.partials)
            partial.abandon()
            for left in (*_OF_A_PARTIAL, *(path.name for path in target.glob("lease.*"))):
                (target / left).unlink(missing_ok=True)
        path = target / "data"
        return RootedBlob(blob.root_cid, blob.size, path, facts.mtime_ns)

    def name(self, blob: RootedBlob, whole: VerifiedBlob, block_digests: bytes) -> BlobInfo | None:
        """Give it its sha2-256, of the same reading as `block_digests`. Can be done again.

        `blob`: as it was before that. None when it is gone, was touched, or its blocks do not make
        the root: then no digest of it means anything.
        """
        if self.unnamed(blob.root_cid) != blob or not _makes(blob, block_digests):
            return None
        directory = blob.path.parent
        self.named(blob.root_cid, whole.sha256)
        with durable.local_faults("naming a blob"):
            if self.block_map(blob.root_cid) != block_digests:  # it rotted; those make the root
                durable.replace_file(directory / "map", block_digests)
            try:
                self._blobs.place_link(blob.path, whole.sha256, blob.size)
            except FileNotFoundError:
                return None  # evicted meanwhile
            info = self._blobs.index_named(
                directory / "map", whole.sha256, blob.size, blob.root_cid, whole.git_sha1
            )
            link = directory / "link"
            link.unlink(missing_ok=True)
            with suppress(FileNotFoundError):
                link.symlink_to(os.path.relpath(info.path, directory))
                link.replace(blob.path)
                durable.fsync_path(directory)
                for left in ("proven.json", "map"):
                    (directory / left).unlink(missing_ok=True)
        return info

    def is_damaged(self, root_cid: bytes, size: int) -> bool:
        """Whether its file is there, and not as it was when it was proven; never at another size
        than was proven: who tells that one of a root is wrong.
        """
        found = self._look(root_cid)
        return found is not None and not found[1] and found[0].size == size

    def take_out(self, root_cid: bytes, partial: Partial) -> int:
        """Out of sight, and its good blocks into `partial`, which is open; how many they are."""
        blob = self.unnamed(root_cid)
        hashes = None if blob is None else self._proven_map(blob)
        kept = 0
        directory = self._layout.rooted(root_cid)
        with durable.local_faults("taking out a damaged blob"):
            (directory / "proven.json").unlink(missing_ok=True)  # from here on it is not found
            if hashes is not None and len(hashes) == partial.blocks * HASH_BYTES:
                with suppress(FileNotFoundError):
                    kept = keep_good_blocks(directory / "data", partial, hashes)
        self.remove([root_cid])
        return kept

    def remove(self, roots: Sequence[bytes], each: Each = each_one) -> tuple[int, list[bytes]]:
        """Remove these; bytes freed, and what went. `each`: see `Holds.removal`."""
        graves: list[Path] = []

        def bury(root_cid: bytes) -> int:
            directory = self._layout.rooted(root_cid)
            try:
                stat = (directory / "data").lstat()
                graves.append(durable.bury(directory, self._layout.trash))
            except FileNotFoundError:
                return 0
            return stat.st_size if stat.st_nlink == 1 else 0

        with durable.local_faults("removing blobs"):
            try:
                freed, gone = each(roots, bury)
            finally:
                for grave in graves:
                    durable.empty_grave(grave)
        if gone:
            self.removed(gone)
        return freed, gone

    def sweep(self) -> None:
        """Remove what is left of blobs that are gone since they were named, or were taken out."""
        for root in self._roots():
            directory = self._layout.rooted(root)
            data = directory / "data"
            proven = data.is_symlink() or _read_facts(directory) or _are_of_others(directory)
            if not data.exists() or not proven:
                with suppress(FileNotFoundError):
                    durable.discard_dir(directory, self._layout.trash)


def _makes(blob: RootedBlob, hashes: bytes) -> bool:
    """Whether blocks of these hashes are that blob."""
    try:
        verify_root(blob.root_cid, blob.size, hashes)
    except Untrusted:
        return False
    return True
