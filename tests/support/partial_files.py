"""The three files of a partial blob as the store would make them, and orders on them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from p2pcache.lanes.orders import BLOCK_BYTES, FetchLimits, FetchOrder, Location

if TYPE_CHECKING:
    from pathlib import Path

PATIENT = FetchLimits(connect_timeout_s=5.0, no_progress_s=5.0)  # a busy machine is no fault
QUICK = FetchLimits(connect_timeout_s=1.0, no_progress_s=0.5)  # where the fault is slowness


def some_bytes(size: int, seed: bytes = b"lanes") -> bytes:
    return hashlib.shake_128(seed).digest(size)


def block_hashes(data: bytes) -> bytes:
    return b"".join(
        hashlib.sha256(data[at : at + BLOCK_BYTES]).digest()
        for at in range(0, len(data), BLOCK_BYTES)
    )


@dataclass
class PartialFiles:
    dir: Path
    size: int

    def __post_init__(self) -> None:
        self.blocks = -(-self.size // BLOCK_BYTES)
        self.dir.mkdir(parents=True, exist_ok=True)
        self.write("data", bytes(self.size))
        self.write("map", bytes(32 * self.blocks))
        self.write("live", bytes(self.blocks))

    def write(self, name: str, data: bytes) -> None:
        (self.dir / name).write_bytes(data)

    def read(self, name: str) -> bytes:
        return (self.dir / name).read_bytes()

    def path(self, name: str) -> str:
        return str(self.dir / name)

    def order(self, location: Location | str, **changes: object) -> FetchOrder:
        if isinstance(location, str):
            location = Location(location)
        options: dict[str, object] = {
            "blob_bytes": self.size, "start": 0, "end": self.size, "limits": PATIENT, **changes,
        }  # fmt: skip
        return FetchOrder(
            location, self.path("data"), self.path("map"), self.path("live"), **options
        )  # type: ignore[arg-type]
