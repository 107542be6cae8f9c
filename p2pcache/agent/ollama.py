"""Shows what was pulled to Ollama: a model of a registry of Ollama's, or one out of GGUF files."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

from p2pcache.content import digests
from p2pcache.content.ollama_model import gguf_paths
from p2pcache.content.refs import canonical
from p2pcache.content.registry_refs import OLLAMA_MANIFEST, OllamaRef, parse_ollama
from p2pcache.destinations.registry.model import OnDisk, model_of
from p2pcache.errors import UsageError
from p2pcache.formats.ollama import OllamaBlob, read_manifest, write_model
from p2pcache.store.blobs import BlobInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from p2pcache.agent.get import GetRequest
    from p2pcache.sources.port import ListedFile
    from p2pcache.store.placing import Placed
    from p2pcache.store.rooted import AnyBlob
    from p2pcache.transfer.resolve import Resolution

MAX_NAME_CHARS = 80  # of each part of a name of Ollama's


def check_names(request: GetRequest, files: Sequence[ListedFile]) -> None:
    """Before anything is fetched: whether, by their names, these files can become the model that is
    wished for. Raises UsageError.
    """
    if request.ollama is not None and not isinstance(request.ref, OllamaRef):
        gguf_paths([file.path for file in files], canonical(request.ref))


def show_given(
    request: GetRequest,
    ref: OllamaRef,
    models: Path,
    resolution: Resolution,
    blobs: Mapping[str, AnyBlob],
    on_file: Callable[[str], None] | None,
) -> Placed | None:
    """A model of a registry, by its own name; None: not all of it was chosen. Blocking."""
    left_out = [f.path for f in resolution.listing.files if f.path not in blobs]
    if left_out or OLLAMA_MANIFEST not in blobs:
        return None
    layers = [
        OllamaBlob(digests.raw(f.digest), blobs[f.path].size, blobs[f.path].path)
        for f in resolution.listing.files
        if f.path != OLLAMA_MANIFEST and f.digest is not None
    ]
    return write_model(
        models,
        (ref.registry, ref.namespace, ref.model, ref.tag),
        read_manifest(blobs[OLLAMA_MANIFEST].path),
        layers,
        links=request.links,
        on_file=on_file,
    )


def show_made(
    request: GetRequest,
    models: Path,
    files: Sequence[ListedFile],
    blobs: Mapping[str, AnyBlob],
    on_file: Callable[[str], None] | None,
) -> tuple[Placed, tuple[str, ...]]:
    """One out of GGUF files, as `ollama create` would have it, and what to tell the user. Blocking.
    Raises UsageError, LocalFault, DiskFull.
    """
    here: dict[str, OnDisk] = {}
    for file in files:
        blob = blobs[file.path]
        if not isinstance(blob, BlobInfo):
            raise UsageError(
                f"the sha2-256 of `{file.path}` is not known yet, which Ollama calls it by",
                hint="run it again in a moment: it is being hashed",
            )
        here[file.path] = OnDisk(blob.sha256, blob.size, blob.path)
    made = model_of(canonical(request.ref), here)
    name = parse_ollama(request.ollama_name or _name_of(made.files[0]), request.ollama_name or "")
    layers = [OllamaBlob(here[p].sha256, here[p].size, blobs[p].path) for p in made.files]
    bodies = {hashlib.sha256(body).digest(): body for body in made.bodies}
    placed = write_model(
        models,
        (name.registry, name.namespace, name.model, name.tag),
        made.manifest,
        layers,
        bodies=bodies,
        links=request.links,
        on_file=on_file,
    )
    shown = canonical(name).removeprefix("ollama://")
    return placed, (f"Ollama has it as `{shown}`", *made.notes)


def _name_of(path: str) -> str:
    """What a model is called after its file."""
    stem = path.rpartition("/")[2][: -len(".gguf")].lower()
    return re.sub(r"^[^a-z0-9_]+|[^a-z0-9_.-]", "_", stem)[:MAX_NAME_CHARS] or "model"
