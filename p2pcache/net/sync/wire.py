"""Bytes to messages of `/p2pcache/sync/1`, and back. Pure; only Untrusted comes out of parsing.

A frame is a 4-byte big-endian length (at most 1 MiB) and that many bytes: one msgpack array, the
kind first. Each side's first frame is a Hello. Versions of one major number understand each other:
`parse` gives Unknown for kinds it does not know and ignores fields behind those it knows.

Signed statements (attestations, resolutions) come out as plain tuples with checked shapes: their
signatures are checked by whoever asked for them, after it is clear that somebody asked.
"""

from __future__ import annotations

import enum
import operator
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, TypeAlias

import msgpack

from p2pcache.content import signed
from p2pcache.content.peerid import PEER_ID_BYTES, PeerId
from p2pcache.errors import LocalFault, Untrusted
from p2pcache.net.sync import preloads
from p2pcache.net.sync.fields import (
    MAX_FIELDS,
    Field,
    Flag,
    Many,
    Maybe,
    Raw,
    Real,
    Record,
    Spans,
    Text,
    Values,
    Whole,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from p2pcache.content.ranges import RangeSet

VERSION = (1, 2)  # major: what cannot be understood; minor: additions that may be ignored
PROTOCOL = "/p2pcache/sync/1"

HEADER_BYTES = 4
MAX_FRAME_BYTES = 1 << 20
MAX_ID = (1 << 53) - 1
MAX_NAMES = 1024  # in one want or gone
MAX_MANIFESTS = 1024  # in one announcement
MAX_COMING_SPANS = 512  # of one blob in one Brings: a blob has at most 512 pieces (DESIGN 1)
MAX_PEERS = 64  # in one peer exchange
MAX_ADDRESSES = 8  # of one peer
MAX_ADDRESS_BYTES = 256
MAX_CERTIFICATE_BYTES = 4096
MAX_MAP_BLOCKS = 4096  # 128 KiB of hashes
MAX_ATTESTATIONS = 512  # a blob has at most 512 pieces of one block (DESIGN 1)
MAX_PART_BYTES = 256 << 10  # of a manifest
MAX_MANIFEST_BYTES = 1 << 32
MAX_TOKEN_BYTES = 1024
MAX_PROOF_BYTES = 16 << 10
MAX_RESOLUTIONS = 16
MAX_GRANTS = 64  # in one message
MAX_REASON_BYTES = 256
MAX_CODE_BYTES = 32
GENERATION_BYTES = 16
ANNOUNCEMENT_BYTES = 16
_MAX_RATE = 1e15  # bytes/s
_MAX_QUEUE_S = 1e6


@dataclass(frozen=True, slots=True)
class LaneInfo:
    """Where the byte server listens (`fingerprint` None: plain); `certificate`: our client's."""

    port: int
    hosts: tuple[str, ...]
    fingerprint: bytes | None
    certificate: bytes


@dataclass(frozen=True, slots=True)
class Hello:
    """Who speaks. `generation`: random for each start of an agent; `flags`: none yet."""

    major: int
    minor: int
    generation: bytes
    agent: str
    addresses: tuple[str, ...]
    lane: LaneInfo
    flags: int = 0


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


class Said(enum.Enum):
    """What an announcement says of its manifests."""

    INTENT = "intent"
    POSSESS = "possess"
    WITHDRAWN = "withdrawn"


@dataclass(frozen=True, slots=True)
class Announce:
    """`origin` begins to download, possesses, or no longer has these manifests.

    `id` is random: in networks too large for a link to everyone, announcements are passed on, and
    each is acted on once.
    """

    said: Said
    id: bytes
    origin: PeerId
    manifests: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class MapAsk:
    """The hashes of blocks `[first, first + count)`."""

    id: int
    name: bytes
    first: int
    count: int


@dataclass(frozen=True, slots=True)
class Map:
    """`hashes`: 32 bytes a block from `first`, to be proven by the asker; else attestations.

    Neither: the sender has no map. Attestations are `PieceAttestation.to_wire` as tuples.
    """

    id: int
    name: bytes
    size: int
    first: int
    hashes: bytes | None
    attestations: tuple[tuple[Any, ...], ...]


@dataclass(frozen=True, slots=True)
class TicketAsk:
    """May I read the blobs of this manifest, or this blob? `proof` answers a challenge."""

    id: int
    scope: bytes
    proof: bytes | None


@dataclass(frozen=True, slots=True)
class Ticket:
    """You may, for `expires_s` seconds from now."""

    id: int
    token: bytes
    expires_s: float


@dataclass(frozen=True, slots=True)
class Refused:
    """No answer. `code`: one of errors.py; `challenge`: prove this and ask again."""

    id: int
    code: str
    text: str
    challenge: bytes | None


@dataclass(frozen=True, slots=True)
class ManifestAsk:
    """The bytes of a manifest from `offset` on."""

    id: int
    cid: bytes
    offset: int


@dataclass(frozen=True, slots=True)
class ManifestPart:
    """Some of its `total` bytes."""

    id: int
    total: int
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class NameAsk:
    """What did this ref mean?"""

    id: int
    canonical: str


@dataclass(frozen=True, slots=True)
class Names:
    """Signed resolutions, `SignedResolution.to_wire` as tuples."""

    id: int
    resolutions: tuple[tuple[Any, ...], ...]


@dataclass(frozen=True, slots=True)
class Contact:
    """Where a peer can be dialled."""

    peer: PeerId
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Peers:
    """Members that the sender has a link to."""

    contacts: tuple[Contact, ...]


@dataclass(frozen=True, slots=True)
class Permits:
    """Grants of the network's admin, `Grant.to_wire` as tuples: they travel to every member."""

    grants: tuple[tuple[Any, ...], ...]


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


Ask: TypeAlias = MapAsk | TicketAsk | ManifestAsk | NameAsk
Answer: TypeAlias = Map | Ticket | ManifestPart | Names | Refused
Message: TypeAlias = (
    Hello | Ping | Pong | Want | Holds | HoldsEnd | Have | Gone | Drop | Announce | Ask | Answer
    | Peers | Load | Bye | Permits | Brings | preloads.Message
)  # fmt: skip
Heard: TypeAlias = Message | Unknown | OtherMajor

_ID = Whole(1, MAX_ID)
_NAME = Raw(1, signed.MAX_NAME_BYTES)
_PEER = Raw(PEER_ID_BYTES, PEER_ID_BYTES)
_SIZE = Whole(0, signed.MAX_BLOB_BYTES)
_BLOCK = Whole(0, (1 << 32) - 1)
_SIGNATURE = Raw(signed.SIGNATURE_BYTES, signed.SIGNATURE_BYTES)
_REF = Text(signed.MAX_TEXT_BYTES)
_ADDRESSES = Many(Text(MAX_ADDRESS_BYTES), MAX_ADDRESSES)


def _record(kind: type, *codecs: Field[Any]) -> Record[Any]:
    names = [field.name for field in fields(kind)]
    if len(names) != len(codecs):
        raise TypeError(f"{kind.__name__} has {len(names)} fields, {len(codecs)} are described")
    get = operator.attrgetter(*names)
    return Record(kind, codecs, (lambda value: (get(value),)) if len(names) == 1 else get)


def _tuple(*codecs: Field[Any]) -> Record[tuple[Any, ...]]:
    return Record(lambda *values: values, codecs, tuple)


_LANE = _record(
    LaneInfo,
    Whole(0, 65535),
    Many(Text(MAX_ADDRESS_BYTES), MAX_ADDRESSES),
    Maybe(Raw(32, 32)),
    Raw(0, MAX_CERTIFICATE_BYTES),
)
_LOAD = _record(Load, Real(_MAX_QUEUE_S), Real(_MAX_RATE), Real(_MAX_RATE))
_ATTESTATION = _tuple(
    _NAME,
    Whole(1, signed.MAX_BLOB_BYTES),
    _SIZE,
    Raw(32, 32 * signed.MAX_PIECE_BLOCKS),
    _PEER,
    _SIGNATURE,
)
_RESOLUTION = _tuple(
    _REF, _NAME, Maybe(_REF), _REF, _REF, Flag(), Flag(), Real(1e11), _PEER, _SIGNATURE
)
_GRANT = _tuple(_REF, _PEER, Real(1e11), _PEER, _SIGNATURE)
_ANNOUNCE = (Raw(ANNOUNCEMENT_BYTES, ANNOUNCEMENT_BYTES), _PEER, Many(_NAME, MAX_MANIFESTS, 1))


def _announce(said: Said) -> Record[Announce]:
    return Record(
        lambda *values: Announce(said, *values),
        _ANNOUNCE,
        operator.attrgetter("id", "origin", "manifests"),
    )


_HELLO = 1
_CODECS: dict[int, tuple[type | Said, Record[Any]]] = {
    _HELLO: (
        Hello,
        _record(
            Hello,
            Whole(0, 65535),
            Whole(0, 65535),
            Raw(GENERATION_BYTES, GENERATION_BYTES),
            Text(128, cut=True),
            _ADDRESSES,
            _LANE,
            Whole(0, MAX_ID),
        ),
    ),
    2: (Ping, _record(Ping, _ID)),
    3: (Pong, _record(Pong, _ID, _LOAD)),
    4: (Want, _record(Want, _ID, Maybe(_NAME), Many(_NAME, MAX_NAMES))),
    5: (
        Holds,
        _record(Holds, _ID, Many(_record(Held, _NAME, _SIZE, Maybe(Spans())), MAX_NAMES)),
    ),
    6: (HoldsEnd, _record(HoldsEnd, _ID)),
    7: (Have, _record(Have, _ID, Many(_record(Grown, _NAME, Maybe(Spans())), MAX_NAMES))),
    8: (Gone, _record(Gone, _ID, Many(_NAME, MAX_NAMES))),
    9: (Drop, _record(Drop, _ID)),
    10: (Said.INTENT, _announce(Said.INTENT)),
    11: (Said.POSSESS, _announce(Said.POSSESS)),
    12: (Said.WITHDRAWN, _announce(Said.WITHDRAWN)),
    13: (MapAsk, _record(MapAsk, _ID, _NAME, _BLOCK, Whole(1, MAX_MAP_BLOCKS))),
    14: (
        Map,
        _record(
            Map,
            _ID,
            _NAME,
            _SIZE,
            _BLOCK,
            Maybe(Raw(0, 32 * MAX_MAP_BLOCKS)),
            Many(_ATTESTATION, MAX_ATTESTATIONS),
        ),
    ),
    15: (TicketAsk, _record(TicketAsk, _ID, _NAME, Maybe(Raw(0, MAX_PROOF_BYTES)))),
    16: (Ticket, _record(Ticket, _ID, Raw(1, MAX_TOKEN_BYTES), Real(1e6))),
    17: (
        Refused,
        _record(
            Refused,
            _ID,
            Text(MAX_CODE_BYTES),
            Text(MAX_REASON_BYTES, cut=True),
            Maybe(Raw(0, MAX_PROOF_BYTES)),
        ),
    ),
    18: (ManifestAsk, _record(ManifestAsk, _ID, _NAME, Whole(0, MAX_MANIFEST_BYTES))),
    19: (
        ManifestPart,
        _record(
            ManifestPart,
            _ID,
            Whole(0, MAX_MANIFEST_BYTES),
            Whole(0, MAX_MANIFEST_BYTES),
            Raw(0, MAX_PART_BYTES),
        ),
    ),
    20: (NameAsk, _record(NameAsk, _ID, _REF)),
    21: (Names, _record(Names, _ID, Many(_RESOLUTION, MAX_RESOLUTIONS))),
    22: (Peers, _record(Peers, Many(_record(Contact, _PEER, _ADDRESSES), MAX_PEERS))),
    23: (Load, _LOAD),
    24: (Bye, _record(Bye, Text(MAX_REASON_BYTES, cut=True))),
    25: (Permits, _record(Permits, Many(_GRANT, MAX_GRANTS, 1))),
    26: (
        Brings,
        _record(
            Brings,
            _ID,
            Maybe(Real(_MAX_RATE)),
            Flag(),
            Many(_record(Coming, _NAME, Spans(MAX_COMING_SPANS)), MAX_NAMES),
        ),
    ),
    **preloads.CODECS,
}
_KINDS: dict[type | Said, tuple[int, Record[Any]]] = {
    key: (kind, codec) for kind, (key, codec) in _CODECS.items()
}
_MSGPACK_ERRORS = (msgpack.UnpackException, ValueError, TypeError, OverflowError, RecursionError)


def encode(message: Message) -> bytes:
    """A whole frame. Raises LocalFault when the other side would refuse it."""
    kind, codec = _KINDS[message.said if isinstance(message, Announce) else type(message)]
    try:
        body: bytes = msgpack.packb([kind, *codec.plain(message)], use_bin_type=True)
    except (ValueError, TypeError, OverflowError) as exc:
        raise LocalFault(f"a message that cannot be written: {exc}") from exc
    if len(body) > MAX_FRAME_BYTES:
        raise LocalFault(f"a message of {len(body)} bytes (allowed: {MAX_FRAME_BYTES})")
    return len(body).to_bytes(HEADER_BYTES, "big") + body


def parse(body: bytes) -> Heard:
    """The message in a frame's body. Raises Untrusted, and nothing else."""
    values = Values(body)
    try:
        heard = _parse(values)
        if values.position() != len(body):
            raise Untrusted("a frame with something behind its message")
    except _MSGPACK_ERRORS as exc:
        raise Untrusted(f"a frame that is not one of ours: {type(exc).__name__}") from exc
    return heard


def _parse(values: Values) -> Heard:
    count = values.enter(1, MAX_FIELDS) - 1
    kind = values.unpack()
    if type(kind) is not int or not 0 <= kind <= 65535:
        raise Untrusted("a frame without a kind")
    known = _CODECS.get(kind)
    if known is None:
        values.skip(count)
        return Unknown(kind)
    codec = known[1]
    if count < len(codec.fields):
        raise Untrusted("a message that lacks fields")
    first: list[Any] = []
    if kind == _HELLO:
        first = [codec.fields[0].read(values), codec.fields[1].read(values)]
        if first[0] != VERSION[0]:
            values.skip(count - 2)
            return OtherMajor(first[0], first[1])
    rest = [field.read(values) for field in codec.fields[len(first) :]]
    values.skip(count - len(codec.fields))
    made: Message = codec.make(*first, *rest)
    if isinstance(made, Map) and made.hashes is not None and len(made.hashes) % 32:
        raise Untrusted("block hashes of the wrong length")
    return made


class FrameReader:
    """Cuts a byte stream into frame bodies; holds one frame at most.

    `needed` is how many bytes complete the header, or the body, that is under way: a reader that
    fetches exactly those never holds more than it must. After Untrusted nothing more is accepted.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._body_bytes: int | None = None
        self._broken = False

    @property
    def body_bytes(self) -> int | None:
        """The length of the body under way; None before its header is complete."""
        return self._body_bytes

    @property
    def needed(self) -> int:
        """See above."""
        return (HEADER_BYTES if self._body_bytes is None else self._body_bytes) - len(self._buffer)

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Every frame body that `data` completes. Consume it all before feeding again."""
        view = memoryview(data)
        while True:
            if self._broken:
                raise Untrusted("the stream is out of step")
            taken = view[: self.needed]
            self._buffer += taken
            view = view[len(taken) :]
            if self.needed:
                return
            if self._body_bytes is None:
                self._begin(int.from_bytes(self._buffer, "big"))
            else:
                body = bytes(self._buffer)
                self._buffer.clear()
                self._body_bytes = None
                yield body

    def _begin(self, length: int) -> None:
        self._buffer.clear()
        if not 0 < length <= MAX_FRAME_BYTES:
            self._broken = True
            raise Untrusted(f"a frame of {length} bytes (allowed: 1 to {MAX_FRAME_BYTES})")
        self._body_bytes = length
