"""What a push sends, from what is here and what is there: no server, no clock."""

from __future__ import annotations

from pathlib import Path

import pytest

from p2pcache.agent.bucket.plan import LocalRevision, RevisionPlan, plan_all, selected
from p2pcache.agent.bucket.remote import Remote, RemoteRef, RemoteRevision
from p2pcache.destinations.objects.port import Absent, Same, Stored
from p2pcache.errors import NotFound, Untrusted
from p2pcache.formats.hf_cache_sync import layout
from p2pcache.formats.hf_cache_sync.documents import BucketFile, BucketManifest
from p2pcache.store.hfcache.layout import RepoFolder

MODEL, DATASET = RepoFolder("model", "org/name"), RepoFolder("dataset", "org/name")
ONE, TWO = "1" * 40, "2" * 40
SHA256, SHA1 = "5" * 64, "6" * 40
FILES = (BucketFile("a.json", SHA1, 2), BucketFile("w.bin", SHA256, 100))


def local(
    repo: RepoFolder = MODEL, commit: str = ONE, files: tuple[BucketFile, ...] = FILES,
    refs: tuple[str, ...] = ("main",),
) -> LocalRevision:  # fmt: skip
    sources = {file.blob: Path("x") for file in files}
    return LocalRevision(BucketManifest(repo, commit, files), refs, sources)


def remote(*sizes: tuple[str, int]) -> Remote:
    return Remote({key: Stored(key, size, f"v-{key}") for key, size in sizes})


def with_ref(found: Remote, key: str, repo: RepoFolder | None, commit: str) -> Remote:
    found.objects[key] = Stored(key, 40, f"v-{key}")
    found.refs[key] = RemoteRef(key, commit, f"v-{key}", "main", repo)
    return found


def plan(one: LocalRevision, there: Remote) -> RevisionPlan:
    (found,) = plan_all([one], there)
    assert isinstance(found, RevisionPlan)
    return found


def test_an_empty_bucket_gets_all_under_the_condition_that_it_is_empty() -> None:
    found = plan(local(), remote())
    assert {name: blob.condition for name, blob in found.blobs.items()} == {
        SHA1: Absent(), SHA256: Absent(),
    }  # fmt: skip
    assert (found.manifest, found.manifest_condition) == (local().manifest, Absent())
    assert [(ref.key, ref.condition) for ref in found.refs] == [
        ("_p2pcache/refs/models/org%2Fname/main", Absent()), ("refs/org__name/main", Absent()),
    ]  # fmt: skip


def test_a_blob_of_another_size_broke_off_and_is_replaced_as_it_was_seen() -> None:
    found = plan(local(), remote((f"blobs/{SHA256}", 99), (f"blobs/{SHA1}", 2)))
    assert {name: blob.condition for name, blob in found.blobs.items()} == {
        SHA256: Same(f"v-blobs/{SHA256}")
    }
    assert found.there == 1


def test_what_is_all_there_needs_nothing() -> None:
    there = remote((f"blobs/{SHA256}", 100), (f"blobs/{SHA1}", 2), (local().manifest.key, 9))
    there.revisions[MODEL, ONE] = RemoteRevision(local().manifest, "v")
    for key in (layout.own_ref_key(MODEL, "main"), "refs/org__name/main"):
        with_ref(there, key, MODEL, ONE)
    assert plan(local(), there).is_empty


def test_a_part_of_a_repository_is_added_to_the_manifest_that_is_there() -> None:
    there = remote((local().manifest.key, 9))
    there.revisions[MODEL, ONE] = RemoteRevision(local(files=FILES[1:]).manifest, "v")
    found = plan(local(files=FILES[:1]), there)
    assert found.manifest == local().manifest
    assert found.manifest_condition == Same(f"v-{local().manifest.key}")


def test_a_manifest_of_this_commit_with_other_content_stops_its_repository_alone() -> None:
    there = remote((local().manifest.key, 9))
    other = local(files=(BucketFile("w.bin", "7" * 64, 100),)).manifest
    there.revisions[MODEL, ONE] = RemoteRevision(other, "v")
    found = list(plan_all([local(), local(DATASET, TWO)], there))
    assert isinstance(found[0], tuple)
    assert isinstance(found[0][1], Untrusted)
    assert isinstance(found[1], RevisionPlan)


def test_a_ref_of_another_repository_is_never_taken_over() -> None:
    there = with_ref(remote(), "refs/org__name/main", DATASET, TWO)
    found = plan(local(), there)
    assert [ref.key for ref in found.refs] == [layout.own_ref_key(MODEL, "main")]
    assert "hf-cache-sync itself" in found.notes[0]


def test_of_two_that_share_a_name_in_one_push_the_model_gets_it() -> None:
    plans = [one for one in plan_all([local(DATASET, TWO), local()], remote())]
    keys = {one.local.manifest.repo.repo_type: [r.key for r in one.refs]
            for one in plans if isinstance(one, RevisionPlan)}  # fmt: skip
    assert "refs/org__name/main" in keys["model"]
    assert keys["dataset"] == [layout.own_ref_key(DATASET, "main")]


@pytest.mark.parametrize("repo", [MODEL, None])
def test_a_ref_of_this_repository_or_of_nobody_is_moved_as_it_was_seen(
    repo: RepoFolder | None,
) -> None:
    found = plan(local(), with_ref(remote(), "refs/org__name/main", repo, TWO))
    conditions = {ref.key: ref.condition for ref in found.refs}
    assert conditions["refs/org__name/main"] == Same("v-refs/org__name/main")


def test_named_repositories_are_all_that_is_pushed() -> None:
    other = local(RepoFolder("model", "org/other"), TWO)
    assert selected([local(), other], ["org/other"]) == [other]
    assert selected([local(), other], []) == [local(), other]


def test_a_name_with_a_type_means_the_repository_of_that_type_alone() -> None:
    both = [local(), local(DATASET, TWO)]
    assert selected(both, ["datasets/org/name"]) == [both[1]]
    assert selected(both, ["models/org/name"]) == [both[0]]
    assert selected(both, ["org/name", "datasets/org/name"]) == both, "each once"
    for absent in ("spaces/org/name", "datasets/org/other"):
        with pytest.raises(NotFound, match=f"has no `{absent}`"):
            selected(both, ["org/name", absent])
