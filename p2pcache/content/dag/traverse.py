"""The blocks of a CAR, depth first, parents before children: what `ipfs dag export` writes, and the
scopes of https://specs.ipfs.tech/http-gateways/trustless-gateway/
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from p2pcache.content import cid as cids
from p2pcache.content.dag import files, folders
from p2pcache.content.dag.links import links
from p2pcache.content.dag.path import trail
from p2pcache.content.dag.walk import AHEAD_COUNT, Found, each, need
from p2pcache.errors import Untrusted

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from p2pcache.content.dag.files import Leaf, Stat
    from p2pcache.content.dag.walk import Flow

MAX_DEPTH = 1024  # blocks from the root down; a folder of folders may have some hundred
MAX_PENDING = 1 << 19  # links that wait for their turn, some 100 bytes each
MAX_BLOCKS = 1 << 22  # of one traversal, repeats counted: 4 TiB of leaves; 100 bytes each here

Scope = Literal["block", "entity", "all"]


def blocks(
    root: bytes,
    path: Sequence[str] = (),
    scope: Scope = "all",
    entity_bytes: tuple[int, int | None] | None = None,
    *,
    duplicates: bool = False,
    inlined: bool = False,
    most: int = MAX_BLOCKS,
) -> Flow[Found]:
    """The blocks on the way along `path`, then what `scope` wants of its end.

    "block": that block alone; "entity": all of a file, the node or nodes of a directory without
    what they list, a block of another codec; "all": everything below. `entity_bytes`: first and
    last byte (both belong to it; negative counts from the end; None is the end), of a file in scope
    "entity". `duplicates`: a block comes as often as it is met; else once. `inlined`: identity
    blocks too, which stand in their CIDs: `ipfs dag export` writes them, gateways do not. Raises as
    `path.resolve`, and Untrusted for what is too deep or has more than `most` blocks.
    """
    once = _Once(duplicates, inlined, most)
    end = yield from each(trail(root, path), once)
    cid = end.roots[-1]
    if scope == "all":
        yield from each(_below(cid, once), once)
        return
    if scope == "block" or cids.codec(cid) != cids.DAG_PB:
        block = yield from need(cid)
        yield from once(Found(cid, block))
        return
    block = yield from need(cid)
    found = files.stat_of(cid, block)
    if found.kind == "file" and entity_bytes is not None:
        first, last = _range(entity_bytes, found)
        yield from each(files.visit(cid, first, last), lambda leaf: once(_fetched(leaf)))
    elif found.kind == "file":
        yield from each(_below(cid, once), once)
    elif found.sharded:
        yield from each(_shards(cid, block), once)
    else:
        yield from once(Found(cid, block))


class _Once:
    """Lets a block through the first time that it is met, or always; counts both."""

    def __init__(self, duplicates: bool, inlined: bool, most: int) -> None:
        self._inlined = inlined
        self._seen: set[bytes] | None = None if duplicates else set()
        self._most = most
        self._met = 0

    def __call__(self, found: Found) -> Generator[Found, bytes, None]:
        self._met += 1
        if self._met > self._most:
            raise Untrusted(f"more than {self._most} blocks")
        if self.had(found.cid):
            return
        if not self._inlined and cids.multihash(found.cid)[0] == cids.IDENTITY:
            return
        if self._seen is not None:
            self._seen.add(found.cid)
        yield found

    def had(self, cid: bytes) -> bool:
        """Whether a block need not be looked at again."""
        return self._seen is not None and cid in self._seen


def _fetched(leaf: Leaf) -> Found:
    assert leaf.block is not None
    return Found(leaf.cid, leaf.block)


def _below(root: bytes, once: _Once) -> Flow[Found]:
    """A block and all below it, those that were there left out with what is below them."""
    pending = [(root, 0)]
    while pending:
        cid, depth = pending.pop()
        if once.had(cid):
            continue
        ahead = [one for one, _ in pending[: -AHEAD_COUNT - 1 : -1]]
        block = yield from need(cid, ahead)
        yield Found(cid, block)
        below = links(cid, block)
        if below and depth == MAX_DEPTH:
            raise Untrusted(f"a DAG is more than {MAX_DEPTH} blocks deep")
        pending.extend((one, depth + 1) for one in reversed(below))
        if len(pending) > MAX_PENDING:
            raise Untrusted(f"a DAG has more than {MAX_PENDING} links beside each other")


def _shards(root: bytes, block: bytes) -> Flow[Found]:
    """The blocks of a sharded directory."""
    yield Found(root, block)
    pending = folders.shards_of(root, block)
    while pending:
        shard = pending.pop()
        ahead = [one.cid for one in pending[: -AHEAD_COUNT - 1 : -1]]
        block = yield from need(shard.cid, ahead)
        yield Found(shard.cid, block)
        pending += folders.shards_of(shard.cid, block, shard.place)


def _range(wanted: tuple[int, int | None], found: Stat) -> tuple[int, int]:
    """The half-open range of `entity-bytes`, within the file."""
    first, last = wanted
    if first < 0:
        first = max(0, found.size + first)
    if last is None:
        last = found.size - 1
    elif last < 0:
        last = found.size + last
    return first, max(first, min(last + 1, found.size))
