"""What this agent's use of origins comes to, beside bytes and requests: counted here, kept by
`agent.origins`. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from p2pcache.store.origin_costs import Arrived, OriginCost

GB = 1_000_000_000  # what clouds charge by


@dataclass(frozen=True, slots=True)
class Price:
    """Of what comes from an origin, per 10^9 bytes, and of a thousand requests."""

    per_gb: float = 0.0
    per_1000_requests: float = 0.0
    currency: str = "USD"

    def of(self, bytes_total: int, requests_total: int) -> float:
        """What that many bytes and requests cost."""
        return bytes_total / GB * self.per_gb + requests_total / 1000 * self.per_1000_requests


@dataclass(slots=True)
class Costs:
    """What is not kept yet, by origin and month."""

    _more: dict[tuple[bytes, int], OriginCost] = field(default_factory=dict)
    _arrived: list[Arrived] = field(default_factory=list)

    def failed(self, origin: bytes, month: int, host: str) -> None:
        """A request was not answered as it should."""
        before = self._before(origin, month, host)
        self._more[origin, month] = replace(before, errors=before.errors + 1)

    def sent(self, origin: bytes, month: int, host: str, count: int, requests: int) -> None:
        """So many bytes went there."""
        before = self._before(origin, month, host)
        self._more[origin, month] = replace(
            before,
            sent_bytes=before.sent_bytes + count,
            sent_requests=before.sent_requests + requests,
        )

    def arrived(self, origin: bytes, month: int, sha256: bytes, size: int) -> None:
        """A blob of it came, whoever brought it."""
        self._arrived.append(Arrived(origin, month, sha256, size))

    def _before(self, origin: bytes, month: int, host: str) -> OriginCost:
        return self._more.get((origin, month), OriginCost(host))

    def take(self) -> tuple[list[tuple[bytes, int, OriginCost]], list[Arrived]]:
        """What is to be kept now."""
        more = [(origin, month, cost) for (origin, month), cost in self._more.items()]
        taken = more, self._arrived
        self._more, self._arrived = {}, []
        return taken

    def not_kept(self, more: list[tuple[bytes, int, OriginCost]], arrived: list[Arrived]) -> None:
        """It could not be written: once more."""
        for origin, month, cost in more:
            before = self._before(origin, month, cost.host)
            self._more[origin, month] = replace(
                before,
                errors=before.errors + cost.errors,
                sent_bytes=before.sent_bytes + cost.sent_bytes,
                sent_requests=before.sent_requests + cost.sent_requests,
            )
        self._arrived += arrived
