"""Manifests: the immutable file list that a ref resolves to, as canonical DAG-CBOR.

`{version: 1, files: [{path, size, digest}]}`, files sorted by the UTF-8 bytes of their paths,
digests binary multihashes. Two agents that resolve the same commit build the same bytes, so the
CID names the swarm before anyone holds a byte (DESIGN 2). `parse` takes bytes from anywhere. It
reads along the one encoding that a content has and refuses whatever leaves it, so there is one
CID a content.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from operator import attrgetter
from typing import TYPE_CHECKING

from p2pcache.content import cid as cids
from p2pcache.content import digests
from p2pcache.content.names import MAX_PATH_BYTES, safe_path
from p2pcache.errors import Untrusted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

VERSION = 1
MAX_MANIFEST_BYTES = 64 << 20  # a million files of 60 bytes a row
MAX_FILES = 1_000_000
MAX_FILE_BYTES = 1 << 53  # what every JSON reader of ours can hold exactly
_MAX_DIGEST_BYTES = 34  # a sha2-256 multihash, the longest of the two kinds
_NUMBER, _BYTES, _TEXT, _LIST = 0, 2, 3, 4  # CBOR major types
# The shape of the encoding: keys shorter first, then by bytes, as DAG-CBOR wants.
_START = b"\xa2\x65files"  # a map of two, and its first key
_PATH, _SIZE, _DIGEST = b"\xa3\x64path", b"\x64size", b"\x66digest"  # a map of three: a row
_TAIL = b"\x67version" + bytes([VERSION])


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file. `path` is safe (content.names), `digest` a multihash."""

    path: str
    size: int
    digest: bytes


@dataclass(frozen=True)
class Manifest:
    """Sorted, checked entries. Made by `from_entries` or `parse`, never directly."""

    files: tuple[FileEntry, ...]

    @classmethod
    def from_entries(cls, entries: Iterable[FileEntry]) -> Manifest:
        """Check and sort. Raises Untrusted: entries come from listings of others."""
        found = list(islice(entries, MAX_FILES + 1))
        if len(found) > MAX_FILES:
            raise Untrusted(f"a manifest of more than {MAX_FILES} files: too many")
        for file in found:
            _check(file)
        # By code points, which is the order of the UTF-8 bytes too.
        found.sort(key=attrgetter("path"))
        return cls(tuple(_in_order(found)))

    @cached_property
    def _encoded(self) -> bytes:
        parts = [_START, _head(_LIST, len(self.files))]
        parts += map(_row, self.files)
        parts.append(_TAIL)
        return b"".join(parts)

    def encode(self) -> bytes:
        """Canonical DAG-CBOR."""
        return self._encoded

    @cached_property
    def _cid(self) -> bytes:
        return cids.dagcbor_cid(hashlib.sha256(self._encoded).digest())

    def cid(self) -> bytes:
        """The binary CID of the encoding."""
        return self._cid

    @property
    def total_bytes(self) -> int:
        """Bytes of all files, each counted as often as it is listed."""
        return sum(f.size for f in self.files)


def _head(major: int, value: int) -> bytes:
    """The head of a CBOR item in its shortest form (RFC 8949 3, 4.2.1)."""
    if value < 24:
        return bytes([major << 5 | value])
    width = next(n for n in (1, 2, 4, 8) if value < 1 << 8 * n)
    return bytes([major << 5 | 23 + width.bit_length()]) + value.to_bytes(width, "big")


def _row(file: FileEntry) -> bytes:
    """`{path, size, digest}`.

    By hand: libipld's encoder takes any bytes that read as a CID for a link, and a sha2-256
    multihash is a CIDv0. Pins and walks of other tools would follow it to a block nobody has.
    """
    path = file.path.encode()
    return b"".join((
        _PATH, _head(_TEXT, len(path)), path,
        _SIZE, _head(_NUMBER, file.size),
        _DIGEST, _head(_BYTES, len(file.digest)), file.digest,
    ))  # fmt: skip


def parse(data: bytes) -> Manifest:
    """Bytes from anywhere to a manifest. Raises Untrusted, and nothing else.

    Every length is checked before anything of it is allocated, so refusing costs no more than
    the rows before the fault, and a whole manifest about four times its bytes.
    """
    if len(data) > MAX_MANIFEST_BYTES:
        raise Untrusted(f"a manifest of {len(data)} bytes is over the limit")
    if data[-len(_TAIL) : -1] == _TAIL[:-1] and VERSION < data[-1] < 24:
        raise Untrusted(f"a manifest of version {data[-1]} is newer than this p2pcache")
    manifest = Manifest(tuple(_in_order(_rows(data))))
    manifest.__dict__["_encoded"] = data  # these bytes are the only encoding: see `_rows`
    return manifest


def _rows(data: bytes) -> Iterator[FileEntry]:
    """The rows, read one at a time along the only shape that they can have.

    No general decoder sees foreign bytes: it builds what it is sent before anybody can count it,
    and 32 MiB of empty lists took 2.3 GB.
    """
    count, at = _number_at(data, _skip(data, 0, _START), _LIST)
    if count > MAX_FILES:
        raise Untrusted(f"a manifest of more than {MAX_FILES} files: too many")
    for _ in range(count):
        path, at = _string_at(data, _skip(data, at, _PATH), _TEXT, MAX_PATH_BYTES)
        size, at = _number_at(data, _skip(data, at, _SIZE), _NUMBER)
        digest, at = _string_at(data, _skip(data, at, _DIGEST), _BYTES, _MAX_DIGEST_BYTES)
        try:
            file = FileEntry(path.decode(), size, digest)
        except UnicodeDecodeError as exc:
            raise Untrusted(f"a path before byte {at} is refused: it is not UTF-8") from exc
        _check(file)
        yield file
    if _skip(data, at, _TAIL) != len(data):
        raise Untrusted("a manifest has bytes after its end")


def _skip(data: bytes, at: int, piece: bytes) -> int:
    if not data.startswith(piece, at):
        raise Untrusted(f"a manifest does not have {piece!r} at byte {at}")
    return at + len(piece)


def _number_at(data: bytes, at: int, major: int) -> tuple[int, int]:
    """The number in the head of a CBOR item, and where the head ends (RFC 8949 3, 4.2.1)."""
    first = data[at] if at < len(data) else 0xFF
    info = first & 31
    if first >> 5 != major or info > 27:  # 28 to 31: reserved, or a length given later
        raise Untrusted(f"a manifest has the wrong type of value at byte {at}")
    if info < 24:
        return info, at + 1
    width = 1 << info - 24
    end = at + 1 + width
    if end > len(data):
        raise Untrusted(f"a manifest is cut short at byte {at}")
    value = int.from_bytes(data[at + 1 : end], "big")
    if value < 24 or (width > 1 and value >> 4 * width == 0):  # it fits a shorter head
        raise Untrusted(f"a manifest is not in its canonical encoding at byte {at}")
    return value, end


def _string_at(data: bytes, at: int, major: int, most_bytes: int) -> tuple[bytes, int]:
    """The bytes of a CBOR string, and where they end: past `data` if it is cut short there."""
    length, start = _number_at(data, at, major)
    if length > most_bytes:
        raise Untrusted(
            f"a string of {length} bytes at byte {at} is refused: it has more than {most_bytes}"
        )
    end = start + length
    return data[start:end], end


def _check(file: FileEntry) -> None:
    safe_path(file.path)
    if not 0 <= file.size <= MAX_FILE_BYTES:
        raise Untrusted(f"the file `{file.path}` cannot have {file.size} bytes")
    digests.parse_multihash(file.digest)


def _in_order(files: Iterable[FileEntry]) -> Iterator[FileEntry]:
    """The same files, if each path comes once, sorted, and `a` and `a/b` are not both files.

    What begins with the text `a` stands in one run, `a` first: `a`, `a-b`, `a/b`. `begun` are the
    runs that the path at hand is in, longest last. Only the last can be a folder of it: had a
    shorter one been, the longer one, which is inside it, would have been refused. So this takes
    the time of one comparison a path, however deep the paths are.
    """
    begun: list[str] = []
    previous = ""
    for file in files:
        path = file.path
        while begun and not path.startswith(begun[-1]):
            begun.pop()
        if path <= previous:
            if path == previous:
                raise Untrusted(f"the file `{path}` is listed twice")
            raise Untrusted("a manifest is not in its canonical encoding: its files are unsorted")
        if begun and path[len(begun[-1])] == "/":
            raise Untrusted(f"`{begun[-1]}` is listed as a file and as a folder")
        begun.append(path)
        previous = path
        yield file
