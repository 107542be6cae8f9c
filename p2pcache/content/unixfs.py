"""UnixFS roots under the profile unixfs-v1-2025 (IPIP-499): what Kubo 0.40+ gives with it.

CIDv1, sha2-256, 1 MiB fixed chunks, raw leaves, balanced tree of at most 1024 links a node; a
file of at most one chunk is its raw leaf. Directories are plain while their dag-pb block has at
most 262144 bytes; larger ones are sharded (HAMT). `dag.build` makes the same under other profiles,
of the parts that are here.

The importer sees hashes of leaves, in order, and keeps one short list a level: the tree of a file
of any size is never in memory.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from p2pcache.content import cid as cids
from p2pcache.content.dag import build
from p2pcache.content.dag.build.layout import Balanced, file_node
from p2pcache.content.dag.build.profile import V1_2025, Keep, Root, forget

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = [
    "EMPTY_SHA256", "LEAF_BYTES", "MAX_LINKS", "MAX_PLAIN_DIRECTORY_BYTES", "FileImporter", "Keep",
    "Root", "directory", "file_dag_size", "file_root", "tree",
]  # fmt: skip

LEAF_BYTES = V1_2025.chunk_bytes
MAX_LINKS = V1_2025.max_links
MAX_PLAIN_DIRECTORY_BYTES = V1_2025.shard_bytes

EMPTY_SHA256 = hashlib.sha256(b"").digest()


class FileImporter:
    """Builds a file's root from its leaves in order; memory is MAX_LINKS entries a level."""

    def __init__(self, keep: Keep = forget) -> None:
        self._layout = Balanced(V1_2025, keep)

    def add_leaf(self, sha256: bytes, size: int) -> None:
        """The next chunk: its sha2-256 and length. Only the last may be shorter than a chunk."""
        self._layout.add(Root(cids.raw_cid(sha256), size, size))

    def finish(self) -> Root:
        """The root. An importer without leaves is the empty file."""
        return self._layout.finish() or Root(cids.raw_cid(EMPTY_SHA256), 0, 0)


def file_root(block_hashes: Iterable[bytes], size: int, keep: Keep = forget) -> Root:
    """The root of a file from the sha2-256 of each of its 1 MiB blocks; an empty file has none.
    Raises ValueError when the number of hashes does not fit the size.
    """
    importer = FileImporter(keep)
    left = size
    for block_hash in block_hashes:
        if left <= 0:
            raise ValueError("more block hashes than blocks")
        importer.add_leaf(block_hash, min(left, LEAF_BYTES))
        left -= LEAF_BYTES
    if left > 0:
        raise ValueError("fewer block hashes than blocks")
    return importer.finish()


def file_dag_size(size: int) -> int:
    """The `dag_size` of a file's root, from its size alone: the shape of the tree follows from it.

    All nodes of one level but the last are alike, so a few nodes tell of all.
    """
    leaves = max(1, -(-size // LEAF_BYTES))
    zero = bytes(32)
    level = [(leaves - 1, Root(cids.raw_cid(zero), LEAF_BYTES, LEAF_BYTES))]
    tail = size - (leaves - 1) * LEAF_BYTES
    last = Root(cids.raw_cid(zero), tail, tail)
    while level[0][0]:
        count, full = level[0]
        parents, rest = divmod(count, MAX_LINKS)
        last = file_node(V1_2025, [full] * rest + [last])
        level = [(parents, file_node(V1_2025, [full] * MAX_LINKS) if parents else full)]
    return last.dag_size


def directory(entries: Mapping[str, Root], keep: Keep = forget) -> Root:
    """A directory of files and directories."""
    return build.directory(V1_2025, entries, keep)


def tree(
    files: Mapping[str, Root], empty_directories: Iterable[str] = (), keep: Keep = forget
) -> Root:
    """The root of a whole folder from `path -> root` of its files."""
    return build.tree(V1_2025, files, empty_directories, keep)
