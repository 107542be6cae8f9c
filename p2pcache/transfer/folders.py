"""Folders by their UnixFS root: no manifest states it, so it is made of the files' own roots."""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2pcache.content.unixfs import Root, file_dag_size, tree
from p2pcache.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from p2pcache.store.blobs import BlobInfo
    from p2pcache.store.store import Store


def folder_root(blobs: Mapping[str, BlobInfo]) -> bytes:
    """The CID of a folder of these files (path -> blob). A file without a root is left out."""
    entries = {
        path: Root(blob.root_cid, blob.size, file_dag_size(blob.size))
        for path, blob in blobs.items()
        if blob.root_cid is not None
    }
    return tree(entries).cid


class Folders:
    """The manifests of a store by the root of their folder. Any thread may call."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._roots: dict[bytes, bytes | None] = {}  # by manifest; of those that were all here

    def manifest_of(self, root: bytes) -> bytes | None:
        """The manifest, all of it here, whose folder this is. Blocking: the first time it makes the
        folder of each manifest, some 50 us a file.
        """
        complete = self._store.complete_manifests()
        for cid in complete:
            if cid not in self._roots:
                self._roots[cid] = self._root(cid)
        return next((cid for cid in sorted(complete) if self._roots[cid] == root), None)

    def _root(self, manifest_cid: bytes) -> bytes | None:
        manifest = self._store.get_manifest(manifest_cid)
        if manifest is None:
            return None
        found = self._store.find_many([file.digest for file in manifest.files])
        blobs = {file.path: found[file.digest] for file in manifest.files if file.digest in found}
        if len(blobs) < len(manifest.files) or any(b.root_cid is None for b in blobs.values()):
            return None
        try:
            return folder_root(blobs)
        except UsageError:  # a file and a folder of one name, too many entries
            return None
