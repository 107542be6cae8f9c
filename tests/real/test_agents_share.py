"""Bytes between agents: what one has, the others get from it, also while it is still arriving."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from p2pcache import errors
from tests.support.agents import REPO, running_agent
from tests.support.blobs import MIB, ServedBlob, sha256_file, write_blob
from tests.support.hub_repo import HubRepo, build_repo
from tests.support.network import LOOPBACK, join, network, peer_id, wait_until
from tests.support.nginx import nginx, static_hub
from tests.support.pulling import Pull

if TYPE_CHECKING:
    from tests.support.agents import Agent

pytestmark = pytest.mark.slow

NOWHERE = {"hf_endpoint": "http://127.0.0.1:9"}


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> HubRepo:
    return build_repo(tmp_path_factory.mktemp("repo"))


@pytest.fixture(scope="module")
def blob(tmp_path_factory: pytest.TempPathFactory) -> ServedBlob:
    return write_blob(tmp_path_factory.mktemp("origin"), 96 * MIB + 12_345)


def is_whole(folder: Path, repo: HubRepo) -> None:
    for path, file in repo.files.items():
        assert hashlib.sha256((folder / path).read_bytes()).hexdigest() == file.sha256, path


def from_peers(receipt: dict[str, Any]) -> int:
    return sum(s["bytes"] for s in receipt["sources"] if s["kind"] == "peer")


@pytest.mark.parametrize("tls", ["on", "off"])
def test_a_second_agent_gets_everything_from_the_first_and_nothing_from_the_origin(
    tmp_path: Path, repo: HubRepo, tls: str
):
    site = tmp_path / "site"
    extra = static_hub(repo, site)
    with network(tmp_path, 2, settings={"lanes.tls": tls}) as (a, b):
        with nginx(site, tmp_path / "nginx", extra=extra) as hub:
            credentials = {"hf_endpoint": hub.url}
            a.get("hf://demo/model", credentials=credentials, hf_cache=False)
            sent = hub.body_bytes()
            done = b.get("hf://demo/model", credentials=credentials, to=str(tmp_path / "out"))
            assert hub.body_bytes() - sent < repo.total_bytes // 2, "while it looks, a block"
        assert done["fetched_bytes"] == repo.total_bytes
        is_whole(tmp_path / "out", repo)
        receipt = b.why()
        assert from_peers(receipt) > repo.total_bytes // 2
        assert receipt["duplicate_bytes"] == 0
        with b.client() as client:
            (seen,) = client.peers()
        assert seen["received_bytes"] == from_peers(receipt), "as `p2pcache peers` shows it"


def test_without_any_origin_a_name_and_its_bytes_come_from_peers(tmp_path: Path, repo: HubRepo):
    site = tmp_path / "site"
    extra = static_hub(repo, site)
    with network(tmp_path, 2) as (a, b):
        with nginx(site, tmp_path / "nginx", extra=extra) as hub:
            a.get("hf://demo/model", credentials={"hf_endpoint": hub.url}, hf_cache=False)
        b.get("hf://demo/model", credentials=NOWHERE, to=str(tmp_path / "out"))
        is_whole(tmp_path / "out", repo)
        assert any(peer_id(a) in note for note in b.why()["notes"])


def test_agents_share_while_they_download(tmp_path: Path, blob: ServedBlob):
    with (
        nginx(blob.path.parent, tmp_path / "nginx") as server,
        network(tmp_path, 3, settings={"fetch.limit_rate": "24 MiB"}) as (a, b, c),
    ):
        ref = blob.ref(server)
        with Pull(a, ref) as first:
            first.wait_bytes(8 * MIB)
            with Pull(b, ref) as second, Pull(c, ref) as third:
                pass
        for pull in (first, second, third):
            assert pull.error is None
        assert from_peers(b.why()) + from_peers(c.why()) > blob.size // 2
        assert server.body_bytes() < 2 * blob.size, "three copies without sharing"


def test_a_pull_that_began_without_a_network_gains_its_peers(tmp_path: Path, blob: ServedBlob):
    slow = MIB // 2  # bytes/s; each request gets a second's share at once
    with (
        nginx(blob.path.parent, tmp_path / "nginx", limit_rate_bytes_per_s=slow) as server,
        network(tmp_path, 1) as (a,),
        running_agent(tmp_path / "b", settings=LOOPBACK) as b,
    ):
        with a.client() as client:
            client.push(blob.path)
        with Pull(b, blob.ref(server)) as pull:
            pull.wait_bytes(MIB)
            join(b, a)
        assert pull.error is None
        assert blob.in_store(b.home).stat().st_size == blob.size
        assert from_peers(b.why()) > blob.size // 4
        assert server.body_bytes() < blob.size


@pytest.mark.parametrize("kind", ["sha256", "root", "manifest"])
def test_a_digest_and_a_cid_are_found_among_peers(tmp_path: Path, blob: ServedBlob, kind: str):
    with network(tmp_path, 2) as (a, b):
        with a.client() as client:
            pushed = client.push(blob.path)
        ref = f"sha256:{blob.sha256}" if kind == "sha256" else pushed[kind]
        done = b.get(ref, to=str(tmp_path / "out"))
        assert done["fetched_bytes"] == blob.size
        (file,) = (tmp_path / "out").iterdir()
        assert sha256_file(file) == blob.sha256
        wait_until(lambda: blob.in_store(b.home).exists(), "it is hashed when it came by a root")


def test_a_kill_before_the_hash_loses_nothing_and_others_get_it_by_its_root(
    tmp_path: Path, blob: ServedBlob
):
    with network(tmp_path, 3) as (a, b, c):
        with a.client() as client:
            root = client.push(blob.path)["root"]
        done = b.get(root)
        b.kill()
        assert not blob.in_store(b.home).exists(), "it was shown before it was hashed"
        a.stop()
        b.start()
        assert sha256_file(Path(done["path"])) == blob.sha256
        wait_until(lambda: held_peers(c), "they meet again")
        got = c.get(root)  # perhaps before b has hashed it, perhaps after
        assert got["fetched_bytes"] == blob.size
        for agent in (b, c):
            wait_until(lambda agent=agent: blob.in_store(agent.home).exists(), "it is hashed")
            again = agent.get(f"sha256:{blob.sha256}")
            assert again["fetched_bytes"] == 0
        assert sha256_file(Path(done["path"])) == blob.sha256


def held_peers(agent: Agent) -> bool:
    with agent.client() as client:
        return bool(client.peers())


def test_what_nobody_has_is_not_found_and_costs_little(tmp_path: Path):
    with network(tmp_path, 2) as (_, b):
        began = time.monotonic()
        with pytest.raises(errors.NotFound):
            b.get(f"sha256:{'ab' * 32}")
        assert time.monotonic() - began < 10


def test_a_peer_that_dies_half_way_leaves_the_rest_to_the_origin(tmp_path: Path, blob: ServedBlob):
    with (
        nginx(blob.path.parent, tmp_path / "nginx") as server,
        network(tmp_path, 2, settings={"lanes.limit_up": "24 MiB"}) as (a, b),
    ):
        a.get(blob.ref(server))
        with Pull(b, blob.ref(server)) as pull:
            pull.wait_bytes(24 * MIB)
            a.kill()
        assert pull.error is None
        assert blob.in_store(b.home).stat().st_size == blob.size
        assert from_peers(b.why()) >= 16 * MIB


def held(agent: Agent) -> int:
    """How many manifests the one other agent says it possesses."""
    with agent.client() as client:
        return client.peers()[0]["holds"]


def test_the_upload_limit_of_the_command_line_holds_and_wins_over_the_setting(
    tmp_path: Path, blob: ServedBlob
):
    limited = ("agent", "run", "--limit-up", "32 MiB")
    settings = {**LOOPBACK, "lanes.limit_up": "1 KiB"}
    with (
        running_agent(tmp_path / "a", settings=settings, module="p2pcache", argv=limited) as a,
        running_agent(tmp_path / "b", settings=LOOPBACK) as b,
    ):
        with a.client() as client:
            client.init()
            lanes = client.status()["network"]["lanes"]
            assert lanes["limit_up_bytes_per_s"] == 32 * MIB
            client.push(blob.path)
        join(b, a)
        began = time.monotonic()
        b.get(f"sha256:{blob.sha256}")
        took_s = time.monotonic() - began
    assert 0.8 * blob.size / (32 * MIB) < took_s < 60


def test_what_was_removed_is_not_offered_any_more(tmp_path: Path, blob: ServedBlob):
    with network(tmp_path, 2) as (a, b):
        with a.client() as client:
            pushed = client.push(blob.path)
            wait_until(lambda: held(b) == 1, "it is told")
            client.rm(pushed["manifest"], force=True)
        wait_until(lambda: held(b) == 0, "it is withdrawn", 1.0)
        with pytest.raises(errors.NotFound):
            b.get(f"sha256:{blob.sha256}")


def test_a_command_without_a_running_agent_gets_what_only_a_peer_has(tmp_path: Path):
    with network(tmp_path, 2) as (a, b):
        files = [write_blob(tmp_path / "files", 3 * MIB + n, seed=n).path for n in (1, 2)]
        with a.client() as client:
            pushed = [client.push(path) for path in files]
        b.stop()
        refs = (pushed[0]["manifest"], f"sha256:{sha256_file(files[1])}")
        for path, ref in zip(files, refs, strict=True):
            out = tmp_path / f"out-{path.name}"
            done = subprocess.run(
                [sys.executable, "-m", "p2pcache", "get", ref, "--to", str(out)],
                cwd=REPO, env=b.env, capture_output=True, text=True, timeout=60, check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            assert next(out.iterdir()).read_bytes() == path.read_bytes()
        b.start()
