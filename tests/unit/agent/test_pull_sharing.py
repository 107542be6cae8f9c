"""What a pull tells of itself is the network's chore: in order, and without harm to the pull."""

from __future__ import annotations

from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import trio

from p2pcache.agent.chores import Chores
from p2pcache.agent.network import AgentNetwork
from p2pcache.agent.pull_swarm import PullSharing
from p2pcache.errors import LocalFault, plain_errors
from tests.support.gated import ME, PEER


class Shelf:
    """A `Sharing` that is slow to begin, or in trouble."""

    def __init__(self) -> None:
        self.did: list[tuple[str, object]] = []
        self.trouble: Exception | None = None

    async def _do(self, what: str, name: object, takes_s: float) -> None:
        await trio.sleep(takes_s)
        self.did.append((what, name))
        if self.trouble is not None:
            raise self.trouble

    async def begin(self, growing) -> None:
        await self._do("begin", growing.name, 2.0)

    async def cut(self, name) -> None:
        await self._do("cut", name, 1.0)

    async def complete(self, name, blob) -> None:
        await self._do("complete", name, 0.0)

    async def lose(self, names) -> None:
        for name in names:
            await self._do("lose", name, 0.0)


@asynccontextmanager
async def sharing(shelf: Shelf):
    """One pull; the agent goes on when it ends."""
    lost = []
    opened = SimpleNamespace(
        sharing=shelf, chores=Chores(), network=SimpleNamespace(lost=lost.append)
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(opened.chores.run)
        with plain_errors():
            async with trio.open_nursery() as pull:
                yield PullSharing(opened, None)
                pull.cancel_scope.cancel()
        nursery.cancel_scope.cancel()


async def test_what_is_told_of_a_blob_is_done_in_the_order_of_the_pull(autojump_clock):
    shelf = Shelf()
    async with sharing(shelf) as ours:
        for name in (b"a", b"b"):
            ours.growing(name, 5, Path("data"), Path("live"))
            ours.lost_source(name)
        ours.complete(b"a", None)
        await ours.take_back()
        assert [what for what, name in shelf.did if name == b"a"] == ["begin", "cut", "complete"]
        assert [what for what, name in shelf.did if name == b"b"] == ["begin", "cut", "lose"]


@pytest.mark.parametrize("trouble", [LocalFault("the byte server does not answer"), KeyError("x")])
async def test_trouble_of_the_byte_server_does_not_end_a_pull(autojump_clock, trouble):
    shelf = Shelf()
    shelf.trouble = trouble
    async with sharing(shelf) as ours:
        ours.growing(b"a", 5, Path("data"), Path("live"))
        ours.lost_source(b"a")
        await trio.sleep(10)
        ours.complete(b"a", None)
        ours.growing(b"b", 5, Path("data"), Path("live"))
        await ours.take_back()
    assert [what for what, _ in shelf.did] == ["begin", "cut", "complete", "begin", "lose"]


async def test_a_liar_is_cut_when_the_disk_is_full_and_the_pull_goes_on():
    told = []

    def full(*_ban) -> None:
        raise LocalFault("no space left")

    async def ban(readers) -> None:
        told.append(set(readers))

    opened = AgentNetwork(
        identity=ME, key=None, admin=None, host=None,
        server=SimpleNamespace(ban=ban, distrust=ban),
        store=SimpleNamespace(others=SimpleNamespace(bans=list, ban=full)), now=lambda: 1.0,
        book=SimpleNamespace(forget=told.append), tls=None,
    )  # fmt: skip
    opened.network = SimpleNamespace(ban=told.append)
    async with trio.open_nursery() as nursery:
        await nursery.start(opened.chores.run)
        verdict = SimpleNamespace(peer=PEER.peer_id, reason="sent a wrong block")
        PullSharing(opened, None).convict(verdict)
        with trio.move_on_after(5):
            while len(told) < 4:  # noqa: ASYNC110  # a thread
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    assert told == [PEER.peer_id, PEER.peer_id, {PEER.peer_id}, set()]
    assert opened.is_banned(PEER.peer_id)
