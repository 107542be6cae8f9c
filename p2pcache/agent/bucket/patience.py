"""An object store that is asked again, after a while, when it does not answer."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, TypeVar

import trio

from p2pcache.destinations.objects.again import putting
from p2pcache.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from p2pcache.destinations.objects.port import Condition, ReadsMany, Stored, Upload
    from p2pcache.destinations.uploads import Count

TRIES = 4
WAIT_S = 0.5  # before the second try, doubled before each other: 3.5 s in all
MAX_WAIT_S = 30.0  # of a Retry-After

T = TypeVar("T")


class Patient:
    """A store of objects that tries each call of another up to TRIES times while it is Unavailable.

    A small write whose answer was lost is written again: then its condition may fail by our own
    hand, so whoever gets a Conflict looks at what is there.
    """

    def __init__(self, inner: ReadsMany, chance: Callable[[], float]) -> None:
        self._inner = inner
        self._chance = chance
        self.name, self.where, self.endpoint = inner.name, inner.where, inner.endpoint

    @property
    def conditional(self) -> bool:
        """As the port has it."""
        return self._inner.conditional

    async def list(self) -> list[Stored]:
        """As the port has it, as all that follow."""
        return await self._try(self._inner.list)

    async def look(self, keys: Sequence[str]) -> dict[str, Stored]:
        """..."""
        return await self._try(partial(self._inner.look, keys))

    async def get_small(self, key: str, most_bytes: int) -> tuple[bytes, str] | None:
        """..."""
        return await self._try(partial(self._inner.get_small, key, most_bytes))

    async def get_many(self, keys: Sequence[str], most_bytes: int) -> dict[str, tuple[bytes, str]]:
        """..."""
        return await self._try(partial(self._inner.get_many, keys, most_bytes))

    async def put_small(self, key: str, data: bytes, condition: Condition) -> str:
        """..."""
        return await self._try(partial(self._inner.put_small, key, data, condition))

    async def put(self, upload: Upload, count: Count) -> str:
        """..."""
        return await self._try(putting(self._inner, upload, count))

    async def delete(self, key: str) -> None:
        """..."""
        await self._try(partial(self._inner.delete, key))

    async def aclose(self) -> None:
        """..."""
        await self._inner.aclose()

    async def _try(self, call: Callable[[], Awaitable[T]]) -> T:
        for number in range(TRIES - 1):
            try:
                return await call()
            except Unavailable as exc:
                wait_s = WAIT_S * 2**number * (0.5 + self._chance())
                await trio.sleep(max(wait_s, min(exc.retry_after_s or 0.0, MAX_WAIT_S)))
        return await call()
