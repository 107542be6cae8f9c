"""Where everything of the store lies, and its options. No other module joins paths of the store.

    blobs-v1/ab/<sha256 hex>        complete and verified, mode 0444
    maps-v1/<sha256 hex>            sha2-256 of every block (32 bytes a block) of larger blobs
    partial-v1/<name hex>/          data (sparse), live, map, have, meta.json, publishing.json
    loose-v1/ab/<multihash hex>     blocks of IPFS that no blob of ours has, mode 0444
    unlisted-v1/<sha256 hex>        listings of folders whose files have no sha2-256 yet
    quarantine-v1/<sha256 hex>      blobs that were found damaged
    tmp-v1/<owner>/                 files on their way in, one directory for each open store
    trash-v1/<random>/              directories on their way out
    rebuild-v1/                     a damaged index while a new one is made
    index.sqlite                    names, manifests, resolutions, pins, last use (WAL)

A directory's version is part of its name: a newer p2pcache leaves an older one's alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from p2pcache.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

BLOCK_BYTES = 1 << 20  # DESIGN 1: the unit that is verified


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """Bounds of one store. Sizes in bytes, times in seconds."""

    capacity_bytes: int | None = None  # budget for blobs and partials; None: the disk is the bound
    high_watermark: float = 0.95  # of the capacity: above it gc evicts...
    low_watermark: float = 0.85  # ...down to here, so that gc does not run at every pull
    reserve_bytes: int = 512 << 20  # left free for others: a full root file system breaks the host
    partial_age_s: float = 30 * 86_400.0  # an unfinished download that old was given up
    heartbeat_s: float = 10.0  # seconds between heartbeats of a lease; read by other hosts only
    stale_after_s: float = 60.0  # six missed heartbeats: a paused VM or slow NFS gets a minute
    flush_bytes: int = 32 << 20  # one being flushed + one being filled = the promised 64 MiB
    busy_timeout_s: float = 10.0  # the longest wait for another process's index transaction
    max_receipts: int = 1000  # about 2 MB; older ones are dropped

    def __post_init__(self) -> None:
        if not 0 < self.low_watermark <= self.high_watermark <= 1:
            raise UsageError("store watermarks must satisfy 0 < low <= high <= 1")
        if self.capacity_bytes is not None and self.capacity_bytes <= 0:
            raise UsageError("the store's capacity must be positive")


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths below one root."""

    root: Path

    @property
    def index(self) -> Path:
        """The SQLite file: a cache of what the directories say, plus refs, pins and receipts."""
        return self.root / "index.sqlite"

    @property
    def blobs(self) -> Path:
        """Parent of the 256 shards."""
        return self.root / "blobs-v1"

    @property
    def maps(self) -> Path:
        """Block maps of complete blobs of more than one block."""
        return self.root / "maps-v1"

    @property
    def partials(self) -> Path:
        """One directory for each blob that is not complete."""
        return self.root / "partial-v1"

    @property
    def roots(self) -> Path:
        """One directory for each blob that was asked for by its UnixFS root (`store.rooted`)."""
        return self.root / "roots-v1"

    @property
    def loose(self) -> Path:
        """Parent of the shards of loose blocks, by the last byte of their multihash."""
        return self.root / "loose-v1"

    @property
    def unlisted(self) -> Path:
        """Listings that are no manifests yet (`store.unlisted`)."""
        return self.root / "unlisted-v1"

    @property
    def quarantine(self) -> Path:
        """Blobs that no longer match their name."""
        return self.root / "quarantine-v1"

    @property
    def temporary(self) -> Path:
        """One directory for each open store, held by a lease."""
        return self.root / "tmp-v1"

    @property
    def trash(self) -> Path:
        """Directories that were renamed out of the way and are being deleted."""
        return self.root / "trash-v1"

    @property
    def rebuild(self) -> Path:
        """Its lease lets one process at a time replace a damaged index."""
        return self.root / "rebuild-v1"

    def directories(self) -> tuple[Path, ...]:
        """Every directory that an open store needs."""
        return (
            self.blobs, self.maps, self.partials, self.roots, self.quarantine, self.temporary,
            self.trash, self.rebuild, self.loose, self.unlisted,
        )  # fmt: skip

    def blob(self, sha256: bytes) -> Path:
        """Path of a complete blob. Sharded by two hex digits: 256 directories stay short."""
        name = sha256.hex()
        return self.root.joinpath("blobs-v1", name[:2], name)  # one join: `find` runs in a loop

    def map(self, sha256: bytes) -> Path:
        """Path of a complete blob's block map."""
        return self.maps / sha256.hex()

    def partial(self, name: bytes) -> Path:
        """Directory of a partial, by the (binary) name that was asked for."""
        return self.partials / name.hex()

    def rooted(self, root_cid: bytes) -> Path:
        """Directory of a blob that was asked for by this root."""
        return self.roots / root_cid.hex()

    def loose_block(self, multihash: bytes) -> Path:
        """Path of a loose block. (The first bytes of all multihashes of a kind are the same.)"""
        return self.root.joinpath("loose-v1", multihash[-1:].hex(), multihash.hex())

    def unlisted_ref(self, name: str) -> Path:
        """Path of a listing, by the sha2-256 of its ref in hex."""
        return self.unlisted / name

    def quarantined(self, sha256: bytes) -> Path:
        """Path of a damaged blob."""
        return self.quarantine / sha256.hex()


def block_count(size: int) -> int:
    """Blocks of a blob of `size` bytes. An empty blob has none."""
    return -(-size // BLOCK_BYTES)
