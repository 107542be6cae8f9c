"""The part of a bucket's ref behind the bucket: a key, a folder or one version. Pure.

A key without a slash at its end is an object, or else the folder of that name; with one it is the
folder. `@` in the last component begins a version. A key's own `@` there is written `%40`, and a
`%` is `%25`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

from p2pcache.content.names import safe_path
from p2pcache.errors import Untrusted, UsageError

if TYPE_CHECKING:
    import re

MAX_KEY_BYTES = 1024  # of S3, Google Cloud Storage and Azure alike


def read_bucket(
    rest: str, typed: str, names: re.Pattern[str], versions: re.Pattern[str], form: str
) -> tuple[str, str | None, str | None, bool]:
    """What stands behind the scheme: a bucket, and of `read_path` the rest, if there is any.

    `names`: what a bucket is called. Raises UsageError, with `form` as its hint.
    """
    bucket, _, path = rest.removeprefix("//").partition("/")
    if not rest.startswith("//") or not names.fullmatch(bucket) or ".." in bucket:
        raise UsageError(f"`{typed}` names no bucket", hint=form)
    return (bucket, *read_path(path, typed, versions)) if path else (bucket, None, None, False)


def path_text(base: str, key: str | None, version: str | None, *, folder: bool) -> str:
    """What is read so, behind a bucket with its scheme."""
    if key is None:
        return base
    text = f"{base}/{quote(key)}" + ("/" if folder else "")
    return text if version is None else f"{text}@{version}"


def read_path(path: str, typed: str, versions: re.Pattern[str]) -> tuple[str, str | None, bool]:
    """Key (without a slash at its end), version, and whether it is a folder in any case.

    `versions`: what a version looks like. Raises UsageError.
    """
    parents, slash, last = path.rpartition("/")
    last, at, version = last.partition("@")
    if at and not versions.fullmatch(version):
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
    return key, version or None, folder
