"""One bucket, two tools: hf-cache-sync 0.1.0 itself and we, over a real MinIO.

`weakness N` is a fault that was seen of hf-cache-sync; each has a test that it is none of ours.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from p2pcache import errors
from p2pcache.cli.main import main
from p2pcache.destinations.objects.s3_calls import get_many
from p2pcache.sources.port import AwsLogin
from p2pcache.sources.s3.client import request_for
from p2pcache.sources.s3.options import S3Options
from p2pcache.store.hfcache.prune import plan_prune, prune
from p2pcache.store.hfcache.scan import scan
from tests.support.agents import Agent, running_agent
from tests.support.blobs import MIB
from tests.support.hf_cache_sync import HfCacheSync, settings_text
from tests.support.hub_cache import LAYOUTS, fill_cache, folder_of, same
from tests.support.hub_repo import HubRepo, build_repo, lfs, text
from tests.support.hub_stub import GOOD_TOKEN, HubStub, hub_stub
from tests.support.hubs import HubClient, hub_python
from tests.support.minio import PASSWORD, Minio, minio
from tests.support.network import network
from tests.support.s3_proxy import Reply, S3Proxy, s3_proxy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OFFLINE = {"AWS_EC2_METADATA_DISABLED": "true"}
APACHE = text("                Apache License\n    ... under the terms of this agreement ...\n")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Minio]:
    with minio(tmp_path_factory.mktemp("minio")) as running:
        yield running


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> HubRepo:
    return build_repo(tmp_path_factory.mktemp("repo"))


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> HubRepo:
    """A dataset of the model's name."""
    recipes = {"data.csv": text("a,b\n"), "big.bin": lfs(70_000, 9)}
    return build_repo(tmp_path_factory.mktemp("twin"), recipes, repo_type="dataset")


@pytest.fixture(scope="module")
def under(tmp_path_factory: pytest.TempPathFactory) -> HubRepo:
    """Its name has the sign that hf-cache-sync writes for a slash."""
    root = tmp_path_factory.mktemp("under")
    return build_repo(root, {"LICENSE": APACHE, "w.bin": lfs(5_000, 7)}, repo_id="org/my__model")


@pytest.fixture(scope="module")
def hub(repo: HubRepo, twin: HubRepo, under: HubRepo) -> Iterator[HubStub]:
    with hub_stub(repo, twin, under) as stub:
        yield stub


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    with running_agent(tmp_path_factory.mktemp("agent"), **OFFLINE) as running:
        yield running


@dataclass
class Team:
    """A bucket, and what works on it. `ours`: the cache that our side has."""

    server: Minio
    name: str
    folder: Path
    agent: Agent
    hub: HubStub
    s3: Any
    prefix: str = ""
    endpoint: str = ""
    team: dict[str, object] = field(default_factory=dict)

    @property
    def ours(self) -> Path:
        return self.folder / "ours"

    @property
    def settings(self) -> Path:
        path = self.folder / "settings.yaml"
        said = settings_text(self.server, self.name, self.prefix, **self.team)
        path.write_text(said.replace(self.server.url, self.endpoint or self.server.url))
        return path

    def them(self, name: str = "them") -> HfCacheSync:
        """A machine that runs hf-cache-sync."""
        home = self.folder / name
        home.mkdir(exist_ok=True)
        shutil.copyfile(self.settings, home / ".hf-cache-sync.yaml")
        return HfCacheSync(home)

    def __call__(self, what: str, agent: Agent | None = None, **options: Any) -> dict[str, Any]:
        options = {"hf_cache": str(self.ours), "config": str(self.settings),
                   "credentials": {"hf_endpoint": self.hub.url}, **options}  # fmt: skip
        with (agent or self.agent).client() as client:
            value, items = client.bucket(what, **options)
        return {**value, "items": items}

    def objects(self) -> dict[str, int]:
        said = self.s3.list_objects_v2(Bucket=self.name, Prefix=self.prefix)
        return {
            one["Key"].removeprefix(f"{self.prefix}/"): one["Size"]
            for one in said.get("Contents", ())
        }

    def body(self, key: str) -> bytes:
        return bytes(self.s3.get_object(Bucket=self.name, Key=self._key(key))["Body"].read())

    def put(self, key: str, body: bytes) -> None:
        self.s3.put_object(Bucket=self.name, Key=self._key(key), Body=body)

    def _key(self, key: str) -> str:
        return f"{self.prefix}/{key}" if self.prefix else key


Make = Callable[..., Team]


@pytest.fixture
def make(server: Minio, agent: Agent, hub: HubStub, tmp_path: Path) -> Make:
    names = iter(range(10))

    def one(**fields: Any) -> Team:
        name = f"b{abs(hash(tmp_path)) % 10**9}-{next(names)}"
        folder = tmp_path / name
        folder.mkdir()
        return Team(server, name, folder, agent, hub, server.bucket(name), **fields)

    return one


def snapshot(cache: Path, repo: HubRepo) -> Path:
    return folder_of(cache, repo) / "snapshots" / repo.commit


def sha1_file(repo: HubRepo) -> Any:
    return repo.files["config.json"]


# -- both tools on one bucket ---------------------------------------------------------------------


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


# -- the eleven weaknesses ------------------------------------------------------------------------


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


def snapshot_after_pull(team: Team, repo: HubRepo, **options: Any) -> Path:
    cache = team.folder / "pulled"
    team("pull", repo=repo.repo_id, hf_cache=str(cache), **options)
    return snapshot(cache, repo)


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


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> list[HubRepo]:
    """Three commits of one repository, each with 1 MiB of its own and 1 MiB that all share."""
    return [
        build_repo(
            tmp_path_factory.mktemp(f"v{n}"),
            {"shared.bin": lfs(MIB, 100), "own.bin": lfs(MIB, 200 + n)},
        )
        for n in range(3)
    ]


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


# -- where bytes come from ------------------------------------------------------------------------


def test_bytes_come_from_another_agent_first(make: Make, repo: HubRepo, tmp_path: Path) -> None:
    team = make()
    fill_cache(team.ours, repo)
    team("push")
    with s3_proxy(team.server) as proxy, network(tmp_path / "net", 2, env=OFFLINE) as (a, b):
        team.endpoint = proxy.url
        team("pull", a, repo="demo/model", hf_cache=str(team.folder / "a"))
        proxy.seen.clear()
        team("pull", b, repo="demo/model", hf_cache=str(team.folder / "b"))
        same(snapshot(team.folder / "b", repo), repo)
        peers = [one for one in b.why()["sources"] if one["kind"] == "peer"]
        assert sum(one["bytes"] for one in peers) >= repo.total_bytes - 4096
        fetched = [ask for ask in proxy.reads() if "/blobs/" in ask.path]
        assert len(fetched) <= 2, "the bucket is asked for the proof of access alone"


def test_what_arrived_before_the_bucket_failed_is_not_fetched_again(
    make: Make, tmp_path: Path
) -> None:
    big = build_repo(tmp_path / "big", {"w.bin": lfs(24 * MIB, 5), "x.bin": lfs(2 * MIB, 6)})
    team = make(team={"allow_gated": True})
    fill_cache(team.ours, big)
    team("push")
    with (
        s3_proxy(team.server) as proxy,
        running_agent(tmp_path / "own", settings={"fetch.patience": "1s"}, **OFFLINE) as own,
    ):
        team.endpoint = proxy.url
        last = f"bytes={16 * MIB}-"
        key = f"/blobs/{big.files['w.bin'].sha256}"

        def fault(ask: Any) -> Reply | None:
            start = int(ask.headers.get("range", "bytes=0-").removeprefix("bytes=").split("-")[0])
            broken = ask.path.endswith(key) and ask.method == "GET" and start >= 16 * MIB
            return Reply(404, "NoSuchKey") if broken else None

        proxy.fault = fault
        cache = team.folder / "to"
        with pytest.raises(errors.P2PCacheError):
            team("pull", own, repo="demo/model", hf_cache=str(cache))
        assert not snapshot(cache, big).exists(), "nothing is half visible"
        proxy.fault = lambda ask: None
        answer = team("pull", own, repo="demo/model", hf_cache=str(cache))
        same(snapshot(cache, big), big)
        assert 0 < answer["fetched_bytes"] <= big.total_bytes - 2 * MIB, last


def test_a_manifest_is_a_ref_like_others(make: Make, repo: HubRepo, tmp_path: Path) -> None:
    """What a pull is recorded under can be got, mended and asked for again."""
    team = make(prefix="p")
    fill_cache(team.ours, repo)
    team("push")
    credentials = {**team.server.aws, "hf_endpoint": team.hub.url}
    ref = f"s3://{team.name}/p/manifests/demo__model%40{repo.commit}.json/"
    with running_agent(tmp_path / "own", **OFFLINE) as own:
        team("pull", own, repo="demo/model", hf_cache=str(team.folder / "to"))
        with own.client() as client:
            assert [row["ref"] for row in client.ls()] == [ref]
            assert client.resolve(ref, refresh=True, credentials=credentials)["file_count"] == 6
        own.get(ref, to=str(tmp_path / "out"), credentials=credentials, offline=True)
        same(tmp_path / "out", repo)


@pytest.mark.parametrize("fault", ["missing", "poisoned", "down"])
def test_the_hub_takes_the_place_of_a_bucket_that_fails(
    make: Make, repo: HubRepo, fault: str, tmp_path: Path
) -> None:
    team = make()
    if fault == "poisoned":
        fill_cache(team.ours, repo)
        team("push")
        team.put(f"manifests/demo__model@{repo.commit}.json", b"{}")
    elif fault == "down":
        team.endpoint = "http://127.0.0.1:9"
    cache = str(team.folder / "to")
    with pytest.raises(errors.P2PCacheError):
        team("pull", repo="demo/model", hf_cache=cache)
    answer = team("pull", repo="demo/model", hf_cache=cache, fallback="hf-hub")
    assert (answer["source"], answer["commit"]) == ("hf-hub", repo.commit)
    assert "not from the bucket" in answer["notes"][0]
    same(snapshot(team.folder / "to", repo), repo)


def test_a_denied_login_never_falls_back(make: Make, repo: HubRepo) -> None:
    team = make()
    wrong = {"aws_access_key_id": "x", "aws_secret_access_key": "y", "hf_endpoint": team.hub.url,
             "aws_endpoint_url": team.server.url}  # fmt: skip
    config = team.folder / "wrong.yaml"
    config.write_text(f"storage: {{bucket: {team.name}}}\n")
    with pytest.raises(errors.Denied):
        team("pull", repo="demo/model", fallback="hf-hub", config=str(config), credentials=wrong)


# -- the command line -----------------------------------------------------------------------------


@pytest.fixture
def run(make: Make, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Team, Run]]:
    """A bucket, and the commands of this process on it: by the file in the working directory."""

    def on(**fields: Any) -> tuple[Team, Run]:
        team = make(**fields)
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "B2_BUCKET", "AWS_PROFILE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("P2PCACHE_HOME", str(team.agent.home))
        monkeypatch.setenv("HF_HUB_CACHE", str(team.ours))
        monkeypatch.setenv("HF_ENDPOINT", team.hub.url)
        shutil.copyfile(team.settings, team.folder / ".hf-cache-sync.yaml")
        monkeypatch.chdir(team.folder)
        return team, lambda *args: main(["bucket", *args])

    return on


Run = Callable[..., int]


def test_a_repository_that_fails_makes_pull_all_exit_1_and_the_others_come(
    run: Callable[..., tuple[Team, Run]], repo: HubRepo, under: HubRepo,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:  # fmt: skip
    team, bucket = run(prefix="p")
    assert bucket("push") == 0, "an empty cache is no fault"
    for each in (repo, under):
        fill_cache(team.ours, each)
    assert bucket("push", "--dry-run") == 0
    assert bucket("push") == 0
    team.s3.delete_object(Bucket=team.name, Key=f"p/blobs/{under.files['w.bin'].sha256}")
    capsys.readouterr()
    with running_agent(tmp_path / "fresh", **OFFLINE) as fresh:  # which has none of it
        monkeypatch.setenv("P2PCACHE_HOME", str(fresh.home))
        monkeypatch.setenv("HF_HUB_CACHE", str(team.folder / "all"))
        assert bucket("pull-all", "--json") == 1
        out, err = capsys.readouterr()
        rows = {row["repo"]: row for row in map(json.loads, out.splitlines())}
        assert rows["demo/model"]["error"] is None
        assert rows["org/my__model"]["error"]["code"] == "not-found"
        assert json.loads(err.splitlines()[-1])["exit_code"] == 1
        same(snapshot(team.folder / "all", repo), repo)
        assert bucket("pull-all", "--exclude", "org/*") == 0
        assert bucket("pull-all", "--include", "demo/*", "--limit", "1", "--workers", "4") == 0
        assert bucket("pull-all", "--limit", "0") == 0
        assert bucket("pull-all", "--fallback", "hf-hub") == 0
        same(snapshot(team.folder / "all", under), under)


def test_exit_codes_say_who_must_act(
    run: Callable[..., tuple[Team, Run]], repo: HubRepo, capsys: pytest.CaptureFixture[str]
) -> None:
    team, bucket = run()
    fill_cache(team.ours, repo)
    assert bucket("push", "demo/model") == 0
    assert bucket("push", "no/such") == 11
    assert bucket("pull", "no/such") == 11
    assert bucket("pull", "../x") == 2
    assert bucket("pull", "demo/model", "--fallback", "other") == 2
    assert bucket("prune", "--max-gb", "0") == 13
    assert "have a ref" in capsys.readouterr().err
    assert bucket("prune", "--max-gb", "1") == 0
    assert bucket("doctor") == bucket("status") == bucket("diff") == bucket("list") == 0
    assert bucket("list", "--remote") == 0
    assert "demo/model" in capsys.readouterr().out
    (team.folder / ".hf-cache-sync.yaml").write_text("storage: [")
    assert bucket("diff") == 2
    assert bucket("diff", "--config", "none.yaml") == 2
    (team.folder / ".hf-cache-sync.yaml").unlink()
    assert bucket("diff") == 2
    assert bucket("doctor") == 1


def test_init_writes_a_file_once_for_this_user_alone(
    run: Callable[..., tuple[Team, Run]], capsys: pytest.CaptureFixture[str]
) -> None:
    team, bucket = run()
    path = team.folder / ".hf-cache-sync.yaml"
    path.unlink()
    assert bucket("init") == 0
    assert capsys.readouterr().out.strip() == str(path)
    assert path.stat().st_mode & 0o777 == 0o600
    written = path.read_text()
    assert bucket("init") == 0
    assert path.read_text() == written
    assert "is there already" in capsys.readouterr().err
    team.them("fresh")  # theirs reads it too
    shutil.copyfile(path, team.folder / "fresh" / ".hf-cache-sync.yaml")
    assert "my-hf-cache" in HfCacheSync(team.folder / "fresh").done("status")


def test_no_secret_is_said_or_kept(
    run: Callable[..., tuple[Team, Run]], repo: HubRepo, capsys: pytest.CaptureFixture[str]
) -> None:
    team, bucket = run()
    fill_cache(team.ours, repo)
    for args in (["push"], ["pull", "demo/model"], ["status", "--json"], ["doctor"], ["diff"]):
        assert bucket(*args) == 0
    (team.folder / ".hf-cache-sync.yaml").write_text(
        team.settings.read_text().replace(PASSWORD, "wrong-secret-8Zq")
    )
    assert bucket("pull", "demo/model") == 14
    out, err = capsys.readouterr()
    said = [out.encode(), err.encode(), team.agent.log.read_bytes()]
    said += [path.read_bytes() for path in team.agent.home.rglob("*") if path.is_file()]
    for text_ in said:
        assert PASSWORD.encode() not in text_
        assert b"wrong-secret-8Zq" not in text_


# -- watch ----------------------------------------------------------------------------------------


def test_a_watch_pushes_what_a_download_brought_and_a_dead_one_keeps_no_lock(
    make: Make, repo: HubRepo, under: HubRepo, tmp_path: Path
) -> None:
    team = make()
    fill_cache(team.ours, under)
    with running_agent(tmp_path / "dies", **OFFLINE) as dies:
        with _Watching(team, dies) as first:
            first.wait_items(1)
            with pytest.raises(errors.LocalFault, match="in use by process"):
                team("watch", debounce=1.0, once=True)
            dies.kill()
        with _Watching(team, team.agent) as watching:
            watching.wait_items(1)
            fill_cache(team.ours, repo)
            watching.wait_items(2)
    assert watching.items[0]["unchanged"] == 1
    assert watching.items[1]["sent_blobs"] == len(repo.files)
    assert f"manifests/demo__model@{repo.commit}.json" in team.objects()
    scanned = HubClient(hub_python("2.4.0"), team.folder / "home")
    assert scanned.call("scan", cache_dir=str(team.ours))["warnings"] == []


class _Watching:
    """A watch in a thread, until its second push or the end of its agent."""

    def __init__(self, team: Team, agent: Agent) -> None:
        import threading

        self.items: list[dict[str, Any]] = []
        self._thread = threading.Thread(target=self._run, args=(team, agent))

    def _run(self, team: Team, agent: Agent) -> None:
        try:
            team("watch", agent, debounce=0.5, once=True, on_item=self.items.append)
        except errors.P2PCacheError:
            return

    def __enter__(self) -> _Watching:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join(30)
        assert not self._thread.is_alive()

    def wait_items(self, count: int) -> None:
        deadline = time.monotonic() + 30
        while len(self.items) < count:
            assert time.monotonic() < deadline, self.items
            time.sleep(0.02)


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


def test_what_a_push_sent_is_told_with_the_origins_and_a_dataset_goes_by_its_name(
    make: Make, repo: HubRepo, twin: HubRepo
) -> None:
    team = make()

    def told() -> tuple[int, int]:
        with team.agent.client() as client:
            here = [one for one in client.origins() if one["host"] in team.server.url]
        return sum(one["sent_bytes"] for one in here), sum(one["sent_objects"] for one in here)

    before = told()
    for one in (repo, twin):
        fill_cache(team.ours, one)
    done = team("push", repos=["datasets/demo/model"])
    assert done["sent_blobs"] == len(twin.files)
    assert told() == (before[0] + twin.total_bytes, before[1] + len(twin.files))
    assert team("pull", repo="datasets/demo/model")["commit"] == twin.commit
