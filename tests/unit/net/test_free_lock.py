"""A lock that is free is taken at once; one that is not is given to whoever waited longest."""

from __future__ import annotations

import pytest
import trio

from p2pcache.net.free_lock import GIVES_WAY, FreeLock


async def test_a_free_one_is_taken_without_giving_way():
    lock, others = FreeLock(), 0

    async def other() -> None:
        nonlocal others
        others += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        async with lock:
            assert lock.locked()
            assert others == 0
    assert not lock.locked()


async def test_who_waits_gets_it_in_turn_and_who_leaves_does_not(
    autojump_clock: trio.testing.MockClock,
):
    lock, order = FreeLock(), []

    async def take(name: str) -> None:
        async with lock:
            order.append(name)
            await trio.sleep(1)

    async def leave() -> None:
        with trio.move_on_after(0.5):
            await take("who leaves")

    async with trio.open_nursery() as nursery:
        for start in (take, take, leave, take):
            nursery.start_soon(start, *((str(len(nursery.child_tasks)),) if start is take else ()))
            await trio.testing.wait_all_tasks_blocked()
    assert order == ["0", "1", "3"]


async def test_somebody_elses_lock_cannot_be_given_back():
    lock = FreeLock()
    with pytest.raises(RuntimeError):
        lock.release()


async def test_a_loop_over_a_free_one_gives_way_now_and_then_and_it_tells_when():
    lock, others, said = FreeLock(), 0, []

    async def other() -> None:
        nonlocal others
        while True:
            others += 1
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        for _ in range(3 * GIVES_WAY):
            at_hand, before = lock.is_at_hand(), others
            async with lock:
                assert not lock.is_at_hand()
                assert others == before or not at_hand
            said.append(at_hand)
        nursery.cancel_scope.cancel()
    assert said.count(False) == 3
    assert others in (2, 3), "once each time; those of the last pass run in any order"
