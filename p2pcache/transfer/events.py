"""What the pull machine is told and what it asks for: frozen values, one sum type each way.

A peer is a `SourceUp` with an empty `holds` that tells what it has by `SourceHas`. What it brings
from an origin is a `Partner` event, what we bring a `Say`; a lost race is an `Abort`.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from p2pcache.content.ranges import RangeSet
    from p2pcache.lanes.orders import Fault
    from p2pcache.sources.port import SourceKind


@dataclass(frozen=True, slots=True)
class BlobSpec:
    """One blob to bring. `index` is the machine's own short name for it.

    `size_bytes` is what the listing promised. `small`: at most one block, fetched in batches.
    `whole`: nothing tells its versions apart, so only the blocks of one stream fit together.
    """

    index: int
    size_bytes: int
    small: bool
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Job:
    """Bytes `[start, end)` of one blob from one source, block-aligned; `whole`: no ranges."""

    id: int
    blob: int
    source: str
    start: int
    end: int
    whole: bool = False
    compare: bool = False


@dataclass(frozen=True, slots=True)
class Batch:
    """Several small blobs from one source in one call."""

    id: int
    blobs: tuple[int, ...]
    source: str


# -- events: what happened ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SourceUp:
    """A source may be used. `streams`: requests in flight at most. `holds` None: everything."""

    name: str
    kind: SourceKind
    streams: int
    holds: frozenset[int] | None = None


@dataclass(frozen=True, slots=True)
class SourceHas:
    """A source tells more of what it holds of a blob. `blocks` None: all of it.

    The caller has bounded `blocks` to the blob.
    """

    name: str
    blob: int
    blocks: RangeSet | None = None


@dataclass(frozen=True, slots=True)
class SourceLost:
    """A source has nothing of a blob any more."""

    name: str
    blob: int


@dataclass(frozen=True, slots=True)
class SourceQueue:
    """A source's own word on how long a request would wait there."""

    name: str
    queue_s: float


@dataclass(frozen=True, slots=True)
class OriginWord:
    """A member says that this origin told it to wait; see `machine.words`. The origin may not be up
    yet.
    """

    name: str
    member: str
    retry_after_s: float


@dataclass(frozen=True, slots=True)
class SourceDown:
    """A source left; what it was bringing comes back as `Ended` from the driver.

    `may_return`: only its connection ended; what it holds may be had of it again.
    """

    name: str
    reason: str
    may_return: bool = False


@dataclass(frozen=True, slots=True)
class Placed:
    """How far a member is (`zones`), before or after it is a source or takes part. Not told of one:
    it is near.
    """

    name: str
    distance: int


@dataclass(frozen=True, slots=True)
class Partner:
    """Another member takes part in this pull; these blocks, and no others, are on their way to it
    from an origin. `intake_bytes_per_s` None: it has ended its part. See `owners`.
    """

    name: str
    intake_bytes_per_s: float | None
    declines: bool
    brings: tuple[tuple[int, RangeSet], ...]


@dataclass(frozen=True, slots=True)
class PartnerLeft:
    """A member is gone."""

    name: str


@dataclass(frozen=True, slots=True)
class Listening:
    """A swarm is listened to from now on: somebody may still appear with what nobody has."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A blob's partial is ours. `live`: one byte a block, nonzero = verified already."""

    blob: int
    live: bytes


@dataclass(frozen=True, slots=True)
class Settled:
    """A blob is complete without us (found in the store, or another process finished it)."""

    blob: int


@dataclass(frozen=True, slots=True)
class Progress:
    """Of a job that runs, `[start, done)` is verified by now. Told only when it moved."""

    job: Job
    done: int


@dataclass(frozen=True, slots=True)
class Ended:
    """A job is over: `[start, done)` is verified, `fault` says why it stopped early.

    `changed`: blocks that a compare rewrote. `blame` is False when the end was our own doing
    (an abort, a local fault): the source keeps its standing.
    """

    job: Job
    done: int
    wire_bytes: int
    seconds: float
    fault: Fault | None
    changed: tuple[int, ...] = ()
    blame: bool = True


@dataclass(frozen=True, slots=True)
class BatchEnded:
    """One entry for each blob of the batch: a fault, or None when it is complete and stored."""

    batch: Batch
    faults: tuple[Fault | None, ...]
    wire_bytes: int
    seconds: float
    blame: bool = True


@dataclass(frozen=True, slots=True)
class Digested:
    """The whole digest of a blob whose blocks are all here matched (`ok`) or did not.

    `suspects`: the blocks worth comparing first; None: there is no evidence, compare all.
    """

    blob: int
    ok: bool
    message: str = ""
    suspects: RangeSet | None = None


@dataclass(frozen=True, slots=True)
class Cleared:
    """A map that this blob was checked against is believed no more: who differed from it is not
    barred any longer.
    """

    blob: int


@dataclass(frozen=True, slots=True)
class Streams:
    """How many requests the driver wants in flight altogether from now on."""

    count: int


@dataclass(frozen=True, slots=True)
class StoodStill:
    """This process did nothing for so long: nobody else was slow meanwhile."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passed."""


Event = (
    SourceUp
    | SourceHas
    | SourceLost
    | SourceQueue
    | OriginWord
    | SourceDown
    | Placed
    | Partner
    | PartnerLeft
    | Listening
    | Opened
    | Settled
    | Progress
    | Ended
    | BatchEnded
    | Digested
    | Cleared
    | Streams
    | StoodStill
    | Tick
)

# -- actions: what the driver must do -------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Open:
    """Take the blob's partial (its lease); answer with `Opened` or `Settled`."""

    blob: int


@dataclass(frozen=True, slots=True)
class Fetch:
    """Run one job; answer with `Ended`."""

    job: Job


@dataclass(frozen=True, slots=True)
class FetchBatch:
    """Run one batch; answer with `BatchEnded`."""

    batch: Batch


class Cause(enum.Enum):
    """Why a request is stopped; what it brought in vain is counted under it (see `account`)."""

    ENDGAME = "endgame"  # another was asked for the same, and was quicker
    RACE = "race"  # a member ranked before us brings the same from its origin
    STALLED = "stalled"  # it did not move, or far too slowly
    LEFT = "left"  # its source is gone


@dataclass(frozen=True, slots=True)
class Abort:
    """Stop a request (its socket is closed); it still answers with its end, blame False."""

    job: Job | Batch
    why: Cause = Cause.STALLED


@dataclass(frozen=True, slots=True)
class Digest:
    """Every block is here: compare the whole digest; answer with `Digested`. `again`: the bytes
    changed since the last answer, so a hash that ran behind the writers is worth nothing.
    """

    blob: int
    again: bool


@dataclass(frozen=True, slots=True)
class Banned:
    """A source will not be asked again in this pull (for the receipt and, with peers, the ban)."""

    source: str
    reason: str


@dataclass(frozen=True, slots=True)
class Say:
    """Tell the others what we bring from origins now, by blob, and nothing else; see `Partner`."""

    intake_bytes_per_s: float
    declines: bool
    brings: tuple[tuple[int, RangeSet], ...]


@dataclass(frozen=True, slots=True)
class Suspect:
    """The owner of what is missing did nothing for a lease: the next in rank takes over. To be
    told, not to be done. `promised`: it had said that it brings it. `waited_s`: for its next block.
    """

    name: str
    waited_s: float
    promised: bool


@dataclass(frozen=True, slots=True)
class Doubt:
    """Nobody is left who brings these blocks as the map has them: accept what comes, unless the
    map is proven. The whole digest decides.
    """

    blob: int
    blocks: RangeSet


@dataclass(frozen=True, slots=True)
class Wake:
    """Send a `Tick` at this time (the machine's clock)."""

    at: float


@dataclass(frozen=True, slots=True)
class Finished:
    """Everything is complete."""


@dataclass(frozen=True, slots=True)
class Failed:
    """Nobody can bring the rest. `faults`: the last word of every source, worst first. `lost`:
    peers that held some of it, and how long ago the link to each ended, s; the latest first.
    """

    blobs: tuple[int, ...]
    faults: tuple[tuple[str, Fault], ...]
    lost: tuple[tuple[str, float], ...] = ()


Action = (
    Open
    | Fetch
    | FetchBatch
    | Abort
    | Digest
    | Banned
    | Say
    | Suspect
    | Doubt
    | Wake
    | Finished
    | Failed
)
