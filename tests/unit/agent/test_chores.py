"""Chores are done in order, and their trouble is nobody else's."""

from __future__ import annotations

import pytest
import trio

from p2pcache.agent.chores import Chores
from p2pcache.errors import LocalFault


async def test_jobs_of_a_name_are_done_in_order_and_others_beside_them(autojump_clock):
    done = []

    async def job(what: str, takes_s: float) -> None:
        await trio.sleep(takes_s)
        done.append((what, trio.current_time() - began))

    async with trio.open_nursery() as nursery:
        chores = Chores()
        await nursery.start(chores.run)
        began = trio.current_time()
        for what, takes_s in (("begin", 3.0), ("cut", 2.0), ("complete", 0.0)):
            chores.soon(b"a", job, what, takes_s)
        chores.soon(b"b", job, "other", 1.0)
        chores.soon(None, job, "ban", 0.5)
        await chores.wait_done(b"a")
        assert [what for what, _ in done] == ["ban", "other", "begin", "cut", "complete"]
        assert [at for _, at in done] == pytest.approx([0.5, 1.0, 3.0, 5.0, 5.0])
        await chores.wait_done(b"a")
        nursery.cancel_scope.cancel()


async def test_trouble_ends_nothing_and_the_next_is_done(autojump_clock, caplog):
    done = []

    async def fails(exc: Exception) -> None:
        raise exc

    async def job() -> None:
        done.append(1)

    async with trio.open_nursery() as nursery:
        chores = Chores()
        await nursery.start(chores.run)
        chores.soon(b"a", fails, LocalFault("the byte server does not answer"))
        chores.soon(b"a", fails, KeyError("a bug"))
        chores.soon(b"a", job)
        chores.soon(None, fails, ValueError("another"))
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert done == [1]
    assert "the byte server does not answer" in caplog.text
    assert caplog.text.count("a bug: please report this") == 2


async def test_after_the_network_closed_nothing_is_done_and_nobody_waits(autojump_clock):
    chores = Chores()
    async with trio.open_nursery() as nursery:
        await nursery.start(chores.run)
        chores.soon(b"a", trio.sleep, 100)
        nursery.cancel_scope.cancel()
    chores.soon(b"a", trio.sleep, 1)
    await chores.wait_done(b"a")
