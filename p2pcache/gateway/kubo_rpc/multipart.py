"""Bodies of `add` and its like: multipart/form-data to files, folders and symlinks as they arrive.

Parsing is python-multipart's; here its callbacks become events, and what Kubo's clients put into
the headers gets its meaning: names are percent-encoded paths, a folder is a part of the type
application/x-directory, a symlink one of application/symlink whose body is its target.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote_plus

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header

from p2pcache.errors import UsageError
from p2pcache.gateway.kubo_rpc.query import BadRequest

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from python_multipart.multipart import MultipartCallbacks

    from p2pcache.gateway.messages import Request

MAX_TARGET_BYTES = 4096  # of a symlink: PATH_MAX
MAX_NAME_BYTES = 4096
MAX_DEPTH = 256  # components of a name: what `get` gives back as a tar
MAX_HEADER_BYTES = 16 << 10  # of one header of a part; a name of MAX_NAME_BYTES, percent-encoded


@dataclass(frozen=True, slots=True)
class Folder:
    """An empty folder, or one whose files follow."""

    path: str


@dataclass(frozen=True, slots=True)
class Symlink:
    """`target` as it stands there."""

    path: str
    target: str


@dataclass(frozen=True, slots=True)
class File:
    """A file begins; `Data` follow, then `FileEnd`. `path` may be empty."""

    path: str


@dataclass(frozen=True, slots=True)
class Data:
    """The next bytes of the file."""

    data: bytes


@dataclass(frozen=True, slots=True)
class FileEnd:
    """The file is whole."""


Event = Folder | Symlink | File | Data | FileEnd


class Parts:
    """Fed with the body, it gives events. Raises BadRequest: no multipart, or cut short."""

    def __init__(self, boundary: bytes) -> None:
        self._events: deque[Event] = deque()
        self._header = (bytearray(), bytearray())
        self._headers: dict[str, str] = {}
        self._kind = "file"
        self._path = ""
        self._target = bytearray()
        self._ended = False
        callbacks: MultipartCallbacks = {
            "on_part_begin": self._begin,
            "on_header_field": self._field,
            "on_header_value": self._value,
            "on_header_end": self._header_end,
            "on_headers_finished": self._head_end,
            "on_part_data": self._data,
            "on_part_end": self._end,
            "on_end": self._all,
        }
        self._parser = MultipartParser(boundary, callbacks, max_header_size=MAX_HEADER_BYTES)

    def feed(self, data: bytes) -> deque[Event]:
        """What became whole; the caller empties it."""
        try:
            self._parser.write(data)
        except MultipartParseError as exc:
            raise BadRequest(f"a body that is no multipart: {exc}") from exc
        return self._events

    def close(self) -> None:
        """The body is at its end."""
        if not self._ended:
            raise BadRequest("unexpected EOF: the body is cut short")

    def _begin(self) -> None:
        self._headers = {}
        self._header = (bytearray(), bytearray())

    def _field(self, data: bytes, start: int, end: int) -> None:
        self._header[0].extend(data[start:end])

    def _value(self, data: bytes, start: int, end: int) -> None:
        self._header[1].extend(data[start:end])

    def _header_end(self) -> None:
        field, value = self._header
        self._headers[field.decode("latin-1").lower()] = value.decode("latin-1")
        self._header = (bytearray(), bytearray())

    def _head_end(self) -> None:
        _, options = parse_options_header(self._headers.get("content-disposition"))
        self._path = clean_path(
            unquote_plus(options.get(b"filename", b"").decode("utf-8", "surrogateescape"))
        )
        kind, _ = parse_options_header(self._headers.get("content-type"))
        self._target = bytearray()
        if kind == b"application/x-directory":
            self._kind = "folder"
            self._events.append(Folder(self._path))
        elif kind == b"application/symlink":
            self._kind = "symlink"
        else:
            self._kind = "file"
            self._events.append(File(self._path))

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._kind == "file":
            self._events.append(Data(data[start:end]))
        elif self._kind == "symlink":
            self._target += data[start:end]
            if len(self._target) > MAX_TARGET_BYTES:
                raise UsageError(f"a symlink to more than {MAX_TARGET_BYTES} bytes")
        elif data[start:end].strip():
            raise UsageError("a folder has no bytes of its own")

    def _end(self) -> None:
        if self._kind == "file":
            self._events.append(FileEnd())
        elif self._kind == "symlink":
            try:
                target = self._target.decode()
            except UnicodeDecodeError as exc:
                raise UsageError("a symlink whose target is no UTF-8") from exc
            self._events.append(Symlink(self._path, target))

    def _all(self) -> None:
        self._ended = True


def clean_path(name: str) -> str:
    """A name that a client chose as a relative path without `.` and `..`: what path.Clean of Go
    makes of it below the root. Raises UsageError for one that no folder of ours may hold.
    """
    components: list[str] = []
    for component in name.split("/"):
        if component == "..":
            components[-1:] = []
        elif component not in ("", "."):
            components.append(component)
    if len(components) > MAX_DEPTH:
        raise UsageError(f"a path of more than {MAX_DEPTH} folders")
    path = "/".join(components)
    if "\0" in path or len(path.encode("utf-8", "surrogatepass")) > MAX_NAME_BYTES:
        raise UsageError("a name with a zero byte, or of more than 4096 bytes")
    try:
        path.encode()
    except UnicodeEncodeError as exc:
        raise UsageError("a name that is no UTF-8") from exc
    return path


def boundary_of(request: Request, argument: str) -> bytes:
    """Raises BadRequest when the body is no multipart; `argument` is what Kubo calls the file."""
    kind, options = parse_options_header(request.header("content-type"))
    boundary: bytes | None = options.get(b"boundary")
    if not kind.startswith(b"multipart/") or not boundary:
        raise BadRequest(f"file argument '{argument}' is required")
    return boundary


async def events(request: Request, argument: str) -> AsyncGenerator[Event, None]:
    """What the body holds, in order, as it arrives. Raises BadRequest, UsageError, and as
    `Request.body`.
    """
    parts = Parts(boundary_of(request, argument))
    async for piece in request.body():
        ready = parts.feed(piece)
        while ready:
            yield ready.popleft()
    parts.close()
