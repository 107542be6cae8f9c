"""Who watches a cache is alone at it, wherever the others run, and the dead hold nobody up."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import trio

from p2pcache.agent.bucket.watch import LEASE, _alone
from p2pcache.store.lease import Busy, LeaseBook, this_process

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from p2pcache.store.lease import Lease

STALE_S = 0.4


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Lease]:
    """The lease of another container of this machine: its processes are not seen from here."""
    (tmp_path / LEASE).parent.mkdir(parents=True)
    who = replace(this_process(), table="pid:[1]", pid=os.getpid() + 1)
    lease = LeaseBook(stale_after_s=60.0, monotonic=lambda: 0.0, who=who).take(tmp_path / LEASE)
    yield lease
    lease.withdraw()


async def test_a_watch_that_died_in_another_container_is_followed(
    tmp_path: Path, elsewhere: Lease
) -> None:
    with trio.fail_after(10):
        async with _alone(tmp_path, STALE_S):
            assert not elsewhere.is_held()


async def test_one_that_lives_in_another_container_is_left_alone(
    tmp_path: Path, elsewhere: Lease
) -> None:
    async def beat() -> None:
        while True:
            elsewhere.heartbeat()
            await trio.sleep(STALE_S / 20)

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(beat)
            with pytest.raises(Busy):
                await _alone(tmp_path, STALE_S).__aenter__()
            nursery.cancel_scope.cancel()
    assert elsewhere.is_held()


async def test_one_of_this_machine_is_told_of_at_once(tmp_path: Path) -> None:
    async with _alone(tmp_path, STALE_S):
        with trio.fail_after(5), pytest.raises(Busy):
            await _alone(tmp_path, STALE_S).__aenter__()
