"""An agent inside the test's own event loop: its operations without a socket."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import trio
import trio.lowlevel

from p2pcache.agent.localapi import calls
from p2pcache.agent.localapi.wire import Item, Result, encode
from p2pcache.agent.service import Service
from p2pcache.agent.wiring import open_agent
from p2pcache.config import settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    from p2pcache.agent.parts import Parts


@dataclass
class Inside:
    """`await inside("get", ref=...)` answers as a client would get it; `items`: what it streamed.

    `parts` may be replaced by one with a fault in it.
    """

    parts: Parts
    items: list[dict[str, Any]] = field(default_factory=list)

    async def __call__(self, op: str, **args: Any) -> dict[str, Any]:
        self.items.clear()
        answer = await Service(self.parts).call(op, args, self._emit)
        encode(Result(1, answer))  # a client would get it whole
        shape = {"get": calls.get_answer, "verify": calls.verify_answer}.get(op)
        return answer if shape is None else dict(shape(answer, self.items))

    async def _emit(self, frame: Mapping[str, Any]) -> None:
        if frame["type"] == "item":
            encode(Item(1, frame["value"]))
            self.items.append(frame["value"])
        await trio.lowlevel.checkpoint()


@contextlib.asynccontextmanager
async def agent_inside(
    home: Path, hub_cache: Path | None = None, **settings_: str
) -> AsyncIterator[Inside]:
    """`settings_`: store_capacity="1 MiB"."""
    await trio.Path(home).mkdir(exist_ok=True)
    variables = {f"P2PCACHE_{key.upper()}": value for key, value in settings_.items()}
    config = settings.load(home, {"P2PCACHE_STORE_RESERVE": "0", **variables})
    async with open_agent(config, hub_cache) as parts:
        yield Inside(parts)
