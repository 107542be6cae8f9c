"""What goes out of a Hugging Face cache: counted by payload, in both layouts, nobody else's."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from p2pcache.store.hfcache.layout import RepoFolder
from p2pcache.store.hfcache.prune import GRACE_S, plan_prune, prune
from p2pcache.store.hfcache.scan import (
    Cached,
    CachedFile,
    CachedRevision,
    LooseBlob,
    Payload,
    scan,
)
from p2pcache.store.hfcache.write import LinkedFile, materialise

if TYPE_CHECKING:
    from collections.abc import Sequence

REPO = RepoFolder("model", "org/name")
NOW = 1_000_000.0
OLD = NOW - 10 * GRACE_S


def payload(number: int, size: int = 100, changed_at: float = OLD) -> Payload:
    return Payload((1, number), size, changed_at, changed_at, 1)


def revision(
    number: int, payloads: Sequence[Payload], *, refs: tuple[str, ...] = (), used_at: float = OLD,
    changed_at: float = OLD,
) -> CachedRevision:  # fmt: skip
    files = tuple(
        CachedFile(f"f{at}", f"{p.inode[1]:040x}", Path("x"), p) for at, p in enumerate(payloads)
    )
    return CachedRevision(REPO, f"{number:040x}", refs, files, (), used_at, changed_at)


def planned(cached: Cached, budget: int) -> tuple[list[int], int]:
    plan = plan_prune(cached, budget, NOW)
    return [int(one.commit, 16) for one in plan.revisions], plan.left_bytes


def test_the_one_used_longest_ago_goes_first_and_no_more_than_needed() -> None:
    shared = payload(0)
    cached = Cached(
        tuple(revision(n, [shared, payload(n)], used_at=OLD + n) for n in (3, 1, 2)), (), 0
    )
    assert cached.total_bytes == 400
    assert planned(cached, 400) == ([], 400)
    assert planned(cached, 399) == ([1], 300)
    assert planned(cached, 200) == ([1, 2], 200)
    assert planned(cached, 0) == ([1, 2, 3], 0)


def test_what_has_a_ref_or_changed_just_now_stays_and_is_told() -> None:
    named = revision(1, [payload(1)], refs=("main",))
    recent = revision(2, [payload(2)], changed_at=NOW - 1)
    plan = plan_prune(Cached((named, recent, revision(3, [payload(3)])), (), 0), 0, NOW)
    assert [int(one.commit, 16) for one in plan.revisions] == [3]
    assert (plan.left_bytes, plan.named_bytes, plan.recent_bytes) == (200, 100, 100)


def test_loose_blobs_go_before_revisions_and_not_while_they_may_be_linked() -> None:
    loose = (
        LooseBlob(REPO, "a" * 40, payload(8)),
        LooseBlob(REPO, "b" * 40, payload(9, changed_at=NOW)),
    )
    cached = Cached((revision(1, [payload(1)]),), loose, 0)
    plan = plan_prune(cached, 200, NOW)
    assert ([blob.name for blob in plan.loose], plan.revisions) == (["a" * 40], ())
    assert [blob.name for blob in plan_prune(cached, 0, NOW).loose] == ["a" * 40]
    assert not plan_prune(Cached((), loose, 0), 200, NOW).loose, "within the budget all stay"


def test_a_revision_whose_payloads_others_need_frees_nothing() -> None:
    shared = payload(1)
    cached = Cached((revision(1, [shared]), revision(2, [shared], refs=("main",))), (), 0)
    assert planned(cached, 0) == ([1], 100)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    store = tmp_path / "blob"
    store.write_bytes(b"x" * 1000)
    file = LinkedFile("a/b.bin", "5" * 64, 1000, store)
    materialise(tmp_path / "hub", "model", "org/name", "1" * 40, [file], whole_tree=True)
    return tmp_path / "hub"


def test_what_goes_goes_wholly_and_an_empty_repository_leaves_nothing(cache: Path) -> None:
    later = time.time() + 2 * GRACE_S
    plan = plan_prune(scan(cache), 0, later)
    done = prune(cache, plan, later)
    assert (done.freed_bytes, done.elsewhere_bytes) == (1000, 1000), "the store has it still"
    assert not (cache / REPO.name).exists()
    assert scan(cache).revisions == ()


def test_a_partial_of_another_process_keeps_its_repository(cache: Path) -> None:
    partial = cache / REPO.name / "blobs" / f"{'9' * 64}.0a1b2c3d.incomplete"
    partial.write_bytes(b"half")
    assert scan(cache).partial_bytes == 4
    later = time.time() + 2 * GRACE_S
    prune(cache, plan_prune(scan(cache), 0, later), later)
    assert partial.read_bytes() == b"half"


def test_a_blob_that_a_snapshot_of_meanwhile_needs_stays(cache: Path) -> None:
    later = time.time() + 2 * GRACE_S
    plan = plan_prune(scan(cache), 0, later)
    newer = cache / REPO.name / "snapshots" / ("2" * 40)
    newer.mkdir()
    (newer / "b.bin").symlink_to(f"../../blobs/{'5' * 64}")
    assert prune(cache, plan, later).freed_bytes == 0
    assert (newer / "b.bin").read_bytes() == b"x" * 1000


def test_a_blob_that_came_anew_meanwhile_stays(cache: Path) -> None:
    now = time.time()
    plan = plan_prune(scan(cache), 0, now + 2 * GRACE_S)
    blob = cache / REPO.name / "blobs" / ("5" * 64)
    os.rename(blob, blob.with_suffix(".x"))
    os.rename(blob.with_suffix(".x"), blob)  # its time of change is now
    prune(cache, plan, now)
    assert blob.exists()


def test_links_that_lead_out_of_the_cache_are_neither_read_nor_followed(
    cache: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_bytes(b"p")
    snapshots = cache / REPO.name / "snapshots"
    (snapshots / ("1" * 40) / "leak").symlink_to(outside / "precious")
    (snapshots / ("3" * 40)).symlink_to(outside)
    found = scan(cache)
    assert [one.commit for one in found.revisions] == ["1" * 40]
    assert found.revisions[0].unusable == ("leak",)
    later = time.time() + 2 * GRACE_S
    prune(cache, plan_prune(found, 0, later), later)
    assert (outside / "precious").read_bytes() == b"p"


@pytest.mark.parametrize("name", ["main", "latest", "v1.0"])
def test_a_snapshot_whose_name_is_no_commit_keeps_its_blobs(cache: Path, name: str) -> None:
    """Hubs without git (mirrors, artifact stores) name their revisions as they like."""
    snapshots = cache / REPO.name / "snapshots"
    (snapshots / ("1" * 40)).rename(snapshots / name)
    later = time.time() + 2 * GRACE_S
    found = scan(cache)
    assert (found.revisions, found.loose) == ((), ())
    prune(cache, plan_prune(found, 0, later), later)
    assert (snapshots / name / "a" / "b.bin").read_bytes() == b"x" * 1000


def test_where_snapshots_cannot_be_read_nothing_goes(cache: Path) -> None:
    later = time.time() + 2 * GRACE_S
    plan = plan_prune(scan(cache), 0, later)
    hidden = cache / REPO.name / "snapshots" / ("2" * 40)
    hidden.mkdir()
    (hidden / "b.bin").symlink_to(f"../../blobs/{'5' * 64}")
    hidden.chmod(0)
    try:
        if os.access(hidden, os.R_OK):
            pytest.skip("this user may read everything")
        assert len(prune(cache, plan, later).notes) == 1
    finally:
        hidden.chmod(0o700)
    assert (hidden / "b.bin").read_bytes() == b"x" * 1000
