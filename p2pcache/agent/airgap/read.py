"""Brings what a CAR holds into the store: a bundle of ours, or any DAG of IPFS. Blocking.

Every block is checked against its CID when it is read, and every file against the digest that its
manifest lists (a file of IPFS against its root) before it gets a name in the store. Manifests are
kept when all of their files are here. After a crash what was verified stays; the rest is brought by
the next import.

Of a DAG the files that our own profile writes become blobs; whatever blobs do not imply is kept as
loose blocks, so that all of it can be written again as it came.
"""

from __future__ import annotations

import os
import secrets
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from p2pcache.agent.airgap.blocks import Blocks, open_blocks
from p2pcache.content import bundle, digests, manifest, unixfs_read
from p2pcache.content import cid as cids
from p2pcache.content.dag.listing import listed
from p2pcache.content.digests import WholeHasher, is_git_sha1, sha256_digest
from p2pcache.content.manifest import MAX_FILES, FileEntry, Manifest
from p2pcache.content.unixfs import LEAF_BYTES
from p2pcache.content.verify import verify_loose, verify_whole
from p2pcache.errors import Untrusted, UsageError
from p2pcache.store.durable import local_faults
from p2pcache.transfer.blocks import LocalBlocks
from p2pcache.transfer.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Mapping
    from pathlib import Path

    from p2pcache.content.dag.listing import DagFile
    from p2pcache.content.signed import SignedResolution
    from p2pcache.content.verify import VerifiedBlob
    from p2pcache.store.blobs import BlobInfo
    from p2pcache.store.store import Hold, Store

    Tell = Callable[[Progress], None]
    """Gets the newest progress; may raise to stop the work between two blocks."""

MAX_EXPANSION = 1000  # times the file's own size: equal blocks are stored once, and a few kilobytes
FREE_BYTES = 1 << 30  # could else ask for the whole disk; up to this much may
MAX_FOREIGN_FILES = 200_000  # of other tools' folders together; each costs 300 bytes here
MAX_AGAIN_BYTES = 64 << 20  # of manifests and folders that are linked again; some 13 s to read
SMALL_BATCH = 64  # files of one block that share an index transaction


@dataclass(frozen=True, slots=True)
class Brought:
    """One manifest of the bundle, or one root of a DAG, which has no names.

    `manifest` None: of a DAG that is a single file, which `blob` is, or not all of whose files are
    as our profile writes them. `dag`: its files, where it was no bundle; then `root` is as the CAR
    writes it, and `notes` say what of it is no file. `also`: other folders that are these files,
    whose nodes came along.
    """

    manifest: Manifest | None
    root: bytes
    names: tuple[SignedResolution, ...]
    restricted: bool
    blob: BlobInfo | None = None
    dag: tuple[DagFile, ...] | None = None
    also: tuple[bytes, ...] = ()
    notes: tuple[str, ...] = ()


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


@dataclass(frozen=True, slots=True)
class New:
    """What was not here before: bytes of files that are blobs now, and of loose blocks."""

    content_bytes: int
    block_bytes: int = 0


def read_bundle(store: Store, path: Path, tell: Tell, hold: Hold) -> tuple[list[Brought], New]:
    """Bring it all; gives what it was, and how much of it was new here.

    Raises NotFound, UsageError, Untrusted, DiskFull, LocalFault.
    """
    with open_blocks(path, lambda: tell(Progress("reading"))) as blocks:
        importing = _Import(store, blocks, tell, hold)
        with local_faults(f"reading {path}"):
            coded = [root for root in blocks.roots if cids.codec(root) == cids.DAG_CBOR]
            lists = [data for root in coded if bundle.is_list(data := importing.block(root))]
            if len(lists) > 1:
                raise Untrusted("a CAR with several lists of a bundle")
            if lists:
                return importing.ours(bundle.parse(lists[0]))
            return importing.dags()


class _Import:
    """One import, step by step."""

    def __init__(self, store: Store, blocks: Blocks, tell: Tell, hold: Hold) -> None:
        self._store = store
        self._blocks = blocks
        self._tell = tell
        self._hold = hold
        self._listed_bytes = 0
        self._files_left = MAX_FOREIGN_FILES
        self._notes: dict[bytes, tuple[str, ...]] = {}  # of DAGs, by their roots

    def ours(self, refs: Iterable[bundle.BundledRef]) -> tuple[list[Brought], New]:
        """A bundle: its manifests say what there is, and their digests what is right."""
        brought = []
        wanted: dict[bytes, _Wanted] = {}
        left = MAX_FILES
        by_files: dict[frozenset[tuple[str, bytes]], bytes] = {}
        for ref in refs:
            entries = manifest.parse(self._listed(ref.manifest))
            left -= len(entries.files)
            if left < 0:
                raise Untrusted(f"a bundle of more than {MAX_FILES} files: too many")
            roots = self._roots(ref.folder, entries)
            for file in entries.files:
                new = _Wanted(file.path, file.size, file.digest, roots[file.path])
                if wanted.setdefault(file.digest, new).size != file.size:
                    raise Untrusted(f"`{file.path}` is listed with two sizes")
            by_files[frozenset(roots.items())] = entries.cid()
            brought.append(Brought(entries, ref.folder, ref.names, ref.restricted))
        others = self._others(by_files, {one.root for one in brought})
        self._check_size(wanted.values())
        for one in brought:
            if one.restricted and one.manifest is not None:  # before anybody could ask for a blob
                self._store.restrict(one.manifest)  # it stays so, whatever happens
        new_bytes = self._bring(list(wanted.values()))
        for number, one in enumerate(brought):
            if one.manifest is not None:
                self._store.put_manifest(one.manifest)
                also = others.get(one.manifest.cid(), [])
                for nodes in also:
                    self._store.ties.keep(one.manifest.cid(), next(iter(nodes)), nodes)
                roots_of = tuple(next(iter(nodes)) for nodes in also)
                brought[number] = replace(one, also=roots_of)
        return brought, New(new_bytes)

    def _others(
        self, by_files: Mapping[frozenset[tuple[str, bytes]], bytes], folders: Container[bytes]
    ) -> dict[bytes, list[dict[bytes, bytes]]]:
        """The nodes of further roots of a bundle, by the manifest whose files each is: its DAG says
        so itself. Raises Untrusted for one that is none.
        """
        found: dict[bytes, list[dict[bytes, bytes]]] = {}
        for root in self._blocks.roots:
            if cids.codec(root) != cids.DAG_PB or root in folders:
                continue
            one = listed(self._listed, cids.as_v1(root), None)
            manifest_cid = by_files.get(frozenset((file.path, file.cid) for file in one.files))
            if manifest_cid is None or not one.nodes:
                raise Untrusted("a bundle has a root that is none of its folders")
            found.setdefault(manifest_cid, []).append(one.nodes)
        return found

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

    def dags(self) -> tuple[list[Brought], New]:
        """A CAR of whatever DAGs: files of our profile become blobs, the rest is kept as blocks."""
        below = {root: self._files(root) for root in self._blocks.roots}
        wanted = {
            file.cid: _Wanted(file.path, file.size, None, file.cid)
            for files in below.values()
            for file in files
            if not file.is_foreign
        }
        self._check_size(wanted.values())
        new = New(self._bring(list(wanted.values())), self._keep_rest(below.values()))
        return [self._brought(root, files) for root, files in below.items()], new

    def _brought(self, root: bytes, files: list[DagFile]) -> Brought:
        """The manifest of a folder, all of whose files are blobs now; the blob of a single file."""
        if not files or any(file.is_foreign for file in files):
            return Brought(None, root, (), False, dag=tuple(files))
        names = {file.path: _name_of_root(file.cid) for file in files}
        blobs = self._store.find_many(list(set(names.values())))
        if files[0].cid == cids.as_v1(root):
            blob = blobs[names[files[0].path]]
            return Brought(None, root, (), False, blob, dag=tuple(files))
        entries = Manifest.from_entries(
            FileEntry(file.path, file.size, sha256_digest(blobs[names[file.path]].sha256))
            for file in files
        )
        self._store.put_manifest(entries)
        return Brought(entries, root, (), False, dag=tuple(files), notes=self._notes[root])

    def _files(self, root: bytes) -> list[DagFile]:
        """Files at or below a root; none of what is no UnixFS, is not whole, or has names that no
        path may have: blocks are all that it is then.
        """
        if cids.codec(root) not in (cids.RAW, cids.DAG_PB):
            return []
        try:
            found = listed(self._listed, cids.as_v1(root), None)
            found.correct({cid: self._blocks.length(cid) for cid in found.believed})
        except (Untrusted, UsageError):
            return []
        self._notes[root] = found.notes
        self._files_left -= len(found.files)
        return found.files if self._files_left >= 0 and self._are_here(found.files) else []

    def _are_here(self, files: Iterable[DagFile]) -> bool:
        """Whether the CAR has all blocks of the files that are to become blobs."""
        hashes = {file.block_map for file in files if file.block_map is not None}
        return all(
            cids.raw_cid(one[at : at + 32]) in self._blocks
            for one in hashes
            for at in range(0, len(one), 32)
        )

    def _keep_rest(self, below: Iterable[list[DagFile]]) -> int:
        """Every block that no blob of these files implies; gives the bytes that were new."""
        implied = set[bytes]()
        for file in (file for files in below for file in files):
            hashes = file.block_map or b""
            implied |= {hashes[at : at + 32] for at in range(0, len(hashes), 32)}
            if file.digest is not None:
                implied.add(digests.raw(file.digest))
        local = LocalBlocks(self._store)
        rest = [
            (cids.make_cid(cids.RAW, multihash), size)
            for multihash, size in self._blocks.each()
            if multihash[2:] not in implied
        ]
        total, done, new_bytes = sum(size for _, size in rest), 0, 0
        self._store.ensure_room(total)
        for number, (cid, size) in enumerate(rest):
            self._tell(Progress("importing", None, done, total, number, len(rest)))
            self._hold([cids.multihash(cid)])
            if local.length(cid) is None:
                new_bytes += size
            local.put(verify_loose(cid, self._blocks.get(cid)))
            done += size
        return new_bytes

    def block(self, cid: bytes) -> bytes:
        """A block of the CAR. Raises Untrusted."""
        return self._blocks.get(cid)

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
