"""The link itself: who speaks, whether it lives, how busy it is, its end."""

from __future__ import annotations

from dataclasses import dataclass

from p2pcache.net.sync.fields import Many, Maybe, Raw, Real, Text, Whole
from p2pcache.net.sync.wire.parts import (
    ADDRESSES,
    ID,
    MAX_ADDRESS_BYTES,
    MAX_ADDRESSES,
    MAX_ID,
    MAX_RATE,
    MAX_REASON_BYTES,
    Codecs,
    record,
)

VERSION = (1, 4)  # major: what cannot be understood; minor: additions that may be ignored
PROTOCOL = "/p2pcache/sync/1"
GENERATION_BYTES = 16
MAX_CERTIFICATE_BYTES = 4096
MAX_QUEUE_S = 1e6
MAX_PLACE_BYTES = 64  # of a zone or a rack: a Kubernetes label has at most 63


@dataclass(frozen=True, slots=True)
class LaneInfo:
    """Where the byte server listens (`fingerprint` None: plain); `certificate`: our client's."""

    port: int
    hosts: tuple[str, ...]
    fingerprint: bytes | None
    certificate: bytes


@dataclass(frozen=True, slots=True)
class Hello:
    """Who speaks. `generation`: random for each start of an agent; `flags`: none yet; `zone` and
    `rack`: where it is, "" where it does not say. These since minor version 3.
    """

    major: int
    minor: int
    generation: bytes
    agent: str
    addresses: tuple[str, ...]
    lane: LaneInfo
    flags: int = 0
    zone: str = ""
    rack: str = ""


@dataclass(frozen=True, slots=True)
class Load:
    """How busy the sender's byte server is: seconds of queue, and what goes out and comes in."""

    queue_s: float
    up_bytes_per_s: float
    intake_bytes_per_s: float


@dataclass(frozen=True, slots=True)
class Ping:
    """Answer with a Pong of this number."""

    number: int


@dataclass(frozen=True, slots=True)
class Pong:
    """The answer, with news of the load."""

    number: int
    load: Load


@dataclass(frozen=True, slots=True)
class Bye:
    """The sender ends this stream on purpose."""

    reason: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """A kind of a later minor version."""

    kind: int


@dataclass(frozen=True, slots=True)
class OtherMajor:
    """The Hello of somebody we cannot talk to."""

    major: int
    minor: int


_LANE = record(
    LaneInfo,
    Whole(0, 65535),
    Many(Text(MAX_ADDRESS_BYTES), MAX_ADDRESSES),
    Maybe(Raw(32, 32)),
    Raw(0, MAX_CERTIFICATE_BYTES),
)
_LOAD = record(Load, Real(MAX_QUEUE_S), Real(MAX_RATE), Real(MAX_RATE))

HELLO = 1
CODECS: Codecs = {
    1: (
        Hello,
        record(
            Hello,
            Whole(0, 65535),
            Whole(0, 65535),
            Raw(GENERATION_BYTES, GENERATION_BYTES),
            Text(128, cut=True),
            ADDRESSES,
            _LANE,
            Whole(0, MAX_ID),
            Text(MAX_PLACE_BYTES),
            Text(MAX_PLACE_BYTES),
            later=2,
        ),
    ),
    2: (Ping, record(Ping, ID)),
    3: (Pong, record(Pong, ID, _LOAD)),
    23: (Load, _LOAD),
    24: (Bye, record(Bye, Text(MAX_REASON_BYTES, cut=True))),
}
