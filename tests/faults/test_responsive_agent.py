"""Whatever one caller asks for, the agent goes on answering the others."""

from __future__ import annotations

import hashlib
import sqlite3
import threading
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import trio
import trio.lowlevel

from p2pcache.agent.wiring import open_agent
from p2pcache.config import settings
from p2pcache.content import refs
from p2pcache.content.digests import git_sha1_digest
from p2pcache.sources.port import Credentials, ListedFile, Listing, SourceKind
from p2pcache.transfer import pull
from p2pcache.transfer.resolve import Resolver
from tests.support.pulse import Pulse

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from p2pcache.agent.parts import Parts
    from p2pcache.content.refs import Ref
    from p2pcache.lanes.orders import Location

ANSWERS_IN_S = 0.5  # what a person takes for at once; two shared cores included


class ListOnly:
    """A source that has told everything before it is asked."""

    name = "hf"
    kind = SourceKind.ORIGIN

    def __init__(self, count: int) -> None:
        self.listing = Listing("hf", "https://h", "0" * 40, True, tuple(map(listed, range(count))))

    def accepts(self, ref: Ref) -> bool:
        return True

    def endpoint(self, ref: Ref, credentials: Credentials) -> str:
        return self.listing.endpoint

    async def list(self, ref: Ref, credentials: Credentials) -> Listing:
        await trio.lowlevel.checkpoint()
        return self.listing

    async def locate(self, listing: Listing, key: str, credentials: Credentials) -> Location:
        raise NotImplementedError

    async def aclose(self) -> None:
        pass


def listed(number: int) -> ListedFile:
    digest = git_sha1_digest(hashlib.sha1(b"%d" % number, usedforsecurity=False).digest())
    return ListedFile(f"data/train/part-{number:07}.json", 20_000, digest, f"k{number}")


@asynccontextmanager
async def agent(home: Path) -> AsyncIterator[tuple[Parts, Pulse]]:
    pulse = Pulse()
    config = settings.load(home, {"P2PCACHE_STORE_RESERVE": "0"})
    async with open_agent(config, None) as parts, trio.open_nursery() as nursery:
        nursery.start_soon(pulse.beat)
        await trio.sleep(0.05)
        yield parts, pulse
        nursery.cancel_scope.cancel()


def resolver(parts: Parts, source: ListOnly) -> Resolver:
    return Resolver([source], parts.store, parts.config.resolve, parts.now)


async def test_a_long_listing_is_recorded_beside_the_loop(tmp_path: Path) -> None:
    source = ListOnly(40_000)
    async with agent(tmp_path) as (parts, pulse):
        asked = resolver(parts, source)
        ref = refs.parse_ref("org/x")
        for _ in range(2):  # afresh, and from the record
            resolution = await asked.resolve(ref, Credentials())
            assert len(resolution.listing.files) == 40_000
        assert await pulse.deaf_s() < ANSWERS_IN_S


async def test_another_process_that_writes_to_the_index_does_not_make_the_agent_deaf(
    tmp_path: Path,
) -> None:
    async with agent(tmp_path) as (parts, pulse):
        index = parts.store.layout.index
        other = sqlite3.connect(index, isolation_level=None, check_same_thread=False)
        other.execute("BEGIN IMMEDIATE")
        threading.Timer(1.5, lambda: other.execute("COMMIT")).start()
        await resolver(parts, ListOnly(1)).resolve(refs.parse_ref("org/x"), Credentials())
        assert await pulse.deaf_s() < ANSWERS_IN_S
        other.close()


async def test_looking_into_other_caches_takes_a_task_a_core_and_not_a_task_a_file(
    tmp_path: Path,
) -> None:
    seen = []

    def nowhere(ref: Ref, file: ListedFile) -> tuple[Path, ...]:
        seen.append(trio.lowlevel.current_statistics().tasks_living)
        return ()

    files = [listed(number) for number in range(5_000)]
    async with agent(tmp_path) as (parts, _pulse):
        context = replace(parts.context, adopters=[nowhere])
        before = trio.lowlevel.current_statistics().tasks_living
        found = await pull.adopt(context, refs.parse_ref("org/x"), files, lambda _: None)
    assert found == {}
    assert len(seen) == len(files)
    assert max(seen) <= before + context.cores
