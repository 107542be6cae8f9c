"""What this agent brings from origins for each manifest, in all its pulls of it together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2pcache.net.sync.wants import Part

if TYPE_CHECKING:
    from collections.abc import Collection, Hashable

NO_PART = Part(None, True, ())


class Parts:
    """Parts of pulls by manifest; to others they are one."""

    def __init__(self) -> None:
        self._of: dict[bytes, dict[Hashable, Part]] = {}

    def put(self, manifest: bytes, pull: Hashable, part: Part) -> Part | None:
        """A pull's part changed (NO_PART: it ended); what others are to be told, None: nothing."""
        parts = self._of.setdefault(manifest, {})
        if part.intake_bytes_per_s is None:
            was = parts.pop(pull, None)
        else:
            was, parts[pull] = None, part
        if not parts:
            del self._of[manifest]
            return None if was is None else NO_PART
        return _joined(parts.values())

    def all(self) -> dict[bytes, Part]:
        """For a new member."""
        return {manifest: _joined(parts.values()) for manifest, parts in self._of.items()}


def _joined(parts: Collection[Part]) -> Part:
    rates = [p.intake_bytes_per_s for p in parts if p.intake_bytes_per_s is not None]
    brings = tuple(one for part in parts for one in part.brings)
    return Part(sum(rates), all(part.declines for part in parts), brings)
