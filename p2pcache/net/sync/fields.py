"""How single values look in a sync frame, and what is refused. Pure.

Reading follows the schema: an array's header is read and compared with its bound before anything
is built, and a scalar's place accepts no container at all. So a frame of at most 1 MiB never costs
more than a small multiple of itself, whatever its headers claim.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import msgpack

from p2pcache.content.ranges import RangeSet
from p2pcache.errors import LocalFault, Untrusted

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

MAX_SPANS = (
    8192  # of one blob in one frame; 512 pieces make at most 256, the rest is for 1 TiB blobs
)
MAX_BLOCK = (1 << 32) - 1  # 4 PiB
_SPAN = struct.Struct(">II")


class Values:
    """The values of one frame body, one after the other."""

    __slots__ = ("_unpacker", "unpack")

    def __init__(self, body: bytes) -> None:
        self._unpacker = msgpack.Unpacker(
            raw=False,
            max_buffer_size=max(1, len(body)),
            max_array_len=0,  # containers are entered by their header alone
            max_map_len=0,
            max_ext_len=0,
        )
        self._unpacker.feed(body)
        self.unpack: Callable[[], Any] = self._unpacker.unpack

    def enter(self, least: int, most: int) -> int:
        """The length of the array that begins here. Raises Untrusted when it is out of bounds."""
        count: int = self._unpacker.read_array_header()
        if not least <= count <= most:
            raise Untrusted(f"a list of {count} (allowed: {least} to {most})")
        return count

    def skip(self, count: int) -> None:
        """Pass over values without building them."""
        for _ in range(count):
            self._unpacker.skip()

    def position(self) -> int:
        """Bytes read so far."""
        at: int = self._unpacker.tell()
        return at


class Field(Protocol[T_co]):
    """One place in a message."""

    def read(self, values: Values) -> T_co:
        """The next value. Raises Untrusted, or an error of msgpack that `wire` translates."""
        ...

    def plain(self, value: Any) -> object:  # noqa: ANN401  # the schema knows, the type does not
        """What msgpack shall write. Raises LocalFault when the other side would refuse it."""
        ...


class Scalar(Generic[T]):
    """A field that is one msgpack value; `check` judges what was unpacked."""

    __slots__ = ()

    def check(self, value: object) -> T:
        """The value, or Untrusted."""
        raise NotImplementedError

    def read(self, values: Values) -> T:
        """See Field."""
        return self.check(values.unpack())

    def plain(self, value: T) -> object:
        """See Field."""
        try:
            self.check(value)
        except Untrusted as exc:
            raise LocalFault(f"this cannot be said to a peer: {exc}") from exc
        return value


@dataclass(frozen=True, slots=True)
class Whole(Scalar[int]):
    """An integer."""

    least: int
    most: int

    def check(self, value: object) -> int:
        """See Scalar."""
        if type(value) is not int or not self.least <= value <= self.most:
            raise Untrusted("a number that is none or out of bounds")
        return value


@dataclass(frozen=True, slots=True)
class Real(Scalar[float]):
    """A float from 0 to a bound; what is sent is brought into the bounds."""

    most: float

    def check(self, value: object) -> float:
        """See Scalar."""
        if type(value) is not float or not 0.0 <= value <= self.most:  # refuses NaN as well
            raise Untrusted("a measure that is none or out of bounds")
        return value

    def plain(self, value: float) -> float:
        """See Field."""
        return min(max(0.0, float(value)), self.most)


@dataclass(frozen=True, slots=True)
class Flag(Scalar[bool]):
    """True or false."""

    def check(self, value: object) -> bool:
        """See Scalar."""
        if type(value) is not bool:
            raise Untrusted("a flag that is none")
        return value


@dataclass(frozen=True, slots=True)
class Raw(Scalar[bytes]):
    """Bytes."""

    least: int
    most: int

    def check(self, value: object) -> bytes:
        """See Scalar."""
        if type(value) is not bytes or not self.least <= len(value) <= self.most:
            raise Untrusted("bytes that are none or of the wrong length")
        return value


@dataclass(frozen=True, slots=True)
class Text(Scalar[str]):
    """Text of at most so many UTF-8 bytes. `cut`: it is for people, sending shortens it."""

    most_bytes: int
    cut: bool = False

    def check(self, value: object) -> str:
        """See Scalar."""
        if type(value) is not str or len(value.encode("utf-8", "replace")) > self.most_bytes:
            raise Untrusted("a text that is none or too long")
        return value

    def plain(self, value: str) -> object:
        """See Field."""
        if self.cut:
            value = value.encode("utf-8", "replace")[: self.most_bytes].decode("utf-8", "ignore")
        return Scalar.plain(self, value)


@dataclass(frozen=True, slots=True)
class Spans(Scalar[RangeSet]):
    """Block numbers: pairs of 4-byte numbers, sorted, never empty, never touching."""

    most: int = MAX_SPANS

    def check(self, value: object) -> RangeSet:
        """See Scalar."""
        if type(value) is not bytes or len(value) % _SPAN.size or len(value) > self.most * 8:
            raise Untrusted("spans of the wrong length")
        spans = tuple(_SPAN.iter_unpack(value))
        last = -1
        for start, end in spans:
            if not last < start < end:
                raise Untrusted("spans that are empty or out of order")
            last = end
        return RangeSet(spans)

    def plain(self, value: RangeSet) -> bytes:
        """See Field. Says less than there is when there are too many spans: that harms nobody."""
        if value.spans and value.spans[-1][1] > MAX_BLOCK:
            raise LocalFault("a block number beyond 4 PiB")
        return b"".join(_SPAN.pack(*span) for span in value.spans[: self.most])


@dataclass(frozen=True, slots=True)
class Maybe(Scalar["T | None"], Generic[T]):
    """A scalar or nothing."""

    inner: Scalar[T]

    def check(self, value: object) -> T | None:
        """See Scalar."""
        return None if value is None else self.inner.check(value)

    def plain(self, value: T | None) -> object:
        """See Field."""
        return None if value is None else self.inner.plain(value)


@dataclass(frozen=True, slots=True)
class Many(Generic[T]):
    """A list with a bound."""

    inner: Field[T]
    most: int
    least: int = 0

    def read(self, values: Values) -> tuple[T, ...]:
        """See Field."""
        read = self.inner.read
        return tuple([read(values) for _ in range(values.enter(self.least, self.most))])

    def plain(self, value: tuple[T, ...]) -> list[object]:
        """See Field."""
        if not self.least <= len(value) <= self.most:
            raise LocalFault(
                f"a list of {len(value)} where {self.least} to {self.most} are allowed"
            )
        return [self.inner.plain(one) for one in value]


@dataclass(frozen=True, slots=True)
class Record(Generic[T]):
    """An array with one place for each field; what a newer version put behind them is passed over.

    `make` builds the value from the fields in order; `parts` takes it apart again.
    """

    make: Callable[..., T]
    fields: tuple[Field[Any], ...]
    parts: Callable[[T], tuple[Any, ...]]
    later: int = 0  # so many of the last came with later versions: they have defaults

    def read(self, values: Values) -> T:
        """See Field."""
        count = values.enter(len(self.fields) - self.later, MAX_FIELDS)
        made = self.make(*[field.read(values) for field in self.fields[:count]])
        values.skip(max(0, count - len(self.fields)))
        return made

    def plain(self, value: T) -> list[object]:
        """See Field."""
        parts = self.parts(value)
        return [field.plain(part) for field, part in zip(self.fields, parts, strict=True)]


MAX_FIELDS = 32  # of one record, with those of versions to come
