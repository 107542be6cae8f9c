"""Refs of Google Cloud Storage and of Azure Blob Storage: parsed once. Pure.

    gs://bucket[/key][@generation]     az://account/container[/blob]

`gcs://` and `azure://` mean the same, and so does `https://account.blob.core.windows.net/...`
without a query. What stands behind the bucket or container is read as in `s3://`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from p2pcache.content.object_paths import path_text, read_bucket, read_path
from p2pcache.errors import UsageError

GCS_FORM = "gs://bucket/key, gs://bucket/folder/ or gs://bucket/key@generation"
AZURE_FORM = "az://account/container/blob or az://account/container/folder/"

_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")  # names with dots have up to 222
_GENERATION = re.compile(r"[0-9]{1,19}")
_ACCOUNT = re.compile(r"[a-z0-9]{3,24}")
_CONTAINER = re.compile(r"(?=.{3,63}\Z)[a-z0-9](?:-?[a-z0-9])+|\$(?:root|web)")
_NONE = re.compile(r"(?!)")
_HOST = re.compile(r"([a-z0-9]{3,24})\.blob\.core\.windows\.net", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class GcsRef:
    """A bucket, or one object or folder of it. `folder`: as `S3Ref` has it."""

    bucket: str
    key: str | None = None
    generation: str | None = None
    folder: bool = False


@dataclass(frozen=True, slots=True)
class AzureRef:
    """A container, or one blob or folder of it. `folder`: as `S3Ref` has it."""

    account: str
    container: str
    key: str | None = None
    folder: bool = False


def parse_gcs(rest: str, typed: str) -> GcsRef:
    """What stands behind `gs:`. Raises UsageError."""
    return GcsRef(*read_bucket(rest, typed, _BUCKET, _GENERATION, GCS_FORM))


def gcs_text(ref: GcsRef) -> str:
    """What `parse_gcs` reads, with the scheme."""
    return path_text(f"gs://{ref.bucket}", ref.key, ref.generation, folder=ref.folder)


def parse_azure(rest: str, typed: str) -> AzureRef:
    """What stands behind `az:`. Raises UsageError."""
    account, _, below = rest.removeprefix("//").partition("/")
    container, _, path = below.partition("/")
    if not rest.startswith("//") or not _ACCOUNT.fullmatch(account):
        raise UsageError(f"`{typed}` names no account", hint=AZURE_FORM)
    if not _CONTAINER.fullmatch(container):
        raise UsageError(f"`{typed}` names no container", hint=AZURE_FORM)
    if not path:
        return AzureRef(account, container)
    key, _, folder = read_path(path.replace("@", "%40"), typed, _NONE)
    return AzureRef(account, container, key, folder)


def azure_text(ref: AzureRef) -> str:
    """What `parse_azure` reads, with the scheme."""
    base = f"az://{ref.account}/{ref.container}"
    return path_text(base, ref.key, None, folder=ref.folder)


def azure_of_url(url: str) -> AzureRef | None:
    """The ref that a plain address of Azure's own means; None for any other address, and for one
    with a signature or a pin, which is read as it stands.
    """
    parts = urlsplit(url)
    found = _HOST.fullmatch(parts.netloc)
    if found is None or parts.scheme.lower() != "https" or parts.query or parts.fragment:
        return None
    try:
        return parse_azure(f"//{found[1].lower()}{parts.path}", url)
    except UsageError:
        return None
