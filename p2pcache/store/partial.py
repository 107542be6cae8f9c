"""A blob that is not complete: sparse data, the hash of each block, and what of it is safe.

Fetch workers write `data`, `map` and `live` (one byte a block) by path, in that order for each
block. The durable bitmap `have` follows: `flush` copies `live`, waits until data and map are on
disk, then writes the copy. A bit in `have` is therefore never ahead of its block, whatever the
moment of a crash. After a crash of the process alone the page cache is whole, so `live` itself
holds; `meta.json` names the boot it belongs to, and after another boot `have` counts.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import threading
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from p2pcache.store import durable
from p2pcache.store.layout import BLOCK_BYTES, block_count

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from p2pcache.store.lease import Lease

HASH_BYTES = 32
META_VERSION = 1
_NO_HASH = bytes(HASH_BYTES)  # of a block whose hash nobody wanted yet


@dataclass(frozen=True, slots=True)
class Meta:
    """`size` in bytes (an upper bound while not `total_known`); `boot` is the boot of `live`.

    `version`: of the bytes, where the name does not tell.
    """

    name: bytes
    size: int
    total_known: bool
    boot: str
    version: str = ""

    def encode(self) -> bytes:
        """JSON, for people who look."""
        return json.dumps({
            "version": META_VERSION, "name": self.name.hex(), "size": self.size,
            "total_known": self.total_known, "boot": self.boot, "bytes_version": self.version,
        }).encode()  # fmt: skip


def read_meta(directory: Path) -> Meta | None:
    """None when there is none that this version understands."""
    try:
        found: Any = json.loads((directory / "meta.json").read_bytes())
        if found["version"] != META_VERSION:
            return None
        return Meta(
            bytes.fromhex(found["name"]), int(found["size"]), bool(found["total_known"]),
            str(found["boot"]), str(found.get("bytes_version", "")),
        )  # fmt: skip
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def to_bits(live: bytes) -> bytes:
    """One bit a block, least significant first, from one byte a block."""
    # int() of a string of 0 and 1 packs 8 blocks a byte at C speed; 20 GiB are 20,480 blocks
    if not live:
        return b""
    text = live[::-1].translate(_DIGITS)
    return int(text, 2).to_bytes(-(-len(live) // 8), "little")


def from_bits(bits: bytes, blocks: int) -> bytes:
    """The inverse; a bitmap that is too short has no further blocks."""
    if not blocks:
        return b""
    number = int.from_bytes(bits, "little") & ((1 << blocks) - 1)
    return bytes(f"{number:0{blocks}b}"[::-1], "ascii").translate(_BYTES)


_DIGITS = bytes([0x30] + [0x31] * 255)
_BYTES = bytes(1 if value == 0x31 else 0 for value in range(256))


class Partial:
    """An open partial under our lease. One thread at a time; workers write by path meanwhile.

    Errors: DiskFull, LocalFault, LeaseLost. If its process dies, the next opener continues.
    """

    def __init__(
        self, directory: Path, trash: Path, meta: Meta, lease: Lease,
        *, on_close: Callable[[Partial], None],
    ) -> None:  # fmt: skip
        self.dir = directory
        self._trash = trash
        self.name = meta.name
        self.data_path = directory / "data"
        self.live_path = directory / "live"
        self.map_path = directory / "map"
        self.have_path = directory / "have"
        self.intent_path = directory / "publishing.json"
        self._meta = meta
        self._lease = lease
        self._on_close = on_close
        self._flushed = 0
        self._closed = False
        self._renewing = threading.Lock()  # its lease goes with its files: not while it is renewed

    @property
    def size(self) -> int:
        """Bytes of the blob; an upper bound while its length is not known."""
        return self._meta.size

    @property
    def total_known(self) -> bool:
        """Whether `size` is exact."""
        return self._meta.total_known

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return block_count(self._meta.size)

    def prepare(self, boot: str) -> None:
        """Make the files of a new partial, or bring those of an earlier process into order."""
        with local_faults_at(self.dir):
            _unseal(self.data_path)
            _ensure_length(self.data_path, self.size, exact=self.total_known)
            _ensure_length(self.map_path, self.blocks * HASH_BYTES)
            known = read_meta(self.dir)
            bits = self.have_path.read_bytes() if self.have_path.exists() else b""
            if known is None or known.boot != boot or not self._live_is_whole():
                self._write_live(from_bits(bits, self.blocks))
            if not bits:
                # space for every bit now: on a disk that fills up, progress can still be noted
                durable.write_file(self.have_path, bytes(-(-self.blocks // 8)))
            self._save_meta(dataclasses.replace(self._meta, boot=boot))
        self._flushed = self.have_count()

    def _live_is_whole(self) -> bool:
        return self.live_path.exists() and self.live_path.stat().st_size >= self.blocks

    def _write_live(self, live: bytes) -> None:
        # real zeros, never a hole: workers map this file, and a full disk must fail here and now
        # rather than as SIGBUS in a worker
        durable.write_file(self.live_path, live)

    def _save_meta(self, meta: Meta) -> None:
        durable.replace_file(self.dir / "meta.json", meta.encode())
        self._meta = meta

    def live(self) -> bytes:
        """One byte a block, as the workers left it just now: 1 is verified and readable."""
        with local_faults_at(self.dir):  # no file object: it is looked at 50 times a second
            descriptor = os.open(self.live_path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                return os.read(descriptor, self.blocks)
            finally:
                os.close(descriptor)

    def have_count(self) -> int:
        """Verified blocks, durable or not."""
        return self.blocks - self.live().count(0)

    def have_bytes(self) -> int:
        """Verified bytes, durable or not."""
        live = self.live()
        present = (len(live) - live.count(0)) * BLOCK_BYTES
        if live and live[-1] and self.size % BLOCK_BYTES:
            present -= BLOCK_BYTES - self.size % BLOCK_BYTES
        return present

    def unflushed_bytes(self) -> int:
        """About how much a power cut would cost now."""
        return max(self.have_count() - self._flushed, 0) * BLOCK_BYTES

    def block_hashes(self) -> bytes:
        """The map: 32 bytes a block; zeros, or anything, where a block is not live."""
        with local_faults_at(self.dir), self.map_path.open("rb") as file:
            return file.read(self.blocks * HASH_BYTES)

    def flush(self) -> None:
        """Make everything that is live now durable: data and map first, then the bitmap."""
        with local_faults_at(self.dir):
            self._lease.heartbeat()
            live = self.live()
            for path in (self.data_path, self.map_path):
                _fdatasync(path)
            self._write_have(live)
        self._flushed = len(live) - live.count(0)

    def flush_if_due(self, flush_bytes: int) -> bool:
        """Flush when more than `flush_bytes` are at risk; whether it did."""
        if self.unflushed_bytes() < flush_bytes:
            return False
        self.flush()
        return True

    def _write_have(self, live: bytes) -> None:
        # in place: bits only go from 0 to 1 here, so any mix of old and new sectors is true
        descriptor = os.open(self.have_path, os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            durable.pwrite_all(descriptor, to_bits(live), 0)
            os.fdatasync(descriptor)
        finally:
            os.close(descriptor)

    def heartbeat(self) -> None:
        """Show other hosts that we live. From any thread. Raises LeaseLost, also when it is closed
        (`is_closed`).
        """
        with self._renewing, local_faults_at(self.dir):
            self._lease.heartbeat()

    def mark(self, indexes: Iterable[int]) -> None:
        """Mark blocks as verified; for blocks that the store itself checked (repair)."""
        with local_faults_at(self.dir):
            descriptor = os.open(self.live_path, os.O_WRONLY)
            try:
                for index in indexes:
                    if not 0 <= index < self.blocks:
                        raise IndexError(index)
                    os.pwrite(descriptor, b"\x01", index)
            finally:
                os.close(descriptor)

    def resize(self, total: int) -> None:
        """Set the length once it is known. No worker may be writing.

        `live` and `map` may stay longer than needed: a worker could still map their old length.
        """
        with local_faults_at(self.dir):
            os.truncate(self.data_path, total)
            blocks = block_count(total)
            _ensure_length(self.map_path, blocks * HASH_BYTES)
            if self.live_path.stat().st_size < blocks:
                self._write_live(self.live().ljust(blocks, b"\x00"))
            self._save_meta(dataclasses.replace(self._meta, size=total, total_known=True))

    def has_gaps(self) -> bool:
        """Whether blocks are live whose hash is not in the map: see `hash_missing`."""
        return next(self._gaps(), None) is not None

    def _gaps(self) -> Iterator[int]:
        hashes = self.block_hashes()
        for index, is_live in enumerate(self.live()):
            if is_live and hashes[index * HASH_BYTES : (index + 1) * HASH_BYTES] == _NO_HASH:
                yield index

    def hash_missing(self, most: int) -> bool:
        """Put the hashes of blocks that were written without one into the map, of `most` at a time;
        whether there may be more. Nobody may write to it meanwhile. It takes 0.6 s of CPU a GB.
        """
        with (
            local_faults_at(self.dir),
            self.data_path.open("rb") as data,
            self.map_path.open("r+b", buffering=0) as map_,
        ):
            gaps = list(islice(self._gaps(), most))
            for index in gaps:
                data.seek(index * BLOCK_BYTES)
                digest = hashlib.sha256(data.read(BLOCK_BYTES)).digest()
                os.pwrite(map_.fileno(), digest, index * HASH_BYTES)
        return len(gaps) == most

    def save_intent(self, intent: dict[str, str | int | None]) -> None:
        """Note durably as which blob this is being published, so that a crash can be finished."""
        with local_faults_at(self.dir):
            durable.replace_file(self.intent_path, json.dumps(intent).encode())

    def close(self) -> None:
        """Flush, and release the lease. What is verified stays for the next opener."""
        if self._closed:
            return
        try:
            if self.data_path.exists():
                self.flush()
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Release the lease without a flush."""
        if not self._closed:
            self._closed = True
            with local_faults_at(self.dir):
                self._lease.release()
            self._on_close(self)

    def discard(self) -> None:
        """Remove it with everything that it holds."""
        if not self._closed:
            with self._renewing:
                with local_faults_at(self.dir):
                    if self._lease.is_held():
                        durable.discard_dir(self.dir, self._trash)
                self.abandon()

    @property
    def is_closed(self) -> bool:
        """Whether the lease was let go, or is being removed with all the rest."""
        return self._closed


def count_live(directory: Path) -> int:
    """Verified blocks of a partial that is not ours; 0 when there is none."""
    try:
        live = (directory / "live").read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return 0
    return len(live) - live.count(0)


def read_intent(directory: Path) -> dict[str, Any] | None:
    """What `save_intent` noted."""
    try:
        found = json.loads((directory / "publishing.json").read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def local_faults_at(directory: Path) -> Any:  # noqa: ANN401 - the type of a context manager
    """Errors of the block are about this partial."""
    return durable.local_faults(f"writing the partial {directory.name}")


def open_partial(
    directory: Path, trash: Path, meta: Meta, lease: Lease,
    *, boot: str, on_close: Callable[[Partial], None],
) -> Partial:  # fmt: skip
    """Continue or begin the partial in a leased directory.

    A size that no digest has proven is only what some source claimed. When another one was begun
    under the same name, it is begun anew: keeping the first would let a liar block a name. So is
    another version: blocks of two would make a blob that never was.
    """
    known = read_meta(directory)
    both_known = known is not None and known.total_known and meta.total_known
    if known is not None and (
        known.version != meta.version or (both_known and known.size != meta.size)
    ):
        with local_faults_at(directory):
            _empty(directory)
    elif known is not None and known.total_known:
        meta = known
    partial = Partial(directory, trash, meta, lease, on_close=on_close)
    partial.prepare(boot)
    return partial


def _empty(directory: Path) -> None:
    """Remove what an earlier holder wrote; what says that it counts goes first, for a crash."""
    for name in ("have", "live", "publishing.json", "map", "data", "meta.json"):
        (directory / name).unlink(missing_ok=True)


def _unseal(path: Path) -> None:
    """Data that a crash left on the point of being published are read-only already."""
    with suppress(FileNotFoundError):
        mode = path.stat().st_mode & 0o777
        if not mode & 0o200:
            path.chmod(mode | 0o200)


def _ensure_length(path: Path, length: int, *, exact: bool = False) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        have = os.fstat(descriptor).st_size
        if have < length or (exact and have != length):
            os.ftruncate(descriptor, length)
    finally:
        os.close(descriptor)


def _fdatasync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fdatasync(descriptor)
    finally:
        os.close(descriptor)
