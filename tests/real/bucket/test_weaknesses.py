"""What was seen to go wrong with hf-cache-sync, by number: what is in the bucket."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest

from p2pcache import errors
from tests.support.agents import running_agent
from tests.support.bucket_team import (
    OFFLINE,
    Make,
    sha1_file,
    snapshot,
    snapshot_after_pull,
)
from tests.support.hub_cache import fill_cache, folder_of, same
from tests.support.hub_stub import GOOD_TOKEN, HubStub, hub_stub

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.hub_repo import HubRepo
    from tests.support.minio import Minio


def test_weakness_1_files_of_the_shared_store_are_pushed_and_pruning_keeps_them(
    make: Make, repo: HubRepo
) -> None:
    team = make()
    fill_cache(team.ours, repo, layout="shared")
    assert any(path.is_symlink() for path in (folder_of(team.ours, repo) / "blobs").iterdir())
    team("push")
    manifest = json.loads(team.body(f"manifests/demo__model@{repo.commit}.json"))
    assert {f["path"]: f["blob"] for f in manifest["files"]} == {
        path: file.etag for path, file in repo.files.items()
    }
    assert team("prune", max_gb=1000.0)["freed_bytes"] == 0
    same(snapshot(team.ours, repo), repo)


def test_weakness_1_what_they_lose_of_a_shared_store_the_next_push_of_ours_brings(
    make: Make, repo: HubRepo
) -> None:
    """A manifest of theirs lacks those files: nobody can know it from the bucket alone."""
    team = make()
    them = team.them()
    fill_cache(them.cache, repo, layout="shared")
    them.done("push")
    key = f"manifests/demo__model@{repo.commit}.json"
    named = {one["path"] for one in json.loads(team.body(key))["files"]}
    lost = {path for path, file in repo.files.items() if file.lfs}
    assert named == set(repo.files) - lost, "the fault that this is about"
    pulled = team.folder / "pulled"
    team("pull", repo="demo/model", hf_cache=str(pulled))
    for path in repo.files:
        assert (snapshot(pulled, repo) / path).exists() == (path in named), path
    fill_cache(team.ours, repo, layout="shared")
    team("push")
    assert {one["path"] for one in json.loads(team.body(key))["files"]} == set(repo.files)
    same(snapshot_after_pull(team, repo), repo)
    other = team.them("other")
    other.done("pull", "demo/model")
    same(snapshot(other.cache, repo), repo)


def test_weakness_2_what_is_downloading_is_neither_pushed_nor_removed(
    make: Make, repo: HubRepo
) -> None:
    team = make()
    fill_cache(team.ours, repo)
    blobs = folder_of(team.ours, repo) / "blobs"
    partials = [
        blobs / f"{'9' * 64}{end}" for end in (".incomplete", ".0a1b2c3d.incomplete", ".tmp")
    ]
    for path in partials:
        path.write_bytes(b"half")
    team("push")
    team("prune", max_gb=0.0)
    assert [path.read_bytes() for path in partials] == [b"half"] * 3
    assert not [key for key in team.objects() if "incomplete" in key or "tmp" in key]
    assert team("list")["partial_bytes"] == 12


def test_weakness_2_a_partial_that_they_uploaded_is_no_blob_of_ours(
    make: Make, repo: HubRepo
) -> None:
    team = make()
    fill_cache(team.ours, repo)
    weights = repo.files["model-00001-of-00002.safetensors"]
    team.put(f"blobs/{weights.sha256}", weights.on_disk.read_bytes()[:100])  # it broke off
    team.put(f"blobs/{'9' * 64}.incomplete", b"half")
    team("push")
    assert team.objects()[f"blobs/{weights.sha256}"] == weights.size
    same(snapshot_after_pull(team, repo), repo)


def test_weakness_3_an_apache_licence_gates_nothing_and_the_hubs_flag_does(
    make: Make, under: HubRepo, hub: HubStub
) -> None:
    team = make()
    them = team.them()
    fill_cache(them.cache, under)
    assert "Skipping" in them.done("push"), "the fault that this is about"
    fill_cache(team.ours, under)
    assert team("push")["restricted"] == []
    assert f"manifests/org__my__model@{under.commit}.json" in team.objects()


def test_weakness_3_what_is_gated_stays_unless_it_is_allowed(
    make: Make, repo: HubRepo, server: Minio, tmp_path: Path
) -> None:
    with hub_stub(repo) as gating, running_agent(tmp_path / "own", **OFFLINE) as own:
        gating.gated.add("demo/model")
        team = make()
        team.hub, team.agent = gating, own
        fill_cache(team.ours, repo)
        answer = team("push")
        assert [row["repo"] for row in answer["restricted"]] == ["demo/model"]
        assert team("push", dry_run=True)["restricted"], "a dry run says the same"
        assert team.objects() == {}
        gating.down = True
        assert "cannot be told" in team("push")["restricted"][0]["reason"]
        gating.down = False
        may_read = {"hf_endpoint": gating.url, "hf_token": GOOD_TOKEN}
        assert team("push", credentials=may_read)["restricted"], "that this user may read it"
        team.team = {"allow_gated": True}
        assert team("push")["restricted"] == []
        assert f"manifests/demo__model@{repo.commit}.json" in team.objects()


def test_weakness_4_a_name_with_two_underscores_is_listed_and_pulled_as_itself(
    make: Make, under: HubRepo
) -> None:
    team = make()
    fill_cache(team.ours, under)
    team("push")
    (row,) = team("remote")["items"]
    assert (row["repo"], row["refs"]) == ("org/my__model", ["main"])
    same(snapshot_after_pull(team, under), under)
    with pytest.raises(errors.NotFound):
        team("pull", repo="org__my/model")


def test_weakness_5_a_model_and_a_dataset_of_one_name_are_both_there(
    make: Make, repo: HubRepo, twin: HubRepo
) -> None:
    team = make()
    for each in (repo, twin):
        fill_cache(team.ours, each)
    answer = team("push")
    assert any("hf-cache-sync itself" in note for note in answer["notes"])
    with pytest.raises(errors.UsageError, match="several"):
        team("pull", repo="demo/model")
    same(snapshot_after_pull(team, repo, repo_type="model"), repo)
    same(snapshot_after_pull(team, twin, repo_type="dataset"), twin)
    them = team.them()
    them.done("pull", "demo/model")  # the one that has the shared name
    same(snapshot(them.cache, repo), repo)
    # theirs of the dataset takes the shared name: the model is still found by ours
    other = team.them("other")
    fill_cache(other.cache, twin)
    other.done("push")
    assert team.body("refs/demo__model/main").decode() == twin.commit
    rows = {(row["repo_type"], tuple(row["refs"])) for row in team("remote")["items"]}
    assert rows == {("model", ("main",)), ("dataset", ("main",))}
    shutil.rmtree(team.folder / "pulled")
    same(snapshot_after_pull(team, repo, repo_type="model"), repo)


def test_weakness_6_a_manifest_with_a_path_outside_writes_nothing(
    make: Make, repo: HubRepo
) -> None:
    team = make()
    fill_cache(team.ours, repo)
    team("push")
    key = f"manifests/demo__model@{repo.commit}.json"
    manifest = json.loads(team.body(key))
    manifest["files"][0]["path"] = "../../../../../PWNED.txt"
    team.put(key, json.dumps(manifest).encode())
    cache = team.folder / "a" / "b" / "hub"
    before = team.agent.log.read_text()
    with pytest.raises(errors.Untrusted, match="PWNED"):
        team("pull", repo="demo/model", hf_cache=str(cache))
    assert not list(team.folder.rglob("PWNED.txt"))
    assert not cache.exists()
    assert team.agent.log.read_text() == before
    assert any("PWNED" in note for note in team("remote")["notes"])


def test_weakness_7_a_poisoned_sha1_blob_is_refused_and_a_damaged_local_one_replaced(
    make: Make, repo: HubRepo, tmp_path: Path
) -> None:
    team = make()
    fill_cache(team.ours, repo)
    team("push")
    small = sha1_file(repo)
    good = team.body(f"blobs/{small.git_sha1}")
    team.put(f"blobs/{small.git_sha1}", b"!" * small.size)
    with running_agent(tmp_path / "fresh", **OFFLINE) as fresh:  # which has none of it
        cache = team.folder / "fresh"
        with pytest.raises(errors.Untrusted):
            team("pull", fresh, repo="demo/model", hf_cache=str(cache))
        assert not snapshot(cache, repo).exists(), "nothing is half visible"
        team.put(f"blobs/{small.git_sha1}", good)
        weights = repo.files["model-00001-of-00002.safetensors"]
        fill_cache(cache, repo)
        for damaged in (small.git_sha1, weights.sha256):
            path = folder_of(cache, repo) / "blobs" / damaged
            path.chmod(0o644)
            path.write_bytes(b"?" * path.stat().st_size)
        answer = team("pull", fresh, repo="demo/model", hf_cache=str(cache))
        notes = " ".join(answer["notes"])
        assert "`config.json`" in notes
        assert f"`{weights.path}`" in notes
        same(snapshot(cache, repo), repo)


def test_weakness_7_a_damaged_blob_is_not_pushed(make: Make, repo: HubRepo, under: HubRepo) -> None:
    team = make()
    for each in (repo, under):
        fill_cache(team.ours, each)
    path = folder_of(team.ours, repo) / "blobs" / sha1_file(repo).git_sha1
    path.chmod(0o644)
    path.write_bytes(b"!" * path.stat().st_size)
    answer = team("push")
    assert [row["repo"] for row in answer["failed"]] == ["demo/model"]
    keys = team.objects()
    assert f"blobs/{path.name}" not in keys
    assert f"manifests/demo__model@{repo.commit}.json" not in keys
    assert f"manifests/org__my__model@{under.commit}.json" in keys, "the others go out"
