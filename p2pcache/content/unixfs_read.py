"""UnixFS nodes that others wrote, under the one profile that we write: unixfs-v1-2025.

A file's leaves are proven by building its root again from them; a folder's block is read along its
only canonical shape. What has another shape (chunks of another size, HAMT, links, modes, CIDv0) is
refused with what to do. `get` gives the bytes of a block that match its CID; nothing else is
believed. Whatever the blocks hold, only Untrusted comes out, besides what `get` raises.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from p2pcache.content import cid as cids
from p2pcache.content import varint
from p2pcache.content.blockmap import prove_by_root
from p2pcache.content.car import CID_BYTES, known_cid
from p2pcache.content.names import safe_path
from p2pcache.content.unixfs import (
    DATA,
    DIRECTORY,
    FILE_TYPE,
    FILESIZE,
    HASH,
    LEAF_BYTES,
    LINKS,
    MAX_LINKS,
    NAME,
    TSIZE,
)
from p2pcache.errors import Untrusted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Get = Callable[[bytes], bytes]

MAX_PATHS_CHARS = 64 << 20  # of all paths below one folder; equal folders may be linked anywhere
MAX_DEPTH = 5  # 1024^5 leaves are more than any size we take
HINT = "write it with `ipfs add` under the profile unixfs-v1-2025 (Kubo 0.40 or newer)"


@dataclass(frozen=True, slots=True)
class Link:
    """A child: its name (empty in a file), CID, and the bytes of all blocks below as its parent
    tells them: of a raw one its length.
    """

    name: bytes
    cid: bytes
    tsize: int


@dataclass(frozen=True, slots=True)
class Node:
    """A dag-pb node. `size`: content bytes of a file as the node says it, None for a folder."""

    size: int | None
    links: tuple[Link, ...]


def parse_node(block: bytes) -> Node:
    """A block to its links. Raises Untrusted."""
    links = []
    at = 0
    while block[at : at + 1] == bytes([LINKS]):
        body, at = _bytes_at(block, at + 1)
        links.append(_link(body))
    if block[at : at + 1] != bytes([DATA]):
        raise _other("a node has no UnixFS data")
    data, at = _bytes_at(block, at + 1)
    if at != len(block):
        raise _other("a node has bytes after its data")
    if data == DIRECTORY:
        return Node(None, tuple(links))
    if not data.startswith(FILE_TYPE + bytes([FILESIZE])):
        raise _other("a node is neither a plain file nor a plain folder")
    size, _ = varint.decode(data, len(FILE_TYPE) + 1)
    return Node(size, tuple(links))


def _link(body: bytes) -> Link:
    """PBLink: Hash, Name, Tsize, in this order."""
    if body[:1] != bytes([HASH]):
        raise _other("a link has no hash")
    cid, at = _bytes_at(body, 1)
    if len(cid) != CID_BYTES or cids.codec(known_cid(cid)) not in (cids.RAW, cids.DAG_PB):
        raise _other("a link is to something else than a UnixFS block with a CIDv1")
    if body[at : at + 1] != bytes([NAME]):
        raise _other("a link has no name")
    name, at = _bytes_at(body, at + 1)
    tsize, end = varint.decode(body, at + 1) if body[at : at + 1] == bytes([TSIZE]) else (0, -1)
    if end != len(body):
        raise _other("a link has no size at its end")
    return Link(name, cid, tsize)


def _bytes_at(data: bytes, at: int) -> tuple[bytes, int]:
    length, start = varint.decode(data, at)
    end = start + length
    if end > len(data):
        raise _other("a node is cut short")
    return data[start:end], end


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
    """Path and root of every file below a folder; see `sized_files_below`."""
    return ((path, cid) for path, cid, _ in sized_files_below(root, get, most))


def sized_files_below(root: bytes, get: Get, most: int) -> Iterator[tuple[str, bytes, int | None]]:
    """Path, root and size of every file below a folder; the path of a root that is a file is empty.
    The size of one that is a single block is its folder's word, of others their own.

    Looks at `most` entries, then raises Untrusted; so it does for a name that is no safe path, and
    for a name that comes twice. A file's node is read once however many links lead to it: what it
    costs is no matter of entries.
    """
    seen = chars = 0
    files: dict[bytes, int] = {}
    todo = [("", root)]
    while todo:
        prefix, cid = todo.pop()
        if cid in files:
            yield prefix[:-1], cid, files[cid]
            continue
        if cids.codec(cid) == cids.RAW:
            yield prefix[:-1], cid, None
            continue
        node = parse_node(get(cid))
        if node.size is not None:
            files[cid] = node.size
            yield prefix[:-1], cid, node.size
            continue
        seen += len(node.links)
        if seen > most:
            raise Untrusted(f"a folder has more than the {most} entries that it may have")
        names = [link.name for link in node.links]
        if sorted(set(names)) != names:
            raise _other("a folder's names are unsorted, or one comes twice")
        for link in node.links:
            path = prefix + _name(link.name)
            safe_path(path)
            chars += len(path)
            if chars > MAX_PATHS_CHARS:
                raise Untrusted(f"a folder's paths have more than {MAX_PATHS_CHARS} characters")
            if cids.codec(link.cid) == cids.RAW:
                yield path, link.cid, link.tsize
            else:
                todo.append((path + "/", link.cid))


def _name(name: bytes) -> str:
    """One component: a folder's name with a slash in it would be a path of its own."""
    try:
        text = name.decode()
    except UnicodeDecodeError as exc:
        raise Untrusted("a folder's name is not UTF-8") from exc
    if "/" in text:
        raise Untrusted(f"the file name {text[:80]!a} is refused: it has a slash")
    return text
