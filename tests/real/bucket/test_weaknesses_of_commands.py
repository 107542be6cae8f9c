"""What was seen to go wrong with hf-cache-sync, by number: what its commands do and say."""

from __future__ import annotations

import json
import os
import shutil
import time
from typing import TYPE_CHECKING, Any

import pytest

from p2pcache.store.hfcache.prune import plan_prune, prune
from p2pcache.store.hfcache.scan import scan
from tests.support.blobs import MIB
from tests.support.bucket_team import (
    Make,
    Team,
    snapshot,
    snapshot_after_pull,
)
from tests.support.hub_cache import LAYOUTS, fill_cache, same
from tests.support.s3_proxy import Reply, S3Proxy, s3_proxy

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.hub_repo import HubRepo


@pytest.mark.parametrize("layout", LAYOUTS)
def test_weakness_8_blobs_that_stay_are_not_counted_as_freed(
    tmp_path: Path, versions: list[HubRepo], layout: str
) -> None:
    cache = tmp_path / "hub"
    for n, version in enumerate(versions):
        fill_cache(cache, version, layout=layout, refs=["main"] if n == 2 else [])
        _used(snapshot(cache, version), time.time() - 86400 * (3 - n))
    later = time.time() + 7200
    cached = scan(cache)
    assert cached.total_bytes == 4 * MIB, "three of their own, and the shared one once"
    plan = plan_prune(cached, 3 * MIB, later)
    assert [one.commit for one in plan.revisions] == [versions[0].commit], "the oldest is enough"
    done = prune(cache, plan, later)
    assert (done.freed_bytes, plan.left_bytes) == (MIB, 3 * MIB)
    assert scan(cache).total_bytes == 3 * MIB
    for version in versions[1:]:
        same(snapshot(cache, version), version)
    payloads = [path for path in cache.rglob("*") if path.is_file() and not path.is_symlink()
                and path.stat().st_size == MIB]  # fmt: skip
    assert len(payloads) == 3, "the shared store has lost its payload, too"


def test_weakness_8_a_budget_that_cannot_be_met_says_why(make: Make, repo: HubRepo) -> None:
    team = make()
    fill_cache(team.ours, repo)
    answer = team("prune", max_gb=0.0)
    assert answer["revisions"] == 0
    assert "have a ref" in answer["over_budget"]
    same(snapshot(team.ours, repo), repo)


def _used(folder: Path, when: float) -> None:
    for path in folder.rglob("*"):
        os.utime(path.resolve(), (when, when))


def test_weakness_9_a_dry_run_says_what_would_be_sent_and_sends_nothing(
    make: Make, repo: HubRepo, under: HubRepo
) -> None:
    team = make()
    fill_cache(team.ours, repo)
    first = team("push", dry_run=True)
    assert (first["sent_blobs"], first["sent_bytes"]) == (len(repo.files), repo.total_bytes)
    assert team.objects() == {}
    done = team("push")
    said = ("sent_blobs", "sent_bytes", "written")
    assert [done[name] for name in said] == [first[name] for name in said]
    fill_cache(team.ours, under)
    second = team("push", dry_run=True)
    assert (second["sent_blobs"], second["unchanged"]) == (len(under.files), 1)
    missing = team("pull", repo="demo/model", dry_run=True, hf_cache=str(team.folder / "none"))
    assert missing["dry_run"]["missing_bytes"] in (0, repo.total_bytes)
    assert not (team.folder / "none").exists()


READ_ONLY = json.dumps({
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Action": ["s3:GetObject", "s3:ListBucket"],
                   "Resource": ["arn:aws:s3:::*"]}],
})  # fmt: skip


def test_weakness_10_a_login_that_may_only_read_passes_the_doctor(
    make: Make, repo: HubRepo
) -> None:
    team = make()
    fill_cache(team.ours, repo)
    team("push")
    sts = team.server.client("sts")
    role = sts.assume_role(
        RoleArn="arn:minio:iam:::role/readers",
        RoleSessionName="reader",
        Policy=READ_ONLY,
        DurationSeconds=900,
    )["Credentials"]
    session = {
        "aws_access_key_id": role["AccessKeyId"],
        "aws_secret_access_key": role["SecretAccessKey"],
        "aws_session_token": role["SessionToken"],
        "aws_endpoint_url": team.server.url,
    }
    config = team.folder / "readonly.yaml"
    config.write_text(f"storage: {{bucket: {team.name}}}\n")
    options: dict[str, Any] = {"config": str(config), "credentials": session}
    checks = {row["check"]: row for row in team("doctor", **options)["items"]}
    assert all(row["ok"] for row in checks.values()), checks
    assert "read only" in checks["write"]["detail"]
    assert not team("doctor", write=True, **options)["ok"], "who wants to push is told"
    same(snapshot_after_pull(team, repo, **options), repo)


def test_weakness_10_no_login_is_a_line_and_no_traceback(make: Make) -> None:
    team = make()
    config = team.folder / "none.yaml"
    config.write_text(f"storage: {{bucket: {team.name}, endpoint: '{team.server.url}'}}\n")
    answer = team("doctor", config=str(config), credentials={})
    checks = {row["check"]: row for row in answer["items"]}
    assert not answer["ok"]
    assert not checks["read"]["ok"]
    assert "B2_APPLICATION_KEY_ID" in checks["login"]["hint"]
    config.write_text("storage: {}\n")
    (_, row) = team("doctor", config=str(config), credentials={})["items"]
    assert (row["check"], row["ok"]) == ("bucket", False)


def test_weakness_11_two_pushes_at_once_undo_nothing_of_each_other(
    make: Make, repo: HubRepo, versions: list[HubRepo]
) -> None:
    """A part of a commit's files each, and one of them moves `main` while the other is at it."""
    team = make()
    fill_cache(team.ours, repo)
    whole = snapshot(team.ours, repo)
    parts = [team.folder / "one", team.folder / "other"]
    for n, cache in enumerate(parts):
        shutil.copytree(team.ours, cache, symlinks=True)
        for at, path in enumerate(sorted(p for p in whole.rglob("*") if not p.is_dir())):
            if at % 2 == n:
                (snapshot(cache, repo) / path.relative_to(whole)).unlink()
    with s3_proxy(team.server) as proxy:
        team.endpoint = proxy.url
        started = _when_written(proxy, "/manifests/", lambda: _push_directly(team, parts[1]))
        assert team("push", hf_cache=str(parts[0]))["failed"] == []
        assert started == [True]
        manifest = json.loads(team.body(f"manifests/demo__model@{repo.commit}.json"))
        assert {f["path"] for f in manifest["files"]} == set(repo.files)
        # and `main`: another commit becomes it between the look and the write
        newer = team.folder / "newer"
        fill_cache(newer, versions[0])
        started = _when_written(
            proxy, "/refs/", lambda: team.put("refs/demo__model/main", versions[1].commit.encode())
        )
        (failed,) = team("push", hf_cache=str(newer), allow_gated=True)["failed"]
        assert started == [True]
        assert "another push moved `main`" in failed["error"]
        assert team.body("refs/demo__model/main").decode() == versions[1].commit


def _when_written(proxy: S3Proxy, part: str, act: Callable[[], Any]) -> list[bool]:
    """Do it once, just before the first PUT of such a key reaches the bucket."""
    done: list[bool] = []

    def fault(ask: Any) -> Reply | None:
        if ask.method == "PUT" and part in ask.path and "_p2pcache" not in ask.path and not done:
            done.append(True)
            act()
        return None

    proxy.fault = fault
    return done


def _push_directly(team: Team, cache: Path) -> None:
    direct = Team(team.server, team.name, team.folder, team.agent, team.hub, team.s3)
    assert direct("push", hf_cache=str(cache))["failed"] == []
