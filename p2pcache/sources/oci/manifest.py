"""Manifests and indexes of registries (OCI image-spec 1.1, docker schema 2): pure and suspicious.

Bytes come in here after their digest was checked: what is refused was published so.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import Any

from p2pcache.content.registry_refs import is_digest
from p2pcache.errors import Untrusted
from p2pcache.sources.headers import MAX_BLOB_BYTES

MAX_MANIFEST_BYTES = 4 << 20  # what the distribution specification asks registries to take

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
MANIFESTS = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
INDEXES = frozenset({OCI_INDEX, DOCKER_LIST})
ACCEPT = ", ".join((OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST))

_MEDIA_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}")  # fmt: skip  # noqa: E501
_HASHES = {"sha256": hashlib.sha256, "sha512": hashlib.sha512}


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What a manifest says of a blob, or an index of a manifest (image-spec, descriptor.md).

    `digest`: `sha256:<hex>` or `sha512:<hex>`; `size`: bytes. `name`: Ollama's own field.
    """

    media_type: str
    digest: str
    size: int
    annotations: dict[str, str] = field(default_factory=dict)
    platform: dict[str, str] = field(default_factory=dict)
    name: str = ""


@dataclass(frozen=True, slots=True)
class Image:
    """A manifest: of an image, of an artifact, or of a model of Ollama's."""

    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]


@dataclass(frozen=True, slots=True)
class Index:
    """A choice of manifests."""

    media_type: str
    manifests: tuple[Descriptor, ...]


def digest_of(body: bytes, like: str = "sha256") -> str:
    """The digest of bytes, by the algorithm that another digest names."""
    algorithm = like.partition(":")[0]
    return f"{algorithm}:{_HASHES[algorithm](body).hexdigest()}"


def parse_manifest(body: bytes, media_type: str, who: str) -> Image | Index:
    """What a registry answered. `media_type`: its Content-Type. Raises Untrusted, naming `who`.

    Bytes that could be read as a manifest and as an index are refused (CVE-2021-41190).
    """
    if len(body) > MAX_MANIFEST_BYTES:
        raise Untrusted(f"the manifest of {who} has more than {MAX_MANIFEST_BYTES} bytes")
    try:
        said = json.loads(body)
    except (ValueError, RecursionError) as exc:
        raise Untrusted(f"the manifest of {who} is no JSON") from exc
    if not isinstance(said, dict):
        raise Untrusted(f"the manifest of {who} is no map")
    kind = _kind(said, media_type.partition(";")[0].strip(), who)
    if kind in INDEXES:
        return Index(kind, _descriptors(said.get("manifests"), who))
    return Image(kind, _descriptor(said.get("config"), who), _descriptors(said.get("layers"), who))


def _kind(said: dict[str, Any], sent_as: str, who: str) -> str:
    own = said.get("mediaType", sent_as)
    known = MANIFESTS | INDEXES
    if not isinstance(own, str) or own not in known or said.get("schemaVersion") != 2:
        shown = str(own)[:100] if said.get("schemaVersion") == 2 else "schema version 1, or none"
        raise Untrusted(
            f"the manifest of {who} is of a kind that is not read here: {shown!r}",
            hint="whoever publishes it has to push it with current tools",
        )
    if sent_as in known and sent_as != own:
        raise Untrusted(f"the manifest of {who} is sent as {sent_as!r} and calls itself {own!r}")
    both = "manifests" in said and ("layers" in said or "config" in said)
    if both:
        raise Untrusted(f"the manifest of {who} is a manifest and an index at once")
    return own


def _descriptors(said: object, who: str) -> tuple[Descriptor, ...]:
    if not isinstance(said, list):
        raise Untrusted(f"the manifest of {who} lists nothing")
    return tuple(_descriptor(one, who) for one in said)


def _descriptor(said: object, who: str) -> Descriptor:
    if not isinstance(said, dict):
        raise Untrusted(f"the manifest of {who} has an entry that is no map")
    media_type, digest, size = said.get("mediaType"), said.get("digest"), said.get("size")
    if not isinstance(media_type, str) or not _MEDIA_TYPE.fullmatch(media_type):
        raise Untrusted(f"the manifest of {who} has an entry without a media type")
    if not isinstance(digest, str) or not is_digest(digest):
        raise Untrusted(f"the manifest of {who} has an entry without a digest that is known here")
    if type(size) is not int or not 0 <= size <= MAX_BLOB_BYTES:
        raise Untrusted(f"the manifest of {who} gives no size for {digest}")
    name = said.get("name")
    return Descriptor(
        media_type,
        digest,
        size,
        _texts(said.get("annotations")),
        _texts(said.get("platform")),
        name if isinstance(name, str) else "",
    )


def _texts(said: object) -> dict[str, str]:
    """The texts of a map; what is no text (a list of `os.features`) says nothing here."""
    if not isinstance(said, dict):
        return {}
    return {key: value for key, value in said.items() if isinstance(value, str)}
