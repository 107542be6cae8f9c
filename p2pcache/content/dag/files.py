"""Files: stat, offset reads that need no more blocks than they touch, the leaves in order.

A file's node has content of its own, then that of each child; sizes stand in the parent and are
held against what comes: a tree that lies about them is Untrusted where the lie would show. Children
without content are never fetched, and a tree is at most MAX_DEPTH deep, so that the blocks a read
needs are bounded by the bytes it gives.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from p2pcache.content.dag.walk import Flow, Walk

MAX_DEPTH = 64  # a trickle tree of 2^63 bytes has 20

FileKind = Literal["file", "directory", "symlink", "block"]


@dataclass(frozen=True, slots=True)
class Stat:
    """What a root is, from its block alone.

    `kind`: "block" is any codec that UnixFS has no meaning for. `size`: content bytes of a file,
    bytes of a symlink's target, of a block; 0 of a directory. `block_bytes`: of the root's block;
    `dag_bytes`: of all blocks below it and its own, as the links claim (a block that is met twice
    counts twice). `links` of the root. `sharded`: a HAMT directory. `mode`, `mtime`: None if unset.
    """

    kind: FileKind
    size: int
    block_bytes: int
    dag_bytes: int
    links: int
    sharded: bool = False
    target: str | None = None
    mode: int | None = None
    mtime: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Leaf:
    """Content bytes `[start, end)` of a file: either the whole of the raw block `cid`, which nobody
    has fetched, or `data`, which stood in the node `cid`.
    """

    start: int
    end: int
    cid: bytes
    data: bytes | None = None


def stat(root: bytes) -> Walk[Stat]:
    """Needs the root's block alone. Raises Untrusted."""
    raise NotImplementedError


def read(root: bytes, start: int = 0, end: int | None = None) -> Flow[bytes]:
    """Content bytes `[start, end)` of a file, in order, a piece for each block, cut to the file's
    own end. Raises Untrusted; UsageError when it is a directory or a symlink.
    """
    raise NotImplementedError


def leaves(root: bytes, start: int = 0, end: int | None = None) -> Flow[Leaf]:
    """The leaves that `[start, end)` touches, in order and whole. Raw leaves are not fetched, only
    the nodes above them: this proves a block map without its bytes. Raises as `read` does.
    """
    raise NotImplementedError


def target(root: bytes) -> Walk[str]:
    """Where a symlink leads. Raises UsageError when it is none, Untrusted."""
    raise NotImplementedError
