"""The block service: what is here, who is asked for what is not, and one fetch for all who wait."""

import hashlib

import pytest
import trio

from p2pcache.content import cid as cids
from p2pcache.content.dag.hashes import cid_of
from p2pcache.errors import Denied, NotFound, Unavailable, Untrusted, UsageError
from p2pcache.store.layout import StoreOptions
from p2pcache.store.store import Store
from p2pcache.transfer import dag_pins
from p2pcache.transfer.blocks import BlockOptions, LocalBlocks, open_blocks
from p2pcache.transfer.dag_pins import DagPinner
from tests.support.ipfs_site import BIG, fill
from tests.support.stored import MIB, content, root_of, store_whole

OPTIONS = BlockOptions(hedge_s=0.05, fetch_s=60.0)
DATA = b"a block"
CID = cid_of(cids.RAW, DATA)


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "home", StoreOptions(reserve_bytes=0)) as opened:
        yield opened


class Holder:
    """A fetcher that has these blocks, and takes its time."""

    def __init__(self, *blocks: bytes, takes_s=0.0, lies=False, error=None) -> None:
        self.blocks = {cid_of(cids.RAW, block)[2:]: block for block in blocks}
        self.takes_s = takes_s
        self.lies = lies
        self.error = error
        self.asked: list[bytes] = []
        self.lied_about: list[bytes] = []
        self.cancelled = 0

    async def fetch(self, cid: bytes) -> bytes | None:
        self.asked.append(cid)
        try:
            await trio.sleep(self.takes_s)
        except trio.Cancelled:
            self.cancelled += 1
            raise
        if self.error is not None:
            raise self.error
        found = self.blocks.get(cids.multihash(cid))
        return None if found is None else found + b"?" * self.lies

    def lied(self, cid: bytes) -> None:
        self.lied_about.append(cid)


def opened(store, *fetchers, options=OPTIONS, **more):
    return open_blocks(LocalBlocks(store, **more), list(fetchers), options)


async def test_what_was_put_is_here_for_all_spellings_of_its_cid(store):
    async with opened(store) as blocks:
        node_cid = cid_of(cids.DAG_PB, DATA)
        await blocks.put(CID, DATA)
        for cid in (CID, node_cid, cids.as_v0(node_cid)):
            assert await blocks.get(cid, local=True) == DATA
            assert await blocks.has(cid)
            assert await blocks.length(cid) == len(DATA)
        assert not await blocks.has(cid_of(cids.RAW, b"other"))
        assert await blocks.length(cid_of(cids.RAW, b"other")) is None


async def test_the_door_is_shut_for_other_bytes(store):
    async with opened(store) as blocks:
        with pytest.raises(Untrusted):
            await blocks.put(CID, DATA + b"x")
        with pytest.raises(Untrusted, match="limit"):
            await blocks.put(cid_of(cids.RAW, bytes((2 << 20) + 1)), bytes((2 << 20) + 1))
        for unknown in (cids.make_cid(cids.RAW, b"\x11\x14" + bytes(20)), b"", b"\x01\x55\x12"):
            with pytest.raises(UsageError):
                await blocks.put(unknown, DATA)
            with pytest.raises(UsageError):
                await blocks.get(unknown)
    assert store.loose.usage() == (0, 0)


async def test_what_a_blob_implies_is_not_stored_again(store):
    data = content(2 * MIB + 1, 1)
    store_whole(store, data)
    async with opened(store) as blocks:
        leaf = cid_of(cids.RAW, data[:MIB])
        await blocks.put(leaf, data[:MIB])
        assert await blocks.get(leaf) == data[:MIB]
        assert len(await blocks.get(root_of(data))) > 100
    assert store.loose.usage() == (0, 0)


async def test_an_identity_cid_is_its_own_block(store):
    inline = cids.make_cid(cids.RAW, b"\x00\x02hi")
    async with opened(store) as blocks:
        assert await blocks.get(inline, local=True) == b"hi"
        assert await blocks.length(inline) == 2
        await blocks.put(inline, b"hi")
    assert store.loose.usage() == (0, 0)


async def test_a_missing_block_is_fetched_verified_and_kept(store):
    kubo = Holder(DATA)
    async with opened(store, kubo) as blocks:
        with pytest.raises(NotFound):
            await blocks.get(CID, local=True)
        assert kubo.asked == []
        assert await blocks.get(CID) == DATA
        assert await blocks.get(CID) == DATA
        assert await blocks.get(CID, local=True) == DATA
    assert kubo.asked == [CID]


async def test_many_who_wait_share_one_fetch(store):
    kubo = Holder(DATA, takes_s=0.1)
    got = []
    async with opened(store, kubo) as blocks, trio.open_nursery() as nursery:
        for cid in [CID, cid_of(cids.DAG_PB, DATA)] * 10:

            async def one(cid=cid):
                got.append(await blocks.get(cid))

            nursery.start_soon(one)
    assert got == [DATA] * 20
    assert len(kubo.asked) == 1


async def test_a_fetch_ends_with_the_last_who_waits_and_not_before(store):
    kubo = Holder(DATA, takes_s=0.3)
    async with opened(store, kubo) as blocks:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(blocks.get, CID)
            with trio.move_on_after(0.1):
                await blocks.get(CID)
        assert kubo.cancelled == 0
        other = cid_of(cids.RAW, b"other")
        with trio.move_on_after(0.1):
            await blocks.get(other)
        await trio.sleep(0.05)
        assert kubo.cancelled == 1
        kubo.takes_s = 0
        with pytest.raises(NotFound):
            await blocks.get(other)


async def test_a_liar_is_named_and_the_next_one_is_asked(store):
    liar, honest = Holder(DATA, lies=True), Holder(DATA)
    async with opened(store, liar, honest) as blocks:
        assert await blocks.get(CID) == DATA
    assert (liar.lied_about, honest.lied_about) == ([CID], [])
    assert store.loose.read(CID) == DATA


async def test_the_second_is_asked_when_the_first_is_silent_and_the_faster_wins(store):
    slow, fast = Holder(DATA, takes_s=30), Holder(DATA, takes_s=0.01)
    async with opened(store, slow, fast) as blocks:
        with trio.fail_after(25):
            assert await blocks.get(CID) == DATA
    assert slow.cancelled == 1


async def test_the_second_is_not_asked_when_the_first_has_it(store):
    first, second = Holder(DATA), Holder(DATA)
    async with opened(store, first, second, options=BlockOptions(hedge_s=60)) as blocks:
        assert await blocks.get(CID) == DATA
    assert second.asked == []


async def test_nobody_has_it_is_not_found_and_silence_is_unavailable(store):
    async with opened(store, Holder(), Holder(error=NotFound("no"))) as blocks:
        with pytest.raises(NotFound):
            await blocks.get(CID)
    async with opened(store, Holder(), Holder(error=Unavailable("down"))) as blocks:
        with pytest.raises(Unavailable, match="down"):
            await blocks.get(CID)
    silent = Holder(DATA, takes_s=60)
    async with opened(store, silent, options=BlockOptions(fetch_s=0.1)) as blocks:
        with trio.fail_after(50), pytest.raises(Unavailable):
            await blocks.get(CID)
    async with opened(store, Holder(DATA, lies=True)) as blocks:
        with pytest.raises(Unavailable):
            await blocks.get(CID)


async def test_a_bug_in_a_fetcher_ends_one_fetch(store):
    async with opened(store, Holder(error=ZeroDivisionError("oops"))) as blocks:
        with pytest.raises(Exception, match="bug in the agent"):
            await blocks.get(CID)
        await blocks.put(CID, DATA)
        assert await blocks.get(CID) == DATA


async def test_no_more_than_the_limit_are_fetched_at_once(store):
    running = most = 0

    class Slow:
        async def fetch(self, cid: bytes) -> bytes | None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await trio.sleep(0.02)
            running -= 1
            return None

        def lied(self, cid: bytes) -> None:
            raise AssertionError

    async with opened(store, Slow(), options=BlockOptions(max_fetches=3)) as blocks:
        async with trio.open_nursery() as nursery:
            for number in range(12):

                async def one(number=number):
                    with pytest.raises(NotFound):
                        await blocks.get(cid_of(cids.RAW, b"%d" % number))

                nursery.start_soon(one)
        blocks.ahead([cid_of(cids.RAW, b"a%d" % number) for number in range(50)])
        await trio.sleep(0.5)
    assert most == 3


async def test_who_watches_hears_of_what_comes_in(store):
    heard: list[bytes | None] = []
    async with opened(store, Holder(DATA)) as blocks:
        hidden = blocks.seen_by(lambda what: False)
        end = hidden.watch(heard.append)
        await blocks.get(CID)
        await blocks.put(cid_of(cids.RAW, b"x"), b"x")
        end()
        await blocks.put(cid_of(cids.RAW, b"y"), b"y")
    assert heard == [cids.multihash(CID), cids.multihash(cid_of(cids.RAW, b"x"))]


async def test_what_is_hidden_is_not_here_and_is_fetched_as_from_nowhere(store):
    data = content(2 * MIB + 1, 1)
    store_whole(store, data)
    leaf = cid_of(cids.RAW, data[:MIB])
    async with opened(store, Holder(data[:MIB])) as blocks:
        hidden = blocks.seen_by(lambda what: False)
        assert await blocks.has(leaf)
        assert not await hidden.has(leaf)
        with pytest.raises(NotFound):
            await hidden.get(leaf, local=True)
        assert hidden.local.file_of(root_of(data)) is None
        assert await hidden.get(leaf) == data[:MIB], "others show it"
        await hidden.put(leaf, data[:MIB])


async def test_what_a_hidden_blob_implies_is_kept_for_whoever_puts_it(store):
    data = content(1000, 1)
    store_whole(store, data)
    cid = cid_of(cids.RAW, data)
    async with opened(store) as blocks:
        hidden = blocks.seen_by(lambda what: False)
        assert not await hidden.has(cid)
        await hidden.put(cid, data)
        assert await hidden.get(cid) == data
        await DagPinner(hidden).pin(cid)
        assert store.loose.usage()[1] == 1


# -- pins -------------------------------------------------------------------------------------


async def test_a_pinned_dag_survives_an_eviction_of_everything(store):
    site = fill(store)
    root = cids.parse_cid(site.root)
    async with opened(store) as blocks:
        pins = DagPinner(blocks)
        await pins.pin(root)
        await pins.pin(root)
        assert await pins.pins() == {root: True}
        store.gc(target_bytes=0)
        assert await blocks.get(root, local=True)
        assert blocks.local.file_of(site.paths["sub/big.bin"]).size == len(BIG)
        assert await blocks.get(site.paths["link"], local=True)
        assert not await blocks.has(site.foreign_cids[0])
        with pytest.raises(Denied):
            await pins.remove(root)
        assert await pins.unpin(root)
        assert not await pins.unpin(root)
        assert await pins.remove(root)
        assert not await pins.remove(root)
        store.gc(target_bytes=0)
        assert store.usage().used_bytes == 0


async def test_a_pin_fetches_what_is_missing_and_fails_whole(store):
    site = fill(store)
    partial = cids.parse_cid(site.partial)
    async with opened(store) as blocks:
        with pytest.raises(NotFound):
            await DagPinner(blocks).pin(partial)
        assert await DagPinner(blocks).pins() == {}
    async with opened(store, Holder(content(600_000, 6))) as blocks:
        await DagPinner(blocks).pin(partial)
        store.gc(target_bytes=0)
        assert store.loose.usage()[1] == 4


async def test_a_direct_pin_keeps_one_block(store):
    site = fill(store)
    async with opened(store) as blocks:
        await DagPinner(blocks).pin(site.foreign_cids[0], recursive=False)
        assert await DagPinner(blocks).pins() == {site.foreign_cids[0]: False}
        store.gc(target_bytes=0)
        assert store.loose.usage()[1] == 1


async def test_a_leaf_that_a_blob_implies_keeps_the_blob(store):
    data = content(2 * MIB + 1, 1)
    blob = store_whole(store, data)
    async with opened(store) as blocks:
        await DagPinner(blocks).pin(cid_of(cids.RAW, data[MIB : 2 * MIB]))
        store.gc(target_bytes=0)
        assert store.find(blob.digest) is not None
        assert hashlib.sha256(data).digest() == blob.sha256


async def test_a_block_that_is_being_pinned_is_not_removed(store):
    async with opened(store) as blocks:
        await blocks.put(CID, DATA)
        with store.running([cids.multihash(CID)]), pytest.raises(Denied, match="in use"):
            await DagPinner(blocks).remove(CID)
        assert await blocks.has(CID)
        assert await DagPinner(blocks).remove(CID)


async def test_a_dag_of_too_many_blocks_is_not_pinned(store, monkeypatch):
    assert dag_pins.MAX_BLOCKS <= 2_000_000, "their digests are held in memory: 0.3 GB"
    monkeypatch.setattr(dag_pins, "MAX_BLOCKS", 2)
    site = fill(store)
    async with opened(store, Holder(content(600_000, 6))) as blocks:
        with pytest.raises(Untrusted, match="more than 2 blocks"):
            await DagPinner(blocks).pin(cids.parse_cid(site.partial))
        assert await DagPinner(blocks).pins() == {}
