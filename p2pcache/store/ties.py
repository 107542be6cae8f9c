"""Nodes that go with content: of folders that no manifest implies, for they have symlinks or empty
folders, or are made by another profile.

They are loose blocks, which stay as long as all blobs of the manifest do that lists the folder's
files. Nobody pinned them, so they are no pins to a user: they are kept under an owner of their own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2pcache.content import cid as cids
from p2pcache.content import digests
from p2pcache.content.verify import verify_loose
from p2pcache.store.dag_pins import CONTENT

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from p2pcache.store.dag_pins import DagPins
    from p2pcache.store.holds import Holds
    from p2pcache.store.implied import Implied
    from p2pcache.store.loose import Loose
    from p2pcache.store.records import Records

_MANIFEST_BYTES = 36  # of its CID; the root follows it


class Ties:
    """Of one store. Any thread may call. Errors: LocalFault, DiskFull."""

    def __init__(
        self, dag_pins: DagPins, loose: Loose, implied: Implied, records: Records, holds: Holds
    ) -> None:
        self._dag_pins = dag_pins
        self._loose = loose
        self._implied = implied
        self._records = records
        self._holds = holds

    def keep(self, manifest: bytes, root: bytes, nodes: Mapping[bytes, bytes]) -> None:
        """Keep the nodes (CIDv1 to block) of the folder `root` (CIDv1) that nothing implies, with
        the blobs of a manifest, unless that is hidden: loose blocks are given to everybody. Raises
        Untrusted for a block that is not its CID's.
        """
        if self._records.rights.hidden_manifests([manifest]):
            return
        kept = []
        with self._holds.running() as hold:
            for cid, data in nodes.items():
                block = verify_loose(cid, data)
                parts = cids.parts(cid)
                hold([block.multihash])
                if parts.hash_code != digests.SHA2_256 or (
                    self._implied.length(parts.digest) is None
                ):
                    self._loose.put(block)
                    kept.append(block.multihash)
            if kept:
                self._dag_pins.add(manifest + root, True, kept, (), CONTENT)

    def roots_of(self, manifest: bytes) -> list[bytes]:
        """The folders whose nodes go with a manifest."""
        keys = self._dag_pins.roots(CONTENT)
        return [key[_MANIFEST_BYTES:] for key in keys if key.startswith(manifest)]

    def sweep(self) -> None:
        """Let go what goes with manifests of which something is gone."""
        keys = self._dag_pins.roots(CONTENT)
        if keys:
            complete = self._records.complete_manifests()
            self._drop(key for key in keys if key[:_MANIFEST_BYTES] not in complete)

    def _drop(self, keys: Iterable[bytes]) -> None:
        gone = set[bytes]()
        for key in keys:
            gone |= self._dag_pins.blocks_of(key, CONTENT)
            self._dag_pins.drop(key, CONTENT)
        if gone:
            with self._holds.removal(self._dag_pins.blocks) as each:
                self._loose.remove(list(gone), each)
