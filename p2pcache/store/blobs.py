"""Complete blobs: how they come in, how they are found, how they leave.

Everything that comes in was verified (`VerifiedBlob` has no other maker than `content.verify`).
A blob file appears by one rename, after its content is on disk and before its index row: after a
crash at any line there is either no blob or a good one, and a good one without a row is found
again by its path.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from p2pcache.content import cid as cids
from p2pcache.content import digests
from p2pcache.errors import LocalFault
from p2pcache.store import durable
from p2pcache.store.adoptions import FileState
from p2pcache.store.holds import each_one
from p2pcache.store.index import Index, Row, all_names, canonical_name, sha256_of_name
from p2pcache.store.layout import BLOCK_BYTES, Layout
from p2pcache.store.partial import HASH_BYTES, read_intent

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    from p2pcache.content.verify import VerifiedBlob
    from p2pcache.store.holds import Each
    from p2pcache.store.partial import Partial
    from p2pcache.store.store import Hold

CopyMode = Literal["auto", "reflink", "copy"]


@dataclass(frozen=True, slots=True)
class Adoption:
    """A file of somebody else's that was hashed: how it was before that, and what it is."""

    path: Path
    blob: VerifiedBlob
    state: FileState
    root_cid: bytes | None
    block_digests: bytes | None


def _no_hold(sha256s: Iterable[bytes]) -> None:
    """For who only looks."""


@dataclass(frozen=True, slots=True)
class BlobInfo:
    """A blob that is here. `adopted`: `path` belongs to somebody else and is read in place."""

    sha256: bytes
    size: int
    root_cid: bytes | None
    git_sha1: bytes | None
    path: Path
    adopted: bool = False

    @property
    def key(self) -> bytes:
        """What holds and evictions call it."""
        return self.sha256

    @property
    def digest(self) -> bytes:
        """Its sha2-256 multihash."""
        return digests.sha256_digest(self.sha256)

    @property
    def names(self) -> frozenset[bytes]:
        """The multihashes it goes by."""
        if self.git_sha1 is None:
            return frozenset([self.digest])
        return frozenset([self.digest, digests.git_sha1_digest(self.git_sha1)])


class Blobs:
    """The blobs of one store. Any thread may call; `clock` gives unix seconds."""

    def __init__(self, layout: Layout, index: Index, clock: Callable[[], float]) -> None:
        self._layout = layout
        self.removed: Callable[[list[bytes]], None] = lambda names: None
        self._index = index
        self._clock = clock
        self._shards: set[Path] = set()

    def find(self, name: bytes) -> BlobInfo | None:
        """The blob that goes by a multihash or CID, if its file is there (and is the same file)."""
        row = self._index.row(name)
        if row is None:
            return self._find_by_path(name)
        gone: dict[bytes, Row] = {}
        info = self._checked(row, gone)
        return self._forget_gone(gone).get(row.sha256) if gone else info

    def find_many(self, names: Sequence[bytes], hold: Hold = _no_hold) -> dict[bytes, BlobInfo]:
        """`find` for many: one query for 500 names and one stat each. Absent names are left out.

        `hold` gets the raw sha2-256 of what may be found, before its file is looked at: what was
        evicted until then is not found, and what is found is not evicted.
        """
        rows = self._index.rows(names)
        stated = (sha256_of_name(name) for name in names if name not in rows)
        hold([*(row.sha256 for row in rows.values()), *(s for s in stated if s is not None)])
        gone: dict[bytes, Row] = {}
        found: dict[bytes, BlobInfo] = {}
        for name in names:
            row = rows.get(name)
            info = self._find_by_path(name) if row is None else self._checked(row, gone)
            if info is not None:
                if row is None:
                    hold([info.sha256])  # an alias that a crash had left without a row
                found[name] = info
        if gone:
            here = self._forget_gone(gone)
            found |= {name: here[row.sha256] for name, row in rows.items() if row.sha256 in here}
        return found

    def _forget_gone(self, gone: dict[bytes, Row]) -> dict[bytes, BlobInfo]:
        """Rows whose file is not there any more; those of somebody's file may have a copy of ours,
        which is given by sha2-256. All at once: somebody else's cache goes whole.
        """
        self.forget(list(gone))
        here: dict[bytes, BlobInfo] = {}
        names: dict[bytes, None] = {}
        for sha256, row in gone.items():
            found = None if row.path is None else self._find_by_path(b"\x12\x20" + sha256)
            if found is None:
                names.update(dict.fromkeys(all_names(row)))
            else:
                here[sha256] = found
        if names:
            self.removed(list(names))
        return here

    def _checked(self, row: Row, gone: dict[bytes, Row]) -> BlobInfo | None:
        """The blob of a row; None when it is not as it was, and in `gone` when it is not there."""
        path = self._layout.blob(row.sha256) if row.path is None else Path(row.path)
        try:
            stat = os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            stat = None
        if stat is not None:
            same = _is_as_stored(row, stat) if row.path is None else row.is_unchanged(stat)
            if same:
                adopted = row.path is not None
                return BlobInfo(row.sha256, row.size, row.root, row.git_sha1, path, adopted)
        if row.path is None and stat is not None:
            # by a hard link into the store, or by root: not by our hand. It stays where it is, for
            # `recheck`, `verify`, and the next pull, which keeps its good blocks
            return self.recheck(row.digest) if row.size <= BLOCK_BYTES else None
        gone[row.sha256] = row
        return None

    def changed(self, name: bytes) -> BlobInfo | None:
        """A stored blob whose file is no longer as we left it; what is known of it by the index."""
        row = self._index.row(name)
        if row is None or row.path is not None:
            return None
        path = self._layout.blob(row.sha256)
        try:
            same = _is_as_stored(row, os.stat(path))
        except (FileNotFoundError, NotADirectoryError):
            return None
        return None if same else BlobInfo(row.sha256, row.size, row.root, row.git_sha1, path)

    def recheck(self, name: bytes) -> BlobInfo | None:
        """Hash a blob whose file was changed: `touch` is no damage. None if it is damaged."""
        info = self.changed(name)
        if info is None:
            return None
        with durable.local_faults("hashing a blob again"), info.path.open("rb") as file:
            before = os.fstat(file.fileno())
            found = hashlib.file_digest(file, "sha256").digest()
            if found != info.sha256 or not _is_same(os.fstat(file.fileno()), before):
                return None
        return self._index_blob(info.sha256, info.size, info.root_cid, info.git_sha1)

    def _find_by_path(self, name: bytes) -> BlobInfo | None:
        """A blob whose row was lost (crash before the commit, another index) is still a blob."""
        intent = read_intent(self._layout.partial(canonical_name(name)))
        if intent is not None:
            recovered = self.finish_publish(intent)
            if recovered is not None:
                return recovered
        sha256 = sha256_of_name(name)
        if sha256 is None:
            return None
        path = self._layout.blob(sha256)
        try:
            size = os.stat(path).st_size
        except (FileNotFoundError, NotADirectoryError):
            return None
        return self._index_blob(sha256, size, None, None)

    def _index_blob(
        self, sha256: bytes, size: int, root: bytes | None, git_sha1: bytes | None
    ) -> BlobInfo:
        if root is None and size <= BLOCK_BYTES:
            root = cids.raw_cid(sha256)
        path = self._layout.blob(sha256)
        if not self._index.readonly:
            self._index.put([self._row(path, sha256, size, root, git_sha1)], "keeping a blob")
        return BlobInfo(sha256, size, root, git_sha1, path)

    def _row(
        self, path: Path, sha256: bytes, size: int, root: bytes | None, git_sha1: bytes | None
    ) -> Row:
        """A row of our own file, with the time that tells when somebody writes to it."""
        with durable.local_faults("keeping a blob"):
            mtime_ns = os.stat(path).st_mtime_ns
        return Row(sha256, size, root, git_sha1, self._clock(), mtime_ns=mtime_ns)

    def forget(self, sha256s: Iterable[bytes]) -> None:
        """Drop rows and names; not the files."""
        if not self._index.readonly:
            self._index.forget(sha256s)

    def publish(
        self, partial: Partial, blob: VerifiedBlob, *, root_cid: bytes | None = None
    ) -> BlobInfo:
        """Turn a partial whose every byte was verified into a blob, and remove the partial. Without
        its root, a large one has no block map either: see `give_root`.

        May be called again after DiskFull: each step is idempotent. Raises DiskFull, LocalFault.
        """
        target = self._layout.blob(blob.sha256)
        with durable.local_faults("publishing a blob"):
            partial.heartbeat()
            trim(partial.map_path, partial.blocks * HASH_BYTES)
            if partial.data_path.exists():
                seal(partial.data_path, blob.size)
                partial.save_intent({
                    "sha256": blob.sha256.hex(), "size": blob.size,
                    "root": None if root_cid is None else root_cid.hex(),
                    "git_sha1": None if blob.git_sha1 is None else blob.git_sha1.hex(),
                    "partial": partial.dir.name,
                })  # fmt: skip
                self._place(partial.data_path, target, blob.size)
                durable.fsync_path(target.parent)
            intent = read_intent(partial.dir)
            info = None if intent is None else self.finish_publish(intent)
            if info is None:
                raise LocalFault(f"the partial {partial.dir.name} lost its data")
        partial.discard()
        return info

    def finish_publish(self, intent: dict[str, str | int | None]) -> BlobInfo | None:
        """The steps after the rename: block map, then index row. None if the rename never was."""
        sha256 = bytes.fromhex(str(intent["sha256"]))
        size = int(intent["size"] or 0)
        try:
            if self._layout.blob(sha256).stat().st_size != size:
                return None
        except FileNotFoundError:
            return None
        root, git = intent["root"], intent["git_sha1"]
        if size > BLOCK_BYTES and root is not None and not self._index.readonly:
            source = self._layout.partials / str(intent["partial"]) / "map"
            with durable.local_faults("keeping a block map"):
                self._keep_map_file(source, sha256)
        return self._index_blob(
            sha256, size,
            None if root is None else bytes.fromhex(str(root)),
            None if git is None else bytes.fromhex(str(git)),
        )  # fmt: skip

    def rootless(self) -> list[BlobInfo]:
        """Those whose root is not known, and that are as they were."""
        rows = [row for row in self._index.every_row() if row.root is None]
        found = self.find_many([row.digest for row in rows])
        return [blob for blob in found.values() if blob.root_cid is None]

    def give_root(self, sha256: bytes, root: bytes, block_digests: bytes) -> None:
        """Keep what a later reading of a blob told; nothing where it went meanwhile."""
        row = self._index.row(digests.sha256_digest(sha256))
        if row is not None and not self._index.readonly:
            self._keep_map(sha256, row.size, block_digests)
            self._index.put([replace(row, root=root)], "keeping a blob's root")

    def _keep_map_file(self, source: Path, sha256: bytes) -> None:
        target = self._layout.map(sha256)
        if target.exists():
            return
        try:
            durable.fsync_path(source)
            os.link(source, target)
        except (FileExistsError, FileNotFoundError):
            return  # another process finished the same publication
        durable.fsync_path(target.parent)

    def _place(self, source: Path, target: Path, size: int) -> None:
        """Give a sealed file its name. A blob that has it, and that nobody wrote to, is kept."""
        self._make_shard(target.parent)
        if self._is_intact(target, size):
            source.unlink(missing_ok=True)
        else:
            source.rename(target)

    def place_link(self, source: Path, sha256: bytes, size: int) -> None:
        """Give a sealed file of ours its name, and leave it where it is, too."""
        target = self._layout.blob(sha256)
        self._make_shard(target.parent)
        if not self._is_intact(target, size):
            draft = source.with_name("named")
            draft.unlink(missing_ok=True)
            os.link(source, draft)
            draft.rename(target)
            draft.unlink(missing_ok=True)  # a rename onto a link of the same file does nothing
        durable.fsync_path(target.parent)

    def index_named(
        self, map_path: Path, sha256: bytes, size: int, root: bytes, git_sha1: bytes | None
    ) -> BlobInfo:
        """The block map and the row of a file that was placed."""
        self._keep_map_file(map_path, sha256)
        return self._index_blob(sha256, size, root, git_sha1)

    def _is_intact(self, target: Path, size: int) -> bool:
        try:
            stat = target.stat()
        except FileNotFoundError:
            return False
        row = self._index.row(digests.sha256_digest(bytes.fromhex(target.name)))
        return stat.st_size == size and (
            row is None or row.path is not None or _is_as_stored(row, stat)
        )

    def _make_shard(self, shard: Path) -> None:
        if shard not in self._shards:
            durable.make_dir(shard)
            self._shards.add(shard)

    def publish_small(self, items: Sequence[tuple[Path, VerifiedBlob]]) -> list[BlobInfo]:
        """Publish files of at most one block that are written and synced already.

        One fsync for each directory touched and one index transaction for all of them. After an
        error (DiskFull, LocalFault) every file is either still where it was or a good blob.
        """
        infos, rows = [], []
        with durable.local_faults("publishing small blobs"):
            for source, blob in items:
                target = self._layout.blob(blob.sha256)
                if source.exists() or not target.exists():
                    state = os.stat(source)
                    _check_size(state.st_size, blob.size, source)
                    if state.st_mode & 0o777 != 0o444:
                        os.chmod(source, 0o444)
                    self._place(source, target, blob.size)
                root = cids.raw_cid(blob.sha256) if blob.size <= BLOCK_BYTES else None
                rows.append(self._row(target, blob.sha256, blob.size, root, blob.git_sha1))
                infos.append(BlobInfo(blob.sha256, blob.size, root, blob.git_sha1, target))
            for shard in {info.path.parent for info in infos}:
                durable.fsync_path(shard)
        self._index.put(rows, "keeping small blobs")
        return infos

    def link_in(
        self, path: Path, blob: VerifiedBlob, stat: os.stat_result, directory: Path,
        *, root_cid: bytes | None, block_digests: bytes | None, copy: CopyMode,
    ) -> BlobInfo:  # fmt: skip
        """Take a file of somebody else's into the store: shared extents, or a copy.

        Never a hard link: its owner may rewrite the file. `stat` is from before it was hashed; a
        file that changed since raises LocalFault and nothing is kept. `directory`: for drafts.
        """
        draft = directory / secrets.token_hex(8)
        with durable.local_faults(f"copying {path.name} into the store"):
            try:
                _copy_unchanged(path, draft, stat, copy)
                return self.publish_draft(
                    draft, blob, root_cid=root_cid, block_digests=block_digests
                )
            finally:
                draft.unlink(missing_ok=True)

    def publish_draft(
        self, draft: Path, blob: VerifiedBlob, *,
        root_cid: bytes | None, block_digests: bytes | None,
    ) -> BlobInfo:  # fmt: skip
        """Turn a written file of ours, of any size, into a blob, with its block map.

        `root_cid` and `block_digests` are those of the bytes that were verified. After an error the
        file is where it was, or a good blob.
        """
        with durable.local_faults("publishing a blob"):
            seal(draft, blob.size)
            self._place(draft, self._layout.blob(blob.sha256), blob.size)
            durable.fsync_path(self._layout.blob(blob.sha256).parent)
        info = self._index_blob(blob.sha256, blob.size, root_cid, blob.git_sha1)
        self._keep_map(blob.sha256, blob.size, block_digests)
        return info

    def adopt(
        self, path: Path, blob: VerifiedBlob, stat: os.stat_result,
        *, root_cid: bytes | None, block_digests: bytes | None,
    ) -> BlobInfo:  # fmt: skip
        """Serve a file of somebody else's in place, as long as it stays the one that was hashed.

        `stat` is from before it was hashed. A copy of our own is kept and preferred.
        """
        one = Adoption(path, blob, FileState.of(stat), root_cid, block_digests)
        (info,) = self.adopt_many([one])
        if info is None:
            raise _changed(path)
        return info

    def adopt_many(self, items: Sequence[Adoption]) -> list[BlobInfo | None]:
        """`adopt` for many in one transaction; None for each that is not as it was when it was
        hashed. Raises LocalFault.
        """
        found: list[BlobInfo | None] = []
        rows: list[Row] = []
        for one in items:
            blob, path = one.blob, one.path.absolute()
            if self._is_intact(self._layout.blob(blob.sha256), blob.size):
                found.append(self._index_blob(blob.sha256, blob.size, one.root_cid, blob.git_sha1))
                continue
            root = one.root_cid
            if root is None and blob.size <= BLOCK_BYTES:
                root = cids.raw_cid(blob.sha256)
            state = one.state
            row = Row(
                blob.sha256, blob.size, root, blob.git_sha1, self._clock(), str(path),
                state.device, state.inode, state.mtime_ns,
            )  # fmt: skip
            if state.size != blob.size or not self._is_there(row, path):
                found.append(None)
                continue
            self._set_damaged_aside(blob.sha256)
            rows.append(row)
            found.append(BlobInfo(blob.sha256, blob.size, root, blob.git_sha1, path, adopted=True))
        if rows:
            self._index.put(rows, "adopting a file")
        for one, info in zip(items, found, strict=True):
            if info is not None and info.adopted:
                self._keep_map(one.blob.sha256, one.blob.size, one.block_digests)
        return found

    def _is_there(self, row: Row, path: Path) -> bool:
        with durable.local_faults(f"adopting {path.name}"):
            try:
                return row.is_unchanged(os.stat(path))
            except (FileNotFoundError, NotADirectoryError):
                return False

    def _set_damaged_aside(self, sha256: bytes) -> None:
        """Once the row is of another file, nothing would tell that a blob of ours is damaged."""
        own = self._layout.blob(sha256)
        if own.exists():
            with durable.local_faults("taking out a damaged blob"):
                own.rename(self._layout.quarantined(sha256))

    def let_go(self, files: Collection[tuple[bytes, str]]) -> None:
        """Forget files of others, by raw sha2-256 and path, that are read in place no more. A copy
        of ours, and one that lies elsewhere, stay.
        """
        rows = self._index.rows([digests.sha256_digest(sha256) for sha256, _ in files])
        gone = {
            row.sha256: row for row in rows.values() if (row.sha256, row.path or "") in set(files)
        }
        if gone:
            self._forget_gone(gone)

    def _keep_map(self, sha256: bytes, size: int, block_digests: bytes | None) -> None:
        target = self._layout.map(sha256)
        if block_digests is not None and size > BLOCK_BYTES and not target.exists():
            with durable.local_faults("keeping a block map"):
                durable.replace_file(target, block_digests)

    def block_map(self, sha256: bytes) -> bytes | None:
        """sha2-256 of every block of a complete blob, joined; None where it is not known."""
        try:
            return self._layout.map(sha256).read_bytes()
        except FileNotFoundError:
            return None

    def remove(self, sha256s: Sequence[bytes], each: Each = each_one) -> tuple[int, list[bytes]]:
        """Remove stored files, then rows; an adopted file is only forgotten. Gives bytes freed, and
        what went. `each`: see `Holds.removal`; it moves the files only, a large one takes a while.

        Files first: a row without a file is noticed at the next `find`, a file without a row
        would take space unseen.
        """
        graves: list[Path] = []

        def bury(sha256: bytes) -> int:
            path = self._layout.blob(sha256)
            self._layout.map(sha256).unlink(missing_ok=True)
            try:
                stat = path.stat()
                graves.append(durable.bury(path, self._layout.trash))
            except FileNotFoundError:
                return 0
            return stat.st_size if stat.st_nlink == 1 else 0

        with durable.local_faults("removing blobs"):
            try:
                freed, gone = each(sha256s, bury)
            finally:
                for grave in graves:
                    durable.empty_grave(grave)
        if gone:
            names = [digests.sha256_digest(sha256) for sha256 in gone]
            for row in self._index.rows(names).values():
                names += all_names(row)
                self._drop_link(row.root)
            self.forget(gone)
            self.removed(list(dict.fromkeys(names)))
        return freed, gone

    def _drop_link(self, root: bytes | None) -> None:
        """The path that a blob had before its sha2-256 was known."""
        directory = None if root is None else self._layout.rooted(root)
        if directory is not None and (directory / "data").is_symlink():
            with durable.local_faults("removing blobs"), suppress(FileNotFoundError):
                durable.discard_dir(directory, self._layout.trash)


def _is_as_stored(row: Row, stat: os.stat_result) -> bool:
    """Whether nobody wrote to a file of ours; a row that a rebuilt index has knows no time."""
    return stat.st_size == row.size and row.mtime_ns in (None, stat.st_mtime_ns)


def _changed(path: Path) -> LocalFault:
    return LocalFault(
        f"{path} changed while it was being read", hint="run it again when nobody writes the file"
    )


def _check_size(found: int, expected: int, path: Path) -> None:
    if found != expected:
        raise LocalFault(f"{path.name} has {found} bytes on disk and {expected} were verified")


def seal(path: Path, size: int) -> None:
    """Read-only, and on disk with its mode, before anybody can see it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        _check_size(os.fstat(descriptor).st_size, size, path)
        os.fchmod(descriptor, 0o444)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def trim(path: Path, length: int) -> None:
    """Cut a file to its length."""
    if path.exists() and path.stat().st_size != length:
        os.truncate(path, length)


def _copy_unchanged(path: Path, draft: Path, stat: os.stat_result, copy: CopyMode) -> None:
    with path.open("rb") as source, draft.open("xb") as target:
        if not _is_same(os.fstat(source.fileno()), stat):
            raise _changed(path)
        shared = copy != "copy" and durable.reflink(source.fileno(), target.fileno())
        if not shared and copy == "reflink":
            raise LocalFault("this file system cannot share the file's blocks (reflink)")
        if not shared:
            durable.copy_range(source.fileno(), target.fileno(), 0, stat.st_size)
        if not _is_same(os.fstat(source.fileno()), stat):
            raise _changed(path)


def _is_same(now: os.stat_result, then: os.stat_result) -> bool:
    keys = ("st_dev", "st_ino", "st_size", "st_mtime_ns")
    return all(getattr(now, key) == getattr(then, key) for key in keys)
