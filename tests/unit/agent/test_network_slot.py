"""A network counts as open at the event, not before, however long a busy machine takes."""

from __future__ import annotations

import math
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from p2pcache.agent.network_files import Files
from p2pcache.agent.network_open import open_agent_network
from p2pcache.agent.network_slot import NetworkSlot
from p2pcache.agent.supervise import keep_running
from p2pcache.config.network import NetworkSettings
from p2pcache.errors import LocalFault, plain_errors
from p2pcache.net.identity import load_or_create_identity
from p2pcache.net.network_key import NetworkKey, save_network_key


def make_slot(
    home,
    *,
    takes_s: float,
    trouble: str | None = None,
    failures: float = math.inf,
    ends_after_s: float = math.inf,
) -> NetworkSlot:
    @asynccontextmanager
    async def opening(*_args):
        slot.tries += 1
        await trio.sleep(takes_s)
        if trouble is not None and slot.tries <= failures:
            raise LocalFault(trouble, hint="do this")
        with plain_errors():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ending)
                yield SimpleNamespace()

    async def ending() -> None:
        await trio.sleep(ends_after_s)
        raise LocalFault("the byte server is gone")

    store = SimpleNamespace(watch_removed=lambda _: None)
    slot: Any = NetworkSlot(home, NetworkSettings(), store, lambda: 0.0, opening)
    slot.tries = 0
    return slot


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


@pytest.mark.parametrize("failures", [1, 5])
async def test_a_network_that_could_not_be_opened_is_tried_again(
    autojump_clock, tmp_path, key, failures: int
):
    slot = make_slot(tmp_path, takes_s=0.1, trouble="the port is taken", failures=failures)
    key()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(slot.run)
        await trio.sleep(0.5)
        assert slot.current is None
        assert slot.trouble == "the port is taken"
        assert slot.why_off() == "the port is taken; it is tried again in 1 s"
        with trio.fail_after(2.0**failures):
            await slot.wait_any()
        assert slot.trouble is None
        nursery.cancel_scope.cancel()


async def test_tries_are_ever_rarer_and_at_most_a_minute_apart(autojump_clock, tmp_path, key):
    slot = make_slot(tmp_path, takes_s=0.0, trouble="the disk is full")
    key()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(slot.run)
        await trio.sleep(1000)
        assert 15 <= slot.tries <= 25
        tries = slot.tries
        with pytest.raises(LocalFault):
            await slot.restart()
        await trio.sleep(5)
        assert slot.tries >= tries + 2, "who asks for it is not kept waiting by old trouble"
        nursery.cancel_scope.cancel()


async def test_a_network_that_ends_by_itself_is_opened_again(autojump_clock, tmp_path, key):
    slot = make_slot(tmp_path, takes_s=0.1, ends_after_s=300.0)
    key()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(slot.run)
        for _ in range(3):
            await slot.wait_any()
            assert slot.trouble is None
            await trio.sleep(300.5)
            assert slot.current is None
            assert slot.why_off() == "the byte server is gone; it is tried again in 1 s"
        nursery.cancel_scope.cancel()


async def test_the_trouble_of_a_try_before_is_not_told_of_the_one_that_is_wanted(
    autojump_clock, tmp_path, key
):
    slot = make_slot(tmp_path, takes_s=2.0, trouble="the key is damaged", failures=1)
    key()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(slot.run)
        await trio.sleep(1)
        assert await slot.restart() is slot.current
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


async def test_after_a_bug_nobody_is_handed_the_network_that_it_closed(
    autojump_clock, tmp_path, key
):
    key()
    slot = make_slot(tmp_path, takes_s=1.0)
    told: list[Any] = []

    def index_with_a_bug() -> set[bytes]:
        raise ValueError("a bug")

    slot._store = SimpleNamespace(
        watch_removed=told.append, complete_manifests=index_with_a_bug
    )  # fmt: skip
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep_running, slot.run)
        first = await slot.wait_any()
        told[0]([b"blob"])
        await slot.wait_closed(first)
        assert slot.current is None
        assert await slot.wait_any() is not first
        nursery.cancel_scope.cancel()
