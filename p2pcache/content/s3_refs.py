"""Refs of S3 buckets: `s3://bucket[/key][@versionId]`, as `object_paths` reads them. Pure.

`r2://ACCOUNT.bucket/...` (Cloudflare) and `cw://bucket/...` (CoreWeave), as Truss writes them, are
buckets of S3, too: of a store whose address the ref tells.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from p2pcache.content.object_paths import path_text, read_bucket

STORES = {"r2": "r2://ACCOUNT.bucket/key", "cw": "cw://bucket/key"}  # and how their refs look
FORM = "s3://bucket/key, s3://bucket/folder/ or s3://bucket/key@versionId"
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]")  # old ones of us-east-1 too
_R2 = re.compile(r"[0-9a-f]{32}\.[a-z0-9](?:[a-z0-9-]{1,61})[a-z0-9]")
_VERSION = re.compile(r"[A-Za-z0-9._-]{1,1024}")  # opaque; S3 has 32 of these, MinIO a UUID


@dataclass(frozen=True, slots=True)
class S3Ref:
    """A bucket, or one object or folder of it. Whose bucket it is (the endpoint) is the caller's
    choice, as a hub is; but of a store of STORES, which the name begins with then: `cw:models`,
    `r2:ACCOUNT.models`. `folder`: the key ended in a slash, which `key` leaves out.
    """

    bucket: str
    key: str | None = None
    version: str | None = None
    folder: bool = False


def parse_s3(rest: str, typed: str, store: str = "") -> S3Ref:
    """What stands behind `s3:`, or behind that of a store. Raises UsageError."""
    names = _R2 if store == "r2" else _BUCKET
    form = STORES.get(store, FORM)
    bucket, key, version, folder = read_bucket(rest, typed, names, _VERSION, form)
    return S3Ref(f"{store}:{bucket}" if store else bucket, key, version, folder)


def split_bucket(named: str) -> tuple[str, str, str]:
    """The store ("" where the ref does not tell it), its account if it has some, and the name that
    the store itself has for a bucket.
    """
    store, _, name = named.rpartition(":")
    account, _, name = name.partition(".") if store == "r2" else ("", "", name)
    return store, account, name


def bucket_text(named: str) -> str:
    """A bucket as a ref."""
    store, colon, name = named.rpartition(":")
    return f"{store}://{name}" if colon else f"s3://{name}"


def s3_text(ref: S3Ref) -> str:
    """What `parse_s3` reads, with the scheme."""
    return path_text(bucket_text(ref.bucket), ref.key, ref.version, folder=ref.folder)
