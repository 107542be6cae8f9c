"""UnixFS: what the data of a dag-pb node mean. https://specs.ipfs.tech/unixfs/ Only Untrusted comes
out.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Kind(enum.IntEnum):
    """DataType of unixfs.proto."""

    RAW = 0  # a leaf of old files
    DIRECTORY = 1
    FILE = 2
    METADATA = 3  # nothing ever wrote it
    SYMLINK = 4
    SHARD = 5  # a node of a HAMT directory


@dataclass(frozen=True, slots=True)
class FsData:
    """`data`: content in the node itself, a symlink's target, a shard's bitfield. `size` of a file
    as the node claims it, None if it does not; `block_sizes`: content bytes below each link.
    `mtime`: seconds and nanoseconds.
    """

    kind: Kind
    data: bytes = b""
    size: int | None = None
    block_sizes: tuple[int, ...] = ()
    hash_type: int | None = None
    fanout: int | None = None
    mode: int | None = None
    mtime: tuple[int, int] | None = None


def parse(data: bytes) -> FsData:
    """Raises Untrusted. Fields that nobody knows yet are skipped, as protobuf wants it."""
    raise NotImplementedError


def encode(meaning: FsData) -> bytes:
    """As Kubo writes it: fields in the order of their numbers."""
    raise NotImplementedError
