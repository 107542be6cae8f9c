"""Real blobs for tests of the store: verified through the one door, written as a worker writes."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import subprocess
from typing import TYPE_CHECKING

from p2pcache.content import digests, unixfs, verify

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1 << 20


def content(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def name_of(data: bytes) -> bytes:
    return digests.sha256_digest(hashlib.sha256(data).digest())


def verified(data: bytes) -> verify.VerifiedBlob:
    return verify.verify_whole(name_of(data), len(data), digests.whole_digests(data))


def block_hashes(data: bytes) -> list[bytes]:
    return [hashlib.sha256(data[at : at + MIB]).digest() for at in range(0, len(data), MIB)]


def root_of(data: bytes) -> bytes:
    return unixfs.file_root(block_hashes(data), len(data)).cid


def fill(partial, data: bytes, blocks=None) -> None:
    """Write blocks as a fetch worker does: data, then the map, then the live byte."""
    hashes = block_hashes(data)
    files = [
        os.open(p, os.O_RDWR) for p in (partial.data_path, partial.map_path, partial.live_path)
    ]
    try:
        for index in range(len(hashes)) if blocks is None else blocks:
            os.pwrite(files[0], data[index * MIB : (index + 1) * MIB], index * MIB)
            os.pwrite(files[1], hashes[index], index * 32)
            os.pwrite(files[2], b"\x01", index)
    finally:
        for file in files:
            os.close(file)


def store_whole(store, data: bytes):
    """A blob of any size, by the way of a partial."""
    partial = store.partial(name_of(data), len(data))
    fill(partial, data)
    return store.publish(partial, verified(data), root_cid=root_of(data))


def small_items(store, many: list[bytes]) -> list[tuple[Path, verify.VerifiedBlob]]:
    items = []
    for number, data in enumerate(many):
        path = store.small_dir() / f"small-{number}"
        path.write_bytes(data)
        items.append((path, verified(data)))
    return items


@contextlib.contextmanager
def small_disk(where: Path, size_bytes: int):
    """A real tmpfs of that size, unmounted at the end (needs root)."""
    where.mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(where)], check=True
    )
    try:
        yield where
    finally:
        subprocess.run(["umount", "--lazy", str(where)], check=True)


@contextlib.contextmanager
def read_only(where: Path):
    """Mount a directory read-only onto itself; root would get past permissions."""
    subprocess.run(["mount", "--bind", str(where), str(where)], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(where)], check=True)
        yield where
    finally:
        subprocess.run(["umount", "--lazy", str(where)], check=True)


def file_count(directory: Path) -> int:
    return sum(1 for path in directory.rglob("*") if path.is_file())


def rooted(store, data: bytes):
    """A blob as a pull by its root leaves it: shown under the root, not hashed as a whole."""
    partial = store.partial(root_of(data), len(data))
    fill(partial, data)
    proven = verify.verify_root(root_of(data), len(data), partial.block_hashes())
    return store.rooted.publish(partial, proven)


def name(store, blob):
    """Hash it as the agent does; gives what the store made of it."""
    data = blob.path.read_bytes()
    whole = verify.verify_whole(None, len(data), digests.whole_digests(data))
    return store.rooted.name(blob, whole, b"".join(block_hashes(data)))
