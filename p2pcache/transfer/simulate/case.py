"""What is simulated, and what came of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from p2pcache.lanes.orders import BLOCK_BYTES
from p2pcache.transfer.machine.owners import OwnerOptions
from p2pcache.transfer.policy import TransferOptions, piece_bytes

MIB = 1 << 20
GRAINS = 4  # a piece of many blocks travels in so many parts: fewer steps, still cut-through


@dataclass(frozen=True, slots=True)
class Case:
    """`link`, `origin`: bytes/s. Shares are of the nodes; `kill_at`: of the file in the swarm."""

    nodes: int = 8
    size: int = 256 * MIB
    link: float = 12.5e6
    origin: float = 12.5e6
    streams: int = 9
    beat_s: float = 0.05
    hello_s: float = 0.1
    jitter_s: float = 0.2  # of the starts
    request_s: float = 0.002
    busy_s: float = 3.0  # queued at a holder, in units of a request's time: above it, it refuses
    dead_s: float = 2.0  # until a killed node is noticed
    neighbours: int = 64  # linked to all up to so many others; beyond, to `sparse` drawn ones
    sparse: int = 64  # half of them its own choice, as `net.mesh.MeshOptions.max_met` has it
    kill_at: float = 0.0
    slow_share: float = 0.0  # with a tenth of the link
    late_share: float = 0.0  # that start at 30 % of the bound
    churn: float = 0.0  # of the nodes: killed at random times, and as many join empty
    boasters: int = 0  # of the nodes: they announce to bring, and bring nothing
    liars: float = 0.0  # of the nodes: they send other bytes than the map wants
    split: bool = False  # two halves that never hear of each other
    zones: int = 1  # a node's: its number modulo this
    zone_link: float = math.inf  # bytes/s from one zone to another, each way, shared by all
    zone_latency_s: float = 0.0  # beside, for bytes and for words
    cut_at: float = (
        0.0  # of the file in the swarm: then the last zone is cut off from everything...
    )
    cut_s: float = math.inf  # ... for so long
    options: TransferOptions = field(default_factory=TransferOptions)
    owners: OwnerOptions = field(default_factory=OwnerOptions)

    @property
    def bound_s(self) -> float:
        """The least time that physics allows for the last node (DESIGN 11)."""
        shared = self.nodes * self.size / (self.origin + self.nodes * self.link)
        # of one copy that left the origin into all zones alike, a zone's part goes to each other
        borders = self.size / self.zones / self.zone_link if self.zones > 1 else 0.0
        return max(self.size / self.origin, self.size / self.link, shared, borders)

    @property
    def blocks(self) -> int:
        """Of the file."""
        return -(-self.size // BLOCK_BYTES)

    @property
    def grain_bytes(self) -> int:
        """What travels as one: a block, or a part of a large piece."""
        piece = piece_bytes(self.size) // BLOCK_BYTES
        return max(1, piece // GRAINS) * BLOCK_BYTES


@dataclass(frozen=True, slots=True)
class Sample:
    """The swarm at one moment, in shares of the file or of the nodes."""

    at_s: float
    exists: float
    slowest: float
    mean: float
    ended: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """Ratios to the bound (`last` is infinite when a node never ended), copies, and shares."""

    last: float
    median: float
    copies: float
    duplicates: float
    skew: float  # the busiest node's upload over the mean
    killed: int | None
    banned: int = 0  # liars that somebody found out...
    unbanned: int = 0  # ...and that nobody did
    wrong_bytes: int = 0  # sent by liars...
    kept_wrong_bytes: int = 0  # ... and, at the end, part of a complete file
    crossings: float = 0.0  # copies that crossed into each zone but one
    cut_off: int = 0  # nodes that gave up
    pieces: int = 0  # that arrived anywhere
    samples: tuple[Sample, ...] = ()

    def figures(self) -> dict[str, float | int | None]:
        """Everything but the samples; what is infinite (a node never ended) is None."""
        return {
            "last": _finite(self.last),
            "median": _finite(self.median),
            "copies": self.copies,
            "duplicates": self.duplicates,
            "skew": self.skew,
            "liars_banned": self.banned,
            "liars_not_banned": self.unbanned,
            "wrong_bytes_sent": self.wrong_bytes,
            "wrong_bytes_kept": self.kept_wrong_bytes,
            "zone_copies": self.crossings,
            "gave_up": self.cut_off,
        }


def _finite(ratio: float) -> float | None:
    return ratio if math.isfinite(ratio) else None
