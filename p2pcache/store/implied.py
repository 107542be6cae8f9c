"""Blocks that are here without being stored: those that complete blobs and their folders imply.

    raw leaves of larger blobs    read from the blob's file at their offset
    dag-pb nodes of files         made again from the block map
    nodes of folders              made again from the manifest of the folder, all of whose blobs are
                                  here
    whole blobs                   up to MAX_BLOCK_BYTES, under their raw CID
    manifests                     the dag-cbor that is kept

Everything that is given was hashed just now. `shows` hides what not everybody may read: it gets a
blob, or the CID of a manifest.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

from p2pcache.content import cid as cids
from p2pcache.content import digests, unixfs
from p2pcache.content.blocks import MAX_BLOCK_BYTES
from p2pcache.content.unixfs import Root, file_dag_size, file_root
from p2pcache.errors import Untrusted, UsageError
from p2pcache.store import durable
from p2pcache.store.blobs import BlobInfo
from p2pcache.store.block_index import BlockIndex, Place
from p2pcache.store.layout import BLOCK_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from p2pcache.store.blobs import Blobs
    from p2pcache.store.index import Index
    from p2pcache.store.layout import Layout
    from p2pcache.store.records import Records
    from p2pcache.store.rooted import AnyBlob, Rooted

    Shows = Callable[[AnyBlob | bytes], bool]

_log = logging.getLogger(__name__)

NODES_BYTES = 32 << 20  # of nodes that were made again: of a blob of 500 GB, or of 100 folders
REST = 20.0  # looking for new blobs may take a twentieth of the time: misses may come by thousands
FREE_S = 0.01  # so long a look in vain is none
_HASH = 32


def everything(_: AnyBlob | bytes) -> bool:
    """`shows` of who may read all."""
    return True


class Implied:
    """Those of one store. Any thread may call; reads may wait for the disk. `monotonic`: seconds.
    Errors: LocalFault, DiskFull (the index).
    """

    def __init__(
        self, layout: Layout, index: Index, blobs: Blobs, rooted: Rooted, records: Records,
        monotonic: Callable[[], float],
    ) -> None:  # fmt: skip
        self._layout = layout
        self._index = index
        self._blobs = blobs
        self._rooted = rooted
        self._records = records
        self._monotonic = monotonic
        self._places = BlockIndex(index)
        self._lock = threading.Lock()  # who looks for new blobs
        self._seen: tuple[int, int] | None = None
        self._rest_until = 0.0
        self._made_lock = threading.Lock()  # never held while nodes are made
        self._making: dict[bytes, threading.Lock] = {}  # who makes those of an owner
        self._made: OrderedDict[bytes, dict[bytes, bytes]] = OrderedDict()
        self._made_bytes = 0

    # -- blocks ----------------------------------------------------------------------------------

    def read(self, sha256: bytes, shows: Shows = everything) -> bytes | None:
        """The block of a raw sha2-256; None where nothing here implies it."""
        for data in self._readings(sha256, shows):
            if hashlib.sha256(data).digest() == sha256:
                return data
        return None

    def length(self, sha256: bytes, shows: Shows = everything) -> int | None:
        """Its bytes, None where nothing here implies it. Leaves are not read."""
        whole = self._whole(sha256)
        if whole is not None and shows(whole):
            return whole.size
        for place in self._found(sha256):
            if place.leaf is None:
                node = self._node(place.owner, sha256, shows)
                if node is not None:
                    return len(node)
                continue
            blob = self._blob(place.owner)
            if blob is not None and self._is_leaf(blob, place.leaf, sha256) and shows(blob):
                return min(BLOCK_BYTES, blob.size - place.leaf * BLOCK_BYTES)
        body = self._manifest(sha256, shows)
        return None if body is None else len(body)

    def blob_of(self, sha256: bytes) -> AnyBlob | None:
        """A blob that implies the block; None where nothing does, or a manifest alone, which may be
        forgotten while its blobs stay.
        """
        whole = self._whole(sha256)
        if whole is not None:
            return whole
        for place in self._found(sha256):
            blob = self._blob(place.owner)
            if blob is not None and (place.leaf is None or self._is_leaf(blob, place.leaf, sha256)):
                return blob
        return None

    def _readings(self, sha256: bytes, shows: Shows) -> Iterator[bytes]:
        whole = self._whole(sha256)
        if whole is not None and shows(whole):
            data = _pread(whole.path, 0, whole.size)
            if data is not None:
                yield data
        for place in self._found(sha256):
            if place.leaf is None:
                node = self._node(place.owner, sha256, shows)
                if node is not None:
                    yield node
                continue
            blob = self._blob(place.owner)
            if blob is not None and shows(blob):
                data = _pread(blob.path, place.leaf * BLOCK_BYTES, BLOCK_BYTES)
                if data is not None:
                    yield data
        body = self._manifest(sha256, shows)
        if body is not None:
            yield body

    def _found(self, sha256: bytes) -> list[Place]:
        places = self._places.find(sha256)
        if not places and self.catch_up():
            places = self._places.find(sha256)
        return places

    def _whole(self, sha256: bytes) -> BlobInfo | None:
        blob = self._blobs.find(digests.sha256_digest(sha256))
        return blob if blob is not None and blob.size <= MAX_BLOCK_BYTES else None

    def _manifest(self, sha256: bytes, shows: Shows) -> bytes | None:
        cid = cids.dagcbor_cid(sha256)
        rows = self._index.read("SELECT body FROM manifests WHERE cid = ?", (cid,))
        if not rows or len(rows[0][0]) > MAX_BLOCK_BYTES or not shows(cid):
            return None
        return bytes(rows[0][0])

    def _blob(self, owner: bytes) -> AnyBlob | None:
        """The blob that an owner is: by its sha2-256, or by the root that it had alone."""
        if _is_manifest(owner):
            return None
        if len(owner) == _HASH:
            return self._blobs.find(digests.sha256_digest(owner))
        return self._rooted.find(owner) or self._blobs.find(owner)

    def _may_show(self, owner: bytes, shows: Shows) -> bool:
        if _is_manifest(owner):
            return shows(owner)
        blob = self._blob(owner)
        return blob is not None and shows(blob)

    def _is_leaf(self, blob: AnyBlob, leaf: int, sha256: bytes) -> bool:
        if isinstance(blob, BlobInfo):
            path = self._layout.map(blob.sha256)
        else:
            path = self._layout.rooted(blob.root_cid) / "map"
        return _pread(path, leaf * _HASH, _HASH) == sha256  # of 140 GB it has 4 MB

    def _map(self, blob: AnyBlob) -> bytes | None:
        if isinstance(blob, BlobInfo):
            hashes = self._blobs.block_map(blob.sha256)
        else:
            hashes = self._rooted.block_map(blob.root_cid)
        fits = hashes is not None and len(hashes) == _HASH * -(-blob.size // BLOCK_BYTES)
        return hashes if fits else None

    # -- nodes -----------------------------------------------------------------------------------

    def _node(self, owner: bytes, sha256: bytes, shows: Shows) -> bytes | None:
        """Who may not see it has nothing made: that is the work of seconds for a large folder."""
        return self._nodes(owner).get(sha256) if self._may_show(owner, shows) else None

    def _nodes(self, owner: bytes) -> dict[bytes, bytes]:
        """The dag-pb nodes of an owner by their sha2-256; empty when it is not here any more. Made
        once, however many ask at the same time.
        """
        with self._made_lock:
            known = self._kept(owner)
            if known is not None:
                return known
            making = self._making.setdefault(owner, threading.Lock())
        with making:
            with self._made_lock:
                known = self._kept(owner)
            if known is not None:
                return known
            made: dict[bytes, bytes] = {}
            try:
                made = self._make(owner)
            finally:
                with self._made_lock:
                    self._keep_made(owner, made)
                    self._making.pop(owner, None)
        return made

    def _kept(self, owner: bytes) -> dict[bytes, bytes] | None:
        known = self._made.get(owner)
        if known is not None:
            self._made.move_to_end(owner)
        return known

    def _keep_made(self, owner: bytes, made: dict[bytes, bytes]) -> None:
        if made and owner not in self._made:
            self._made[owner] = made
            self._made_bytes += _bytes_of(made)
        while self._made_bytes > NODES_BYTES and len(self._made) > 1:
            _, gone = self._made.popitem(last=False)
            self._made_bytes -= _bytes_of(gone)

    def _make(self, owner: bytes) -> dict[bytes, bytes]:
        if _is_manifest(owner):
            return self._folder(owner) or {}
        blob = self._blob(owner)
        hashes = None if blob is None else self._map(blob)
        return {} if blob is None or hashes is None else _file_nodes(hashes, blob.size)

    def _folder(self, manifest_cid: bytes) -> dict[bytes, bytes] | None:
        """The nodes of the folder of a manifest, all of whose blobs are here; else None."""
        manifest = self._records.get_manifest(manifest_cid)
        if manifest is None:
            return None
        found = self._blobs.find_many([file.digest for file in manifest.files])
        entries = {}
        for file in manifest.files:
            blob = found.get(file.digest)
            root = None if blob is None else self._root(blob)
            if blob is None or root is None:
                return None
            entries[file.path] = Root(root, blob.size, file_dag_size(blob.size))
        nodes: dict[bytes, bytes] = {}

        def keep(cid: bytes, block: bytes) -> None:
            nodes[cid[4:]] = block

        try:
            unixfs.tree(entries, keep=keep)
        except (UsageError, Untrusted):  # a file and a folder of one name
            return None
        return nodes

    def _root(self, blob: BlobInfo) -> bytes | None:
        if blob.root_cid is not None:
            return blob.root_cid
        hashes = self._map(blob)
        return None if hashes is None else file_root(_split(hashes), blob.size).cid

    # -- what is here ----------------------------------------------------------------------------

    def catch_up(self) -> bool:
        """Note the blocks of blobs and folders that came since the last time; whether any did.

        Some 10 ms for 10,000 blobs, and 1 ms more for each GiB that is new. Looks when something
        changed, and in vain no more than 1/REST of the time.
        """
        if self._index.readonly:
            return False
        with self._lock:
            began = self._monotonic()
            seen = (self._index.changes, _changed_at(self._layout))
            if seen == self._seen or began < self._rest_until:
                return False
            added = self._note_new()
            self._seen = (self._index.changes, seen[1])
            now = self._monotonic()
            self._rest_until = now if added else now + (now - began - FREE_S) * REST
            return added

    def _note_new(self) -> bool:
        known, here = self._places.owners(), set()
        new = 0
        for row in self._index.every_row():
            if row.size > BLOCK_BYTES:
                here.add(row.sha256)
                if row.sha256 not in known:
                    new += self._note_file(row.sha256, row.size, self._blobs.block_map(row.sha256))
        for blob in self._rooted.every():
            here.add(blob.root_cid)
            if blob.root_cid not in known:
                hashes = self._rooted.block_map(blob.root_cid)
                new += self._note_file(blob.root_cid, blob.size, hashes)
        complete = self._records.complete_manifests()
        for cid in complete - known:
            nodes = self._folder(cid)
            if nodes is not None:
                self._places.add(cid, b"", nodes)
                new += 1
        gone = known - here - complete
        if gone:
            self._places.drop(gone)
            with self._made_lock:
                for owner in gone & self._made.keys():
                    self._made_bytes -= _bytes_of(self._made.pop(owner))
        return new > 0

    def _note_file(self, owner: bytes, size: int, hashes: bytes | None) -> int:
        if hashes is None or len(hashes) != _HASH * -(-size // BLOCK_BYTES):
            return 0
        self._places.add(owner, hashes, _file_nodes(hashes, size))
        return 1


def _is_manifest(owner: bytes) -> bool:
    return len(owner) > _HASH and cids.codec(owner) == cids.DAG_CBOR


def _split(hashes: bytes) -> Iterator[bytes]:
    return (hashes[at : at + _HASH] for at in range(0, len(hashes), _HASH))


def _file_nodes(hashes: bytes, size: int) -> dict[bytes, bytes]:
    nodes: dict[bytes, bytes] = {}

    def keep(cid: bytes, block: bytes) -> None:
        nodes[cid[4:]] = block

    file_root(_split(hashes), size, keep)
    return nodes


def _bytes_of(nodes: dict[bytes, bytes]) -> int:
    return sum(map(len, nodes.values()))


def _changed_at(layout: Layout) -> int:
    """When a blob was last shown by its root: that is in no index."""
    try:
        return os.stat(layout.roots).st_mtime_ns
    except FileNotFoundError:
        return 0


def _pread(path: Path, start: int, most: int) -> bytes | None:
    """Bytes of a file; None when it was evicted just now."""
    with durable.local_faults("reading a blob"):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            return os.pread(descriptor, most, start)
        finally:
            os.close(descriptor)
