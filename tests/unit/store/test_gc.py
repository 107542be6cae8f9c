from __future__ import annotations

import os
import threading

import pytest

from p2pcache.content import digests
from p2pcache.content.manifest import FileEntry, Manifest
from p2pcache.errors import DiskFull, NotFound
from p2pcache.store.layout import StoreOptions
from p2pcache.store.policy import Hold
from p2pcache.store.records import Resolution
from p2pcache.store.store import Store
from tests.support.stored import (
    MIB,
    content,
    file_count,
    fill,
    name_of,
    rooted,
    small_items,
    store_whole,
    verified,
)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


def open_store(tmp_path, **options) -> Store:
    return Store.open(tmp_path / "home", StoreOptions(reserve_bytes=0, **options), clock=Clock())


@pytest.fixture
def blobs():
    """Three of 2 MiB, oldest first once stored."""
    return [content(2 * MIB, seed=seed) for seed in range(3)]


def manifest_of(*many: bytes) -> Manifest:
    return Manifest.from_entries(
        FileEntry(f"{n}.bin", len(data), name_of(data)) for n, data in enumerate(many)
    )


def test_gc_evicts_the_least_recently_used_down_to_the_target(tmp_path, blobs):
    with open_store(tmp_path) as store:
        infos = [store_whole(store, data) for data in blobs]
        store.touch([infos[0].sha256], 10**9)
        report = store.gc(target_bytes=3 * MIB)
        assert [store.find(name_of(data)) is not None for data in blobs] == [True, False, False]
        assert (report.freed_bytes, report.evicted) == (4 * MIB, 2)
        assert not store.layout.map(infos[1].sha256).exists()


def test_a_dry_run_says_what_would_go_and_touches_nothing(tmp_path, blobs):
    with open_store(tmp_path) as store:
        store_whole(store, blobs[0])
        report = store.gc(target_bytes=0, dry_run=True)
        assert (report.freed_bytes, report.evicted) == (2 * MIB, 1)
        assert store.find(name_of(blobs[0])) is not None


def test_pinned_running_protected_and_last_copies_stay_and_the_report_says_why(tmp_path, blobs):
    blobs.append(content(2 * MIB, seed=9))
    with open_store(tmp_path) as store:
        infos = [store_whole(store, data) for data in blobs]
        store.pin(store.put_manifest(manifest_of(blobs[0])), "hf://a/b")
        store.guard(lambda asked, _: {infos[3].sha256: Hold.LAST_COPY}, lambda _: None)
        with store.running([infos[1].sha256]):
            report = store.gc(target_bytes=0, protected=[infos[2].sha256])
        assert report.evicted == 0
        assert report.missing_bytes == 8 * MIB
        assert report.kept_because == {
            "pinned": 2 * MIB,
            "part of a running pull": 4 * MIB,
            "the last known copy: no origin that answers has it": 2 * MIB,
        }


def test_the_watermarks_decide_when_there_is_no_target(tmp_path, blobs):
    with open_store(tmp_path, capacity_bytes=8 * MIB, high_watermark=0.7, low_watermark=0.5) as s:
        for data in blobs:
            store_whole(s, data)
        assert s.gc().evicted == 1
        assert s.gc().evicted == 0


def test_room_is_made_for_a_new_partial_by_evicting_the_oldest(tmp_path, blobs):
    with open_store(tmp_path, capacity_bytes=5 * MIB) as store:
        store_whole(store, blobs[0])
        store_whole(store, blobs[1])
        store_whole(store, blobs[2])
        assert [store.find(name_of(data)) is not None for data in blobs] == [False, True, True]


def test_a_budget_that_cannot_be_met_says_why_and_evicts_nothing(tmp_path, blobs):
    with open_store(tmp_path, capacity_bytes=5 * MIB) as store:
        first = store_whole(store, blobs[0])
        store_whole(store, blobs[1])
        store.pin(first.sha256, "keep")
        with pytest.raises(DiskFull) as caught:
            store.partial(name_of(b"new"), 4 * MIB)
        assert caught.value.exit_code == 13
        assert f"its budget is {5 * MIB:,}" in caught.value.message
        assert f"{2 * MIB:,} bytes stay: pinned" in caught.value.message
        assert store.usage().blobs == 2
        store.partial(name_of(b"new"), 3 * MIB).close()


def test_two_partials_cannot_be_promised_the_same_room(tmp_path):
    with open_store(tmp_path, capacity_bytes=5 * MIB) as store:
        first = store.partial(name_of(b"1"), 3 * MIB)
        with pytest.raises(DiskFull, match="promised"):
            store.partial(name_of(b"2"), 3 * MIB)
        first.discard()
        store.partial(name_of(b"2"), 3 * MIB).close()


def test_a_resumed_partial_needs_room_only_for_the_rest(tmp_path):
    data = content(4 * MIB)
    with open_store(tmp_path, capacity_bytes=4 * MIB + 65536) as store:
        partial = store.partial(name_of(data), len(data))
        fill(partial, data, range(3))
        partial.close()
        again = store.partial(name_of(data), len(data))
        assert again.have_count() == 3
        fill(again, data, [3])
        store.publish(again, verified(data))


def test_a_blob_shown_elsewhere_by_a_hard_link_is_evicted_for_the_budget_but_frees_nothing(
    tmp_path, blobs
):
    with open_store(tmp_path) as store:
        info = store_whole(store, blobs[0])
        os.link(info.path, tmp_path / "shown")
        report = store.gc(target_bytes=0)
        assert (report.evicted, report.freed_bytes) == (1, 0)
    assert (tmp_path / "shown").read_bytes() == blobs[0]


def test_an_abandoned_partial_is_evicted_and_an_open_one_is_not(tmp_path):
    data = content(3 * MIB)
    with open_store(tmp_path) as store:
        for name, blocks in (("open", [0]), ("left", [0, 1])):
            partial = store.partial(name_of(name.encode()), len(data))
            fill(partial, data, blocks)
            if name == "left":
                partial.close()
        report = store.gc(target_bytes=0)
        assert report.kept_because == {"in use by another process": MIB}
        assert [p.name for p in store.layout.partials.iterdir()] == [name_of(b"open").hex()]


def test_files_without_a_row_and_maps_without_a_blob_do_not_take_room_unseen(tmp_path, blobs):
    with open_store(tmp_path) as store:
        info = store_whole(store, blobs[0])
        store._index.forget([info.sha256])  # as after a crash between rename and commit
        store.layout.map(b"m" * 32).write_bytes(b"x" * 64)
        assert store.gc(target_bytes=0).evicted == 1
        assert file_count(store.layout.blobs) == file_count(store.layout.maps) == 0


def test_a_small_blob_that_does_not_match_its_name_is_not_taken_back(tmp_path):
    with open_store(tmp_path) as store:
        (info,) = store.publish_small(small_items(store, [b"good"]))
        store._index.forget([info.sha256])
        info.path.chmod(0o644)
        info.path.write_bytes(b"evil")
        store.gc()
        assert store.find(name_of(b"good")) is None
        assert not info.path.exists()


def test_rm_removes_what_nothing_else_refers_to(tmp_path, blobs):
    with open_store(tmp_path) as store:
        for data in blobs:
            store_whole(store, data)
        one = store.put_manifest(manifest_of(blobs[0], blobs[1]))
        store.put_manifest(manifest_of(blobs[1], blobs[2]))
        assert store.rm(one) == 2 * MIB
        assert [store.find(name_of(data)) is not None for data in blobs] == [False, True, True]
        assert store.get_manifest(one) is None
        with pytest.raises(NotFound):
            store.rm(one)


def test_rm_keeps_blobs_that_are_pinned_themselves_or_running(tmp_path, blobs):
    with open_store(tmp_path) as store:
        infos = [store_whole(store, data) for data in blobs]
        store.pin(infos[0].sha256, "mine")
        cid = store.put_manifest(manifest_of(*blobs))
        with store.running([infos[1].sha256]):
            assert store.rm(cid) == 2 * MIB
        assert [store.find(name_of(data)) is not None for data in blobs] == [True, True, False]


def test_rm_follows_git_names_to_their_blobs(tmp_path):
    with open_store(tmp_path) as store:
        (info,) = store.publish_small(small_items(store, [b"config"]))
        entry = FileEntry("c.json", 6, digests.git_sha1_digest(info.git_sha1))
        cid = store.put_manifest(Manifest.from_entries([entry]))
        store.pin(cid, "")
        assert store.gc(target_bytes=0).kept_because == {"pinned": 6}
        assert store.unpin(cid)
        assert not store.unpin(cid)
        assert store.rm(cid) == 6


def test_ls_says_how_much_of_a_manifest_is_here(tmp_path, blobs):
    with open_store(tmp_path) as store:
        cid = store.put_manifest(manifest_of(*blobs))
        row = Resolution("hf://a/b@main", cid, "c0ffee", "hf", "https://hub", 5.5, gated=True)
        store.record_resolution(row)
        store.pin(cid, "hf://a/b")
        info = store_whole(store, blobs[0])
        store.touch([info.sha256], 10**9)
        (line,) = store.ls()
        assert (line.files, line.total_bytes, line.present_bytes) == (3, 6 * MIB, 2 * MIB)
        assert (line.pinned, line.last_used, line.resolutions) == (True, 10**9, (row,))
        assert store.get_manifest(cid) == manifest_of(*blobs)
        assert store.resolution("hf://a/b@main") == row


def test_receipts_are_found_by_ref_number_and_last_and_are_bounded(tmp_path):
    with open_store(tmp_path, max_receipts=3) as store:
        numbers = [store.save_receipt({"ref": f"r{n % 2}", "n": n}) for n in range(5)]
        assert store.receipt("last") == {"ref": "r0", "n": 4}
        assert store.receipt("r1") == {"ref": "r1", "n": 3}
        assert store.receipt(str(numbers[2])) == {"ref": "r0", "n": 2}
        assert store.receipt(str(numbers[1])) is None
        assert store.receipt("unknown") is None


def interrupted(store, data: bytes, name: bytes | None = None) -> None:
    partial = store.partial(name or name_of(data), len(data))
    fill(partial, data, [0])
    partial.close()


def test_rm_frees_what_an_interrupted_download_left(tmp_path, blobs):
    with open_store(tmp_path) as store:
        shared, mine, git = content(2 * MIB, 7), content(3 * MIB, 8), content(2 * MIB, 9)
        git_name = digests.git_sha1_digest(b"g" * 20)
        files = [
            FileEntry("mine", len(mine), name_of(mine)),
            FileEntry("shared", len(shared), name_of(shared)),
            FileEntry("git", len(git), git_name),
        ]
        manifest = store.put_manifest(Manifest.from_entries(files))
        store.put_manifest(manifest_of(shared))
        interrupted(store, mine)
        interrupted(store, shared)
        interrupted(store, git, git_name)
        assert store.rm(manifest) == 2 * MIB
        assert store.usage().partials == 1, "another manifest wants the shared one"


def test_rm_leaves_a_download_that_runs(tmp_path, blobs):
    with open_store(tmp_path) as store:
        manifest = store.put_manifest(manifest_of(blobs[0]))
        partial = store.partial(name_of(blobs[0]), len(blobs[0]))
        fill(partial, blobs[0])
        assert store.rm(manifest) == 0
        store.publish(partial, verified(blobs[0]))


def test_gc_takes_downloads_that_nobody_went_on_with_for_a_month(tmp_path, blobs):
    now = [0.0]
    with Store.open(
        tmp_path / "home", StoreOptions(reserve_bytes=0), clock=lambda: now[0]
    ) as store:
        interrupted(store, blobs[0])
        now[0] = store.layout.partial(name_of(blobs[0])).joinpath("data").stat().st_mtime
        assert store.gc().evicted == 0
        now[0] += store.options.partial_age_s + 1
        running = store.partial(name_of(blobs[1]), len(blobs[1]))
        dry = store.gc(dry_run=True)
        assert (dry.freed_bytes, dry.evicted) == (MIB, 1)
        assert store.usage().partials == 2
        done = store.gc()
        assert (done.freed_bytes, done.evicted) == (MIB, 1)
        assert store.usage().partials == 1
        running.close()


def test_ls_counts_equal_files_as_often_as_they_are_listed(tmp_path):
    with open_store(tmp_path) as store:
        same, other = b"x" * 5000, b"y" * 700
        store.put_manifest(manifest_of(same, same, other))
        assert [entry.present_bytes for entry in store.ls()] == [0]
        store.publish_small(small_items(store, [same]))
        (entry,) = store.ls()
        assert (entry.present_bytes, entry.total_bytes) == (10_000, 10_700)
        store.publish_small(small_items(store, [other]))
        (entry,) = store.ls()
        assert (entry.present_bytes, entry.total_bytes) == (10_700, 10_700)


def test_a_copy_that_a_preload_keeps_stays_as_long_as_it_is_to(tmp_path, blobs):
    with open_store(tmp_path) as store:
        for data in blobs:
            store_whole(store, data)
        cid = store.put_manifest(manifest_of(blobs[0], blobs[1]))
        store.keep_replicas([cid])
        report = store.gc(target_bytes=0)
        assert [store.find(name_of(data)) is not None for data in blobs] == [True, True, False]
        assert report.kept_because == {"one of the copies that a preload keeps": 4 * MIB}
        store.keep_replicas([])
        assert store.gc(target_bytes=0).evicted == 2


# -- what nobody else can give --------------------------------------------------------------------


def test_only_what_would_go_is_asked_about_and_the_next_oldest_goes_instead(tmp_path, blobs):
    asked = []
    with open_store(tmp_path) as store:
        infos = [store_whole(store, data) for data in blobs]
        kept = {infos[0].sha256: Hold.LAST_COPY}
        store.guard(lambda some, _: asked.append(set(some)) or kept, lambda _: None)
        report = store.gc(target_bytes=4 * MIB)
        assert [store.find(name_of(data)) is not None for data in blobs] == [True, False, True]
        assert asked == [{infos[0].sha256}, {infos[1].sha256}]
        assert report.kept_because[Hold.LAST_COPY.value] == 2 * MIB


def test_a_store_of_nothing_but_last_copies_is_asked_about_in_few_rounds(tmp_path):
    rounds = []
    many = [content(4096, seed=seed) for seed in range(20)]
    with open_store(tmp_path, capacity_bytes=20 * 4096) as store:
        for data in many:
            store_whole(store, data)

        def keep(some, within_s):
            rounds.append(len(some))
            return dict.fromkeys(some, Hold.LAST_COPY)

        store.guard(keep, lambda _: None)
        store.put_manifest(manifest_of(*many))
        with pytest.raises(DiskFull):
            store.ensure_room(4096)
        assert (len(rounds), sum(rounds)) == (4, 20)


def test_what_has_only_a_root_is_not_asked_about_and_goes_after_last_copies(tmp_path):
    with open_store(tmp_path) as store:
        infos = [store_whole(store, content(MIB + 1, seed)) for seed in range(6)]
        blob = rooted(store, content(3 * MIB, 99))
        asked: list[set[bytes]] = []

        def keep(some, _):
            asked.append(set(some))
            assert len(asked) < 100, "it asks for ever"
            return dict.fromkeys(some, Hold.LAST_COPY)

        store.guard(keep, lambda _: None)
        report = store.gc(target_bytes=store.usage().used_bytes - 1)
        assert store.find_any(blob.root_cid) is None
        assert report.evicted == 1
        assert set().union(*asked) == {info.sha256 for info in infos}, "no manifest lists a root"


def test_a_disk_full_of_last_copies_is_an_error_that_names_them(tmp_path, blobs):
    with open_store(tmp_path, capacity_bytes=6 * MIB) as store:
        infos = [store_whole(store, data) for data in blobs]
        cid = store.put_manifest(manifest_of(blobs[0]))
        store.record_resolution(
            Resolution("hf://org/rare@main", cid, "c" * 40, "hf", "https://hub", 1.0)
        )
        store.guard(lambda some, _: dict.fromkeys(some, Hold.LAST_COPY), lambda _: None)
        with pytest.raises(DiskFull) as caught:
            store.ensure_room(MIB)
        assert "nobody else can give `hf://org/rare@main`" in caught.value.message
        assert "rm REF --force" in (caught.value.hint or "")
        assert all(store.find(info.digest) for info in infos)


def test_what_a_pull_takes_hold_of_while_others_are_asked_stays(tmp_path, blobs):
    with open_store(tmp_path) as store, store.running() as hold:
        info = store_whole(store, blobs[0])

        def keep(some, within_s):
            hold([info.sha256])
            return {}

        store.guard(keep, lambda _: None)
        assert store.gc(target_bytes=0).evicted == 0
        assert store.find(name_of(blobs[0])) is not None


def test_others_wait_for_no_answer_but_the_room_itself(tmp_path, blobs):
    """Whoever asks others runs on the trio thread, which takes the store's lock for a pull."""
    free = []
    with open_store(tmp_path, capacity_bytes=5 * MIB) as store:
        store_whole(store, blobs[0])
        store_whole(store, blobs[1])

        def keep(some, within_s):
            other = threading.Thread(target=lambda: store.touch([], 1.0))
            other.start()
            other.join(2)
            free.append(not other.is_alive())
            return {}

        store.guard(keep, lambda _: None)
        store.partial(name_of(b"new"), 3 * MIB).close()
        assert free == [True], "a question that waits for the trio thread would wait for ever"


def test_copies_that_preloads_keep_are_handed_over_only_where_all_else_is_not_enough(
    tmp_path, blobs
):
    handed = []
    with open_store(tmp_path, capacity_bytes=6 * MIB) as store:
        infos = [store_whole(store, data) for data in blobs]
        kept = store.put_manifest(manifest_of(blobs[0]))
        store.keep_replicas([kept])

        def hand_over(some):
            handed.append(list(some))
            store.keep_replicas([])

        store.guard(lambda *_: {}, hand_over)
        store.ensure_room(4 * MIB)
        assert not handed
        assert store.find(infos[0].digest) is not None
        assert store.gc(target_bytes=0).evicted == 0
        assert not handed, "nobody waits for that room"
        store.ensure_room(5 * MIB)
        assert handed == [[infos[0].sha256]]
        assert store.find(infos[0].digest) is None


def test_a_copy_that_nobody_takes_over_stays(tmp_path, blobs):
    with open_store(tmp_path, capacity_bytes=2 * MIB) as store:
        info = store_whole(store, blobs[0])
        store.keep_replicas([store.put_manifest(manifest_of(blobs[0]))])
        store.guard(lambda *_: {}, lambda _: None)
        with pytest.raises(DiskFull, match="a preload keeps"):
            store.ensure_room(MIB)
        assert store.find(info.digest) is not None


def test_what_was_answered_and_needed_before_a_hand_over_counts_no_more(tmp_path, blobs):
    """It takes up to a minute: who else had a copy may be gone since, and room may be free."""
    with open_store(tmp_path, capacity_bytes=8 * MIB) as store:
        infos = [store_whole(store, data) for data in blobs]
        cids = [store.put_manifest(manifest_of(data)) for data in blobs]
        store.keep_replicas(cids[1:])
        handed = []

        def keep(some, within_s):
            last = {infos[0].sha256} & set(some) if handed else ()
            return dict.fromkeys(last, Hold.LAST_COPY)

        def hand_over(some):
            handed.append(some)
            store.keep_replicas(cids[2:])
            if len(handed) == 2:
                store.rm(cids[1])

        store.guard(keep, hand_over)
        with pytest.raises(DiskFull):
            store.ensure_room(6 * MIB)
        assert all(store.find(info.digest) for info in infos)
        store.keep_replicas(cids)
        store.ensure_room(4 * MIB)
        assert len(handed) == 2
        assert [store.find(info.digest) is not None for info in infos] == [True, False, True]


def test_no_copy_is_handed_over_that_is_pinned_or_part_of_a_pull(tmp_path, blobs):
    handed = []
    with open_store(tmp_path, capacity_bytes=6 * MIB) as store:
        infos = [store_whole(store, data) for data in blobs]
        cids = [store.put_manifest(manifest_of(data)) for data in blobs]
        store.keep_replicas(cids)
        store.pin(cids[0])
        store.guard(lambda *_: {}, handed.append)
        with store.running([infos[1].sha256]), pytest.raises(DiskFull):
            store.ensure_room(2 * MIB)
        assert handed == [[infos[2].sha256]]


def test_all_questions_of_one_eviction_have_one_deadline(tmp_path):
    many, now, given = [content(4096, seed=seed) for seed in range(20)], [0.0], []
    with Store.open(
        tmp_path / "home", StoreOptions(reserve_bytes=0), clock=Clock(), monotonic=lambda: now[0]
    ) as store:
        for data in many:
            store_whole(store, data)

        def keep(some, within_s):
            given.append(within_s)
            now[0] += 2.0
            return dict.fromkeys(some, Hold.LAST_COPY)

        store.guard(keep, lambda _: None)
        assert store.gc(target_bytes=19 * 4096).evicted == 0
        assert given == [5.0, 3.0, 1.0, 0.0]


def test_others_begin_while_one_asks_what_may_go_and_nobody_gets_its_room(tmp_path, blobs):
    asks, goes_on, opened, asked = threading.Event(), threading.Event(), [], set()
    with open_store(tmp_path, capacity_bytes=8 * MIB) as store:
        for data in blobs:
            store_whole(store, data)
        every = {blob.sha256 for blob in store.every_blob()}

        def keep(some, within_s):
            asked.update(some)
            asks.set()
            goes_on.wait(20)
            return {}

        store.guard(keep, lambda _: None)
        one = threading.Thread(
            target=lambda: opened.append(store.partial(name_of(b"1"), 4 * MIB)), daemon=True
        )
        one.start()
        assert asks.wait(20)
        two = threading.Thread(
            target=lambda: opened.append(store.partial(name_of(b"2"), 2 * MIB)), daemon=True
        )
        two.start()
        two.join(10)
        assert len(opened) == 1, "there was room for it"
        (lease,) = store._at_work._waiting
        before = lease._claim.counter
        store.heartbeat()
        assert lease._claim.counter == before + 1, "who waits is alive"
        goes_on.set()
        one.join(20)
        assert len(opened) == 2
        assert store.usage().used_bytes + store.usage().promised_bytes <= 8 * MIB
        assert not store._at_work._waiting
        assert every - {blob.sha256 for blob in store.every_blob()} == asked
        assert len(asked) == 2, "as much as is needed now"


def test_what_is_left_of_a_damaged_blob_stays_while_it_is_pinned(tmp_path, blobs):
    clock = Clock()
    options = StoreOptions(reserve_bytes=0, partial_age_s=10)
    with Store.open(tmp_path / "home", options, clock=clock) as store:
        info = store_whole(store, blobs[0])
        manifest = store.put_manifest(manifest_of(blobs[0]))
        store.pin(manifest, "hf://a/b")
        store.layout.blob(info.sha256).chmod(0o644)
        store.layout.blob(info.sha256).write_bytes(b"x" + blobs[0][1:])
        store.quarantine(info.sha256).close()
        clock.now = 1e11  # long after it was given up, too
        assert store.gc(target_bytes=0).kept_because[Hold.PINNED.value] >= MIB
        assert store.others_progress(name_of(blobs[0])) == 1
        store.unpin(manifest)
        store.gc(target_bytes=0)
        assert store.others_progress(name_of(blobs[0])) == 0
