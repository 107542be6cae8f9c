"""Who says that it provides what: the records that other agents leave with us. Bounded; no clock.

A record is (name, provider); it is forgotten between 15 and 20 minutes after its provider said so
last, at once when its provider withdraws, and never made from what we looked up ourselves. Names
are kept in a few generations per provider: 80,000 records take 8 MB (a record object each: 60 MB),
dropping a provider costs nothing, and no provider can push out the records of another.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from p2pcache.content.peerid import PeerId

VALIDITY_S = 1200.0  # 20 min (DESIGN 5)
GENERATIONS = 4  # of a quarter of the validity each: 15 to 20 min
MAX_PROVIDERS = 1024  # the members of a large network
MAX_NAMES_PER_PROVIDER = 50_000  # 5 MB; an honest agent keeps a share of its names with each


@dataclass(slots=True)
class _Provider:
    addresses: tuple[str, ...]
    heard_at: float
    names: list[set[bytes]] = field(default_factory=lambda: [set() for _ in range(GENERATIONS)])

    def count(self) -> int:
        return sum(map(len, self.names))


class Records:
    """`now` is any clock that only goes forward, in seconds."""

    def __init__(self, *, validity_s: float = VALIDITY_S) -> None:
        self._step_s = validity_s / GENERATIONS
        self._turned_at: float | None = None
        self._providers: dict[PeerId, _Provider] = {}
        self.refused_count = 0

    def add(self, peer: PeerId, addresses: Sequence[str], name: bytes, now: float) -> bool:
        """Remember a record, or that it was renewed. False when a limit refuses it."""
        self._turn(now)
        provider = self._providers.get(peer)
        if provider is None:
            if len(self._providers) >= MAX_PROVIDERS:
                self.refused_count += 1
                return False
            provider = self._providers[peer] = _Provider(tuple(addresses), now)
        provider.addresses, provider.heard_at = tuple(addresses), now
        young, *old = provider.names
        if name in young:
            return True
        if not any(name in names for names in old) and provider.count() >= MAX_NAMES_PER_PROVIDER:
            self.refused_count += 1
            return False
        for names in old:
            names.discard(name)
        young.add(name)
        return True

    def remove(self, peer: PeerId, names: Iterable[bytes]) -> None:
        """Forget records, known or not: their provider withdrew them."""
        provider = self._providers.get(peer)
        if provider is not None:
            gone = set(names)
            for kept in provider.names:
                kept -= gone

    def remove_provider(self, peer: PeerId) -> None:
        """Forget all that a provider left."""
        self._providers.pop(peer, None)

    def providers(self, name: bytes, now: float) -> list[tuple[PeerId, tuple[str, ...]]]:
        """Who provides a name, heard of last first."""
        self._turn(now)
        holding = [
            (provider.heard_at, peer, provider.addresses)
            for peer, provider in self._providers.items()
            if any(name in names for names in provider.names)
        ]
        holding.sort(key=lambda entry: -entry[0])
        return [(peer, addresses) for _, peer, addresses in holding]

    def count(self) -> int:
        """All records."""
        return sum(provider.count() for provider in self._providers.values())

    def _turn(self, now: float) -> None:
        if self._turned_at is None:
            self._turned_at = now
        steps = int((now - self._turned_at) // self._step_s)
        if steps <= 0:
            return
        self._turned_at += steps * self._step_s
        for peer, provider in list(self._providers.items()):
            fresh: list[set[bytes]] = [set() for _ in range(min(steps, GENERATIONS))]
            provider.names = (fresh + provider.names)[:GENERATIONS]
            if not provider.count():
                del self._providers[peer]
