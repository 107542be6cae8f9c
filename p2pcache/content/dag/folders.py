"""Directories: their entries, plain and sharded (HAMT), and one entry by its name.

A HAMT is believed only where it is one: each name stands where its hash puts it, and no shard but
the root is empty. So a shard cannot be met twice, and a few blocks that tell of a billion entries
are refused when the second one of them is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from p2pcache.content.dag.walk import Flow, Walk

MAX_ENTRIES = 1_000_000  # of one listing, unless the caller says otherwise


@dataclass(frozen=True, slots=True)
class Entry:
    """One child of a directory. `cid` as it is written; `size`: its Tsize as the link claims."""

    name: str
    cid: bytes
    size: int | None


def entries(root: bytes, most: int = MAX_ENTRIES) -> Flow[Entry]:
    """Every entry, names once each: of a plain directory as they are written (sorted by bytes as
    Kubo does), of a HAMT in the order of the shards. Raises Untrusted (also for more than `most`,
    names twice, names that are no name: empty, `.`, `..`, with `/` or NUL, no UTF-8); UsageError
    when it is no directory.
    """
    raise NotImplementedError


def find(root: bytes, name: str) -> Walk[Entry | None]:
    """The entry of that name; of a HAMT only the shards on its way are needed. Raises as
    `entries`.
    """
    raise NotImplementedError


def shards(root: bytes) -> Flow[bytes]:
    """The CIDs of the blocks that make up the directory itself, as written: the root, then the
    sub-shards of a HAMT, depth first. Raises as `entries`.
    """
    raise NotImplementedError
