"""Every file at or below a CID, with the proven hashes of its blocks: what a pull wants to know.

Of a file as our profile writes it the nodes tell the hash of every block, so its bytes can come
from anybody; of a file of another shape they tell its size alone. Raw leaves are not asked for: of
a file of one block the size is its folder's word, to be held against the block's own.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from p2pcache.content import cid as cids
from p2pcache.content import digests
from p2pcache.content.blocks import MAX_BLOCK_BYTES
from p2pcache.content.dag import files, folders, path
from p2pcache.content.dag.hashes import check_hash
from p2pcache.content.dag.walk import run, stream
from p2pcache.content.names import safe_path
from p2pcache.content.unixfs import LEAF_BYTES, file_root
from p2pcache.errors import Untrusted, UsageError

if TYPE_CHECKING:
    from p2pcache.content.dag.walk import Get

MAX_ENTRIES = 200_000  # of one folder with all below; a listing holds one value for each
MAX_DEPTH = 100  # folders within folders
MAX_NODES_BYTES = 32 << 20  # of folders that are kept to be shown again: 300,000 entries
MAX_PATHS_CHARS = 64 << 20  # of all paths; equal folders may be linked anywhere


@dataclass(frozen=True, slots=True)
class DagFile:
    """One file. `cid`: as CIDv1. `block_map`: sha2-256 of each block, joined, of a file as our
    profile writes it; None of one block, and of every other shape.
    """

    path: str
    size: int
    cid: bytes
    block_map: bytes | None = field(default=None, repr=False)

    @property
    def digest(self) -> bytes | None:
        """The sha2-256 multihash of its bytes, where the CID is one."""
        is_whole = cids.codec(self.cid) == cids.RAW and _is_sha256(self.cid)
        return cids.multihash(self.cid) if is_whole else None

    @property
    def is_foreign(self) -> bool:
        """Whether nothing but its own blocks can prove it."""
        return self.digest is None and self.block_map is None


class Listed:
    """What a listing finds. Its bounds hold whatever the folders say."""

    def __init__(self) -> None:
        self.files: list[DagFile] = []
        self.believed: set[bytes] = set()  # CIDs of files whose sizes are their folders' word
        self.symlinks = 0
        self.chars = 0
        self.nodes: dict[bytes, bytes] = {}  # of folders and symlinks, by CIDv1, the root's first
        self._nodes_left = MAX_NODES_BYTES

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know of it."""
        if not self.symlinks:
            return ()
        return (f"{self.symlinks} symlinks are left out: only files are brought",)

    def path(self, text: str) -> str:
        """The path itself. Called before it is kept: a long one above many entries is as many."""
        self.chars += len(safe_path(text))
        if self.chars > MAX_PATHS_CHARS:
            raise Untrusted(f"a folder's paths have more than {MAX_PATHS_CHARS} characters")
        return text

    def note(self, cid: bytes, block: bytes) -> bytes:
        """A node of a folder, or a symlink. Too many of them are none."""
        if cid not in self.nodes and cids.multihash(cid)[0] != cids.IDENTITY:
            self._nodes_left -= len(block)
            self.nodes[cid] = block
        if self._nodes_left < 0:
            self.nodes.clear()
        return block

    def correct(self, sizes: dict[bytes, int]) -> None:
        """Put the sizes that blocks have in the place of those that folders tell. By CID."""
        for number, file in enumerate(self.files):
            if not 0 <= sizes.get(file.cid, 0) <= MAX_BLOCK_BYTES:
                raise Untrusted(f"a block of `{file.path}` has no {sizes[file.cid]} bytes")
            if sizes.get(file.cid, file.size) != file.size:
                self.files[number] = replace(file, size=sizes[file.cid])


def below(get: Get, root: bytes, path_: str | None) -> bytes:
    """The CIDv1 at the end of a path. Raises as `path.resolve`."""
    return cids.as_v1(run(path.resolve(root, (path_ or "").split("/")), get).cid)


def listed(get: Get, root: bytes, path_: str | None) -> Listed:
    """Every file at or below a root; `path_`: what led to it. Raises Untrusted, UsageError (it is
    a symlink itself), and what `get` does.
    """
    found, seen = Listed(), 0

    def noted(cid: bytes) -> bytes:
        return found.note(cid, get(cid))

    top = found.path(path_) if path_ else ""
    todo: list[tuple[str, bytes, int | None, int]] = [(top, root, None, 0)]
    known: dict[bytes, tuple[DagFile, ...]] = {}
    while todo:
        at, cid, told, depth = todo.pop()
        size = told if cids.codec(cid) == cids.RAW and _is_sha256(cid) else None
        if size is None and cid not in known:
            stat = run(files.stat(cid), get)
            if stat.kind == "directory":
                if depth == MAX_DEPTH:
                    raise Untrusted(f"folders are nested more than {MAX_DEPTH} deep")
                for entry in stream(folders.entries(cid, MAX_ENTRIES), noted):
                    seen += 1
                    if seen > MAX_ENTRIES:
                        raise Untrusted(f"a folder has more than {MAX_ENTRIES} entries")
                    inner = found.path(f"{at}/{entry.name}" if at else entry.name)
                    todo.append((inner, cids.as_v1(entry.cid), entry.size, depth + 1))
                continue
            if stat.kind == "symlink" and not depth:
                raise _symlink(path_ or cids.format_cid(root), stat.target or "")
            if stat.kind == "symlink":
                run(files.stat(cid), noted)
                found.symlinks += 1
                known[cid] = ()
                continue
            if stat.kind != "file":
                raise Untrusted(f"`{at or _alone(root)}` is no file, but a block of another kind")
            known[cid] = (_file(get, cid, stat.size),)
        like = known[cid] if size is None else (_file(get, cid, size),)
        if size is not None:
            if size > MAX_BLOCK_BYTES:
                raise Untrusted(
                    f"the folder's DAG is wrong, whoever has it: `{at}` is one block, "
                    f"and would have {size} bytes"
                )
            found.believed.add(cid)
        found.files += [replace(file, path=at or found.path(_alone(root))) for file in like]
    return found


def _symlink(name: str, target: str) -> UsageError:
    return UsageError(
        f"`{name[:200]}` is a symlink to `{target[:200]}`: symlinks are told, never followed",
        hint="name what it points to, by its own path below the root",
    )


def _alone(root: bytes) -> str:
    """The name of the one file that a CID is: its sha2-256 where that is the CID's, as for
    `resolve.path_of`.
    """
    digest = DagFile("", 0, root).digest
    return cids.format_cid(root) if digest is None else digest[2:].hex()


def _file(get: Get, cid: bytes, size: int) -> DagFile:
    """One file, without its path. `size`: of a single block its folder's word, else proven."""
    check_hash(cid)
    is_raw = cids.codec(cid) == cids.RAW
    return DagFile("", size, cid, None if is_raw else _block_map(get, cid, size))


def _block_map(get: Get, cid: bytes, size: int) -> bytes | None:
    """The hashes of a file's blocks, if it is as our profile writes it; else None, soon."""
    hashes, at = bytearray(), 0
    for leaf in stream(files.leaves(cid), get):
        end = min(at + LEAF_BYTES, size)
        is_ours = leaf.data is None and (leaf.start, leaf.end) == (at, end)
        if not is_ours or not _is_sha256(leaf.cid):
            return None
        hashes += cids.multihash(leaf.cid)[2:]
        at = end
    pieces = (bytes(hashes[i : i + 32]) for i in range(0, len(hashes), 32))
    if at != size or not size or file_root(pieces, size).cid != cid:
        return None
    return bytes(hashes)


def _is_sha256(cid: bytes) -> bool:
    return digests.is_sha256(cids.multihash(cid))
