"""Writes a bundle: one CARv1 with every block once, and its index beside it. Blocking.

Two passes: the tree of every file follows from its block map, so the roots, which stand first, are
known before a byte of content is read. Memory: 32 bytes a block for the maps, about 200 a block for
the index, and the nodes of one file (55 bytes a block). The file gets its name when it is whole.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from p2pcache.content import bundle, car, unixfs
from p2pcache.content import cid as cids
from p2pcache.content.manifest import MAX_FILES
from p2pcache.content.unixfs import LEAF_BYTES
from p2pcache.content.verify import verify_block
from p2pcache.errors import LocalFault, Untrusted, UsageError
from p2pcache.store import durable
from p2pcache.store.durable import local_faults
from p2pcache.transfer.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from p2pcache.agent.airgap.plan import Planned
    from p2pcache.store.blobs import BlobInfo
    from p2pcache.store.store import Store

    Tell = Callable[[Progress], None]
    """Gets the newest progress; may raise to stop the work between two blocks."""

MAX_BLOCKS = 1 << 20  # of one bundle, some 1 TiB; what reads it back keeps 200 bytes for each
WRITE_BYTES = 1 << 20  # small blocks are gathered into writes of this size


@dataclass(frozen=True, slots=True)
class Written:
    """What was written. `folders`: the UnixFS root of each ref, in their order."""

    path: Path
    index: Path
    size_bytes: int
    blocks: int
    content_bytes: int
    folders: tuple[bytes, ...]


def index_path(path: Path) -> Path:
    """Where the index of a bundle lies."""
    return path.with_name(path.name + ".idx")


def write_bundle(store: Store, planned: Sequence[Planned], path: Path, tell: Tell) -> Written:
    """Write it. Raises DiskFull, LocalFault (a damaged blob too), UsageError (too much, no place
    for a file).
    """
    for place in (path, index_path(path)):
        check_place(place)
    blobs = {blob.sha256: blob for one in planned for blob in one.blobs.values()}
    total = sum(blob.size for blob in blobs.values())
    files = sum(len(one.manifest.files) for one in planned)
    if total // LEAF_BYTES + len(blobs) > MAX_BLOCKS or files > MAX_FILES:
        raise _too_much()
    so_far = Progress("planning", None, 0, total, 0, len(blobs))
    tell(so_far)
    maps = {sha256: block_map(store, blob, lambda: tell(so_far)) for sha256, blob in blobs.items()}
    roots = {sha256: unixfs.file_root(_each(maps[sha256]), b.size) for sha256, b in blobs.items()}
    nodes: dict[bytes, bytes] = {}
    folders = []
    for one in planned:
        paths = {path: roots[blob.sha256] for path, blob in one.blobs.items()}
        folders.append(unixfs.tree(paths, keep=nodes.__setitem__).cid)
    record_cid, record = bundle.encode(
        [
            bundle.BundledRef(one.manifest.cid(), folder, one.names, one.restricted)
            for one, folder in zip(planned, folders, strict=True)
        ]
    )
    mode = 0o600 if any(one.restricted for one in planned) else 0o644
    others = [one.nodes for planned_ref in planned for one in planned_ref.roots]
    roots_of_others = [next(iter(one)) for one in others]
    with drafted(index_path(path), mode) as index, drafted(path, mode) as file:
        out = _Car(file, [*dict.fromkeys((*folders, *roots_of_others)), record_cid])
        out.add(record_cid, record)
        for one in planned:
            out.add(one.manifest.cid(), one.manifest.encode())
        for cid, block in reversed(nodes.items()):  # parents first
            out.add(cid, block)
        for of_other in others:
            for cid, block in of_other.items():
                out.add(cid, block)
        done = 0
        for number, (sha256, blob) in enumerate(blobs.items()):
            for at in _add_file(out, blob, maps[sha256]):
                tell(Progress("exporting", None, done + at, total, number, len(blobs)))
            done += blob.size
        index.write(car.encode_index(out.offsets.items()))
        index.flush()  # a disk that is full is found before either has its name
    return Written(path, index_path(path), out.size_bytes, len(out.offsets), total, tuple(folders))


def check_place(path: Path) -> None:
    """Raises UsageError where no file can be written, or something else would be replaced."""
    with local_faults(f"looking at {path}"):
        if not path.parent.is_dir():
            raise UsageError(
                f"the folder `{path.parent}` does not exist", hint="make it, or name another place"
            )
        if path.is_dir():
            raise UsageError(
                f"`{path}` is a folder, and a bundle is one file",
                hint="name the file; `p2pcache get --to DIR` writes files into a folder",
            )
        if path.exists() and not path.is_file():
            raise UsageError(
                f"`{path}` is no regular file, which a bundle would replace",
                hint="name a file to write or to replace",
            )


def _too_much() -> UsageError:
    return UsageError("this is too much for one bundle", hint="make several bundles")


class _Car:
    """A CAR that is being written: each block once. `offsets`: where each one's section begins."""

    def __init__(self, file: BinaryIO, roots: Sequence[bytes]) -> None:
        self._file = file
        self.offsets: dict[bytes, int] = {}
        self.size_bytes = file.write(car.encode_header(roots))

    def add(self, cid: bytes, data: bytes) -> None:
        """Write a block, unless it is there."""
        digest = cid[4:]
        if digest in self.offsets:
            return
        if len(self.offsets) == MAX_BLOCKS:
            raise _too_much()
        self.offsets[digest] = self.size_bytes
        for part in car.encode_section(cid, data):
            self.size_bytes += self._file.write(part)


def _add_file(out: _Car, blob: BlobInfo, hashes: bytes) -> Iterator[int]:
    """The nodes of one file, then its blocks; yields how far it is before each block."""
    nodes: list[tuple[bytes, bytes]] = []
    unixfs.file_root(_each(hashes), blob.size, lambda cid, block: nodes.append((cid, block)))
    for cid, block in reversed(nodes):
        out.add(cid, block)
    for at, expected, data in _blocks(blob, hashes):
        yield at
        try:
            verify_block(expected, data)
        except Untrusted as exc:
            raise _damaged(blob, exc.message) from exc
        out.add(cids.raw_cid(expected), data)
    if not blob.size:
        out.add(cids.raw_cid(unixfs.EMPTY_SHA256), b"")


def _blocks(blob: BlobInfo, hashes: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    with local_faults(f"reading {blob.path}"), blob.path.open("rb", buffering=0) as file:
        for number, expected in enumerate(_each(hashes)):
            start = number * LEAF_BYTES
            yield start, expected, os.pread(file.fileno(), LEAF_BYTES, start)


def block_map(store: Store, blob: BlobInfo, go_on: Callable[[], None]) -> bytes:
    """sha2-256 of each block; read from the blob where no map was kept."""
    if not blob.size:
        return b""
    if blob.size <= LEAF_BYTES:
        return blob.sha256
    known = store.block_map(blob.sha256)
    blocks = -(-blob.size // LEAF_BYTES)
    if known is not None and len(known) == 32 * blocks:
        return known
    made, whole = bytearray(), hashlib.sha256()
    for _, _, data in _blocks(blob, bytes(32 * blocks)):
        go_on()
        made += hashlib.sha256(data).digest()
        whole.update(data)
    if whole.digest() != blob.sha256:
        raise _damaged(blob, "its bytes have another digest")
    return bytes(made)


def _damaged(blob: BlobInfo, how: str) -> LocalFault:
    return LocalFault(
        f"the stored blob {blob.sha256.hex()} is damaged: {how}",
        hint="`p2pcache verify --repair` fetches its bad blocks again",
    )


def _each(hashes: bytes) -> Iterator[bytes]:
    return (hashes[at : at + 32] for at in range(0, len(hashes), 32))


@contextmanager
def drafted(path: Path, mode: int) -> Iterator[BinaryIO]:
    """A file that gets its name when the block ends well. One that a crash left is written over.

    Raises LocalFault when another export of this machine writes to the same name.
    """
    draft = path.with_name(path.name + ".part")
    with local_faults(f"writing {path}"):
        descriptor = _locked(draft)
        with open(descriptor, "wb", buffering=WRITE_BYTES) as file:
            try:
                os.fchmod(descriptor, mode)
                os.ftruncate(descriptor, 0)
                yield file
                file.flush()
                os.fsync(descriptor)
                draft.rename(path)
                durable.fsync_path(path.parent)
            except BaseException:
                draft.unlink(missing_ok=True)
                raise


def _locked(draft: Path) -> int:
    """The draft, open and ours: whoever had it before us may have given it its name since."""
    while True:
        # not through a link that somebody put there, in a folder that all may write to
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(draft, flags, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            ours, now = os.fstat(descriptor), draft.stat()
        except BlockingIOError as exc:
            os.close(descriptor)
            raise LocalFault(f"another export writes {draft} now") from exc
        except FileNotFoundError:
            os.close(descriptor)
            continue
        except BaseException:
            os.close(descriptor)
            raise
        if (ours.st_dev, ours.st_ino) == (now.st_dev, now.st_ino):
            return descriptor
        os.close(descriptor)
