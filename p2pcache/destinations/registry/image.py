"""What a registry is given: a manifest and its blobs.

What came from a registry goes back with the very bytes of its manifest, so its digest stays. That
is found by the files themselves: an image layout, or the files of a model of Ollama's. Everything
else becomes an artifact as oras makes it, one layer a file; or, for Ollama, a model out of a GGUF.
An artifact says nothing of when it was made: the same files are the same digest.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from p2pcache.content.ollama_model import MANIFEST_TYPE
from p2pcache.content.registry_refs import OLLAMA_MANIFEST
from p2pcache.destinations.registry.model import OnDisk, model_of
from p2pcache.errors import Untrusted, UsageError
from p2pcache.sources.oci.layout import OLLAMA, TITLES
from p2pcache.sources.oci.manifest import (
    MAX_MANIFEST_BYTES,
    OCI_MANIFEST,
    Image,
    Index,
    parse_manifest,
)
from p2pcache.store.durable import local_faults

if TYPE_CHECKING:
    from collections.abc import Sequence

    from p2pcache.destinations.port import Content, ContentFile

ARTIFACT = "application/vnd.unknown.artifact.v1"  # what oras says of files without a type
EMPTY_TYPE, EMPTY = "application/vnd.oci.empty.v1+json", b"{}"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"  # oras's own for any file


@dataclass(frozen=True, slots=True)
class Blob:
    """A blob that the manifest names: a file of ours, or small bytes (`data`)."""

    digest: str
    size: int
    file: ContentFile | None = None
    data: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Pushable:
    """A manifest and its blobs, each once, its config last."""

    manifest: bytes = field(repr=False)
    media_type: str
    blobs: tuple[Blob, ...]
    notes: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """Of the manifest."""
        return f"sha256:{hashlib.sha256(self.manifest).hexdigest()}"


def pushable(content: Content, *, for_ollama: bool) -> Pushable:
    """Blocking: small files are read, and the headers of GGUF files. Raises UsageError (what
    cannot be made of it), Untrusted (a layout whose manifest is none), LocalFault.
    """
    given = _of_layout(content) or _of_ollama(content)
    if given is None:
        return _model(content) if for_ollama else _artifact(content)
    said, body = given
    if for_ollama and not any(layer.media_type.startswith(OLLAMA) for layer in said.layers):
        raise UsageError(
            f"`{content.ref}` is an image, and no model of Ollama's", hint="push it to oci://"
        )
    blobs = [
        Blob(one.digest, one.size, _by_digest(content, one.digest, one.size))
        for one in (*said.layers, said.config)
    ]
    return Pushable(body, said.media_type, _once(blobs))


def _of_layout(content: Content) -> tuple[Image, bytes] | None:
    """What an OCI image layout holds (image-spec, image-layout.md)."""
    if not {"oci-layout", "index.json"} <= content.places.keys():
        return None
    who = f"index.json of {content.ref}"
    index_type = "application/vnd.oci.image.index.v1+json"
    index = parse_manifest(_small(content.places["index.json"], who), index_type, who)
    if not isinstance(index, Index) or len(index.manifests) != 1:
        raise UsageError(
            f"{who} names several manifests, and one is pushed",
            hint="`crane push --index` and `skopeo copy --all` push all of a layout",
        )
    (own,) = index.manifests
    file = _by_digest(content, own.digest, own.size)
    body = _small(file, own.digest)
    said = parse_manifest(body, own.media_type, own.digest)
    if not isinstance(said, Image):
        raise UsageError(f"{who} names an index of several images, and one is pushed")
    return said, body


def _of_ollama(content: Content) -> tuple[Image, bytes] | None:
    """What `manifest.json` says of files that are all here; None: it is another kind of file."""
    file = content.places.get(OLLAMA_MANIFEST)
    if file is None or file.size > MAX_MANIFEST_BYTES:
        return None
    body = _small(file, OLLAMA_MANIFEST)
    try:
        said = parse_manifest(body, "", OLLAMA_MANIFEST)
    except Untrusted:
        return None
    if not isinstance(said, Image):
        return None
    here = {f"sha256:{one.sha256.hex()}" for one in content.files}
    return (said, body) if {one.digest for one in (said.config, *said.layers)} <= here else None


def _artifact(content: Content) -> Pushable:
    layers = [
        {
            "mediaType": LAYER_TYPE,
            "digest": _digest(file),
            "size": file.size,
            "annotations": {TITLES[0]: path},
        }
        for path, file in sorted(content.places.items())
    ]
    empty = Blob(f"sha256:{hashlib.sha256(EMPTY).hexdigest()}", len(EMPTY), data=EMPTY)
    said = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": ARTIFACT,
        "config": {"mediaType": EMPTY_TYPE, "digest": empty.digest, "size": empty.size},
        "layers": layers or [{"mediaType": EMPTY_TYPE, "digest": empty.digest, "size": empty.size}],
    }
    body = json.dumps(said, separators=(",", ":")).encode()
    if len(body) > MAX_MANIFEST_BYTES:
        raise UsageError(
            f"`{content.ref}` has {len(content.places)} files, and a manifest of a registry cannot "
            f"name so many (it has at most {MAX_MANIFEST_BYTES >> 20} MiB)",
            hint="push parts of it, or a CAR of it (`p2pcache export`)",
        )
    blobs = [Blob(_digest(file), file.size, file) for file in content.places.values()]
    return Pushable(body, OCI_MANIFEST, _once([*blobs, empty]))


def _model(content: Content) -> Pushable:
    """A model of Ollama's out of GGUF files."""
    files = {
        path: OnDisk(file.sha256, file.size, file.path) for path, file in content.places.items()
    }
    made = model_of(content.ref, files)
    parts = [content.places[path] for path in made.files]
    blobs = [Blob(_digest(part), part.size, part) for part in parts]
    bodies = [
        Blob(f"sha256:{hashlib.sha256(body).hexdigest()}", len(body), data=body)
        for body in reversed(made.bodies)  # the config is the first of them
    ]
    return Pushable(made.manifest, MANIFEST_TYPE, _once([*blobs, *bodies]), made.notes)


def _by_digest(content: Content, digest: str, size: int) -> ContentFile:
    found = next((file for file in content.files if _digest(file) == digest), None)
    if found is None or found.size != size:
        raise UsageError(
            f"`{content.ref}` lacks {digest} of {size} bytes, which its manifest names",
            hint="layers that lie elsewhere, or go by sha512, cannot be pushed",
        )
    return found


def _digest(file: ContentFile) -> str:
    return f"sha256:{file.sha256.hex()}"


def _small(file: ContentFile, who: str) -> bytes:
    if file.size > MAX_MANIFEST_BYTES:
        raise UsageError(f"{who} has {file.size} bytes, and a manifest has fewer")
    with local_faults(f"reading {file.path}"), open(file.path, "rb") as stream:
        return stream.read(MAX_MANIFEST_BYTES)


def _once(blobs: Sequence[Blob]) -> tuple[Blob, ...]:
    """Each once, where it comes last: a config that is a layer, too, stays the last."""
    found = {blob.digest: blob for blob in reversed(blobs)}
    return tuple(reversed(found.values()))
