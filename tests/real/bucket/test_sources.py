"""Where the bytes of a repository in a bucket come from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from p2pcache import errors
from tests.support.agents import running_agent
from tests.support.blobs import MIB
from tests.support.bucket_team import (
    OFFLINE,
    Make,
    snapshot,
)
from tests.support.hub_cache import fill_cache, same
from tests.support.hub_repo import HubRepo, build_repo, lfs
from tests.support.network import network
from tests.support.s3_proxy import Reply, s3_proxy

if TYPE_CHECKING:
    from pathlib import Path

SPARE_BYTES = 3 * MIB  # a peer that brings nothing for 0.5 s has the origin tried, piece by piece


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
        assert sum(one["bytes"] for one in peers) >= repo.total_bytes - SPARE_BYTES
        fetched = [ask for ask in proxy.reads() if "/blobs/" in ask.path]
        assert len(fetched) <= 2 + SPARE_BYTES // MIB, "it is asked for the proof of access"


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
