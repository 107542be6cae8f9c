"""Files: stat, offset reads that need no more blocks than they touch, the leaves in order.

A file's node has content of its own, then that of each child; sizes stand in the parent and are
held against what comes: a tree that lies about them is Untrusted where the lie would show. Children
without content are never fetched, and a tree is at most MAX_DEPTH deep, so that the blocks a read
needs are bounded by the bytes it gives.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Literal

from p2pcache.content import cid as cids
from p2pcache.content.dag import fsdata, node
from p2pcache.content.dag.fsdata import Kind
from p2pcache.content.dag.walk import AHEAD_COUNT, each, need
from p2pcache.errors import Untrusted, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from p2pcache.content.dag.fsdata import FsData
    from p2pcache.content.dag.node import Node
    from p2pcache.content.dag.walk import Flow, Walk

MAX_DEPTH = 64  # a trickle tree of 2^63 bytes has 20
MAX_PENDING = 1 << 18  # children that wait for their turn; a balanced file has 1024 a level
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
    """Content bytes `[start, end)` of a file, which one block of it holds: `data`, or if that is
    None the whole of the raw block `cid`, which nobody has fetched. `block`: all of a fetched one.
    """

    start: int
    end: int
    cid: bytes
    data: bytes | None = None
    block: bytes | None = None


@dataclass(frozen=True, slots=True)
class _Child:
    cid: bytes
    start: int
    end: int
    depth: int


@dataclass(frozen=True, slots=True)
class _Content:
    """What a block says of a file: its own content, then its children with their sizes."""

    data: bytes
    children: tuple[tuple[bytes, int], ...]
    size: int


def stat(root: bytes) -> Walk[Stat]:
    """Needs the root's block alone. Raises Untrusted."""
    block = yield from need(root)
    return stat_of(root, block)


def stat_of(cid: bytes, block: bytes) -> Stat:
    """`stat` for who has the block. Raises Untrusted."""
    length = len(block)
    codec = cids.codec(cid)
    if codec != cids.DAG_PB:
        return Stat("file" if codec == cids.RAW else "block", length, length, length, 0)
    parsed = node.parse(block)
    links = len(parsed.links)
    dag_bytes = length + sum(link.size or 0 for link in parsed.links)
    meaning = fsdata.of_node(parsed)
    if meaning is None:
        return Stat("block", length, length, dag_bytes, links)
    size, where = 0, None
    kind: FileKind = "directory"
    if meaning.kind == Kind.SYMLINK:
        kind, where, size = "symlink", _target(meaning.data), len(meaning.data)
    elif meaning.kind in (Kind.FILE, Kind.RAW):
        kind, size = "file", _content(parsed, meaning).size
    elif meaning.kind == Kind.METADATA:
        kind, size = "block", length
    return Stat(
        kind, size, length, dag_bytes, links, meaning.kind == Kind.SHARD, where,
        meaning.mode, meaning.mtime,
    )  # fmt: skip


def read(root: bytes, start: int = 0, end: int | None = None) -> Flow[bytes]:
    """Content bytes `[start, end)` of a file, in order, a piece for each block, cut to the file's
    own end. Raises Untrusted; UsageError when it is a directory or a symlink.
    """

    def cut(leaf: Leaf) -> Iterable[bytes]:
        assert leaf.data is not None
        data = leaf.data[max(0, start - leaf.start) : _end(leaf.start, end)]
        return (data,) if data else ()

    return each(visit(root, start, end), cut)


def leaves(root: bytes, start: int = 0, end: int | None = None) -> Flow[Leaf]:
    """The leaves that `[start, end)` touches, in order and whole. Raw leaves are not fetched, only
    the nodes above them (a root that is raw is): this proves a block map without its bytes. Raises
    as `read` does.
    """

    def touched(leaf: Leaf) -> Iterable[Leaf]:
        if leaf.start == leaf.end or leaf.end <= start or (end is not None and leaf.start >= end):
            return ()
        return (leaf,)

    return each(_visit(root, start, end, fetch=False), touched)


def visit(root: bytes, start: int = 0, end: int | None = None) -> Flow[Leaf]:
    """Every block that a read of `[start, end)` needs, depth first, the root even for no bytes; a
    node without content of its own has `start == end`. Raises as `read` does.
    """
    return _visit(root, start, end, fetch=True)


def _visit(root: bytes, start: int, end: int | None, *, fetch: bool) -> Flow[Leaf]:
    """`fetch`: raw leaves too; else they come as `Leaf`."""
    block = yield from need(root)
    content = _root(root, block)
    end = content.size if end is None else min(end, content.size)
    yield Leaf(0, len(content.data), root, content.data, block)
    pending: list[_Child] = []
    _push(pending, content, _Child(root, 0, content.size, 0), start, end)
    while pending:
        child = pending.pop()
        if not fetch and cids.codec(child.cid) == cids.RAW and not _inlined(child.cid):
            yield Leaf(child.start, child.end, child.cid)
            continue
        ahead = [one.cid for one in islice(reversed(pending), AHEAD_COUNT)]
        block = yield from need(child.cid, ahead)
        content = _inner(child.cid, block)
        if content.size != child.end - child.start:
            raise Untrusted(
                f"a node says that {child.end - child.start} bytes are below it: there are "
                f"{content.size}"
            )
        yield Leaf(child.start, child.start + len(content.data), child.cid, content.data, block)
        _push(pending, content, child, start, end)


def _push(pending: list[_Child], content: _Content, above: _Child, start: int, end: int) -> None:
    """The children that `[start, end)` touches, so that the first is popped first."""
    at = above.start + len(content.data)
    new = []
    for cid, size in content.children:
        if size and start < end and at < end and at + size > start:
            new.append(_Child(cid, at, at + size, above.depth + 1))
        at += size
    if new and above.depth == MAX_DEPTH:
        raise Untrusted(f"a file's tree is more than {MAX_DEPTH} nodes deep")
    pending.extend(reversed(new))
    if len(pending) > MAX_PENDING:
        raise Untrusted(f"a file's tree has more than {MAX_PENDING} nodes beside each other")


def _root(cid: bytes, block: bytes) -> _Content:
    found = stat_of(cid, block)
    if found.kind != "file":
        what = {"directory": "a folder", "symlink": "a symlink"}.get(found.kind, "not UnixFS")
        raise UsageError(f"{cids.format_cid(cid)} is {what}, where a file is wanted")
    return _inner(cid, block)


def _inner(cid: bytes, block: bytes) -> _Content:
    """A block that has to be part of a file. Raises Untrusted."""
    codec = cids.codec(cid)
    if codec == cids.RAW:
        return _Content(block, (), len(block))
    if codec != cids.DAG_PB:
        raise Untrusted(f"a file has a block of the codec {codec:#x}")
    parsed = node.parse(block)
    meaning = fsdata.of_node(parsed)
    if meaning is None or meaning.kind not in (Kind.FILE, Kind.RAW):
        raise Untrusted("a file has a node that is no part of one")
    return _content(parsed, meaning)


def _content(parsed: Node, meaning: FsData) -> _Content:
    if len(parsed.links) != len(meaning.block_sizes):
        raise Untrusted(
            f"a file's node has {len(parsed.links)} links, and sizes of {len(meaning.block_sizes)}"
        )
    size = len(meaning.data) + sum(meaning.block_sizes)
    if meaning.size not in (None, size):
        raise Untrusted(f"a file's node says {meaning.size} bytes, and its parts make {size}")
    if size >> 63:
        raise Untrusted("a file's node tells of more bytes than there can be")
    children = zip((link.cid for link in parsed.links), meaning.block_sizes, strict=True)
    return _Content(meaning.data, tuple(children), size)


def _inlined(cid: bytes) -> bool:
    return cids.multihash(cid)[0] == cids.IDENTITY


def _end(start: int, end: int | None) -> int | None:
    return None if end is None else max(0, end - start)


def target(root: bytes) -> Walk[str]:
    """Where a symlink leads. Raises UsageError when it is none, Untrusted."""
    block = yield from need(root)
    found = stat_of(root, block)
    if found.target is None:
        raise UsageError(f"{cids.format_cid(root)} is no symlink")
    return found.target


def _target(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as exc:
        raise Untrusted("a symlink leads to a name that is no UTF-8") from exc
