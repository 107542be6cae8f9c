"""The composition root: the one place that names every adapter and builds every part."""

from __future__ import annotations

import random
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from p2pcache.agent.adopt import hub_adopter
from p2pcache.agent.parts import Parts
from p2pcache.agent.pulls import Pulls
from p2pcache.agent.service import Service
from p2pcache.sources.file import FileSource
from p2pcache.sources.hf import HfOptions, HfSource
from p2pcache.sources.http import HttpOptions, HttpSource
from p2pcache.store.store import Store
from p2pcache.transfer.pull import PullContext
from p2pcache.transfer.resolve import Resolver
from p2pcache.transfer.workers import core_count, open_workers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from p2pcache.config.settings import Config
    from p2pcache.sources.port import Source

CLOSE_S = 5.0  # for all adapters together; nothing they hold is worth waiting longer for


@asynccontextmanager
async def open_agent(config: Config, hub_cache: Path | None = None) -> AsyncIterator[Service]:
    """Everything an agent is, without its socket. Pulls end with the scope; bytes stay."""
    store = await trio.to_thread.run_sync(Store.open, config.store_path, config.store)
    try:
        async with open_workers(config.workers) as workers, trio.open_nursery() as nursery:
            sources: list[Source] = [
                HfSource(workers.call, HfOptions(ca_file=config.ca_file)),
                HttpSource(HttpOptions(ca_file=config.ca_file)),
                FileSource(),
            ]
            try:
                yield Service(
                    Parts(
                        config=config,
                        store=store,
                        workers=workers,
                        resolver=Resolver(sources, store, config.resolve, time.time),
                        pulls=Pulls(nursery, time.time),
                        context=PullContext(
                            store=store,
                            workers=workers,
                            transfer=config.transfer,
                            limits=config.fetch,
                            cores=core_count(),
                            chance=random.random,
                            adopters=[hub_adopter(hub_cache)],
                        ),
                        now=time.time,
                        started_at=time.time(),
                    )
                )
            finally:
                nursery.cancel_scope.cancel()
                with trio.CancelScope(deadline=trio.current_time() + CLOSE_S, shield=True):
                    for source in sources:
                        await source.aclose()
    finally:
        store.close()
