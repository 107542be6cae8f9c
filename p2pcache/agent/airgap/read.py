"""Brings what a CAR holds into the store: a bundle of ours, or files and folders of IPFS. Blocking.

Every block is checked against its CID when it is read, and every file against the digest that its
manifest lists (a file of IPFS against its root) before it gets a name in the store. Manifests are
kept when all of their files are here. After a crash what was verified stays; the rest is brought by
the next import.
"""

from __future__ import annotations

import os
import secrets
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from p2pcache.agent.airgap.blocks import Blocks, open_blocks
from p2pcache.content import bundle, manifest, unixfs_read
from p2pcache.content import cid as cids
from p2pcache.content.digests import WholeHasher, is_git_sha1, sha256_digest
from p2pcache.content.manifest import MAX_FILE_BYTES, MAX_FILES, FileEntry, Manifest
from p2pcache.content.unixfs import LEAF_BYTES
from p2pcache.content.verify import verify_whole
from p2pcache.errors import Untrusted
from p2pcache.store.durable import local_faults
from p2pcache.transfer.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from p2pcache.content.signed import SignedResolution
    from p2pcache.content.verify import VerifiedBlob
    from p2pcache.store.blobs import BlobInfo
    from p2pcache.store.store import Hold, Store

    Tell = Callable[[Progress], None]
    """Gets the newest progress; may raise to stop the work between two blocks."""

MAX_EXPANSION = 1000  # times the file's own size: equal blocks are stored once, and a few kilobytes
FREE_BYTES = 1 << 30  # could else ask for the whole disk; up to this much may
MAX_FOREIGN_FILES = 200_000  # entries of other tools' folders; each costs 300 bytes here
MAX_AGAIN_BYTES = 64 << 20  # of manifests and folders that are linked again; some 13 s to read
SMALL_BATCH = 64  # files of one block that share an index transaction


@dataclass(frozen=True, slots=True)
class Brought:
    """One manifest of the bundle, or one file or folder of a foreign CAR, which has no names.

    `manifest` None: a single file of a foreign CAR, `blob` is it.
    """

    manifest: Manifest | None
    root: bytes
    names: tuple[SignedResolution, ...]
    restricted: bool
    blob: BlobInfo | None = None


@dataclass(frozen=True, slots=True)
class _Wanted:
    """One file to bring. `digest` None: of a foreign CAR, its root says what it is."""

    path: str
    size: int
    digest: bytes | None
    root: bytes

    @property
    def name(self) -> bytes:
        """What the store finds it by."""
        return self.digest if self.digest is not None else _name_of_root(self.root)


def read_bundle(store: Store, path: Path, tell: Tell, hold: Hold) -> tuple[list[Brought], int]:
    """Bring it all; gives what it was, and how many bytes of content were new here.

    Raises NotFound, UsageError, Untrusted, DiskFull, LocalFault.
    """
    with open_blocks(path, lambda: tell(Progress("reading"))) as blocks:
        records = [root for root in blocks.roots if cids.codec(root) == cids.DAG_CBOR]
        if len(records) > 1:
            raise Untrusted("a CAR with several lists of a bundle")
        importing = _Import(store, blocks, tell, hold)
        with local_faults(f"reading {path}"):
            if records:
                return importing.ours(bundle.parse(blocks.get(records[0])))
            return importing.foreign()


class _Import:
    """One import, step by step."""

    def __init__(self, store: Store, blocks: Blocks, tell: Tell, hold: Hold) -> None:
        self._store = store
        self._blocks = blocks
        self._tell = tell
        self._hold = hold
        self._listed_bytes = 0
        self._sizes: dict[bytes, int] = {}  # of files of several blocks, as their nodes say

    def ours(self, refs: Iterable[bundle.BundledRef]) -> tuple[list[Brought], int]:
        """A bundle: its manifests say what there is, and their digests what is right."""
        brought = []
        wanted: dict[bytes, _Wanted] = {}
        left = MAX_FILES
        for ref in refs:
            listed = manifest.parse(self._listed(ref.manifest))
            left -= len(listed.files)
            if left < 0:
                raise Untrusted(f"a bundle of more than {MAX_FILES} files: too many")
            roots = self._roots(ref.folder, listed)
            for file in listed.files:
                new = _Wanted(file.path, file.size, file.digest, roots[file.path])
                if wanted.setdefault(file.digest, new).size != file.size:
                    raise Untrusted(f"`{file.path}` is listed with two sizes")
            brought.append(Brought(listed, ref.folder, ref.names, ref.restricted))
        self._check_size(wanted.values())
        for one in brought:
            if one.restricted and one.manifest is not None:  # before anybody could ask for a blob
                self._store.restrict(one.manifest)  # it stays so, whatever happens
        new_bytes = self._bring(list(wanted.values()))
        for one in brought:
            if one.manifest is not None:
                self._store.put_manifest(one.manifest)
        return brought, new_bytes

    def _roots(self, folder: bytes, listed: Manifest) -> dict[str, bytes]:
        entries = len(listed.files) + sum(file.path.count("/") for file in listed.files)
        paths = {file.path for file in listed.files}
        roots: dict[str, bytes] = {}
        for path, cid in unixfs_read.files_below(folder, self._listed, entries):
            if path not in paths:
                raise Untrusted(f"a folder of the bundle has `{path}`, its manifest does not")
            roots[path] = cid
        if len(roots) != len(paths):
            raise Untrusted("a folder of the bundle lacks files that its manifest lists")
        return roots

    def foreign(self) -> tuple[list[Brought], int]:
        """A CAR of another tool: each root is a file or a folder of files."""
        below: dict[bytes, dict[str, _Wanted]] = {}
        for root in self._blocks.roots:
            found: dict[str, _Wanted] = {}
            left = MAX_FOREIGN_FILES - sum(map(len, below.values()))
            for path, cid in self._files(root, left):
                self._tell(Progress("reading"))
                found[path] = _Wanted(path, self._size(cid), None, cid)
            below[root] = found
        wanted = {one.root: one for files in below.values() for one in files.values()}
        self._check_size(wanted.values())
        new_bytes = self._bring(list(wanted.values()))
        brought = []
        for root, files in below.items():
            blobs = self._store.find_many(list({one.name for one in files.values()}))
            if "" in files:
                brought.append(Brought(None, root, (), False, blobs[files[""].name]))
                continue
            listed = Manifest.from_entries(
                FileEntry(path, one.size, sha256_digest(blobs[one.name].sha256))
                for path, one in files.items()
            )
            self._store.put_manifest(listed)
            brought.append(Brought(listed, root, (), False))
        return brought, new_bytes

    def _files(self, root: bytes, most: int) -> Iterable[tuple[str, bytes]]:
        if cids.codec(root) == cids.RAW:
            return [("", root)]
        if cids.codec(root) != cids.DAG_PB:
            raise Untrusted(f"{cids.format_cid(root)} is no file or folder: not supported")
        return unixfs_read.files_below(root, self._listed, most)

    def _listed(self, cid: bytes) -> bytes:
        """A block that tells what there is. A folder is read again wherever it is linked, so the
        bytes of all that is read are bounded. Raises Untrusted.
        """
        self._tell(Progress("reading"))
        block = self._blocks.get(cid)
        self._listed_bytes += len(block)
        if self._listed_bytes > self._blocks.size_bytes + MAX_AGAIN_BYTES:
            raise Untrusted("a bundle whose folders repeat themselves too often")
        return block

    def _size(self, root: bytes) -> int:
        """Of a file. Thousands of names may lead to it: it is looked at once, a leaf not at all."""
        if cids.codec(root) == cids.RAW:
            return self._blocks.length(root)  # its bytes are checked when they are brought
        if root not in self._sizes:
            size = unixfs_read.parse_node(self._blocks.get(root)).size
            if size is None or size > MAX_FILE_BYTES:
                raise Untrusted("a file of a CAR says that it has more bytes than a file can")
            self._sizes[root] = size
        return self._sizes[root]

    def _check_size(self, wanted: Iterable[_Wanted]) -> None:
        total = sum(one.size for one in wanted)
        if total > FREE_BYTES + MAX_EXPANSION * self._blocks.size_bytes:
            raise Untrusted(f"a bundle of {self._blocks.size_bytes} bytes says it holds {total}")

    # -- content ---------------------------------------------------------------------------------

    def _bring(self, wanted: list[_Wanted]) -> int:
        """Whatever is not here yet; gives its bytes. All of it stays until the import ends."""
        here = self._store.find_held([one.name for one in wanted], self._hold)
        for one in wanted:
            if one.name in here and here[one.name].size != one.size:
                raise Untrusted(
                    f"`{one.path}` does not have the {one.size} bytes it is listed with"
                )
        missing = [one for one in wanted if one.name not in here]
        total, done = sum(one.size for one in missing), 0
        self._store.ensure_room(total)
        small: list[tuple[Path, VerifiedBlob]] = []
        with ExitStack() as drafts:  # what an error leaves of them goes at once
            for number, one in enumerate(missing):
                so_far = Progress("importing", one.path, done, total, number, len(missing))
                draft, blob, hashes = self._written(one, so_far)
                drafts.callback(draft.unlink, missing_ok=True)
                if one.size > LEAF_BYTES:
                    self._hold([blob.sha256])
                    self._store.publish_draft(draft, blob, root_cid=one.root, block_digests=hashes)
                else:
                    small.append((draft, blob))
                done += one.size
                if len(small) == SMALL_BATCH or one is missing[-1]:
                    self._hold(blob.sha256 for _, blob in small)
                    self._store.publish_small(small)
                    small.clear()
                    drafts.close()
        return total

    def _block_of(self, path: str, sha256: bytes) -> bytes:
        try:
            return self._blocks.get(cids.raw_cid(sha256))
        except Untrusted as exc:
            raise Untrusted(f"`{path}` of the bundle: {exc.message}", hint=exc.hint) from exc

    def _written(self, one: _Wanted, so_far: Progress) -> tuple[Path, VerifiedBlob, bytes]:
        """A draft with all bytes of a file, each block and the whole verified. Nobody sees it."""
        hashes = unixfs_read.leaf_hashes(one.root, one.size, self._blocks.get)
        digest = one.digest
        hasher = WholeHasher(one.size, git=digest is not None and is_git_sha1(digest))
        draft = self._store.small_dir() / secrets.token_hex(8)
        with local_faults(f"writing {one.path}"):
            try:
                with draft.open("xb") as file:
                    for at in range(0, one.size, LEAF_BYTES):
                        self._tell(replace(so_far, done_bytes=so_far.done_bytes + at))
                        index = at // LEAF_BYTES * 32
                        data = self._block_of(one.path, hashes[index : index + 32])
                        if len(data) != min(LEAF_BYTES, one.size - at):
                            raise Untrusted(f"a block of `{one.path}` has another length")
                        hasher.update(data)
                        file.write(data)
                    file.flush()
                    if one.size <= LEAF_BYTES:
                        os.fsync(file.fileno())  # larger ones are when they are sealed
                try:
                    blob = verify_whole(digest, one.size, hasher.digests())
                except Untrusted as exc:
                    raise Untrusted(f"`{one.path}` of the bundle: {exc.message}") from exc
            except BaseException:
                draft.unlink(missing_ok=True)
                raise
        return draft, blob, hashes


def _name_of_root(root: bytes) -> bytes:
    """A file of one block is stored under its sha2-256; a larger one is found by its root."""
    return cids.multihash(root) if cids.codec(root) == cids.RAW else root
