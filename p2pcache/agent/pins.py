"""What is kept, whoever asked for it: pins of `p2pcache pin`, and of DAGs as Kubo's RPC makes them.

Two tables, for what they keep differs: files that may still have to come, or blocks that are here.
One meaning: each is shown and taken back by the other's commands, under the UnixFS root.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from p2pcache.agent.meant import root_typed
from p2pcache.content import cid as cids
from p2pcache.content import digests, refs
from p2pcache.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from p2pcache.store.records import Pin
    from p2pcache.store.rooted import AnyBlob
    from p2pcache.store.store import Hold, Store
    from p2pcache.transfer.dag_pins import DagPinner
    from p2pcache.transfer.folders import Folders

SHA256_BYTES = 32  # of a pin's target: a blob; else it is a manifest's CID


def root_of(store: Store, folders: Folders, pin: Pin) -> bytes | None:
    """The root of what a pin of `p2pcache pin` keeps; None where not all of it is here. Blocking.

    A CID that was typed is the root itself. Of one file it is that file's, of several the folder's.
    """
    if len(pin.target) == SHA256_BYTES:
        blob = store.find(digests.sha256_digest(pin.target))
        return None if blob is None else blob.root_cid
    manifest = store.get_manifest(pin.target)
    if manifest is None:
        return None
    folder = folders.root_of(pin.target)
    if folder is None or len(manifest.files) != 1 or folder == _typed(pin):
        return folder
    blob = store.find(manifest.files[0].digest)
    return None if blob is None else blob.root_cid


def _typed(pin: Pin) -> bytes | None:
    try:
        return root_typed(refs.parse_ref(pin.label))
    except UsageError:  # a label of an earlier version, or none
        return None


class UserPins:
    """`content.blocks.Pins` for Kubo's RPC. `shows`: whether every program may see a blob or a
    manifest; pins of others are not told.
    """

    def __init__(
        self, store: Store, folders: Folders, dags: DagPinner,
        shows: Callable[[AnyBlob | bytes], bool],
    ) -> None:  # fmt: skip
        self._store = store
        self._folders = folders
        self._dags = dags
        self._shows = shows

    async def pin(self, root: bytes, *, recursive: bool = True) -> None:
        """See the port."""
        await self._dags.pin(root, recursive=recursive)

    def holding(self) -> AbstractContextManager[Hold]:
        """See the port."""
        return self._dags.holding()

    async def unpin(self, root: bytes) -> bool:
        """See the port."""
        files = await trio.to_thread.run_sync(self._unpin_files, cids.as_v1(root))
        return await self._dags.unpin(root) or files

    async def pins(self) -> dict[bytes, bool]:
        """See the port."""
        files = await trio.to_thread.run_sync(self._of_files)
        return {**dict.fromkeys(files, True), **await self._dags.pins()}

    async def pinned_below(self) -> set[bytes]:
        """See the port."""
        return await self._dags.pinned_below()

    async def remove(self, cid: bytes) -> bool:
        """See the port."""
        return await self._dags.remove(cid)

    def _of_files(self) -> dict[bytes, list[Pin]]:
        """Pins of files by their root."""
        found: dict[bytes, list[Pin]] = {}
        for pin in self._store.pins():
            root = root_of(self._store, self._folders, pin)
            if root is not None and self._may_show(pin):
                found.setdefault(root, []).append(pin)
        return found

    def _may_show(self, pin: Pin) -> bool:
        if len(pin.target) != SHA256_BYTES:
            return self._shows(pin.target)
        blob = self._store.find(digests.sha256_digest(pin.target))
        return blob is not None and self._shows(blob)

    def _unpin_files(self, root: bytes) -> bool:
        pins = self._of_files().get(root, ())
        return any([self._store.unpin(pin.target) for pin in pins])
