"""Deterministic blobs on disk, served by nginx and asked for by their digest."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.nginx import Nginx

MIB = 1 << 20


@dataclass(frozen=True)
class ServedBlob:
    path: Path
    size: int
    sha256: str

    def ref(self, server: Nginx) -> str:
        return f"{server.url}/{self.path.name}#sha256={self.sha256}"

    def in_store(self, store: Path) -> Path:
        """Where a complete copy of it lies."""
        return store / "blobs-v1" / self.sha256[:2] / self.sha256


def write_blob(folder: Path, size: int, seed: int = 1) -> ServedBlob:
    """`size` bytes that follow from `seed`, no two blocks alike."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"blob-{size}-{seed}.bin"
    source, whole = random.Random(seed), hashlib.sha256()
    with path.open("wb") as out:
        for at in range(0, size, MIB):
            chunk = source.randbytes(min(MIB, size - at))
            whole.update(chunk)
            out.write(chunk)
    return ServedBlob(path, size, whole.hexdigest())


def sha256_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def left_behind(store: Path) -> list[str]:
    """Whatever lies in the store's working folders: a store at rest has nothing there."""
    folders = ("partial-v1", "tmp-v1", "trash-v1", "quarantine-v1")
    return [str(p.relative_to(store)) for f in folders for p in sorted((store / f).iterdir())]
