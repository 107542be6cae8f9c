"""The facade: one open store. It wires the parts of the package and adds no decisions.

Synchronous and thread-safe; the agent calls what may wait for the disk in threads. Several
processes may have the same store open. Errors: DiskFull, LocalFault (Busy and LeaseLost among
them); a full disk or a lost lease never blames a source.
"""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from p2pcache.content import digests, verify
from p2pcache.errors import NotFound
from p2pcache.store import durable, recovery, repair
from p2pcache.store.adoptions import Adoptions
from p2pcache.store.at_work import AtWork
from p2pcache.store.blobs import BlobInfo, Blobs, CopyMode
from p2pcache.store.dag_pins import DagPins
from p2pcache.store.gc import Collector, GcReport, Usage
from p2pcache.store.holds import Holds
from p2pcache.store.implied import Implied
from p2pcache.store.index import canonical_name
from p2pcache.store.layout import Layout, StoreOptions
from p2pcache.store.lease import LeaseBook
from p2pcache.store.loose import Loose
from p2pcache.store.order import Order, subdirectories
from p2pcache.store.origin_costs import OriginCosts
from p2pcache.store.others import OtherAgents
from p2pcache.store.pairs import Pairs
from p2pcache.store.partial import Meta, Partial, count_live
from p2pcache.store.preloads import PreloadRows
from p2pcache.store.records import Listed, Pin, Records, Resolution
from p2pcache.store.removal import Removal
from p2pcache.store.rooted import AnyBlob, Rooted, is_root
from p2pcache.store.spent import SpentRows
from p2pcache.store.ties import Ties
from p2pcache.store.touches import Touches
from p2pcache.store.unlisted import Unlisted

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from p2pcache.content.manifest import Manifest
    from p2pcache.content.verify import Verified, VerifiedBlob
    from p2pcache.store.index import Index, Row
    from p2pcache.store.policy import Hold as EvictionHold

Hold = Callable[[Iterable[bytes]], None]
"""Keeps blobs (raw sha2-256) from being evicted, until the scope that gave it ends."""

_LOOKED_FOR_ONE_BY_ONE = 8  # roots, at 0.1 ms each; more of them cost one look at the folder


class Store:
    """An open store. Use `Store.open`; `close` it at the end (it is a context manager too)."""

    def __init__(
        self, layout: Layout, options: StoreOptions, index: Index, leases: LeaseBook,
        clock: Callable[[], float],
    ) -> None:  # fmt: skip
        self.options = options
        self.readonly = index.readonly
        self.index_lost: str | None = None  # what the user should know: refs and pins may be gone
        self.layout = layout
        self._holds = Holds()
        self._index = index
        self._leases = leases
        self._clock = clock
        self._blobs = Blobs(layout, index, clock)
        self._records = Records(index, max_receipts=options.max_receipts)
        self.rights = self._records.rights
        self.others = OtherAgents(index)
        self.preloads = PreloadRows(index)
        self.spent = SpentRows(index)
        self.origin_costs = OriginCosts(index)
        self.pairs = Pairs(index)
        self.adoptions = Adoptions(index, self._blobs)
        self.replica_manifests: frozenset[bytes] = frozenset()
        self.rooted = Rooted(layout, self._blobs)
        self.rooted.named = self._holds.named
        self.unlisted = Unlisted(layout)
        self._order = Order(layout, index, self._blobs, self.rooted, leases)
        self.loose = Loose(layout, index, clock, self.small_dir, self.ensure_room)
        self.implied = Implied(
            layout, index, self._blobs, self.rooted, self._records, leases.monotonic
        )
        self.dag_pins = DagPins(index)
        self.ties = Ties(self.dag_pins, self.loose, self.implied, self._records, self._holds)
        self._collector = Collector(
            layout, options, index, self._blobs, self.rooted, self._records, leases, self._order,
            self.loose, self.dag_pins, self.ties, self._holds,
        )  # fmt: skip
        self._removal = Removal(
            index, self._records, self._blobs, self.rooted, self._collector, self.dag_pins,
            self.ties, self._holds,
        )  # fmt: skip
        self._lock = threading.Lock()  # two may close at once
        self._at_work = AtWork(layout, leases)
        self._touches = Touches(index)

    @classmethod
    def open(
        cls, root: Path, options: StoreOptions | None = None,
        *, clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> Store:  # fmt: skip
        """Open or make the store at `root`; clean what dead processes left there.

        On a read-only file system it opens for reading. A damaged index is rebuilt. `clock` gives
        unix seconds (last use), `monotonic` seconds that never jump (leases of other hosts).
        """
        options = options or StoreOptions()
        layout = Layout(root)
        leases = LeaseBook(stale_after_s=options.stale_after_s, monotonic=monotonic)
        readonly = root.exists() and not os.access(root, os.W_OK)
        with durable.local_faults("opening the store"):
            if not readonly:
                root.mkdir(mode=0o700, parents=True, exist_ok=True)
                for directory in layout.directories():
                    durable.make_dir(directory)
            had_index = layout.index.exists()
            index, fresh = recovery.open_index(layout, options, leases, readonly=readonly)
        store = cls(layout, options, index, leases, clock)
        try:
            found = 0
            if not readonly and (store._order.sweep() or fresh):
                found = store._order.reconcile()
                store.loose.reconcile()
            if fresh and had_index:
                store.index_lost = "the index was damaged; what could be read of it was kept"
            elif fresh and found:
                store.index_lost = (
                    f"the index was gone; {found} blobs were found, refs and pins not"
                )
        except BaseException:
            store.close()
            raise
        return store

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close open partials (their progress stays), write what is buffered, close the index."""
        # last in, first out: the index is closed whatever the others raise
        with self._lock, durable.local_faults("closing the store"), ExitStack() as steps:
            steps.callback(self._index.close)
            steps.callback(self._touches.write)
            steps.callback(self.loose.flush)
            steps.callback(self._at_work.close)

    def shrink(self) -> None:
        """Give back memory that only makes the next call faster. Raises LocalFault."""
        with durable.local_faults("giving memory back"):
            self._index.shrink()

    def heartbeat(self) -> None:
        """Call every `options.heartbeat_s`: shows other hosts that this process lives.

        Raises LeaseLost, after all others were renewed, when another host took a partial over.
        """
        self._at_work.heartbeat()

    # -- blobs -----------------------------------------------------------------------------------

    def find(self, name: bytes) -> BlobInfo | None:
        """The blob named by a multihash (sha2-256, git sha1) or a binary CID; None if not here.

        Checks that the file is there and, when adopted, unchanged; forgets it otherwise. Does not
        hash. Some 20 us. Raises UsageError for something that is no name.
        """
        return self._blobs.find(name)

    def find_many(self, names: Sequence[bytes]) -> dict[bytes, BlobInfo]:
        """`find` for many names at once; those that are not here are left out."""
        return self._blobs.find_many(names)

    def find_held(self, names: Sequence[bytes], hold: Hold) -> dict[bytes, BlobInfo]:
        """`find_many` for a pull: what is found is held, from before it was looked at.

        Blobs whose file was written to are hashed, and found if they are still good.
        """
        found = self._blobs.find_many(names, hold)
        if not self.readonly:
            for name in names:
                if name not in found and (good := self._blobs.recheck(name)) is not None:
                    found[name] = good
        return found

    def find_any(self, name: bytes) -> AnyBlob | None:
        """`find`, and what is known by its root alone."""
        return self.find_any_of([name]).get(name)

    def find_any_of(self, names: Sequence[bytes]) -> dict[bytes, AnyBlob]:
        """`find_many`, and what is known by its root alone."""
        found: dict[bytes, AnyBlob] = dict(self._blobs.find_many(names))
        left = {name for name in names if name not in found and is_root(name)}
        if len(left) > _LOOKED_FOR_ONE_BY_ONE:
            left = self.rooted.here_of(left)
        for name in names:
            if name in left:
                blob = self.rooted.find(name) or self._blobs.find(name)  # named just now?
                if blob is not None:
                    found[name] = blob
        return found

    def find_any_held(self, name: bytes, hold: Hold) -> AnyBlob | None:
        """`find_any` for a pull: what is found is held, and was here after that."""
        blob = self.find_any(name)
        while blob is not None:
            hold([blob.key])
            now = self.find_any(name)
            if now is None or now.key == blob.key:
                return now
            blob = now  # it was named, or came back, meanwhile
        return None

    def take_out_rooted(self, root_cid: bytes, size: int) -> int:
        """A blob that is not what was proven: its good blocks stay in a partial. Gives how many are
        bad. Raises Busy.
        """
        partial = self._partial(root_cid, size, True, "")
        try:
            return partial.blocks - self.rooted.take_out(root_cid, partial)
        finally:
            partial.close()

    def publish(
        self, partial: Partial, blob: VerifiedBlob, *, root_cid: bytes | None = None
    ) -> BlobInfo:
        """Turn a complete, verified partial into a blob. Call again after DiskFull."""
        return self._blobs.publish(partial, blob, root_cid=root_cid)

    def publish_small(self, items: Sequence[tuple[Path, VerifiedBlob]]) -> list[BlobInfo]:
        """Publish many synced files from `small_dir` with one transaction, in order."""
        return self._blobs.publish_small(items)

    def publish_draft(
        self, draft: Path, blob: VerifiedBlob, *, root_cid: bytes, block_digests: bytes
    ) -> BlobInfo:
        """Publish a file of any size that was written in `small_dir`; see `Blobs.publish_draft`."""
        return self._blobs.publish_draft(
            draft, blob, root_cid=root_cid, block_digests=block_digests
        )

    def small_dir(self) -> Path:
        """Where small files are written before `publish_small`; removed when we close or die."""
        return self._at_work.small_dir()

    def put_bytes(self, verified: Verified) -> BlobInfo:
        """Store bytes that passed the door."""
        hasher = digests.WholeHasher(len(verified.data), git=True)
        hasher.update(verified.data)
        blob = verify.verify_whole(verified.digest, len(verified.data), hasher.digests())
        draft = self.small_dir() / secrets.token_hex(8)
        with durable.local_faults("storing bytes"):
            try:
                durable.write_file(draft, verified.data)
            except BaseException:
                draft.unlink(missing_ok=True)
                raise
        return self.publish_small([(draft, blob)])[0]

    def link_in(
        self, path: Path, blob: VerifiedBlob, stat: os.stat_result,
        *, root_cid: bytes | None = None, block_digests: bytes | None = None,
        copy: CopyMode = "auto",
    ) -> BlobInfo:  # fmt: skip
        """Take somebody's file into the store by reflink or copy; see `Blobs.link_in`."""
        existing = self.find(digests.sha256_digest(blob.sha256))
        if existing is not None and not existing.adopted:
            return existing
        self.ensure_room(blob.size)
        return self._blobs.link_in(
            path, blob, stat, self.small_dir(),
            root_cid=root_cid, block_digests=block_digests, copy=copy,
        )  # fmt: skip

    def adopt(
        self, path: Path, blob: VerifiedBlob, stat: os.stat_result,
        *, root_cid: bytes | None = None, block_digests: bytes | None = None,
    ) -> BlobInfo:  # fmt: skip
        """Read somebody's file in place for as long as it does not change; see `Blobs.adopt`."""
        return self._blobs.adopt(path, blob, stat, root_cid=root_cid, block_digests=block_digests)

    def rootless(self) -> list[BlobInfo]:
        """The blobs whose root is not known yet. One look at every row of the index."""
        return self._blobs.rootless()

    def give_root(self, sha256: bytes, root_cid: bytes, block_digests: bytes) -> None:
        """Keep the root and the block map of a blob, made of a reading with that sha2-256."""
        self._blobs.give_root(sha256, root_cid, block_digests)

    def block_map(self, sha256: bytes) -> bytes | None:
        """sha2-256 of every block of a complete blob, joined; None where it is not known."""
        return self._blobs.block_map(sha256)

    # -- partials --------------------------------------------------------------------------------

    def partial(
        self, name: bytes, size: int, *, total_known: bool = True, version: str = ""
    ) -> Partial:
        """Begin or continue the blob of that name, under a lease.

        `version`: which bytes they are, where the name does not say (a provisional one). Those of
        another version, or another size, are thrown away first.

        Raises Busy when another live holder (a task of ours too) has it, DiskFull when it does not
        fit even after evicting what may go. A blob of that name that somebody wrote to is taken
        out, and its good blocks are in the partial.
        """
        partial = self._partial(name, size, total_known, version)
        if total_known and not version:
            try:
                damaged = self._blobs.changed(name)
                if damaged is not None and damaged.size == size:
                    repair.take_out(self.layout, self._blobs, damaged, partial)
                elif is_root(name) and self.rooted.is_damaged(name, size):
                    self.rooted.take_out(name, partial)
            except BaseException:
                partial.close()
                raise
        return partial

    def others_progress(self, name: bytes) -> int:
        """Verified blocks of a partial, whoever holds it: what a waiter sees of the holder."""
        return count_live(self.layout.partial(canonical_name(name)))

    def _partial(self, name: bytes, size: int, total_known: bool, version: str) -> Partial:
        meta = Meta(canonical_name(name), size, total_known, "", version)
        return self._at_work.partial(meta, self._room)

    def _room(self, incoming_bytes: int, directory: Path) -> AbstractContextManager[None]:
        return self._collector.room(incoming_bytes, running=self._holds.all, without=[directory])

    def watch_removed(self, tell: Callable[[list[bytes]], None]) -> None:
        """Have all names told of blobs that were removed; called in any thread, quickly."""
        self._blobs.removed = self.rooted.removed = tell

    def every_blob(self) -> list[BlobInfo]:
        """All blobs, adopted ones too, as the index knows them; nothing is hashed."""
        return [self._info(row) for row in self._index.every_row()]

    def quarantine(self, sha256: bytes) -> Partial:
        """Take a damaged blob out of sight; gives a partial that holds its good blocks.

        Raises NotFound when there is no such blob, DiskFull when the copy does not fit.
        """
        row = self._index.row(digests.sha256_digest(sha256))
        info = self.find(digests.sha256_digest(sha256)) if row is None else self._info(row)
        if info is None:
            raise NotFound(f"blob {sha256.hex()} is not in the store")
        partial = self._partial(digests.sha256_digest(sha256), info.size, True, "")
        try:
            repair.take_out(self.layout, self._blobs, info, partial)
        except BaseException:
            partial.close()
            raise
        return partial

    def damaged(self) -> list[BlobInfo]:
        """Blobs that were taken out (`quarantine`, `partial`), are not back, and that a manifest
        lists. Their `path` is that of what is left of them.
        """
        found = []
        for directory in subdirectories(self.layout.partials):
            info = repair.was_damaged(directory)
            if info is None:
                continue
            if self.find(info.digest) or not self._records.manifests_with(list(info.names)):
                if not self.readonly:
                    self._order.discard(directory)
                continue
            found.append(info)
        return found

    def _info(self, row: Row) -> BlobInfo:
        path = self.layout.blob(row.sha256) if row.path is None else Path(row.path)
        adopted = row.path is not None
        return BlobInfo(row.sha256, row.size, row.root, row.git_sha1, path, adopted)

    # -- room ------------------------------------------------------------------------------------

    @contextmanager
    def running(self, sha256s: Iterable[bytes] = ()) -> Iterator[Hold]:
        """While open, these blobs (raw sha2-256) are part of a running pull and not evicted.

        What it yields takes further ones, as they become known; any thread may call it.
        """
        with self._holds.running(sha256s) as hold:
            yield hold

    def ensure_room(self, incoming_bytes: int) -> None:
        """Evict until that much fits. Raises DiskFull, saying what stands in the way."""
        with durable.local_faults("making room"):
            self._touches.write()
            self._collector.ensure_room(incoming_bytes, running=self._holds.all)

    def trim(self) -> int:
        """After a pull: evict what the watermarks ask for, so that the next one finds room."""
        with durable.local_faults("making room"):
            self._touches.write()
            return self._collector.trim(running=self._holds.all)

    def gc(
        self, *, target_bytes: int | None = None, protected: Collection[bytes] = frozenset(),
        dry_run: bool = False,
    ) -> GcReport:  # fmt: skip
        """Clean up and evict, least recently used first, down to `target_bytes` (or the low
        watermark, when above the high one). Downloads that nobody went on with for
        `partial_age_s` go first. `protected`: raw sha2-256 that stay.
        """
        with durable.local_faults("collecting garbage"):
            self._touches.write()
            return self._collector.collect(
                target_bytes=target_bytes, running=lambda: self._holds.all() | set(protected),
                now=self._clock(), dry_run=dry_run,
            )  # fmt: skip

    def collect_loose(self) -> list[bytes]:
        """Remove all loose blocks that no pin and no running work keeps; their multihashes."""
        with durable.local_faults("collecting garbage"):
            return self._collector.collect_loose()

    def remove_loose(self, multihashes: Sequence[bytes]) -> tuple[int, list[bytes]]:
        """Remove loose blocks that neither a pin nor running work keeps; bytes freed, what went."""
        with self._holds.removal(self.dag_pins.blocks) as each:
            return self.loose.remove(multihashes, each)

    def keep_replicas(self, manifests: Iterable[bytes]) -> None:
        """From now on the blobs of these manifests, and no others, stay for other agents' sake."""
        self.replica_manifests = frozenset(manifests)
        bodies = [self._records.get_manifest(cid) for cid in self.replica_manifests]
        names = [file.digest for body in bodies if body is not None for file in body.files]
        found = self.find_many(names)
        self._collector.replicas = frozenset(blob.sha256 for blob in found.values())

    def guard(
        self, keep_last: Callable[[Collection[bytes], float], Mapping[bytes, EvictionHold]],
        hand_over: Callable[[Collection[bytes]], None],
    ) -> None:  # fmt: skip
        """From now on `keep_last` is asked which of the blobs (raw sha2-256) that would be evicted
        stay because nobody else can give them, to be answered in so many seconds, and `hand_over`
        to have others take over copies that preloads keep, where all else is not enough room. Both
        are called in worker threads and may take seconds.
        """
        self._collector.keep_last, self._collector.hand_over = keep_last, hand_over

    def usage(self) -> Usage:
        """What the store holds now."""
        with durable.local_faults("measuring the store"):
            return self._collector.usage()

    def touch(self, sha256s: Iterable[bytes], now: float) -> None:
        """Note a use (unix seconds). Held in memory and written with the next gc, ls or close."""
        self._touches.note(sha256s, now)

    # -- records ---------------------------------------------------------------------------------

    def put_manifest(self, manifest: Manifest) -> bytes:
        """Keep a manifest; gives its CID."""
        return self._records.put_manifest(manifest)

    def get_manifest(self, cid: bytes) -> Manifest | None:
        """The manifest, None when it is not kept."""
        return self._records.get_manifest(cid)

    def record_resolution(self, row: Resolution) -> None:
        """Remember what a ref means now."""
        self._records.record_resolution(row)

    def resolution(self, canonical: str) -> Resolution | None:
        """What a ref meant last time."""
        return self._records.resolution(canonical)

    def resolutions(self) -> list[Resolution]:
        """All of them, newest first."""
        return self._records.resolutions()

    def resolutions_of(self, manifest: bytes) -> list[Resolution]:
        """The refs that mean a manifest, newest first."""
        return self._records.resolutions_of(manifest)

    def restrict(self, manifest: Manifest) -> None:
        """Keep a manifest as restricted, before anything of it is here."""
        self._records.put_manifest(manifest)
        self.rights.restrict(manifest.cid())

    def names_of(self, sha256s: Collection[bytes]) -> list[str]:
        """What manifests that list these blobs are called: by a ref, else by their CID. Sorted."""
        return self._records.names_of(sha256s)

    def restricted_manifests(self) -> set[bytes]:
        """Manifests that nobody may read without a right to."""
        return self.rights.restricted_manifests()

    def private_stores(self) -> set[bytes]:
        """Manifests that are restricted for a login to a store or a registry alone."""
        return self.rights.private_stores()

    def hidden_manifests(self, among: Collection[bytes]) -> set[bytes]:
        """Of these manifests those that are restricted, or show files of a restricted one."""
        return self.rights.hidden_manifests(among)

    def manifests_with(self, digests: Sequence[bytes]) -> dict[bytes, set[bytes]]:
        """For each digest the manifests that have it."""
        return self._records.manifests_with(digests)

    def complete_manifests(self) -> set[bytes]:
        """Manifests whose blobs are all here."""
        return self._records.complete_manifests()

    def manifests_of_blobs(self, sha256s: Collection[bytes]) -> dict[bytes, set[bytes]]:
        """For each blob (raw sha2-256) the manifests that list it."""
        return self._records.manifests_of_blobs(sha256s)

    def is_complete(self, manifest: bytes) -> bool:
        """Whether that manifest is kept, and all its blobs are here."""
        return self._records.is_complete(manifest)

    def pin(self, target: bytes, label: str = "") -> None:
        """Never evict the blobs of a manifest CID, or the blob of a raw sha2-256."""
        self._records.pin(target, label)

    def unpin(self, target: bytes) -> bool:
        """Whether it was pinned."""
        return self._records.unpin(target)

    def pins(self) -> list[Pin]:
        """All pins."""
        return self._records.pins()

    def ls(self) -> list[Listed]:
        """Every manifest with how much of it is here, most recently used first."""
        self._touches.write()
        return self._records.ls()

    def rm(self, manifest_cid: bytes) -> int:
        """See Removal."""
        return self._removal.rm(manifest_cid)

    def alone(self) -> list[AnyBlob]:
        """Blobs that no manifest lists, and those that a pin keeps by their own name."""
        rows = self._index.rows([digests.sha256_digest(key) for key in self._records.alone()])
        return [*map(self._info, rows.values()), *self.rooted.every()]

    def remove_blob(self, blob: AnyBlob) -> int:
        """See Removal."""
        return self._removal.remove_blob(blob)

    def only_in(self, manifest_cid: bytes) -> set[bytes]:
        """See Removal."""
        return self._removal.only_in(manifest_cid)

    def forget_ref(self, canonical: str) -> None:
        """Forget what one ref means; its manifest and blobs stay for the others that mean it."""
        self._records.forget_resolution(canonical)

    def forget_manifest(self, cid: bytes) -> None:
        """Forget a manifest and the refs that mean it, and no blob, unless it is pinned."""
        if all(pin.target != cid for pin in self.pins()):
            self._records.forget_manifest(cid)

    def linked_bytes(self, manifest_cid: bytes) -> int:
        """Bytes of a manifest's blobs that other names on this disk keep when it goes."""
        manifest = self._records.get_manifest(manifest_cid)
        found = self.find_many([file.digest for file in manifest.files]) if manifest else {}
        own = {blob.sha256: blob for blob in found.values() if not blob.adopted}
        with durable.local_faults("looking at blobs"):
            return sum(b.size for b in own.values() if b.path.stat().st_nlink > 1)

    def save_receipt(self, receipt: dict[str, Any]) -> int:
        """Keep the account of a pull (`ref` names it); gives its number."""
        return self._records.save_receipt(receipt)

    def receipt(self, ref: str) -> dict[str, Any] | None:
        """The newest receipt of a ref, of a number, or of all for "last"."""
        return self._records.receipt(ref)
