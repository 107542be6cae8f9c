"""Refs of S3 buckets: `s3://bucket[/key][@versionId]`. Pure.

A key without a slash at its end is an object, or else the folder of that name; with one it is the
folder. `@` in the last component begins a version. A key's own `@` there is written `%40`, and a
`%` is `%25`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote, unquote

from p2pcache.content.names import safe_path
from p2pcache.errors import Untrusted, UsageError

FORM = "s3://bucket/key, s3://bucket/folder/ or s3://bucket/key@versionId"
MAX_KEY_BYTES = 1024  # of S3
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]")  # old ones of us-east-1 too
_VERSION = re.compile(r"[A-Za-z0-9._-]{1,1024}")  # opaque; S3 has 32 of these, MinIO a UUID


@dataclass(frozen=True, slots=True)
class S3Ref:
    """A bucket, or one object or folder of it. Whose bucket it is (the endpoint) is the caller's
    choice, as a hub is. `folder`: the key ended in a slash, which `key` leaves out.
    """

    bucket: str
    key: str | None = None
    version: str | None = None
    folder: bool = False


def parse_s3(rest: str, typed: str) -> S3Ref:
    """What stands behind `s3:`. Raises UsageError."""
    bucket, _, path = rest.removeprefix("//").partition("/")
    if not rest.startswith("//") or not _BUCKET.fullmatch(bucket) or ".." in bucket:
        raise UsageError(f"`{typed}` names no bucket", hint=FORM)
    if not path:
        return S3Ref(bucket)
    parents, slash, last = path.rpartition("/")
    last, at, version = last.partition("@")
    if at and not _VERSION.fullmatch(version):
        raise UsageError(
            f"`{typed}` has no version behind `@`", hint="a key's own @ is written %40"
        )
    key = unquote(parents + slash + last)
    folder = key.endswith("/")
    if folder and at:
        raise UsageError(f"`{typed}` names a version of a folder", hint="objects have versions")
    try:
        key = safe_path(key.removesuffix("/"))
    except Untrusted as exc:
        raise UsageError(exc.message) from exc
    if len(key.encode()) > MAX_KEY_BYTES:
        raise UsageError(f"a key has at most {MAX_KEY_BYTES} bytes")
    return S3Ref(bucket, key, version or None, folder)


def s3_text(ref: S3Ref) -> str:
    """What `parse_s3` reads, with the scheme."""
    if ref.key is None:
        return f"s3://{ref.bucket}"
    text = f"s3://{ref.bucket}/{quote(ref.key)}" + ("/" if ref.folder else "")
    return text if ref.version is None else f"{text}@{ref.version}"
