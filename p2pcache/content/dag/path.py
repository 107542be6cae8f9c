"""`root/a/b` to the block that it means: through directories, and through maps and lists of
dag-cbor and dag-json.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from p2pcache.content import cid as cids
from p2pcache.content.dag import files, folders
from p2pcache.content.dag.cbor import CidLink
from p2pcache.content.dag.folders import Shard
from p2pcache.content.dag.links import value_of
from p2pcache.content.dag.walk import Found, each, need
from p2pcache.errors import NotFound, UsageError

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from p2pcache.content.dag.cbor import Value
    from p2pcache.content.dag.walk import Need, Walk

MAX_COMPONENTS = 1000


class NameMissing(NotFound):
    """A block on the way lacks a name of the path: `name` below `under`, as written."""

    def __init__(self, name: str, under: bytes, why: str) -> None:
        super().__init__(f"there is nothing at `{name[:80]}`: {why}")
        self.name = name
        self.under = under


@dataclass(frozen=True, slots=True)
class Resolved:
    """`cid`: of the block at the end, as written. `remainder`: what of the path lies within that
    block (dag-cbor, dag-json), mostly nothing. `roots`: the root, then the CID of each component
    that led to another block (X-Ipfs-Roots), ending in `cid`. `blocks`: every block above `cid`
    that the way needed, shards too, in order: what a CAR begins with.
    """

    cid: bytes
    remainder: tuple[str, ...]
    roots: tuple[bytes, ...]
    blocks: tuple[bytes, ...]


def resolve(root: bytes, path: Sequence[str]) -> Walk[Resolved]:
    """`path`: its components, which are names and never empty, `.` or `..` (UsageError). The block
    at the end is not needed. Raises NameMissing for a name that is not there, and below a file or
    a symlink; Untrusted.
    """
    above: list[bytes] = []

    def note(found: Found) -> tuple[()]:
        above.append(found.cid)
        return ()

    end = yield from each(trail(root, path), note)
    return Resolved(end.roots[-1], end.remainder, end.roots, tuple(above))


@dataclass(frozen=True, slots=True)
class End:
    """Where a path ends: see `Resolved`."""

    roots: tuple[bytes, ...]
    remainder: tuple[str, ...] = ()


def trail(root: bytes, path: Sequence[str]) -> Generator[Need | Found, bytes, End]:
    """`resolve`, giving each block above the end as it is met."""
    if len(path) > MAX_COMPONENTS or any(name in ("", ".", "..") for name in path):
        raise UsageError("a path has too many components, or one that is empty, `.` or `..`")
    roots = [root]
    at = 0
    while at < len(path):
        cid = roots[-1]
        if cids.codec(cid) in (cids.DAG_CBOR, cids.DAG_JSON):
            block = yield from need(cid)
            link, taken = _inside(cid, value_of(cid, block), path[at:])
            if link is None:
                return End(tuple(roots), tuple(path[at:]))
            yield Found(cid, block)
            roots.append(link)
            at += taken
        else:
            roots.append((yield from _entry(cid, path[at])))
            at += 1
    return End(tuple(roots))


def _entry(cid: bytes, name: str) -> Generator[Need | Found, bytes, bytes]:
    """The CID that a directory has for a name."""
    if cids.codec(cid) != cids.DAG_PB:
        raise NameMissing(name, cid, "it is no folder")
    block = yield from need(cid)
    if files.stat_of(cid, block).kind != "directory":
        raise NameMissing(name, cid, "it is no folder")
    yield Found(cid, block)
    item = folders.find_in(cid, block, name)
    while isinstance(item, Shard):
        block = yield from need(item.cid)
        yield Found(item.cid, block)
        item = folders.find_in(item.cid, block, name, item.place)
    if item is None:
        raise NameMissing(name, cid, "the folder has no such name")
    return item.cid


def _inside(cid: bytes, value: Value, names: Sequence[str]) -> tuple[bytes | None, int]:
    """The first link on the way of `names` through a value, and how many names lead to it; None if
    they end within the value. Raises NameMissing.
    """
    for taken, name in enumerate(names):
        if isinstance(value, CidLink):
            return value.cid, taken
        if isinstance(value, dict) and name in value:
            value = value[name]
        elif isinstance(value, list) and _is_index(name) and int(name) < len(value):
            value = value[int(name)]
        else:
            raise NameMissing(name, cid, "the block has no such key")
    return (value.cid, len(names)) if isinstance(value, CidLink) else (None, len(names))


def _is_index(name: str) -> bool:
    return name.isascii() and name.isdigit() and len(name) <= 9
