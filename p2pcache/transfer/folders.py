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
        found = [cid for cid, folder in self.roots().items() if folder == root]
        return min(found, default=None)

    def roots(self) -> dict[bytes, bytes | None]:
        """By manifest, of those that are all here; None where there is no such folder. Blocking as
        `manifest_of`.
        """
        complete = self._store.complete_manifests()
        return {cid: self._known(cid) for cid in complete}

    def root_of(self, manifest_cid: bytes) -> bytes | None:
        """The root of one manifest's folder, if all of it is here. Blocking."""
        if not self._store.is_complete(manifest_cid):
            return None
        return self._known(manifest_cid)

    def _known(self, manifest_cid: bytes) -> bytes | None:
        known = self._roots.get(manifest_cid)
        if known is None:
            known = self._roots[manifest_cid] = self._root(manifest_cid)
        return known

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
