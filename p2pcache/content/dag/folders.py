"""Directories: their entries, plain and sharded (HAMT), and one entry by its name.

A HAMT is believed only where it is one: each name stands where its hash puts it, and no shard but
the root is empty. So a shard cannot be met twice, and a few blocks that tell of a billion entries
are refused when the second one of them is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import mmh3

from p2pcache.content import cid as cids
from p2pcache.content.dag import fsdata, node
from p2pcache.content.dag.fsdata import Kind
from p2pcache.content.dag.walk import AHEAD_COUNT, need
from p2pcache.errors import Untrusted, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from p2pcache.content.dag.fsdata import FsData
    from p2pcache.content.dag.node import Link, Node
    from p2pcache.content.dag.walk import Flow, Walk

MAX_ENTRIES = 1_000_000  # of one listing, unless the caller says otherwise
MAX_FANOUT = 1024  # as boxo has it
MIN_FANOUT = 8
HASH_BITS = 64


@dataclass(frozen=True, slots=True)
class Entry:
    """One child of a directory. `cid` as it is written; `size`: its Tsize as the link claims."""

    name: str
    cid: bytes
    size: int | None


@dataclass(frozen=True, slots=True)
class Place:
    """Where a shard stands: the `bits` first bits of the hashes of all names in it are `path`."""

    width: int  # bits of a hash that each level uses: the fanout is 2^width
    bits: int
    path: int


@dataclass(frozen=True, slots=True)
class Shard:
    """A sub-shard of a HAMT, which has to be read to know what is in it."""

    cid: bytes
    place: Place


def entries(root: bytes, most: int = MAX_ENTRIES) -> Flow[Entry]:
    """Every entry, names once each: of a plain directory as they are written (sorted by bytes as
    Kubo does), of a HAMT in the order of the shards. Raises Untrusted (also for more than `most`,
    names twice, names that are no name: empty, `.`, `..`, with `/` or NUL, no UTF-8); UsageError
    when it is no directory.
    """
    count = 0
    block = yield from need(root)
    pending = list(reversed(opened(root, block)))
    while pending:
        item = pending.pop()
        if isinstance(item, Shard):
            block = yield from need(item.cid, _ahead(pending))
            pending.extend(reversed(opened(item.cid, block, item.place)))
            continue
        count += 1
        if count > most:
            raise Untrusted(f"a folder has more than the {most} entries that it may have")
        yield item


def _ahead(pending: Sequence[Entry | Shard]) -> list[bytes]:
    nearest = pending[: -AHEAD_COUNT - 1 : -1]
    return [item.cid for item in nearest if isinstance(item, Shard)]


def find(root: bytes, name: str) -> Walk[Entry | None]:
    """The entry of that name; of a HAMT only the shards on its way are needed. Raises as
    `entries`.
    """
    block = yield from need(root)
    item = find_in(root, block, name)
    while isinstance(item, Shard):
        block = yield from need(item.cid)
        item = find_in(item.cid, block, name, item.place)
    return item


def find_in(
    cid: bytes, block: bytes, name: str, place: Place | None = None
) -> Entry | Shard | None:
    """What one block of a directory says of a name: its entry, the shard to look at next, or that
    there is none.
    """
    hashed = name_hash(name.encode(errors="surrogatepass"))
    for item in opened(cid, block, place):
        if isinstance(item, Shard):
            if hashed >> HASH_BITS - item.place.bits == item.place.path:
                return item
        elif item.name == name:
            return item
    return None


def opened(cid: bytes, block: bytes, place: Place | None = None) -> list[Entry | Shard]:
    """What one block of a directory holds, in order. `place`: of a sub-shard, None of a root."""
    if cids.codec(cid) != cids.DAG_PB:
        raise _other(cid, place)
    parsed = node.parse(block)
    meaning = fsdata.of_node(parsed)
    if meaning is not None and meaning.kind == Kind.SHARD:
        return _shard(parsed, meaning, place)
    if meaning is None or meaning.kind != Kind.DIRECTORY or place is not None:
        raise _other(cid, place)
    found = [Entry(_name(link.name), link.cid, link.size) for link in parsed.links]
    if len({entry.name for entry in found}) != len(found):
        raise Untrusted("a folder has a name twice")
    return list(found)


def shards_of(cid: bytes, block: bytes, place: Place | None = None) -> list[Shard]:
    """The sub-shards of one block of a directory, the last first."""
    return [item for item in reversed(opened(cid, block, place)) if isinstance(item, Shard)]


def _other(cid: bytes, place: Place | None) -> Untrusted | UsageError:
    if place is None:
        return UsageError(f"{cids.format_cid(cid)} is no folder")
    return Untrusted("a sharded folder has a block that is no shard")


def _shard(parsed: Node, meaning: FsData, place: Place | None) -> list[Entry | Shard]:
    fanout = meaning.fanout or 0
    width = fanout.bit_length() - 1
    if not MIN_FANOUT <= fanout <= MAX_FANOUT or fanout != 1 << width:
        raise Untrusted(f"a sharded folder has a fanout of {fanout}: it is no power of two to 1024")
    if meaning.hash_type != fsdata.MURMUR3:
        raise Untrusted("a sharded folder is sorted by another hash than murmur3")
    if place is None:
        place = Place(width, 0, 0)
    elif place.width != width:
        raise Untrusted("a sharded folder has shards of different fanouts")
    elif not parsed.links:
        raise Untrusted("a sharded folder has an empty shard")
    field = int.from_bytes(meaning.data, "big")
    if field.bit_length() > fanout or field.bit_count() != len(parsed.links):
        raise Untrusted("a shard's bits do not fit its links")
    if place.bits + width > HASH_BITS:
        raise Untrusted("a sharded folder is deeper than its hash is long")
    found: list[Entry | Shard] = []
    slot = -1
    for link in parsed.links:
        slot += 1
        while not field >> slot & 1:
            slot += 1
        found.append(_slot(link, slot, place))
    return found


def _slot(link: Link, slot: int, above: Place) -> Entry | Shard:
    """One link of a shard: its name begins with the number of its slot."""
    digits = len(f"{(1 << above.width) - 1:X}")
    if link.name[:digits] != f"{slot:0{digits}X}".encode():
        raise Untrusted("a shard has a link in another place than its name says")
    place = Place(above.width, above.bits + above.width, above.path << above.width | slot)
    if len(link.name) == digits:
        return Shard(link.cid, place)
    name = link.name[digits:]
    if name_hash(name) >> HASH_BITS - place.bits != place.path:
        raise Untrusted("a sharded folder has a name where its hash does not put it")
    return Entry(_name(name), link.cid, link.size)


def name_hash(name: bytes) -> int:
    """murmur3-x64-64: the first eight bytes of murmur3-x64-128 with seed 0, as a number whose first
    bits are the ones that the first level uses.
    """
    first, _ = mmh3.hash64(name, x64arch=True, signed=False)
    return int(first)


def _name(name: bytes) -> str:
    try:
        text = name.decode()
    except UnicodeDecodeError as exc:
        raise Untrusted("a folder's name is not UTF-8") from exc
    if text in ("", ".", "..") or "/" in text or "\0" in text:
        raise Untrusted(f"the name {text[:80]!a} in a folder is refused: it is no name")
    return text
