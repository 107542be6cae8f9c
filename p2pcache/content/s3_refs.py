"""Refs of S3 buckets: `s3://bucket[/key][@versionId]`, as `object_paths` reads them. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote

from p2pcache.content.object_paths import read_path
from p2pcache.errors import UsageError

FORM = "s3://bucket/key, s3://bucket/folder/ or s3://bucket/key@versionId"
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
    return S3Ref(bucket, *read_path(path, typed, _VERSION))


def s3_text(ref: S3Ref) -> str:
    """What `parse_s3` reads, with the scheme."""
    if ref.key is None:
        return f"s3://{ref.bucket}"
    text = f"s3://{ref.bucket}/{quote(ref.key)}" + ("/" if ref.folder else "")
    return text if ref.version is None else f"{text}@{ref.version}"
