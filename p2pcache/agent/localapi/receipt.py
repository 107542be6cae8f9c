"""What `why` answers, as a typed map; docs/explain.md tells what it means."""

from __future__ import annotations

from typing import Any, TypedDict


class ReceiptSource(TypedDict):
    """What one source gave in a pull. `kind`: peer, kubo or origin; `outcome`: used, not needed or
    left, and `reason` why.
    """

    name: str
    host: str | None
    kind: str
    bytes: int
    wire_bytes: int
    seconds: float
    requests: int
    retries: int
    outcome: str
    reason: str | None


class ReceiptAnswer(TypedDict):
    """A pull, as `why` tells it. `outcome`: "complete", or "failed: " and why;
    what depends on how it went is in `where`, `incidents` and `bound`.
    """

    id: str
    ref: str
    manifest: str | None
    immutable: str | None
    started_at: float
    seconds: float
    outcome: str
    total_bytes: int
    fetched_bytes: int
    reused_bytes: int
    adopted_bytes: int
    resumed_bytes: int
    duplicate_bytes: int
    duplicates: dict[str, int]
    retries: int
    sources: list[ReceiptSource]
    times: dict[str, float]
    where: dict[str, Any]
    origin_copies: dict[str, float | None] | None
    incidents: list[dict[str, Any]]
    more_incidents: int
    bound: dict[str, Any] | None
    notes: list[str]
