"""Files that clients of the gateway and the RPC have pulled from peers: how many, for how long."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace

import pytest
import trio
import trio.testing

from p2pcache.agent import ipfs as agent_ipfs
from p2pcache.agent.ipfs import MAX_PULLS, Ipfs
from p2pcache.config.ipfs import IpfsSettings
from p2pcache.content import cid as cids
from p2pcache.store.store import Store
from p2pcache.transfer.progress import Progress


def name(number: int) -> bytes:
    return cids.raw_cid(number.to_bytes(32, "big"))


class Peers:
    """What `bring_named` does. `came`: bytes of each pull that are there at once."""

    def __init__(self, came: int) -> None:
        self.came = came
        self.running = self.most = self.begun = 0
        self.given = trio.Event()

    async def bring_named(self, parts, ref, emit, *_, told_s) -> None:
        self.running += 1
        self.begun += 1
        self.most = max(self.most, self.running)
        try:
            await emit(Progress("pull", done_bytes=self.came))
            await self.given.wait()
        finally:
            self.running -= 1


@pytest.fixture
def parts():
    return SimpleNamespace(
        network=SimpleNamespace(wanted=True),
        store=SimpleNamespace(running=lambda: contextlib.nullcontext(None)),
    )


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path) as found:
        yield found


def bringing(store, monkeypatch, nursery, came: int = 0) -> tuple[Ipfs, Peers]:
    peers = Peers(came)
    monkeypatch.setattr(agent_ipfs, "bring_named", peers.bring_named)
    return Ipfs(store, IpfsSettings(), nursery, lambda: 0.0), peers


async def test_pulls_of_callers_that_left_end(store, parts, monkeypatch, nursery):
    ipfs, peers = bringing(store, monkeypatch, nursery)
    for number in range(100):
        with trio.CancelScope() as caller:
            async with trio.open_nursery() as callers:
                callers.start_soon(ipfs.bring, parts, name(number))
                await trio.testing.wait_all_tasks_blocked()
                caller.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert peers.running == 0
    assert (peers.begun, peers.most) == (100, 1)


async def test_few_pulls_run_at_once_and_more_are_refused(store, parts, monkeypatch, nursery):
    ipfs, peers = bringing(store, monkeypatch, nursery)
    async with trio.open_nursery() as callers:
        for number in range(MAX_PULLS):
            callers.start_soon(ipfs.bring, parts, name(number))
        await trio.testing.wait_all_tasks_blocked()
        with trio.fail_after(5):
            assert not await ipfs.bring(parts, name(MAX_PULLS))
        callers.start_soon(ipfs.bring, parts, name(0))  # waits for the same
        await trio.testing.wait_all_tasks_blocked()
        assert (peers.begun, peers.most) == (MAX_PULLS, MAX_PULLS)
        peers.given.set()
    with trio.fail_after(5):
        await ipfs.bring(parts, name(MAX_PULLS))
    assert peers.begun == MAX_PULLS + 1


async def test_a_pull_of_which_something_came_goes_on(store, parts, monkeypatch, nursery):
    ipfs, peers = bringing(store, monkeypatch, nursery, came=1)
    with trio.move_on_after(0.1):
        await ipfs.bring(parts, name(1))
    await trio.testing.wait_all_tasks_blocked()
    assert peers.running == 1
    peers.given.set()
    await trio.testing.wait_all_tasks_blocked()
    assert (peers.running, peers.begun) == (0, 1)


async def test_a_pull_goes_on_while_another_caller_waits(store, parts, monkeypatch, nursery):
    ipfs, peers = bringing(store, monkeypatch, nursery)
    nursery.start_soon(ipfs.bring, parts, name(1))
    with trio.move_on_after(0.1):
        await ipfs.bring(parts, name(1))
    await trio.testing.wait_all_tasks_blocked()
    assert (peers.running, peers.begun) == (1, 1)
    peers.given.set()
