"""What `rm` takes away, and what of it stays for others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2pcache.content import digests
from p2pcache.errors import NotFound
from p2pcache.store.index import canonical_name
from p2pcache.store.rooted import is_root

if TYPE_CHECKING:
    from p2pcache.content.manifest import Manifest
    from p2pcache.store.blobs import Blobs
    from p2pcache.store.dag_pins import DagPins
    from p2pcache.store.gc import Collector
    from p2pcache.store.holds import Holds
    from p2pcache.store.index import Index
    from p2pcache.store.records import Records
    from p2pcache.store.rooted import AnyBlob, Rooted
    from p2pcache.store.ties import Ties


class Removal:
    """Of one store. Any thread may call. Errors: LocalFault, DiskFull."""

    def __init__(
        self,
        index: Index,
        records: Records,
        blobs: Blobs,
        rooted: Rooted,
        collector: Collector,
        dag_pins: DagPins,
        ties: Ties,
        holds: Holds,
    ) -> None:
        self._index = index
        self._records = records
        self._blobs = blobs
        self._rooted = rooted
        self._collector = collector
        self._dag_pins = dag_pins
        self._ties = ties
        self._holds = holds

    def rm(self, manifest_cid: bytes) -> int:
        """Forget a manifest and remove the blobs that nothing else refers to, and what was fetched
        of those that are not complete; bytes freed.

        What a running pull needs stays. Raises NotFound when the manifest is not kept.
        """
        manifest = self._records.get_manifest(manifest_cid)
        if manifest is None:
            raise NotFound("no such manifest is in the store")
        freed = self._discard_partials_of(manifest_cid, manifest)
        gone = [*self.only_in(manifest_cid)]
        with self._holds.removal(self._dag_pins.blobs) as each:
            freed += self._blobs.remove(gone, each)[0]
        self._records.forget_manifest(manifest_cid)
        self._ties.sweep()
        return freed

    def remove_blob(self, blob: AnyBlob) -> int:
        """Remove one blob, unless running work or the pin of a DAG keeps it; bytes freed."""
        with self._holds.removal(self._dag_pins.blobs) as each:
            remove = self._rooted.remove if is_root(blob.key) else self._blobs.remove
            return remove([blob.key], each)[0]

    def only_in(self, manifest_cid: bytes) -> set[bytes]:
        """The blobs (raw sha2-256) that `rm` of this manifest removes."""
        gone = self._records.only_in(manifest_cid) - self._holds.all() - self._dag_pins.blobs()
        # a git sha1 that never arrived stands for itself there: it is no blob
        present = self._index.rows([digests.sha256_digest(key) for key in gone if len(key) == 32])
        return {row.sha256 for row in present.values()}

    def _discard_partials_of(self, cid: bytes, manifest: Manifest) -> int:
        held = self._holds.all()
        mine = [file.digest for file in manifest.files if digests.raw(file.digest) not in held]
        wanted_by = self._records.manifests_with(mine)
        return sum(
            self._collector.discard_partial(canonical_name(name))
            for name in set(mine)
            if wanted_by[name] == {cid}
        )
