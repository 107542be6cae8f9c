"""What a push leaves in a bucket beside the files: its record, as JSON. Pure.

Below the folder that was pushed to:

    .p2pcache/manifests/<CID>   the manifest, canonical DAG-CBOR
    .p2pcache/ref               which content it is, and for each file what the bucket has
    .p2pcache/pushing           while a push runs: who

`ref` spares who reads the folder a request for each object: an object that is still the version
that it names has the sha256 that it names. It is text from outside, as all of a bucket is: what it
says is a name that bytes have to match, and no more.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from p2pcache.content.names import safe_path
from p2pcache.errors import Untrusted

if TYPE_CHECKING:
    from collections.abc import Mapping

FOLDER = ".p2pcache/"
REF_KEY = f"{FOLDER}ref"
PUSHING_KEY = f"{FOLDER}pushing"
SHA256_METADATA = "p2pcache-sha256"  # of each object of ours: hex
VERSION = 1
MAX_RECORD_BYTES = 64 << 20  # a hundred thousand files, with long paths
_MAX_FILES = 1_000_000
_SMALL_BYTES = 4 << 20  # whatever these say takes 100 MB at most to read
_ROW_BYTES, _ROW_COMMAS = 100, 4  # at least; at most, but for commas in names
_HEX = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Put:
    """One file of a record. `version`: the object's, in the word of its store."""

    size: int
    sha256: bytes
    version: str


@dataclass(frozen=True, slots=True)
class PushRecord:
    """`manifest`: its CID as text; `ref`: what the pusher called it; `files` by path."""

    manifest: str
    ref: str
    files: Mapping[str, Put]

    def encode(self) -> bytes:
        """The same bytes for the same record."""
        rows = {
            path: {"size": file.size, "sha256": file.sha256.hex(), "version": file.version}
            for path, file in sorted(self.files.items())
        }
        told = {"p2pcache": VERSION, "manifest": self.manifest, "ref": self.ref, "files": rows}
        return json.dumps(told, indent=1, ensure_ascii=False).encode()


def manifest_key(cid: str) -> str:
    """Where a manifest lies."""
    return f"{FOLDER}manifests/{cid}"


def is_ours(path: str) -> bool:
    """Whether a path below the folder is of the record, and none of the content."""
    return path.startswith(FOLDER)


def parse(data: bytes) -> PushRecord:
    """Bytes from anywhere. Raises Untrusted, and nothing else."""
    if len(data) > MAX_RECORD_BYTES:
        raise Untrusted(f"a record of {len(data)} bytes is over the limit")
    commas = len(data) // _ROW_BYTES * _ROW_COMMAS
    if len(data) > _SMALL_BYTES and data.count(b",") > commas:  # 60 MB of `{},` take 1.5 GB
        raise Untrusted(f"the record {REF_KEY} of a push is full of what is no file")
    try:
        told = json.loads(data)
        version = told["p2pcache"]
        if version != VERSION:
            raise Untrusted(f"a record of version {str(version)[:20]} is not known to us")
        rows = told["files"]
        if len(rows) > _MAX_FILES:
            raise Untrusted(f"a record of more than {_MAX_FILES} files: too many")
        files = {safe_path(path): _file(row) for path, row in rows.items()}
        return PushRecord(_text(told["manifest"]), _text(told["ref"]), files)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as exc:
        raise Untrusted(f"the record {REF_KEY} of a push does not read as one") from exc


def _file(row: Any) -> Put:  # noqa: ANN401 - of somebody's JSON
    size, sha256, version = row["size"], row["sha256"], row["version"]
    if type(size) is not int or size < 0 or not _HEX.fullmatch(sha256):
        raise ValueError("not a file")
    return Put(size, bytes.fromhex(sha256), _text(version))


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("not text")
    return value
