"""Blocks of a large blob that come without their hashes, whoever writes them and when."""

from __future__ import annotations

from p2pcache.store.layout import StoreOptions
from p2pcache.store.store import Store
from p2pcache.transfer.growing import HASH_ONCE_BYTES, GrowingBlob
from p2pcache.transfer.want import Wanted
from tests.support.stored import content, name_of, root_of

BODY = content(4096) * (HASH_ONCE_BYTES // 4096)


def opening(store: Store, root: bytes | None) -> GrowingBlob:
    wanted = Wanted(path="f", size_bytes=len(BODY), digest=name_of(BODY), key="f", root=root)
    return GrowingBlob(wanted, store, None, lambda _: None, 1.0, hash_once=True)


async def test_what_a_stopped_worker_wrote_after_the_others_were_hashed_is_hashed_too(tmp_path):
    with Store.open(tmp_path / "store", StoreOptions(reserve_bytes=0)) as store:
        growing = opening(store, None)
        assert await growing.open() is None
        assert growing.hashes_later
        for late in ([0, 1], [2]):
            growing.partial.mark(late)
            await growing.fill_map()
            assert not growing.partial.has_gaps()
        await growing.aclose()


async def test_where_a_root_was_asked_for_its_blocks_are_hashed_as_they_come(tmp_path):
    with Store.open(tmp_path / "store", StoreOptions(reserve_bytes=0)) as store:
        growing = opening(store, root_of(BODY))
        left = store.partial(name_of(BODY), len(BODY))  # of an earlier pull: not proven by the root
        left.mark([0])
        left.close()
        assert await growing.open() is None
        assert not growing.hashes_later
        await growing.aclose()
