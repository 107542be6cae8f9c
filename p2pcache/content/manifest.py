"""Manifests: the immutable file list that a ref resolves to, as canonical DAG-CBOR.

`{version: 1, files: [{path, size, digest}]}`, files sorted by the UTF-8 bytes of their paths,
digests binary multihashes. Two agents that resolve the same commit build the same bytes, so the
CID names the swarm before anyone holds a byte (DESIGN 2). `parse` takes bytes from anywhere: what
does not re-encode to itself is refused, so there is one encoding and one CID a content.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import libipld

from p2pcache.content import cid as cids
from p2pcache.content import digests
from p2pcache.content.names import safe_path
from p2pcache.errors import Untrusted

if TYPE_CHECKING:
    from collections.abc import Iterable

VERSION = 1
MAX_MANIFEST_BYTES = 64 << 20  # a million files of 60 bytes a row
MAX_FILES = 1_000_000
_NUMBER, _BYTES, _TEXT, _LIST = 0, 2, 3, 4  # CBOR major types
_START = b"\xa2\x65files"  # a map of two, and its first key
MAX_FILE_BYTES = 1 << 53  # what every JSON reader of ours can hold exactly


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
        files = tuple(sorted(entries, key=lambda f: f.path.encode("utf-8", "surrogatepass")))
        if len(files) > MAX_FILES:
            raise Untrusted(f"{len(files)} files are more than {MAX_FILES}")
        previous = None
        for file in files:
            _check(file)
            if file.path == previous:
                raise Untrusted(f"the file `{file.path}` is listed twice")
            previous = file.path
        _no_file_above_another(files)
        return cls(files)

    @cached_property
    def _encoded(self) -> bytes:
        parts = [_START, _head(_LIST, len(self.files))]
        parts += map(_row, self.files)
        parts += [b"\x67version", _head(_NUMBER, VERSION)]
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
    """`{path, size, digest}`; keys shorter first, as DAG-CBOR wants.

    By hand: libipld's encoder takes any bytes that read as a CID for a link, and a sha2-256
    multihash is a CIDv0. Pins and walks of other tools would follow it to a block nobody has.
    """
    path = file.path.encode()
    return b"".join((
        b"\xa3\x64path", _head(_TEXT, len(path)), path,
        b"\x64size", _head(_NUMBER, file.size),
        b"\x66digest", _head(_BYTES, len(file.digest)), file.digest,
    ))  # fmt: skip


def parse(data: bytes) -> Manifest:
    """Bytes from anywhere to a manifest. Raises Untrusted, and nothing else."""
    if len(data) > MAX_MANIFEST_BYTES:
        raise Untrusted(f"a manifest of {len(data)} bytes is over the limit")
    if _promised_files(data) > MAX_FILES:  # before the decoder makes an object of each
        raise Untrusted(f"a manifest of more than {MAX_FILES} files: too many")
    try:
        value: Any = libipld.decode_dag_cbor(data)
    except (ValueError, TypeError, OverflowError, RecursionError, MemoryError) as exc:
        raise Untrusted("a manifest is not DAG-CBOR") from exc
    if not isinstance(value, dict) or set(value) != {"version", "files"}:
        raise Untrusted("a manifest has other fields than version and files")
    if type(value["version"]) is not int or value["version"] != VERSION:
        raise Untrusted(f"a manifest of version {str(value['version'])[:16]!r} is not supported")
    rows = value["files"]
    if type(rows) is not list:
        raise Untrusted("a manifest's files are not a list")
    manifest = Manifest.from_entries([_entry(row) for row in rows])
    if manifest.encode() != data:
        raise Untrusted("a manifest is not in its canonical encoding")
    return manifest


def _promised_files(data: bytes) -> int:
    """The length that the list of files claims. Raises Untrusted where no manifest begins.

    Canonical DAG-CBOR puts shorter keys first, so every manifest begins with the same bytes; the
    list's head (RFC 8949 3.1: major type 4) holds its length, or is followed by it.
    """
    head = data[len(_START) : len(_START) + 1]
    if not data.startswith(_START) or not head or not 0x80 <= head[0] <= 0x9B:
        raise Untrusted("a manifest does not begin with a list of files")
    info = head[0] & 31
    if info < 24:
        return info
    at = len(_START) + 1
    return int.from_bytes(data[at : at + (1 << info - 24)], "big")


def _entry(row: Any) -> FileEntry:  # noqa: ANN401 - whatever the decoder found
    if type(row) is not dict or set(row) != {"path", "size", "digest"}:
        raise Untrusted("a file of a manifest has other fields than path, size and digest")
    path, size, digest = row["path"], row["size"], row["digest"]
    if type(path) is not str or type(size) is not int or type(digest) is not bytes:
        raise Untrusted("a field of a manifest's file has the wrong type")
    return FileEntry(path, size, digest)


def _check(file: FileEntry) -> None:
    safe_path(file.path)
    if not 0 <= file.size <= MAX_FILE_BYTES:
        raise Untrusted(f"the file `{file.path}` cannot have {file.size} bytes")
    digests.parse_multihash(file.digest)


def _no_file_above_another(files: tuple[FileEntry, ...]) -> None:
    """`a` and `a/b` cannot both be files."""
    paths = {f.path for f in files}
    for file in files:
        above = file.path.rpartition("/")[0]
        while above:
            if above in paths:
                raise Untrusted(f"`{above}` is listed as a file and as a folder")
            above = above.rpartition("/")[0]
