"""`p2pcache bucket` on the command line, and its watch."""

from __future__ import annotations

import json
import shutil
import time
from typing import TYPE_CHECKING, Any

import pytest

from p2pcache import errors
from tests.support.agents import Agent, running_agent
from tests.support.bucket_team import (
    OFFLINE,
    Make,
    Run,
    Team,
    snapshot,
)
from tests.support.hf_cache_sync import HfCacheSync
from tests.support.hub_cache import fill_cache, same
from tests.support.hubs import HubClient, hub_python
from tests.support.minio import PASSWORD

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.hub_repo import HubRepo


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
    assert bucket("diff", "--config", "none.yaml") == 11
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
