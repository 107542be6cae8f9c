"""A network counts as open at the event, not before, however long a busy machine takes."""

from __future__ import annotations

from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from p2pcache.agent.network_files import Files
from p2pcache.agent.network_open import open_agent_network
from p2pcache.agent.network_slot import NetworkSlot
from p2pcache.config.network import NetworkSettings
from p2pcache.errors import LocalFault
from p2pcache.net.identity import load_or_create_identity
from p2pcache.net.network_key import NetworkKey, save_network_key


def make_slot(home, *, takes_s: float, trouble: str | None = None) -> NetworkSlot:
    @asynccontextmanager
    async def opening(*_args):
        await trio.sleep(takes_s)
        if trouble is not None:
            raise LocalFault(trouble, hint="do this")
        yield SimpleNamespace()

    store = SimpleNamespace(watch_removed=lambda _: None)
    return NetworkSlot(home, NetworkSettings(), store, lambda: 0.0, opening)


@pytest.fixture
def key(tmp_path):
    """What `init` and `join` do before they ask for a network."""
    return lambda: (tmp_path / "network.key").write_text("key")


async def test_a_slow_machine_has_a_minute_to_open_its_network(autojump_clock, tmp_path, key):
    slot = make_slot(tmp_path, takes_s=55.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(slot.run)
        await trio.sleep(1)
        key()
        began = trio.current_time()
        assert await slot.restart() is slot.current
        assert trio.current_time() - began == pytest.approx(55.0, abs=0.01)
        nursery.cancel_scope.cancel()


async def test_a_network_that_cannot_be_opened_is_said_at_once(autojump_clock, tmp_path, key):
    slot = make_slot(tmp_path, takes_s=1.0, trouble="port 4001 is taken")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(slot.run)
        await trio.sleep(1)
        key()
        began = trio.current_time()
        with pytest.raises(LocalFault, match="port 4001 is taken") as caught:
            await slot.restart()
        assert caught.value.hint == slot.hint == "do this"
        assert await slot.wait_open(60.0) is None
        assert trio.current_time() - began < 1.1
        nursery.cancel_scope.cancel()


async def test_a_key_that_was_put_there_by_hand_is_found_by_who_asks(autojump_clock, tmp_path, key):
    slot = make_slot(tmp_path, takes_s=1.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(slot.run)
        await trio.sleep(1)
        key()
        assert await slot.wait_open(5.0) is not None
        nursery.cancel_scope.cancel()


async def test_a_home_that_cannot_be_written_is_a_fault_of_this_machine_and_no_bug(tmp_path):
    files = Files(tmp_path)
    load_or_create_identity(files.identity)
    save_network_key(files.network, NetworkKey.generate())
    run = tmp_path / "run"
    run.write_text("in the way, as a read-only file system is")
    store: Any = None
    with pytest.raises(LocalFault, match="cannot write into"):
        async with open_agent_network(tmp_path, NetworkSettings(), store, lambda: 0.0, run):
            raise AssertionError("it opened")
