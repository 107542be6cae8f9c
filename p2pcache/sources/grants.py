"""What a source may use for some minutes without asking again: tokens and keys, by their login.

In memory alone. What one caller's login opened is kept apart from what another's did.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable

Grant = TypeVar("Grant")


@dataclass(frozen=True, slots=True)
class _Kept(Generic[Grant]):
    grant: Grant
    until: float  # on trio's clock


class Grants(Generic[Grant]):
    """At most `most` of them, each for as long as `usable_s` says when it comes."""

    def __init__(self, most: int, usable_s: Callable[[Grant], float]) -> None:
        self._most = most
        self._usable_s = usable_s
        self._kept: dict[Hashable, _Kept[Grant]] = {}
        self._renewing = trio.Lock()

    async def get(self, key: Hashable, renew: Callable[[], Awaitable[Grant]]) -> Grant:
        """A usable one. Many ask at once, and one renewal is for all. Raises as `renew`."""
        async with self._renewing:
            kept = self._kept.get(key)
            if kept is not None and trio.current_time() < kept.until:
                return kept.grant
            grant = await renew()
            self.keep(key, grant)
            return grant

    def keep(self, key: Hashable, grant: Grant) -> None:
        """One that came along with an answer."""
        self._kept.pop(key, None)
        while len(self._kept) >= self._most:
            del self._kept[next(iter(self._kept))]  # the oldest
        self._kept[key] = _Kept(grant, trio.current_time() + self._usable_s(grant))

    def clear(self) -> None:
        """Forget all."""
        self._kept.clear()
