"""Whose bytes they are: what a job that is cut off leaves is evidence against its own source alone.

Real jobs and evidence; the workers are scripted, and share a map as theirs do.
"""

from __future__ import annotations

from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
import trio

from p2pcache.content.ranges import RangeSet
from p2pcache.lanes.orders import FetchLimits, FetchOrder, FetchReport, Location
from p2pcache.sources.port import SourceKind
from p2pcache.transfer import events as ev
from p2pcache.transfer.jobs import Jobs
from p2pcache.transfer.policy import TransferOptions
from p2pcache.transfer.sharing import Peers
from p2pcache.transfer.spending import uncounted
from p2pcache.transfer.swarming import Swarming
from p2pcache.transfer.want import Origin
from tests.support.partial_files import block_hashes, some_bytes
from tests.support.swarms import MIB, Key, ScriptedSwarm, ServedPeer, Told, digest_of, wanted

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from p2pcache.content.peerid import PeerId

BODY = some_bytes(4 * MIB, b"right")
RIGHT, WRONG = block_hashes(BODY), block_hashes(some_bytes(4 * MIB, b"wrong"))
ORIGIN = 9000  # its port; those of peers are their numbers
DYING_S = 0.05  # of a worker that is killed


def at(hashes: bytes, block: int) -> bytes:
    return hashes[32 * block : 32 * block + 32]


class SharedMap:
    """The open blob, as its writers left it."""

    is_open = True
    hashes_later = False

    def __init__(self) -> None:
        self.partial = SimpleNamespace(data_path=Path("d"), map_path=Path("m"), live_path=Path("l"))
        self.wanted, self.proven = wanted(BODY), None
        self._live, self._hashes = bytearray(4), bytearray(4 * 32)

    def writes(self, first: int, last: int, hashes: bytes) -> None:
        """Blocks that are here already stay what they are."""
        for block in range(first, last):
            if not self._live[block]:
                self._hashes[32 * block : 32 * block + 32] = at(hashes, block)
                self._live[block] = 1

    def live(self) -> bytes:
        return bytes(self._live)

    def hashes(self, first: int, last: int) -> bytes:
        return bytes(self._hashes[32 * first : 32 * last])

    def verified_to(self, start: int, end: int) -> int:
        blocks = range(start // MIB, end // MIB)
        return next((block * MIB for block in blocks if not self._live[block]), end)


@dataclass
class World:
    """Two holders of the whole blob, 1 and 2. The word of 2 is a lie; both words weigh the same."""

    blob: SharedMap
    swarming: Swarming
    swarm: ScriptedSwarm
    told: Told
    send: trio.MemorySendChannel[ev.Event]
    heard: trio.MemoryReceiveChannel[ev.Event]
    nursery: trio.Nursery
    peers: dict[int, ServedPeer]
    jobs: Jobs
    scripts: dict[int, Callable[[FetchOrder], Awaitable[FetchReport]]] = field(default_factory=dict)

    def job(self, number: int, who: int, first: int, last: int) -> None:
        name = "web" if who == ORIGIN else self.peers[who].name
        self.jobs.start(ev.Job(number, 0, name, first * MIB, last * MIB), self.nursery)

    async def ended(self) -> ev.Ended:
        while not isinstance(event := await self.heard.receive(), ev.Ended):
            pass
        return event

    async def look(self) -> None:
        await self.jobs.look(0, self.blob, self.blob.live())

    async def judged(self) -> set[PeerId]:
        """Who is a liar by what is known before the right bytes are, and when they are."""
        await self.swarming.suspects(0)
        await self.swarming.completed(0, SimpleNamespace(), RIGHT)
        return self.told.liars

    def delivers(self, who: int, hashes: bytes) -> None:
        """All that it is asked for, at once."""

        async def script(order: FetchOrder) -> FetchReport:
            await trio.sleep(0.01)
            first, last = order.start // MIB, order.end // MIB
            self.blob.writes(first, last, hashes)
            sent = hashes[32 * first : 32 * last]
            return FetchReport(order.start, order.end, sent, len(sent), 0.1, None, 0.0)

        self.scripts[who] = script

    def hangs(self, who: int, hashes: bytes, after_blocks: int) -> None:
        """A few blocks, then nothing more. Its worker takes its time to die."""

        async def script(order: FetchOrder) -> FetchReport:
            first = order.start // MIB
            self.blob.writes(first, first + after_blocks, hashes)
            try:
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    await trio.sleep(DYING_S)
            raise AssertionError("never here")

        self.scripts[who] = script

    async def fetch(self, order: FetchOrder) -> FetchReport:
        port = int(order.location.url.split(":")[2].split("/")[0])
        return await self.scripts[port](order)


@asynccontextmanager
async def world() -> AsyncIterator[World]:
    peers = {n: ServedPeer(Key(n), SimpleNamespace(port=n)) for n in (1, 2)}
    for n, peer in peers.items():
        peer.maps[digest_of(BODY)] = RIGHT if n == 1 else WRONG
    send, heard = trio.open_memory_channel[ev.Event](100)
    swarm, told, blob = ScriptedSwarm(list(peers.values())), Told(), SharedMap()
    swarming = Swarming(Peers(swarm, told, Key(99)), [wanted(BODY)], send, requests=8)
    swarming.opened(0, blob)

    async def locate(_key: str) -> Location:
        return Location(f"http://origin:{ORIGIN}/")

    async with trio.open_nursery() as nursery:
        workers = SimpleNamespace()
        jobs = Jobs(
            [wanted(BODY)], [Origin("web", SourceKind.ORIGIN, 8, locate)], None, workers,
            options=TransferOptions(), limits=FetchLimits(), hold=lambda _: None,
            growing={0: blob}, send=send, arrived=None,
            spending=uncounted(),
        )  # fmt: skip
        jobs.swarming = swarming
        made = World(blob, swarming, swarm, told, send, heard, nursery, peers, jobs)
        workers.fetch = made.fetch
        nursery.start_soon(swarming.run)
        for peer in peers.values():
            swarm.holds(peer, digest_of(BODY), len(BODY))
        for _ in peers:
            while not isinstance(await heard.receive(), ev.SourceHas):
                pass
        yield made
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("first", [1, 2])
@pytest.mark.parametrize("looked", [True, False])
async def test_what_a_quicker_liar_sent_is_not_laid_at_the_door_of_its_honest_twin(
    autojump_clock, first: int, looked: bool
):
    async with world() as it:
        it.hangs(1, RIGHT, after_blocks=0)
        it.delivers(2, WRONG)
        for who in (first, 3 - first):
            it.job(who, who, 0, 4)
        assert (await it.ended()).job.id == 2
        if looked:
            await it.look()
        it.jobs.stop(1)
        assert not (await it.ended()).blame
        await it.swarming.suspects(0)
        assert it.told.liars == set()
        assert await it.judged() == {it.peers[2].id}


@pytest.mark.parametrize("looked", [True, False])
async def test_what_another_brings_while_a_stopped_worker_dies_is_not_of_the_one_that_was_stopped(
    autojump_clock, looked: bool
):
    async with world() as it:
        it.hangs(1, RIGHT, after_blocks=1)
        it.delivers(2, WRONG)
        it.job(1, 1, 0, 4)
        await trio.sleep(0.02)
        it.jobs.stop(1)
        it.job(2, 2, 1, 4)
        assert (await it.ended()).job.id == 2
        if looked:
            await it.look()
        await it.ended()
        assert await it.judged() == {it.peers[2].id}


async def test_what_was_here_before_a_job_began_is_not_of_its_source(autojump_clock):
    async with world() as it:
        it.hangs(2, WRONG, after_blocks=2)
        it.hangs(1, RIGHT, after_blocks=0)
        it.job(2, 2, 0, 4)
        await trio.sleep(0.02)
        it.jobs.stop(2)
        await it.ended()
        it.job(1, 1, 0, 4)  # the machine had not heard of those two blocks
        await trio.sleep(0.02)
        await it.look()
        it.jobs.stop(1)
        await it.ended()
        assert await it.judged() == {it.peers[2].id}


@pytest.mark.parametrize("overlaps", [True, False])
async def test_what_a_source_alone_can_have_sent_convicts_it_though_it_was_cut_off(
    autojump_clock, overlaps: bool
):
    async with world() as it:
        it.hangs(1, WRONG, after_blocks=2)  # not what it said of them
        it.delivers(2, WRONG)
        it.job(1, 1, 0, 4)
        await trio.sleep(0.02)
        it.jobs.stop(1)
        if overlaps:
            it.job(2, 2, 1, 4)
            await it.ended()
        await it.ended()
        await it.swarming.suspects(0)
        assert it.told.liars == {it.peers[1].id}
        assert "block 0" in it.told.verdicts[0].reason


@pytest.mark.parametrize("cut_off", [True, False])
async def test_what_a_peer_brings_beside_an_origin_is_not_signed_as_the_origins(
    autojump_clock, cut_off: bool
):
    async with world() as it:
        it.hangs(ORIGIN, RIGHT, after_blocks=0)
        it.delivers(2, WRONG)
        it.job(9, ORIGIN, 0, 4)
        it.job(2, 2, 0, 4)
        await it.ended()
        await it.look()
        if cut_off:
            it.jobs.stop(9)
            await it.ended()
        it.swarming.share(0, it.blob, it.blob.live())
        assert it.told.words == []
        assert await it.judged() == {it.peers[2].id}


async def test_a_report_tells_what_came_whoever_wrote_first(autojump_clock):
    async with world() as it:
        it.delivers(2, WRONG)
        it.delivers(1, RIGHT)
        it.job(2, 2, 0, 4)
        it.job(1, 1, 0, 4)
        assert {(await it.ended()).job.id, (await it.ended()).job.id} == {1, 2}
        assert it.blob.hashes(0, 4) in (RIGHT, WRONG)
        assert await it.judged() == {it.peers[2].id}


async def test_a_job_that_ends_while_the_others_are_looked_at_is_left_out(autojump_clock):
    async with world() as it:
        it.hangs(1, RIGHT, after_blocks=1)
        it.hangs(2, WRONG, after_blocks=1)
        it.job(1, 1, 0, 2)
        it.job(2, 2, 2, 4)
        await trio.sleep(0.02)
        with suppress(trio.WouldBlock):
            while True:
                it.send.send_nowait(ev.Tick())
        it.nursery.start_soon(it.look)  # of the first of them, and then it waits for the machine
        await trio.sleep(0.02)
        it.jobs.stop(2)
        await trio.sleep(2 * DYING_S)
        assert (await it.ended()).job.id == 2
        await trio.sleep(0.02)
        assert await it.judged() == {it.peers[2].id}


async def test_what_an_origin_brought_is_told_before_the_machine_hears_that_it_ended(
    autojump_clock: trio.testing.MockClock,
):
    async with world() as it:
        it.delivers(ORIGIN, RIGHT)
        it.job(1, ORIGIN, 0, 2)
        await it.ended()
        assert it.swarm.announced(digest_of(BODY)) == RangeSet.of((0, 2))
