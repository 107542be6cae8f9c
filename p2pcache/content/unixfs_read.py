"""Files and folders of the one profile that we write, unixfs-v1-2025, as the store takes them in.

A file's leaves are proven by building its root again from them; a folder has to be one that the
profile makes, so that its root can be made again of its files. `dag` reads the blocks and refuses
what is malformed; what is well made under another profile (chunks of another size, symlinks, modes,
CIDv0) is refused here, with what to do. `get` gives the bytes of a block that match its CID.
Whatever the blocks hold, only Untrusted comes out, besides what `get` raises.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from p2pcache.content import cid as cids
from p2pcache.content.blockmap import prove_by_root
from p2pcache.content.car import known_cid
from p2pcache.content.dag import folders, fsdata, node
from p2pcache.content.dag.build.profile import V1_2025
from p2pcache.content.dag.folders import Entry, Place, Shard
from p2pcache.content.dag.fsdata import FsData, Kind
from p2pcache.content.names import safe_path
from p2pcache.content.unixfs import LEAF_BYTES, MAX_LINKS
from p2pcache.errors import Untrusted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from p2pcache.content.dag.node import Link

    Get = Callable[[bytes], bytes]

MAX_PATHS_CHARS = 64 << 20  # of all paths below one folder; equal folders may be linked anywhere
MAX_DEPTH = 5  # 1024^5 leaves are more than any size we take
HINT = "write it with `ipfs add` under the profile unixfs-v1-2025 (Kubo 0.40 or newer)"


@dataclass(frozen=True, slots=True)
class Node:
    """A dag-pb node. `size`: content bytes of a file as the node says it, None for a folder or a
    shard of one.
    """

    size: int | None
    links: tuple[Link, ...]


def parse_node(block: bytes) -> Node:
    """A block to its links. Raises Untrusted."""
    found = node.parse(block)
    meaning = fsdata.of_node(found)
    if meaning is None:
        raise _other("a node has no UnixFS data")
    for link in found.links:
        if cids.codec(known_cid(link.cid)) not in (cids.RAW, cids.DAG_PB) or cids.is_v0(link.cid):
            raise _other("a link is to something else than a UnixFS block with a CIDv1")
    if meaning == FsData(Kind.DIRECTORY):
        return Node(None, found.links)
    shard = FsData(Kind.SHARD, meaning.data, hash_type=fsdata.MURMUR3, fanout=V1_2025.fanout)
    if meaning == shard:
        return Node(None, found.links)
    file = FsData(Kind.FILE, size=meaning.size, block_sizes=meaning.block_sizes)
    if meaning.kind is Kind.SYMLINK:
        raise Untrusted(
            "a folder has a symlink: not supported",
            hint="leave it out; the IPFS RPC takes such a CAR (`ipfs --api ... dag import`)",
        )
    if meaning != file or meaning.size is None:
        raise _other("a node is neither a plain file nor a plain folder")
    return Node(meaning.size, found.links)


def _other(what: str) -> Untrusted:
    return Untrusted(f"{what}: not supported", hint=HINT)


def leaf_hashes(root: bytes, size: int, get: Get) -> bytes:
    """The sha2-256 of every block of a file, joined. Raises Untrusted unless they make this root
    and this size: so no more than the size's leaves are ever looked at.
    """
    most = -(-size // LEAF_BYTES)
    hashes = bytearray()
    if cids.codec(root) == cids.RAW:  # of at most one block; an empty one has a leaf without bytes
        if most > 1:
            raise _other(f"a file of {size} bytes is one block")
        hashes += root[4:] if size else b""
    else:
        todo = [(root, 0)]
        while todo:
            cid, depth = todo.pop()
            if cids.codec(cid) == cids.RAW:
                hashes += cid[4:]
                if len(hashes) > 32 * most:
                    raise _other(f"a file has more blocks than its {size} bytes fill")
                continue
            node = parse_node(get(cid))
            if node.size is None or not 0 < len(node.links) <= MAX_LINKS or depth == MAX_DEPTH:
                raise _other("a file's tree has another shape")
            todo.extend((link.cid, depth + 1) for link in reversed(node.links))
    try:
        prove_by_root(size, bytes(hashes), root)
    except Untrusted as exc:
        raise _other(f"a file of {size} bytes has other blocks than its root tells") from exc
    return bytes(hashes)


def files_below(root: bytes, get: Get, most: int) -> Iterator[tuple[str, bytes]]:
    """Path and root of every file below a folder; the path of a root that is a file is empty.

    Looks at `most` entries, then raises Untrusted; so it does for a name that is no safe path, and
    for a name that comes twice. A file's node is read once however many links lead to it: what it
    costs is no matter of entries.
    """
    seen = chars = 0
    files: set[bytes] = set()
    todo: list[tuple[str, bytes, Place | None]] = [("", root, None)]
    while todo:
        prefix, cid, place = todo.pop()
        if place is None and cid in files:
            yield prefix[:-1], cid
            continue
        block = get(cid)
        if parse_node(block).size is not None and place is None:
            files.add(cid)
            yield prefix[:-1], cid
            continue
        items = folders.opened(cid, block, place)
        names = [item.name.encode() for item in items if isinstance(item, Entry)]
        seen += len(names)
        if seen > most:
            raise Untrusted(f"a folder has more than the {most} entries that it may have")
        if len(names) == len(items) and place is None and sorted(names) != names:
            raise _other("a folder's names are unsorted")
        for item in items:
            if isinstance(item, Shard):
                todo.append((prefix, item.cid, item.place))
                continue
            path = safe_path(prefix + item.name)
            chars += len(path)
            if chars > MAX_PATHS_CHARS:
                raise Untrusted(f"a folder's paths have more than {MAX_PATHS_CHARS} characters")
            if cids.codec(item.cid) == cids.RAW:
                yield path, item.cid
            else:
                todo.append((path + "/", item.cid, None))
