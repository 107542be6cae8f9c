"""Looks where a wanted file may lie already: in the Hugging Face cache and in Ollama's store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2pcache.content import digests, refs
from p2pcache.formats import ollama
from p2pcache.store.hfcache.read import find_blob

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from p2pcache.content.refs import Ref
    from p2pcache.sources.port import ListedFile
    from p2pcache.transfer.pull import Adopter


def hub_adopter(cache: Path | None) -> Adopter:
    """Finds a hub file by its etag in a Hugging Face cache; None: there is no such cache."""

    def look(ref: Ref, file: ListedFile) -> Iterator[Path]:
        if cache is None or not isinstance(ref, refs.HfRef) or file.digest is None:
            return
        etag = digests.raw(file.digest).hex()
        found = find_blob(cache, ref.repo_type, ref.repo_id, etag)
        if found is not None:
            yield found

    return look


def ollama_adopter(models: Path | None) -> Adopter:
    """Finds any file by its sha2-256 in Ollama's store: a GGUF of a hub is the same bytes there."""

    def look(ref: Ref, file: ListedFile) -> Iterator[Path]:
        if models is None or file.digest is None or not digests.is_sha256(file.digest):
            return
        found = ollama.find_blob(models, digests.raw(file.digest))
        if found is not None:
            yield found

    return look
