"""Who wants what, who holds what of it, and who brings it from an origin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from p2pcache.net.sync.fields import Flag, Many, Maybe, Raw, Real, Spans
from p2pcache.net.sync.wire.parts import ID, MAX_RATE, NAME, SIZE, Codecs, record

if TYPE_CHECKING:
    from p2pcache.content.ranges import RangeSet

MAX_NAMES = 1024  # in one want or gone
THROTTLED_MINOR = 3  # the first that has Throttled
ORIGIN_BYTES = 16
MAX_RETRY_AFTER_S = 3600.0
MAX_COMING_SPANS = 512  # of one blob in one Brings: a blob has at most 512 pieces (DESIGN 1)


@dataclass(frozen=True, slots=True)
class Want:
    """Tell me what you hold of these now, and what changes, until I Drop it."""

    id: int
    manifest: bytes | None
    names: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Held:
    """What a peer holds of one blob. `size` in bytes; `blocks` None: all of them."""

    name: bytes
    size: int
    blocks: RangeSet | None


@dataclass(frozen=True, slots=True)
class Holds:
    """All that the sender holds of some wanted names; replaces what it said of them before."""

    id: int
    entries: tuple[Held, ...]


@dataclass(frozen=True, slots=True)
class HoldsEnd:
    """The first answer to a want is complete: of the names not mentioned the sender has nothing."""

    id: int


@dataclass(frozen=True, slots=True)
class Grown:
    """More blocks of a blob that Holds spoke of before; None: it is complete now."""

    name: bytes
    blocks: RangeSet | None


@dataclass(frozen=True, slots=True)
class Have:
    """What came in since, collected over 50 ms."""

    id: int
    entries: tuple[Grown, ...]


@dataclass(frozen=True, slots=True)
class Gone:
    """The sender no longer holds these, or lost its own source of them."""

    id: int
    names: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Drop:
    """End a want."""

    id: int


@dataclass(frozen=True, slots=True)
class Coming:
    """Blocks of a blob that are on their way to the sender from an origin."""

    name: bytes
    blocks: RangeSet


@dataclass(frozen=True, slots=True)
class Brings:
    """The sender takes part in what a want is about, and brings these blocks from an origin, and no
    others; replaces what it said before. Since minor version 1.

    `intake_bytes_per_s`: what arrives at it; None: it has ended its part. `declines`: it is slow,
    or has no origin that it may ask, so nothing is to be left to it.
    """

    id: int
    intake_bytes_per_s: float | None
    declines: bool
    entries: tuple[Coming, ...]


@dataclass(frozen=True, slots=True)
class Throttled:
    """An origin of what a want is about told the sender to wait so long (429 or 503 with a
    Retry-After). `origin`: the first 16 bytes of the sha2-256 of its `host:port`: who asks the same
    one knows it, others are not told its name. Since minor version 3.
    """

    id: int
    origin: bytes
    retry_after_s: float


CODECS: Codecs = {
    4: (Want, record(Want, ID, Maybe(NAME), Many(NAME, MAX_NAMES))),
    5: (
        Holds,
        record(Holds, ID, Many(record(Held, NAME, SIZE, Maybe(Spans())), MAX_NAMES)),
    ),
    6: (HoldsEnd, record(HoldsEnd, ID)),
    7: (Have, record(Have, ID, Many(record(Grown, NAME, Maybe(Spans())), MAX_NAMES))),
    8: (Gone, record(Gone, ID, Many(NAME, MAX_NAMES))),
    9: (Drop, record(Drop, ID)),
    26: (
        Brings,
        record(
            Brings,
            ID,
            Maybe(Real(MAX_RATE)),
            Flag(),
            Many(record(Coming, NAME, Spans(MAX_COMING_SPANS)), MAX_NAMES),
        ),
    ),
    35: (
        Throttled,
        record(Throttled, ID, Raw(ORIGIN_BYTES, ORIGIN_BYTES), Real(MAX_RETRY_AFTER_S)),
    ),
}
