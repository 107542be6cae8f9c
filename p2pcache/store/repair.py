"""What is done with a blob that was found damaged: keep its good blocks, fetch only the bad ones.

The block map that was proven when the blob came in says which are which. Without a map (a blob of
one block, or a map that was lost) nothing of it can be kept.
"""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from typing import TYPE_CHECKING

from p2pcache.errors import NotFound
from p2pcache.store import durable
from p2pcache.store.blobs import BlobInfo
from p2pcache.store.layout import BLOCK_BYTES, block_count
from p2pcache.store.partial import HASH_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from p2pcache.store.blobs import Blobs
    from p2pcache.store.layout import Layout
    from p2pcache.store.partial import Partial

MARK = "damaged.json"  # in a partial: of a blob that was here, and is wanted back


def take_out(layout: Layout, blobs: Blobs, info: BlobInfo, partial: Partial) -> int:
    """Move a damaged blob out of sight and give its good blocks to `partial`, which is open.

    Gives the number of blocks kept. The file is removed once they are durable; if this is
    interrupted, the blob is simply absent. An adopted file is its owner's: it is only forgotten.
    The partial says from here on that it was one (`was_damaged`).
    """
    hashes = blobs.block_map(info.sha256)
    with durable.local_faults("taking out a damaged blob"):
        source = info.path
        if not info.adopted:
            source = layout.quarantined(info.sha256)
            try:
                info.path.rename(source)
            except FileNotFoundError as exc:
                blobs.forget([info.sha256])  # or the next `verify` would stop here too
                raise NotFound(f"blob {info.sha256.hex()} is not here") from exc
            durable.fsync_path(layout.quarantine)
        durable.replace_file(partial.dir / MARK, _encode(info))
        blobs.forget([info.sha256])
        kept = 0
        if hashes is not None and len(hashes) == block_count(info.size) * HASH_BYTES:
            with suppress(FileNotFoundError):  # an adopted file that its owner removed
                kept = keep_good_blocks(source, partial, hashes)
        if not info.adopted:
            source.unlink(missing_ok=True)
    return kept


def was_damaged(directory: Path) -> BlobInfo | None:
    """The blob that was taken out and whose good blocks are in this partial's directory, if so."""
    try:
        found = json.loads((directory / MARK).read_bytes())
        git_sha1, root = found["git_sha1"], found["root"]
        return BlobInfo(
            bytes.fromhex(found["sha256"]), int(found["size"]),
            None if root is None else bytes.fromhex(root),
            None if git_sha1 is None else bytes.fromhex(git_sha1),
            directory / "data",
        )  # fmt: skip
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
        return None


def _encode(info: BlobInfo) -> bytes:
    return json.dumps({
        "sha256": info.sha256.hex(), "size": info.size,
        "root": None if info.root_cid is None else info.root_cid.hex(),
        "git_sha1": None if info.git_sha1 is None else info.git_sha1.hex(),
    }).encode()  # fmt: skip


def keep_good_blocks(source: Path, partial: Partial, hashes: bytes) -> int:
    """Copy each block that still matches, one at a time; memory stays at one block."""
    good = []
    descriptor = os.open(partial.data_path, os.O_WRONLY)
    try:
        with source.open("rb", buffering=0) as file:
            for index in range(partial.blocks):
                block = _read_block(file.fileno(), index)
                if hashlib.sha256(block).digest() == _hash_of(hashes, index):
                    durable.pwrite_all(descriptor, block, index * BLOCK_BYTES)
                    good.append(index)
    finally:
        os.close(descriptor)
    with partial.map_path.open("r+b") as file:
        file.write(hashes)
    partial.mark(good)
    partial.flush()
    return len(good)


def block_hashes(source: Path, size: int) -> Iterator[bytes]:
    """sha2-256 of each block that is there now."""
    with source.open("rb", buffering=0) as file:
        for index in range(block_count(size)):
            yield hashlib.sha256(_read_block(file.fileno(), index)).digest()


def _read_block(descriptor: int, index: int) -> bytes:
    """A block of the file; a sector that cannot be read is a damaged block like any other."""
    try:
        return os.pread(descriptor, BLOCK_BYTES, index * BLOCK_BYTES)
    except OSError:
        return b""


def _hash_of(hashes: bytes, index: int) -> bytes:
    return hashes[index * HASH_BYTES : (index + 1) * HASH_BYTES]
