"""A Kubo beside an origin is not waited for; alone it is."""

from __future__ import annotations

import pytest
import trio

from p2pcache.agent.kubo_beside import MAX_ASKED, kubo_helper
from p2pcache.content import cid as cids
from p2pcache.errors import NotFound, Unavailable
from p2pcache.sources.port import KUBO, ListedFile, Listing
from p2pcache.store.layout import StoreOptions
from p2pcache.store.store import Store
from p2pcache.transfer.want import Wanted
from tests.support.stored import MIB, block_hashes, content, name_of, root_of, store_whole

LARGE = content(MIB + 5, 1)
SMALL = Wanted("small", 5, name_of(b"small"), "key of small")
OF_LARGE = Wanted("large", len(LARGE), name_of(LARGE), "key of large")


class ScriptedKubo:
    """Has what it is told to have, after a while."""

    def __init__(self, *, has: bool = True, takes_s: float = 0.0) -> None:
        self.asked: list[bytes] = []
        self.has = has
        self.takes_s = takes_s
        self.size = len(LARGE)

    async def has_block(self, cid: bytes) -> bool:
        self.asked.append(cid)
        return self.has

    async def list(self, ref, credentials):
        self.asked.append(ref.cid)
        await trio.sleep(self.takes_s)
        if not self.has:
            raise NotFound("not here")
        file = ListedFile(
            "", self.size, None, "", root=ref.cid, block_map=b"".join(block_hashes(LARGE))
        )
        return Listing(KUBO, "", None, False, (file,))


class Silent(ScriptedKubo):
    async def has_block(self, cid: bytes) -> bool:
        self.asked.append(cid)
        raise Unavailable("silent")


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "store", StoreOptions(reserve_bytes=0)) as store:
        yield store


@pytest.fixture
def helper(store):
    class Parts:
        pass

    parts = Parts()
    parts.store = store
    return lambda kubo: kubo_helper(parts, kubo)


def knows_large(store) -> None:
    store_whole(store, LARGE)
    store.gc(target_bytes=0)


async def test_who_is_slow_is_waited_for_where_there_is_nobody_else(store, helper):
    knows_large(store)
    kubo = ScriptedKubo(takes_s=0.5)
    async with helper(kubo)([SMALL, OF_LARGE], False) as origin:
        assert origin.holds == {SMALL.key, OF_LARGE.key}
        assert origin.maps == {OF_LARGE.key: b"".join(block_hashes(LARGE))}
    assert sorted(kubo.asked) == sorted([cids.raw_cid(name_of(b"small")[2:]), root_of(LARGE)])


async def test_beside_an_origin_the_pull_begins_and_is_told_later(store, helper):
    knows_large(store)
    began = trio.current_time()
    async with helper(ScriptedKubo(takes_s=4.0))([SMALL, OF_LARGE], True) as origin:
        assert trio.current_time() - began < 3.0
        assert origin.holds == {SMALL.key}
        assert [key async for key in origin.more] == [OF_LARGE.key]
        assert origin.maps


async def test_a_slow_one_ends_with_the_pull(store, helper):
    knows_large(store)
    with trio.fail_after(10):
        async with helper(ScriptedKubo(takes_s=600.0))([OF_LARGE], True) as origin:
            assert origin.holds == frozenset()


async def test_who_has_nothing_or_another_file_is_no_source(store, helper):
    knows_large(store)
    for kubo in (ScriptedKubo(has=False), Silent()):
        async with helper(kubo)([SMALL, OF_LARGE], True) as origin:
            assert origin is None
    other = ScriptedKubo()
    other.size += 1
    async with helper(other)([OF_LARGE], True) as origin:
        assert origin is None


async def test_what_has_no_known_root_is_not_asked_about(store, helper):
    kubo = ScriptedKubo()
    unnamed = Wanted("unnamed", 5, None, "key of unnamed")
    async with helper(kubo)([OF_LARGE, unnamed], True) as origin:
        assert origin is None
    assert kubo.asked == []


async def test_of_many_files_the_largest_are_asked_about(helper):
    kubo = ScriptedKubo()
    many = [
        Wanted(str(n), 10 + n, name_of(str(n).encode()), f"key {n}") for n in range(MAX_ASKED + 50)
    ]
    async with helper(kubo)(many, False) as origin:
        assert origin.holds == {f"key {n}" for n in range(50, MAX_ASKED + 50)}


async def test_one_that_fails_is_asked_no_more(helper):
    kubo = Silent()
    many = [Wanted(str(n), 10, name_of(str(n).encode()), f"key {n}") for n in range(100)]
    async with helper(kubo)(many, True) as origin:
        assert origin is None
    assert len(kubo.asked) < 20
