"""What the agent asks of a fetch worker, and what the worker reports: plain values that pickle.

One order is one ranged GET (`FetchOrder`), one batch of small files (`SmallOrder`s, or a
`BundleOrder` of a peer) or one whole digest in the background (`FollowOrder`). A worker never
raises for what a remote or the disk did: it returns a `Fault` together with everything that was
verified before it happened.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import os

BLOCK_BYTES = 1 << 20  # DESIGN 1: the unit that is verified; a UnixFS raw leaf
UNKNOWN_HASH = bytes(32)  # in `expected`: nothing is known of this block; no content hashes to it


@dataclass(frozen=True, slots=True)
class Tls:
    """How to trust the server: the system's authorities, a private CA file, or one certificate.

    `pin_sha256`: hex fingerprint of the DER certificate; then no name and no chain is checked.
    `client_cert`, `client_key`: paths of PEM files that say who we are to the URL's own server
    (lanes of peers: TLS 1.3 only). Other hosts that a redirect leads to never see them.
    """

    ca_file: str | None = None
    pin_sha256: str | None = None
    client_cert: str | None = None
    client_key: str | None = None


@dataclass(frozen=True, slots=True)
class Location:
    """Where bytes can be read: `http(s)://` with headers, or `file:///absolute/path`.

    `headers` may hold credentials: they are sent to the URL's own scheme, host and port only, and
    never shown (`repr` leaves them out). `direct`: never through the environment's proxy (peers).
    `pinned`: the address itself names one version, and nothing of an answer has to say which it is.
    """

    url: str
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    tls: Tls = Tls()
    direct: bool = False
    pinned: bool = False


def file_validator(status: os.stat_result) -> str:
    """What tells two versions of a local file apart."""
    return f"{status.st_dev}:{status.st_ino}:{status.st_mtime_ns}:{status.st_size}"


@dataclass(frozen=True, slots=True)
class Slot:
    """Where a worker counts what one order receives: see `odometer`."""

    path: str
    number: int


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """Bounds of one request. `rate_bytes_per_s` is this worker's share; None is no limit.
    `at_once`: requests of a batch that run side by side; None: as many as the worker has threads.
    """

    connect_timeout_s: float = 10.0
    no_progress_s: float = 10.0  # no byte for this long, or slower than the floor: socket closed
    floor_bytes_per_s: float = 256.0  # averaged over no_progress_s; slow-drip servers end here
    rate_bytes_per_s: float | None = None
    max_redirects: int = 8  # hub -> CDN is 1-2; more is a loop
    at_once: int | None = None
    counted: Slot | None = None
    throttle: str | None = None  # path of what the agent's limit leaves to a request (throttle)


class FaultKind(enum.Enum):
    """Why a request ended early, by who must act (see `errors`)."""

    UNAVAILABLE = "unavailable"  # connect, reset, stall, 408, 429, 5xx, short body: try again
    RANGE_IGNORED = "range-ignored"  # 200 to a ranged GET: ask for the whole body instead
    NOT_FOUND = "not-found"  # 404, 410
    DENIED = "denied"  # 401, 403, 407, 451, other 4xx, after one renewal of a redirected URL
    UNTRUSTED = "untrusted"  # wrong bytes, wrong Content-Range, encoded, too long, loop
    LOCAL = "local"  # our disk or memory
    DISK_FULL = "disk-full"  # ENOSPC, EDQUOT
    SPENT = "spent"  # not asked: the network's budget of this origin is used up for this month
    TURN = "turn"  # not asked: other members' requests are all that its budget allows at once


@dataclass(frozen=True, slots=True)
class Fault:
    """`message` is fit for users: it names the host, never a credential or a signed query.

    `arrived`: the digest of bytes that came whole, in place of those that were expected: the
    evidence against their sender, where what was expected is proven. `instead`: peers (ids as text)
    that a busy one names in its place; its word, no more.
    """

    kind: FaultKind
    message: str
    retry_after_s: float | None = None
    http_status: int | None = None
    arrived: bytes | None = None
    instead: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FetchOrder:
    """Bring bytes `[start, end)` of one blob into its partial, block by block.

    `start` is a multiple of BLOCK_BYTES; `end` too, or the blob's end. Files (made beforehand by
    the store): `data_path` sparse, `blob_bytes` long; `map_path` 32 bytes a block; `live_path` one
    byte a block, 0 = absent, 1 = verified; readers may map it. (A byte, not a bit: several
    processes set neighbours at the same moment, and a byte store is atomic.) For each block: data
    first, then its sha2-256 into the map, then the live byte. A block that is live already is not
    written again; its digest in the report is that of what arrived now.

    `expected`: the sha2-256 of every block of the range, joined, when a map is known: a block that
    differs is UNTRUSTED (the fault tells what `arrived`) and is not written; 32 zeros: not known.
    `whole`: no Range header; `start` is 0 and `end` is
    `blob_bytes`. `compare`: the blocks are there already; those that differ from the map are
    rewritten and listed in the report.
    `validator`: the version that is wanted, as the listing saw it (the opaque part of a strong
    ETag, or `file_validator`); another one is UNTRUSTED and nothing of the order counts.
    `hashed` False: nobody wants the blocks' hashes yet. They stay out of the map (32 zeros) and out
    of the report; without `expected` and `compare` alone.
    `total_known` is False when only this request can tell the length (`blob_bytes` is then an
    upper bound and the report's `total_bytes` the truth).
    """

    location: Location
    data_path: str
    map_path: str
    live_path: str
    blob_bytes: int
    start: int
    end: int
    expected: bytes | None = None
    whole: bool = False
    compare: bool = False
    limits: FetchLimits = FetchLimits()
    total_known: bool = True
    validator: str | None = None
    hashed: bool = True


@dataclass(frozen=True, slots=True)
class FetchReport:
    """`done`: end of the verified prefix of the order, in bytes (start when nothing arrived).

    `digests`: 32 bytes for each block in [start, done), none when not `hashed`. `wire_bytes`:
    body bytes received. `changed`: block numbers that a `compare` found different. `cpu_s`: the
    worker's own.
    """

    start: int
    done: int
    digests: bytes
    wire_bytes: int
    seconds: float
    first_byte_s: float | None
    cpu_s: float
    total_bytes: int | None = None
    etag: str | None = None
    changed: tuple[int, ...] = ()
    fault: Fault | None = None


@dataclass(frozen=True, slots=True)
class SmallOrder:
    """A whole blob of at most one block, fetched with one GET and written to `dst_path` (new).

    `sha256` or `git_sha1` (raw bytes) is what was asked for; with neither, the blob is named by
    what arrives. `size` None: not known beforehand, at most BLOCK_BYTES.
    """

    location: Location
    dst_path: str
    size: int | None
    sha256: bytes | None = None
    git_sha1: bytes | None = None


@dataclass(frozen=True, slots=True)
class BundleOrder:
    """Many small blobs of one peer with one request: `names[i]` is what `blobs[i]` goes by there.

    At most `bundle_wire.MAX_BUNDLE`. `location` is the peer's `/bundle`, of the blobs too.
    """

    location: Location
    names: tuple[bytes, ...]
    blobs: tuple[SmallOrder, ...]


@dataclass(frozen=True, slots=True)
class SmallReport:
    """`sha256` and `git_sha1` of what was verified, written and fsynced; None after a fault."""

    size: int
    sha256: bytes | None
    git_sha1: bytes | None
    wire_bytes: int
    seconds: float
    fault: Fault | None = None


@dataclass(frozen=True, slots=True)
class BatchReport:
    """One report for each order, in order, and the worker's CPU seconds for all of them."""

    reports: tuple[SmallReport, ...]
    cpu_s: float


@dataclass(frozen=True, slots=True)
class FollowOrder:
    """Hash a blob in order behind its writers, from the page cache.

    Ends when every block is live, or when no further one comes for `idle_s`. `live_path` None: the
    file is complete (a plain re-hash).
    `git_sha1`: compute the git blob id too (needs the length first: `blob_bytes`).
    """

    data_path: str
    live_path: str | None
    blob_bytes: int
    git_sha1: bool = False
    idle_s: float | None = None


@dataclass(frozen=True, slots=True)
class FollowReport:
    """Whole digests (raw bytes) and, for a plain re-hash, the sha2-256 of every block, joined.

    `idle_at`: after so many bytes no further block came, and there is no digest; None: there is.
    """

    sha256: bytes
    git_sha1: bytes | None
    block_digests: bytes | None
    cpu_s: float
    fault: Fault | None = None
    idle_at: int | None = None
