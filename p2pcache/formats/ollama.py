"""Ollama's store of models: `blobs/sha256-<hex>`, and `manifests/<host>/<namespace>/<model>/<tag>`,
which is the manifest byte for byte (Ollama's `manifest/paths.go`).

Ollama takes a blob for good because it is there. So every blob is put there before the manifest
that names it, and one that is there with other bytes is replaced.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from p2pcache.errors import LocalFault
from p2pcache.store.links import LinkKind, is_stamped, source_state
from p2pcache.store.placing import Placed, Tree, target_faults

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

MAX_MANIFEST_BYTES = 4 << 20  # as `sources.oci.manifest` takes
NONE: Mapping[bytes, bytes] = MappingProxyType({})
_STEP_BYTES = 1 << 20  # of a comparison
_ANY_WRITE = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH


@dataclass(frozen=True, slots=True)
class OllamaBlob:
    """A verified file, by its sha2-256 (raw) and its bytes."""

    sha256: bytes
    size: int
    source: Path


def find_blob(models: Path, sha256: bytes) -> Path | None:
    """Where Ollama has a blob, by its name alone: what is in it has to be hashed."""
    path = models / _blob(sha256)
    return path if path.is_file() else None


def read_manifest(path: Path) -> bytes:
    """A stored manifest, byte for byte. Raises LocalFault."""
    with target_faults("reading", path), path.open("rb") as stream:
        body = stream.read(MAX_MANIFEST_BYTES + 1)
    if len(body) > MAX_MANIFEST_BYTES:
        raise LocalFault(f"{path} is too long for a manifest of Ollama's")
    return body


def write_model(
    models: Path,
    name: tuple[str, str, str, str],
    manifest: bytes,
    blobs: Sequence[OllamaBlob],
    *,
    bodies: Mapping[bytes, bytes] = NONE,
    links: bool = True,
    on_file: Callable[[str], None] | None = None,
) -> Placed:
    """Make a model appear in `ollama list`. `name`: host, namespace, model, tag, all checked.
    `bodies`: small blobs that are no files, by their sha2-256.

    Ollama never writes to a blob, so a hard link comes first; with `links=False`, and for files
    that somebody may write to, a reflink or a copy. `on_file` is called with each path before it is
    placed; what it raises stops between two files, and the model is not shown then.
    Raises DiskFull, LocalFault.
    """
    shown = "/".join(("manifests", *name))
    with Tree(models) as tree:
        placed = Placed(tree.path / shown)
        for blob in blobs:
            path = _blob(blob.sha256)
            if on_file is not None:
                on_file(path)
            _place(tree, blob, path, links, placed)
        for sha256, body in bodies.items():
            if not _says(tree, _blob(sha256), body):
                tree.write(body, _blob(sha256), mode=0o644)
        if on_file is not None:
            on_file(shown)
        if not _says(tree, shown, manifest):
            tree.write(manifest, shown, mode=0o644)
    return placed


def _blob(sha256: bytes) -> str:
    return f"blobs/sha256-{sha256.hex()}"


def _place(tree: Tree, blob: OllamaBlob, path: str, links: bool, placed: Placed) -> None:
    source = source_state(blob.source, blob.size)
    found = tree.state(path)
    if found is not None:
        if _is_equal(tree, blob, path, found, source):
            placed.kept += 1
            return
        placed.replaced.append(path)
    kinds = [LinkKind.REFLINK, LinkKind.COPY]
    if links and not source.st_mode & _ANY_WRITE:
        kinds.insert(0, LinkKind.HARD_LINK)
    placed.made[tree.place(blob.source, path, kinds)] += 1


def _is_equal(
    tree: Tree, blob: OllamaBlob, path: str, found: os.stat_result, source: os.stat_result
) -> bool:
    if not stat.S_ISREG(found.st_mode) or found.st_size != source.st_size:
        return False
    if os.path.samestat(found, source) or is_stamped(found, source):
        return True
    with (
        target_faults("comparing", tree.path, path),
        blob.source.open("rb") as ours,
        os.fdopen(tree.open(path), "rb") as theirs,
    ):
        while step := ours.read(_STEP_BYTES):
            if step != theirs.read(_STEP_BYTES):
                return False
        return not theirs.read(1)


def _says(tree: Tree, path: str, body: bytes) -> bool:
    """Whether a small file says this already."""
    found = tree.state(path)
    if found is None or not stat.S_ISREG(found.st_mode) or found.st_size != len(body):
        return False
    with os.fdopen(tree.open(path), "rb") as stream:
        return stream.read(len(body) + 1) == body
