"""Messages to frames and back. Only Untrusted comes out of parsing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import msgpack

from p2pcache.errors import LocalFault, Untrusted
from p2pcache.net.sync import preloads, spending
from p2pcache.net.sync.fields import MAX_FIELDS, Record, Values
from p2pcache.net.sync.wire import link, news, questions, wants
from p2pcache.net.sync.wire.link import (
    HELLO,
    VERSION,
    Bye,
    Hello,
    Load,
    OtherMajor,
    Ping,
    Pong,
    Unknown,
)
from p2pcache.net.sync.wire.news import Announce, Peers, Permits, Said
from p2pcache.net.sync.wire.questions import Answer, Ask, Map
from p2pcache.net.sync.wire.wants import (
    Brings,
    Drop,
    Gone,
    Have,
    Holds,
    HoldsEnd,
    Throttled,
    Want,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from p2pcache.net.sync.wire.parts import Codecs

HEADER_BYTES = 4
MAX_FRAME_BYTES = 1 << 20

Message: TypeAlias = (
    Hello | Ping | Pong | Want | Holds | HoldsEnd | Have | Gone | Drop | Announce | Ask | Answer
    | Peers | Load | Bye | Permits | Brings | Throttled | preloads.Message
    | spending.Message
)  # fmt: skip
Heard: TypeAlias = Message | Unknown | OtherMajor

CODECS: Codecs = {
    **link.CODECS,
    **wants.CODECS,
    **questions.CODECS,
    **news.CODECS,
    **preloads.CODECS,
    **spending.CODECS,
}
_KINDS: dict[type | Said, tuple[int, Record[Any]]] = {
    key: (kind, codec) for kind, (key, codec) in CODECS.items()
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
    known = CODECS.get(kind)
    if known is None:
        values.skip(count)
        return Unknown(kind)
    codec = known[1]
    if count < len(codec.fields) - codec.later:
        raise Untrusted("a message that lacks fields")
    first: list[Any] = []
    if kind == HELLO:
        first = [codec.fields[0].read(values), codec.fields[1].read(values)]
        if first[0] != VERSION[0]:
            values.skip(count - 2)
            return OtherMajor(first[0], first[1])
    rest = [field.read(values) for field in codec.fields[len(first) : count]]
    values.skip(max(0, count - len(codec.fields)))
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
