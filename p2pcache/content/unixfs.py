"""UnixFS roots under the profile unixfs-v1-2025 (IPIP-499): what Kubo 0.40+ gives with it.

CIDv1, sha2-256, 1 MiB fixed chunks, raw leaves, balanced tree of at most 1024 links a node; a
file of at most one chunk is its raw leaf. Directories are plain while their dag-pb block has at
most 262144 bytes; larger ones need a HAMT, which is not supported yet and says so.

The importer sees hashes of leaves, in order, and keeps one short list a level: the tree of a file
of any size is never in memory.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from p2pcache.content import cid as cids
from p2pcache.content import varint
from p2pcache.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    Keep = Callable[[bytes, bytes], None]
    """Gets the CID and the bytes of each dag-pb node as it is made: children before parents."""

LEAF_BYTES = 1 << 20
MAX_LINKS = 1024
MAX_PLAIN_DIRECTORY_BYTES = 262144  # HAMTShardingSize 256 KiB, block bytes, `>`: exact at the edge

EMPTY_SHA256 = hashlib.sha256(b"").digest()

# protobuf keys: field << 3 | wire type (0 varint, 2 length-delimited)
LINKS, DATA = 0x12, 0x0A  # PBNode
HASH, NAME, TSIZE = 0x0A, 0x12, 0x18  # PBLink
_TYPE, FILESIZE, _BLOCKSIZES = 0x08, 0x18, 0x20  # UnixFS Data
DIRECTORY = bytes([_TYPE, 1])
FILE_TYPE = bytes([_TYPE, 2])


@dataclass(frozen=True, slots=True)
class Root:
    """A node of the tree. `size`: content bytes; `dag_size`: bytes of all blocks below and its own
    (the link's Tsize).
    """

    cid: bytes
    size: int
    dag_size: int


def _forget(cid: bytes, block: bytes) -> None:
    """The `Keep` of who wants the root alone."""


def _field(key: int, data: bytes) -> bytes:
    return bytes([key]) + varint.encode(len(data)) + data


def _link(name: bytes, child: Root) -> bytes:
    """PBLink; canonical dag-pb writes Hash, Name, Tsize in this order, an empty name too."""
    body = _field(HASH, child.cid) + _field(NAME, name)
    return _field(LINKS, body + bytes([TSIZE]) + varint.encode(child.dag_size))


def _node(
    links: Iterable[tuple[bytes, Root]], data: bytes, size: int, keep: Keep = _forget
) -> tuple[Root, bytes]:
    """A dag-pb node. Canonical: links before data."""
    below = 0
    parts = []
    for name, child in links:
        parts.append(_link(name, child))
        below += child.dag_size
    block = b"".join(parts) + _field(DATA, data)
    root = Root(cids.dagpb_cid(hashlib.sha256(block).digest()), size, len(block) + below)
    keep(root.cid, block)
    return root, block


def _file_node(children: list[Root], keep: Keep = _forget) -> Root:
    size = sum(child.size for child in children)
    data = FILE_TYPE + bytes([FILESIZE]) + varint.encode(size)
    data += b"".join(bytes([_BLOCKSIZES]) + varint.encode(child.size) for child in children)
    return _node(((b"", child) for child in children), data, size, keep)[0]


class FileImporter:
    """Builds a file's root from its leaves in order; memory is MAX_LINKS entries a level."""

    def __init__(self, keep: Keep = _forget) -> None:
        self._levels: list[list[Root]] = [[]]
        self._keep = keep

    def add_leaf(self, sha256: bytes, size: int) -> None:
        """The next chunk: its sha2-256 and length. Only the last may be shorter than a chunk."""
        self._add(0, Root(cids.raw_cid(sha256), size, size))

    def _add(self, level: int, child: Root) -> None:
        if level == len(self._levels):
            self._levels.append([])
        row = self._levels[level]
        if len(row) == MAX_LINKS:  # full, and one more comes: only now does it need a parent
            self._levels[level] = [child]
            self._add(level + 1, _file_node(row, self._keep))
        else:
            row.append(child)

    def finish(self) -> Root:
        """The root. An importer without leaves is the empty file."""
        if self._levels == [[]]:
            return Root(cids.raw_cid(EMPTY_SHA256), 0, 0)
        level = 0
        while True:
            row = self._levels[level]
            if level + 1 == len(self._levels):
                if len(row) == 1:
                    return row[0]
                return _file_node(row, self._keep)
            self._add(level + 1, _file_node(row, self._keep))
            level += 1


def file_root(block_hashes: Iterable[bytes], size: int, keep: Keep = _forget) -> Root:
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
        last = _file_node([full] * rest + [last])
        level = [(parents, _file_node([full] * MAX_LINKS) if parents else full)]
    return last.dag_size


def directory(entries: Mapping[str, Root], keep: Keep = _forget) -> Root:
    """A plain directory of files and directories. Raises UsageError when it needs a HAMT."""
    named = sorted((name.encode(), child) for name, child in entries.items())
    root, block = _node(named, DIRECTORY, sum(child.size for child in entries.values()), keep)
    if len(block) > MAX_PLAIN_DIRECTORY_BYTES:
        raise UsageError(
            f"a folder of {len(entries)} entries needs a sharded directory (HAMT): not supported",
            hint="its files and its manifest are stored all the same",
        )
    return root


def tree(
    files: Mapping[str, Root], empty_directories: Iterable[str] = (), keep: Keep = _forget
) -> Root:
    """The root of a whole folder from `path -> root` of its files."""
    top: dict[str, object] = {}
    for path in empty_directories:
        _folder(top, path.split("/"))
    for path, root in files.items():
        *above, name = path.split("/")
        _folder(top, above)[name] = root
    return _tree(top, keep)


def _folder(top: dict[str, object], components: list[str]) -> dict[str, object]:
    here = top
    for component in components:
        below = here.setdefault(component, {})
        if not isinstance(below, dict):
            raise UsageError(f"`{component}` is a file and a folder")
        here = below
    return here


def _tree(node: dict[str, object], keep: Keep) -> Root:
    return directory(
        {
            name: child if isinstance(child, Root) else _tree(child, keep)  # type: ignore[arg-type]
            for name, child in node.items()
        },
        keep,
    )
