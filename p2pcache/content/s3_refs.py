"""Refs of S3 buckets: `s3://bucket[/key][@versionId]`, as `object_paths` reads them. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from p2pcache.content.object_paths import path_text, read_bucket

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
    return S3Ref(*read_bucket(rest, typed, _BUCKET, _VERSION, FORM))


def s3_text(ref: S3Ref) -> str:
    """What `parse_s3` reads, with the scheme."""
    return path_text(f"s3://{ref.bucket}", ref.key, ref.version, folder=ref.folder)
