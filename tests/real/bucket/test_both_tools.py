"""One bucket, two tools: hf-cache-sync 0.1.0 itself and we, over a real MinIO."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from p2pcache import errors
from p2pcache.destinations.objects.s3_calls import get_many
from p2pcache.sources.port import AwsLogin
from p2pcache.sources.s3.client import request_for
from p2pcache.sources.s3.options import S3Options
from tests.support.bucket_team import (
    Make,
    snapshot,
)
from tests.support.hub_cache import LAYOUTS, fill_cache, folder_of, same
from tests.support.hubs import HubClient, hub_python

if TYPE_CHECKING:
    from tests.support.hub_repo import HubRepo


@pytest.mark.parametrize(("layout", "prefix"), [("old", ""), ("shared", "teams/a")])
def test_hf_cache_sync_pulls_what_we_pushed(
    make: Make, repo: HubRepo, layout: str, prefix: str
) -> None:
    team = make(prefix=prefix)
    fill_cache(team.ours, repo, layout=layout, refs=["main", "refs/pr/1"])
    team("push")
    them = team.them()
    them.done("pull", "demo/model")
    same(snapshot(them.cache, repo), repo)
    assert "in-sync" in them.done("diff")
    loads = HubClient(hub_python("2.4.0"), them.home)
    assert loads.call("snapshot_download", repo_id="demo/model")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_we_pull_what_hf_cache_sync_pushed_into_either_layout(
    make: Make, repo: HubRepo, twin: HubRepo, layout: str
) -> None:
    team = make(prefix="p")
    them = team.them()
    fill_cache(them.cache, repo)
    them.done("push")
    fill_cache(team.ours, twin, layout=layout)  # what is there already, in this layout
    answer = team("pull", repo="demo/model")
    assert (answer["source"], answer["path"]) == ("bucket", str(snapshot(team.ours, repo)))
    same(snapshot(team.ours, repo), repo)
    same(snapshot(team.ours, twin), twin)
    home = team.folder / "home"
    home.mkdir()
    (home / "hub").symlink_to(team.ours)
    loads = HubClient(hub_python("2.4.0"), home)
    assert loads.call("snapshot_download", repo_id="demo/model")
    assert loads.call("scan", cache_dir=str(team.ours))["warnings"] == []


def test_a_push_of_theirs_and_one_of_ours_are_one_bucket(
    make: Make, repo: HubRepo, under: HubRepo
) -> None:
    team = make()
    them = team.them()
    fill_cache(them.cache, repo)
    them.done("push")
    fill_cache(team.ours, under)
    fill_cache(team.ours, repo)
    answer = team("push")
    assert answer["sent_blobs"] == len(under.files), "what they sent is not sent again"
    assert "skipped 6 existing" in them.done("push")
    rows = {row["repo"]: row for row in team("remote")["items"]}
    assert set(rows) == {"demo/model", "org/my__model"}
    assert all(row["refs"] == ["main"] and not row["missing_blobs"] for row in rows.values())
    statuses = {row["repo"]: row["status"] for row in team("diff")["items"]}
    assert statuses == {"demo/model": "in-sync", "org/my__model": "in-sync"}


def test_revisions_go_by_commit_and_by_every_ref(make: Make, repo: HubRepo) -> None:
    team = make()
    fill_cache(team.ours, repo, refs=["main", "v1", "refs/pr/1"])
    team("push")
    for name in ("v1", "refs/pr/1"):
        cache = team.folder / f"to-{name.replace('/', '-')}"
        team("pull", repo="demo/model", revision=name, hf_cache=str(cache))
        assert (folder_of(cache, repo) / "refs" / name).read_text() == repo.commit
        assert not (folder_of(cache, repo) / "refs" / "main").exists()
    by_commit = team.folder / "by-commit"
    team("pull", repo="demo/model", revision=repo.commit, hf_cache=str(by_commit))
    same(snapshot(by_commit, repo), repo)
    for missing in ("v2", "a" * 40):
        with pytest.raises(errors.NotFound, match="demo/model"):
            team("pull", repo="demo/model", revision=missing)


@pytest.mark.parametrize("there", ["another", "the same"])
def test_hf_cache_sync_pulls_what_we_pushed_into_a_cache_with_shared_blobs(
    make: Make, repo: HubRepo, twin: HubRepo, there: str
) -> None:
    team = make()
    fill_cache(team.ours, repo)
    team("push")
    them = team.them()
    before = twin if there == "another" else repo
    fill_cache(them.cache, before, layout="shared")
    if before is repo:  # a link of the snapshot is missing, the blob is in the shared store
        (snapshot(them.cache, repo) / "model-00001-of-00002.safetensors").unlink()
    them.done("pull", "demo/model")
    same(snapshot(them.cache, repo), repo)
    same(snapshot(them.cache, before), before)
    loads = HubClient(hub_python("2.4.0"), them.home)
    assert loads.call("snapshot_download", repo_id="demo/model")


def test_small_objects_that_are_read_side_by_side_are_each_themselves(make: Make) -> None:
    team = make()
    bodies = {f"refs/org__name/r{n}": f"{n:040x}".encode() for n in range(100)}
    for key, body in bodies.items():
        team.put(key, body)
    aws = team.server.aws
    login = AwsLogin(
        aws["aws_access_key_id"], aws["aws_secret_access_key"], endpoint_url=aws["aws_endpoint_url"]
    )
    request = request_for(S3Options(), team.name, login)
    usual_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # threads change places wherever they can
    try:
        for _ in range(4):
            found = get_many(request, tuple(bodies), 100)
            assert {key: data for key, (data, _) in found.items()} == bodies
    finally:
        sys.setswitchinterval(usual_s)
