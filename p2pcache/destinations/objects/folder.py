"""What every store of objects does alike: lists and small objects of a folder of one bucket, asked
for by plain functions in an SDK worker.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from p2pcache.destinations.objects.port import Condition, Stored

Call = Any  # a plain function whose first argument is a request; pickled by its name


class Calls(Protocol):
    """A module of them. Keys there are whole ones."""

    list_below: Call
    look: Call
    get_small: Call
    put_small: Call
    delete: Call


class Folder:
    """Half of `port.ObjectStore`. `request`: the bucket and the login, as `calls` have it; `key`:
    of the folder; `run_sync` runs a function in an SDK worker; `stored` reads a row, whose key is a
    whole one.
    """

    def __init__(
        self,
        calls: Calls,
        request: object,
        key: str | None,
        run_sync: Callable[..., Awaitable[Any]],
        stored: Callable[[Any], Stored],
    ) -> None:
        self._calls = calls
        self._asking = request
        self._prefix = "" if key is None else f"{key}/"
        self._run_sync = run_sync
        self._row = stored

    async def list(self) -> list[Stored]:
        """See the port."""
        return list(self._stored(await self._ask(self._calls.list_below, self._prefix)))

    async def look(self, keys: Sequence[str]) -> dict[str, Stored]:
        """See the port."""
        told = await self._ask(self._calls.look, tuple(self._prefix + key for key in keys))
        return {one.key: one for one in self._stored(told)}

    async def get_small(self, key: str, most_bytes: int) -> tuple[bytes, str] | None:
        """See the port."""
        told = await self._ask(self._calls.get_small, self._prefix + key, most_bytes)
        return None if told is None else (told[0], told[1] or "")

    async def put_small(self, key: str, data: bytes, condition: Condition) -> str:
        """See the port."""
        return str(await self._ask(self._calls.put_small, self._prefix + key, data, condition))

    async def delete(self, key: str) -> None:
        """See the port."""
        await self._ask(self._calls.delete, self._prefix + key)

    def _stored(self, rows: Sequence[Any]) -> tuple[Stored, ...]:
        """The rows of a list, by keys of the folder."""
        found = map(self._row, rows)
        return tuple(replace(one, key=one.key.removeprefix(self._prefix)) for one in found)

    async def _ask(self, call: Call, *args: object) -> Any:  # noqa: ANN401
        return await self._run_sync(call, self._asking, *args)
