"""A model of Ollama's out of GGUF files on this disk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from p2pcache.content.gguf import read_gguf
from p2pcache.content.ollama_model import (
    MAX_BESIDE_BYTES,
    OllamaModel,
    Part,
    beside_paths,
    gguf_paths,
    make_model,
)
from p2pcache.errors import UsageError
from p2pcache.store.durable import local_faults

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class OnDisk:
    """A verified file. `sha256`: raw; `source`: where it is."""

    sha256: bytes
    size: int
    source: str | Path


def model_of(who: str, files: Mapping[str, OnDisk]) -> OllamaModel:
    """Blocking: the headers of GGUF files are read. `files`: by their path; `who`: what has them.

    Raises UsageError where they make no model, LocalFault.
    """
    ggufs = []
    for path in gguf_paths(files, who):
        file = files[path]
        with local_faults(f"reading {file.source}"), open(file.source, "rb") as stream:
            header = read_gguf(stream, path)
        ggufs.append(Part(path, file.sha256, file.size, header))
    beside = {}
    for path in beside_paths(files):
        file = files[path]
        if file.size > MAX_BESIDE_BYTES:
            raise UsageError(f"`{path}` has {file.size} bytes, which is no {path} of a model")
        beside[path] = Part(path, file.sha256, file.size)
    return make_model(ggufs, beside)
