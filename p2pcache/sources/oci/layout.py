"""How the blobs of a manifest are named as files: pure.

Three ways, for three kinds of readers:

* `oci`: an OCI image layout (image-spec, image-layout.md), which `skopeo copy oci:DIR`, `crane
  push` and `oras cp --from-oci-layout` read: all blobs under their digests, and an index;
* `files`: what `oras push` took, under the names that it noted; blobs without a name as above;
* Ollama's: by what each layer is for. With the manifest, so that all of it can be given back.

Without a wish, a manifest whose layers have names is `files`, everything else `oci`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from p2pcache.content.names import safe_path
from p2pcache.content.registry_refs import OLLAMA_MANIFEST
from p2pcache.errors import Untrusted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from p2pcache.content.registry_refs import Layout
    from p2pcache.sources.oci.manifest import Descriptor, Image

# Who noted a name, in order: oras and most others; Docker's and CNCF's formats for models.
TITLES = ("org.opencontainers.image.title", "org.cncf.model.filepath")
UNPACK = "io.deis.oras.content.unpack"  # a folder that oras packed, and unpacks again
REF_NAME = "org.opencontainers.image.ref.name"
LAYOUT_FILE = b'{"imageLayoutVersion":"1.0.0"}'

OLLAMA = "application/vnd.ollama.image."
_OLLAMA_NAMES = {
    "model": "model.gguf",
    "adapter": "adapter.gguf",
    "projector": "projector.gguf",
    "draft": "draft.gguf",
    "params": "params.json",
    "messages": "messages.json",
    "template": "template.txt",
    "system": "system.txt",
    "prompt": "prompt.txt",
    "license": "license.txt",
}
_NAMED_BY_ITSELF = {"tensor": "tensors/", "json": ""}  # safetensors models of Ollama's


@dataclass(frozen=True, slots=True)
class Named:
    """One file: either a blob of the registry (`blob`), the manifest itself, or `inline` bytes."""

    path: str
    blob: Descriptor | None = None
    is_manifest: bool = False
    inline: bytes | None = None


def named_files(
    image: Image, manifest: Descriptor, layout: Layout | None, tag: str
) -> tuple[Named, ...]:
    """The files of a manifest whose own descriptor is `manifest`.

    Raises Untrusted: a name that no folder may hold, or one name for two contents.
    """
    if layout is None:
        layout = "files" if any(_title(layer) for layer in image.layers) else "oci"
    if layout == "files":
        return _once(_of_layers(image))
    return _once(_image_layout(image, manifest, tag))


def ollama_files(image: Image) -> tuple[Named, ...]:
    """The files of a model of Ollama's. Raises as `named_files`."""
    return _once(_of_ollama(image))


def _image_layout(image: Image, manifest: Descriptor, tag: str) -> Iterator[Named]:
    entry: dict[str, object] = {
        "mediaType": manifest.media_type,
        "digest": manifest.digest,
        "size": manifest.size,
    }
    if tag:
        entry["annotations"] = {REF_NAME: tag}
    index = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [entry],
    }
    yield Named("oci-layout", inline=LAYOUT_FILE)
    yield Named("index.json", inline=json.dumps(index, separators=(",", ":")).encode())
    yield Named(_by_digest(manifest.digest), manifest, is_manifest=True)
    for blob in (image.config, *image.layers):
        yield Named(_by_digest(blob.digest), blob)


def _of_layers(image: Image) -> Iterator[Named]:
    for layer in image.layers:
        title = _title(layer)
        if title and layer.annotations.get(UNPACK) == "true":
            title += ".tar.gz"
        yield Named(title or _by_digest(layer.digest), layer)


def _of_ollama(image: Image) -> Iterator[Named]:
    yield Named(OLLAMA_MANIFEST, is_manifest=True)
    yield Named("image-config.json", image.config)
    seen: dict[str, int] = {}
    for layer in {layer.digest: layer for layer in image.layers}.values():
        kind = layer.media_type.removeprefix(OLLAMA)
        if kind in _NAMED_BY_ITSELF and layer.name:
            yield Named(_NAMED_BY_ITSELF[kind] + layer.name, layer)
            continue
        name = _OLLAMA_NAMES.get(kind, _by_digest(layer.digest))
        seen[name] = seen.get(name, 0) + 1
        yield Named(_numbered(name, seen[name]), layer)


def _numbered(name: str, number: int) -> str:
    if number == 1:
        return name
    stem, dot, ending = name.rpartition(".")
    return f"{stem}-{number}{dot}{ending}"


def _title(layer: Descriptor) -> str:
    return next((text for name in TITLES if (text := layer.annotations.get(name))), "")


def _by_digest(digest: str) -> str:
    return "blobs/" + digest.replace(":", "/")


def _once(files: Iterable[Named]) -> tuple[Named, ...]:
    """Each path once: images repeat layers, and that is no contradiction."""
    found: dict[str, Named] = {}
    for file in files:
        known = found.setdefault(safe_path(file.path), file)
        if _content(known) != _content(file):
            raise Untrusted(f"the manifest has two contents for the name {file.path!r}")
    return tuple(found.values())


def _content(file: Named) -> object:
    return file.inline if file.blob is None else file.blob.digest
