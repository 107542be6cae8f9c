"""Bytes to messages of the agent's local socket, and back. Pure; only Untrusted comes out.

A frame is a 4-byte big-endian length and that many bytes of one msgpack map. Each side's first
frame is a Hello; then the client sends Requests and Cancels, and the server answers every one with
any number of Progress and Item frames and exactly one Result or Failed. Id 0 belongs to the
connection: a Failed with it is the last frame, a Progress with it says that the agent is alive.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import msgpack

from p2pcache.errors import LocalFault, P2PCacheError, Untrusted, from_wire

if TYPE_CHECKING:
    from collections.abc import Iterator

VERSION = (1, 0)  # major: what cannot be understood; minor: additions that may be ignored

MAX_FRAME_BYTES = 1 << 20  # a resolve item is 300 bytes, a receipt a few KiB; lists are streamed
MAX_ITEMS = 4096  # per array or map: msgpack allocates an array's slots before it reads them
MAX_DEPTH = 16  # the deepest answer (a receipt) has 4 levels
MAX_ID = (1 << 53) - 1  # exact in every language's number type
MAX_OP_CHARS = 64
MAX_NAME_CHARS = 200  # of the program that says hello
HEADER_BYTES = 4
CONNECTION = 0  # the id of what concerns the whole connection

Fields: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Hello:
    """Who speaks, and which version."""

    agent: str
    pid: int
    version: tuple[int, int] = VERSION

    def check(self) -> None:
        """Raise LocalFault when the two sides cannot talk: nobody sent bad bytes."""
        if self.version[0] != VERSION[0]:
            raise LocalFault(
                f"the other side ({self.agent}) speaks version {_dotted(self.version)} of the "
                f"local protocol, this side {_dotted(VERSION)}",
                hint="stop the agent (`p2pcache agent stop`) and start it with the same p2pcache",
            )


@dataclass(frozen=True, slots=True)
class Request:
    """Do `op`."""

    id: int
    op: str
    args: Fields


@dataclass(frozen=True, slots=True)
class Cancel:
    """Stop the request `target`; it still gets its one answer."""

    id: int
    target: int


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a request is. May be dropped in favour of a newer one."""

    id: int
    fields: Fields


@dataclass(frozen=True, slots=True)
class Item:
    """One element of a long answer. Never dropped."""

    id: int
    value: Fields


@dataclass(frozen=True, slots=True)
class Result:
    """A request is done."""

    id: int
    value: Fields


@dataclass(frozen=True, slots=True)
class Failed:
    """A request, or (id 0) the connection, failed."""

    id: int
    error: Fields

    def exception(self) -> P2PCacheError:
        """The error as the agent raised it."""
        return from_wire(self.error)


FromClient: TypeAlias = Hello | Request | Cancel
FromServer: TypeAlias = Hello | Progress | Item | Result | Failed


def encode(message: FromClient | FromServer) -> bytes:
    """A whole frame. Raises LocalFault when it cannot be sent: too large, or not plain data.

    What this takes, the other side takes: both ends of an answer agree on what is too much.
    """
    try:
        fields = _as_map(message)
        _check_plain(fields, MAX_DEPTH)
        body: bytes = msgpack.packb(fields, use_bin_type=True)
    except (ValueError, TypeError, OverflowError, Untrusted) as exc:
        raise LocalFault(f"this cannot be sent over the local socket: {exc}") from exc
    if len(body) > MAX_FRAME_BYTES:
        raise LocalFault(
            f"a message of {len(body)} bytes does not fit the local socket's {MAX_FRAME_BYTES}"
        )
    return len(body).to_bytes(HEADER_BYTES, "big") + body


def parse_from_client(body: bytes) -> FromClient:
    """The message a client sent. Raises Untrusted."""
    fields = _unpack(body)
    if "v" in fields:
        return _hello(fields)
    number = _id(fields.get("id"), lowest=1)
    op, args = fields.get("op"), fields.get("args")
    if not isinstance(op, str) or not 0 < len(op) <= MAX_OP_CHARS or not isinstance(args, dict):
        raise Untrusted("a request needs `op` and `args`")
    if op == "cancel":
        return Cancel(number, _id(args.get("target"), lowest=1))
    return Request(number, op, args)


def parse_from_server(body: bytes) -> FromServer:
    """The message an agent sent. Raises Untrusted."""
    fields = _unpack(body)
    if "v" in fields:
        return _hello(fields)
    number = _id(fields.pop("id", None), lowest=CONNECTION)
    kind = fields.pop("type", None)
    if kind == "progress":
        return Progress(number, fields)
    payload = fields.get("error" if kind == "error" else "value")
    if not isinstance(payload, dict):
        raise Untrusted("an answer without its content")
    match kind:
        case "item":
            return Item(number, payload)
        case "result":
            return Result(number, payload)
        case "error":
            return Failed(number, payload)
    raise Untrusted("an answer of an unknown type")


class FrameReader:
    """Cuts a byte stream into frame bodies. Holds at most one frame and what was fed with its end.

    After Untrusted the stream's borders are lost: the reader refuses all that follows.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._broken = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Every frame body that `data` completes. Consume it all before feeding again."""
        if self._broken:
            raise Untrusted("the stream is out of step")
        self._buffer += data
        while len(self._buffer) >= HEADER_BYTES:
            length = int.from_bytes(self._buffer[:HEADER_BYTES], "big")
            if not 0 < length <= MAX_FRAME_BYTES:
                self._broken = True
                self._buffer.clear()
                raise Untrusted(f"a frame of {length} bytes (allowed: 1 to {MAX_FRAME_BYTES})")
            end = HEADER_BYTES + length
            if len(self._buffer) < end:
                return
            body = bytes(self._buffer[HEADER_BYTES:end])
            del self._buffer[:end]
            yield body

    @property
    def buffered_bytes(self) -> int:
        """What waits for the rest of its frame."""
        return len(self._buffer)


def _as_map(message: FromClient | FromServer) -> Fields:
    match message:
        case Hello(agent, pid, version):
            return {"v": list(version), "agent": agent, "pid": pid}
        case Request(number, op, args):
            return {"id": number, "op": op, "args": args}
        case Cancel(number, target):
            return {"id": number, "op": "cancel", "args": {"target": target}}
        case Progress(number, fields):
            return {**fields, "id": number, "type": "progress"}
        case Item(number, value):
            return {"id": number, "type": "item", "value": value}
        case Result(number, value):
            return {"id": number, "type": "result", "value": value}
        case Failed(number, error):
            return {"id": number, "type": "error", "error": error}


def _unpack(body: bytes) -> Fields:
    try:
        value = msgpack.unpackb(
            body, raw=False, strict_map_key=True, max_array_len=MAX_ITEMS, max_map_len=MAX_ITEMS
        )
    except (ValueError, TypeError, OverflowError) as exc:  # msgpack's own errors are ValueErrors
        raise Untrusted(f"a frame that is not msgpack: {type(exc).__name__}") from exc
    if not isinstance(value, dict):
        raise Untrusted("a frame that is not a map")
    _check_plain(value, MAX_DEPTH)
    return value


def _check_plain(value: object, depth: int) -> None:
    """Only JSON's types and bytes, text as keys: extension types and deep nests are refused."""
    match value:
        case None | bool() | int() | float() | str() | bytes():
            return
        case msgpack.ExtType():  # a tuple to Python
            raise Untrusted("a frame with an extension type")
        case dict() | list() | tuple() if depth == 0:
            raise Untrusted("a frame that is nested too deeply")
        case dict() | list() | tuple() if len(value) > MAX_ITEMS:
            raise Untrusted(f"a list or map of {len(value)} entries (at most {MAX_ITEMS})")
        case dict():
            for key, inner in value.items():
                if not isinstance(key, str):
                    raise Untrusted("a map with a key that is not text")
                _check_plain(inner, depth - 1)
        case list() | tuple():
            for inner in value:
                _check_plain(inner, depth - 1)
        case _:
            raise Untrusted("a frame with an extension type")


def _hello(fields: Fields) -> Hello:
    match fields:
        case {"v": [int(major), int(minor)], "agent": str(agent), "pid": int(pid)}:
            if min(major, minor, pid) >= 0 and len(agent) <= MAX_NAME_CHARS:
                return Hello(agent, pid, (major, minor))
    raise Untrusted("a hello that is not one")


def _id(value: object, *, lowest: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= MAX_ID:
        raise Untrusted("a message without a valid id")
    return value


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
