"""How folders of others are read in place."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class AdoptOptions:
    """`rate_bytes_per_s`: of hashing; None: no limit."""

    every_s: float = 30.0  # a stat of 100,000 files takes half a second
    rate_bytes_per_s: float | None = 256 << 20  # a third of a core, and a part of what a disk gives
