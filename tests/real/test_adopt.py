"""Folders of others between real agents: read in place, shared, and never believed twice."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

import pytest

from p2pcache.errors import NotFound, P2PCacheError
from tests.support.adopted import OLD_S, adopt, adopted, old_cache, write_old
from tests.support.agents import running_agent
from tests.support.blobs import MIB, sha256_file
from tests.support.hub_cache import LAYOUTS, age, share
from tests.support.hub_repo import build_repo, lfs, text
from tests.support.hub_stub import GOOD_TOKEN, hub_stub
from tests.support.network import network, wait_until
from tests.support.nginx import nginx, static_hub
from tests.support.pulling import Pull

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.agents import Agent
    from tests.support.hub_repo import HubRepo
    from tests.support.hub_stub import HubStub

pytestmark = pytest.mark.slow

QUICK = {"adopt.every": "1s"}


def data_of(size: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(size)


def status_of(folder: Path) -> dict[str, os.stat_result]:
    return {str(p.relative_to(folder)): p.lstat() for p in sorted(folder.rglob("*"))}


def used_bytes(agent: Agent) -> int:
    with agent.client() as client:
        return int(client.status()["store"]["used_bytes"])


def refused(agent: Agent, sha256: str) -> type[Exception] | None:
    try:
        agent.get(f"sha256:{sha256}")
    except P2PCacheError as exc:
        return type(exc)
    return None


def is_got(agent: Agent, sha256: str) -> bool:
    return refused(agent, sha256) is None


def no_bans(agent: Agent) -> bool:
    with agent.client() as client:
        return client.bans() == []


def test_a_second_agent_gets_an_adopted_folder_without_any_origin(tmp_path: Path):
    theirs, out = tmp_path / "theirs", tmp_path / "out"
    write_old(theirs / "config.json", b"{}\n")
    write_old(theirs / "empty", b"")
    large = write_old(theirs / "weights" / "model.gguf", data_of(24 * MIB + 7, 1))
    write_old(theirs / "weights" / "x.gguf.incomplete", b"half")
    write_old(theirs / "blob-partial-3", b"half")
    write_old(tmp_path / "secret", b"not theirs to give")
    (theirs / "out").symlink_to(tmp_path / "secret")
    (theirs / "folder").symlink_to(tmp_path)
    os.mkfifo(theirs / "pipe")
    before = status_of(theirs)
    with network(tmp_path, 2, settings=QUICK) as (a, b):
        done = adopt(a, theirs)
        assert (done["kind"], done["files"], done["waiting_files"]) == ("folder", 3, 0)
        assert done["left_out"] == {"partial": 2, "link": 2, "special file": 1}
        manifest = done["manifest"]
        assert manifest is not None
        brought = b.get(manifest, to=str(out))
        assert brought["fetched_bytes"] == 24 * MIB + 7 + 3
        assert sha256_file(out / "weights" / "model.gguf") == sha256_file(large)
        assert sorted(p.name for p in out.rglob("*") if p.is_file()) == [
            "config.json", "empty", "model.gguf",
        ]  # fmt: skip
        assert used_bytes(a) == 0, "what is adopted is not ours"
        with a.client() as client:
            client.gc(target_bytes=0)
            client.verify()
        a.get(manifest, to=str(tmp_path / "again"))
        assert used_bytes(a) == 0, "nor is it copied to be shown"
        after = status_of(theirs)
        keys = ("st_ino", "st_mode", "st_size", "st_mtime_ns")
        assert [[getattr(s, k) for k in keys] for s in after.values()] == [
            [getattr(s, k) for k in keys] for s in before.values()
        ]
        with a.client() as client:
            assert client.unadopt(theirs) == {"folder": str(theirs), "files": 3}
            assert client.adopted() == []
            assert client.ls() == []
        assert status_of(theirs).keys() == before.keys()


@pytest.mark.parametrize("shared", [False, True], ids=["links", "shared blobs"])
def test_a_hub_cache_in_both_layouts_spares_the_hub_for_everybody(tmp_path: Path, shared: bool):
    repo = build_repo(tmp_path / "repo")
    cache = old_cache(repo, tmp_path / "hf" / "hub", shared=shared)
    site = tmp_path / "site"
    extra = static_hub(repo, site)
    with (
        nginx(site, tmp_path / "nginx", extra=extra) as hub,
        network(tmp_path, 2, settings=QUICK) as (a, b),
    ):
        credentials = {"hf_endpoint": hub.url}
        done = adopt(a, cache.parent, credentials=credentials)
        assert (done["folder"], done["kind"], done["kept_files"]) == (str(cache), "hub", 0)
        assert done["files"] == len({f.sha256 for f in repo.files.values()})
        sent = hub.body_bytes()
        told = a.get("hf://demo/model", credentials=credentials)
        assert (told["total_bytes"], told["fetched_bytes"]) == (repo.total_bytes, 0)
        assert hub.body_bytes() - sent < 20_000, "nothing but listings"
        b.get("hf://demo/model", credentials=credentials)
        assert hub.body_bytes() - sent < repo.total_bytes // 2, "while it looks, a block"
        brought = {s["kind"]: s["bytes"] for s in b.why()["sources"]}
        assert brought["peer"] > repo.total_bytes // 2


def downloaded(hub: HubStub, cache: Path, *repos: HubRepo, layout: str) -> None:
    """What huggingface_hub itself leaves of them, with a token; written long ago."""
    code = "import huggingface_hub as h, sys; [h.snapshot_download(r) for r in sys.argv[1:]]"
    settings = {"HF_HUB_CACHE": str(cache), "HF_ENDPOINT": hub.url, "HF_TOKEN": GOOD_TOKEN}
    subprocess.run(
        [sys.executable, "-c", code, *(repo.repo_id for repo in repos)],
        env={**os.environ, **settings},
        capture_output=True,
        check=True,
    )
    for repo in repos if layout == "shared" else ():
        for file in (f for f in repo.files.values() if f.lfs):
            share(cache, repo, file.etag)
    age(cache)


@pytest.fixture
def two_repos(tmp_path: Path) -> list[HubRepo]:
    """A file of each is its own; one is the same, and lies in each."""
    both = text("a licence of both")
    return [
        build_repo(
            tmp_path / name,
            {"LICENSE": both, "weights": lfs(2 * MIB + at, at + 1)},
            repo_id=f"demo/{name}",
        )
        for at, name in enumerate(("open", "gated"))
    ]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_of_a_hub_cache_others_get_what_its_hub_gives_to_everybody(
    tmp_path: Path, two_repos: list[HubRepo], layout: str
):
    opened, gated = two_repos
    with hub_stub(opened, gated) as hub, network(tmp_path, 2, settings=QUICK) as (a, b):
        hub.gated.add(gated.repo_id)
        downloaded(hub, tmp_path / "hub", *two_repos, layout=layout)
        hub.asked.clear()
        done = adopt(a, tmp_path / "hub", credentials={"hf_endpoint": hub.url})
        assert (done["files"], done["kept_files"]) == (4, 2)
        assert "without a token" in done["notes"][0]
        assert {one.authorization for one in hub.asked} == {None}
        for file in opened.files.values():
            wait_until(partial(is_got, b, file.sha256), "the hub gives it to everybody", 30.0)
        assert refused(b, gated.files["weights"].sha256) is NotFound
        assert a.get(f"sha256:{gated.files['weights'].sha256}")["fetched_bytes"] == 0


def test_of_a_hub_cache_whose_hub_cannot_be_asked_others_get_what_the_user_gives_them(
    tmp_path: Path, two_repos: list[HubRepo]
):
    opened, gated = two_repos
    with hub_stub(opened, gated) as hub, network(tmp_path, 2, settings=QUICK) as (a, b):
        downloaded(hub, tmp_path / "hub", *two_repos, layout="old")
        done = adopt(a, tmp_path / "hub", credentials={"hf_endpoint": "http://127.0.0.1:9"})
        assert (done["files"], done["kept_files"]) == (4, 4)
        assert refused(b, opened.files["weights"].sha256) is NotFound
        done = adopt(a, tmp_path / "hub", public=True)
        assert (done["kept_files"], done["public"]) == (0, True)
        for repo in two_repos:
            wait_until(partial(is_got, b, repo.files["weights"].sha256), "the user gives it", 30.0)


def test_a_private_folder_in_an_open_one_stays_private(tmp_path: Path):
    theirs = tmp_path / "theirs"
    write_old(theirs / "open.bin", data_of(3 * MIB, 3))
    mine = sha256_file(write_old(theirs / "mine" / "notes.bin", data_of(3 * MIB, 4)))
    with network(tmp_path, 2, settings=QUICK) as (a, b):
        adopt(a, theirs / "mine", private=True)
        done = adopt(a, theirs)
        assert done["files"] == 1
        assert b.get(done["manifest"])["fetched_bytes"] == 3 * MIB
        assert refused(b, mine) is NotFound
        assert a.get(f"sha256:{mine}")["fetched_bytes"] == 0, "for this agent it is there"


def change(path: Path) -> None:
    path.write_bytes(data_of(3 * MIB, 8))


def change_in_place(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(MIB)
        file.write(b"other")


def truncate(path: Path) -> None:
    os.truncate(path, MIB)


def replace(path: Path) -> None:
    write_old(path.with_name("new"), data_of(3 * MIB, 8))
    path.with_name("new").replace(path)


def test_what_is_changed_cut_replaced_or_removed_is_served_no_more_and_hashed_again(
    tmp_path: Path,
):
    theirs = tmp_path / "theirs"
    changes = [change, change_in_place, truncate, replace, os.unlink]
    paths = [write_old(theirs / f"{n}.bin", data_of(3 * MIB, 20 + n)) for n in range(len(changes))]
    write_old(theirs / "stays", data_of(2 * MIB, 99))
    hashes = [sha256_file(path) for path in paths]
    settings = {"adopt.every": "1h", "fetch.patience": "5s", "fetch.peer_return": "1s"}
    with network(tmp_path, 2, settings=settings) as (a, b):
        first = adopt(a, theirs)["manifest"]
        for step, path in zip(changes, paths, strict=True):
            step(path)
        with ThreadPoolExecutor(len(hashes)) as pool:
            told = list(pool.map(partial(refused, b), hashes))
        assert told == [NotFound] * len(hashes)
        assert no_bans(b)
        time.sleep(2.1)  # until they count as written
        again = adopt(a, theirs)  # as the next look would
        assert (again["files"], again["waiting_files"]) == (5, 0)
        assert again["manifest"] not in (None, first)
        b.get(again["manifest"], to=str(tmp_path / "out"))
        for path in sorted(theirs.iterdir()):
            assert sha256_file(tmp_path / "out" / path.name) == sha256_file(path)
        with a.client() as client:
            assert len(client.ls()) == 1, "what it was before is forgotten"


def test_a_change_that_no_time_shows_is_caught_by_who_receives_it_and_bans_nobody(tmp_path: Path):
    theirs = tmp_path / "theirs"
    large = write_old(theirs / "large", data_of(3 * MIB, 1))
    small = write_old(theirs / "small", data_of(1000, 2))
    hashes = [sha256_file(large), sha256_file(small)]
    settings = {"adopt.every": "1h", "fetch.patience": "2s", "fetch.peer_return": "1s"}
    with network(tmp_path, 2, settings=settings) as (a, b):
        manifest = adopt(a, theirs)["manifest"]
        write_old(large, data_of(3 * MIB, 3))
        write_old(small, data_of(1000, 4))
        with ThreadPoolExecutor(len(hashes)) as pool:
            assert None not in list(pool.map(partial(refused, b), hashes))
        with pytest.raises(P2PCacheError):
            b.get(manifest, to=str(tmp_path / "out"))
        assert no_bans(b)
        assert not list((tmp_path / "out").rglob("*")), "and nothing of it is shown"
        write_old(theirs / "later", data_of(2 * MIB, 5))
        again = adopt(a, theirs)
        b.get(f"sha256:{sha256_file(theirs / 'later')}")
        assert again["files"] == 3


def test_hashing_goes_on_after_a_kill_and_waits_for_pulls(tmp_path: Path):
    theirs = tmp_path / "theirs"
    for n in range(4):
        write_old(theirs / f"{n}.bin", data_of(4 * MIB, n))
    write_old(theirs / "large.bin", data_of(64 * MIB, 9))
    served = write_old(tmp_path / "site" / "served", data_of(24 * MIB, 30))
    settings = {**QUICK, "adopt.limit_rate": "24MiB"}
    with running_agent(tmp_path / "a", settings=settings) as agent:
        with agent.client() as client:
            client.adopt(theirs)
        wait_until(lambda: adopted(agent)["files"] == 4, "the small ones were not noted")
        with nginx(tmp_path / "site", tmp_path / "nginx") as origin:
            ref = f"{origin.url}/served#sha256={sha256_file(served)}"
            with Pull(agent, ref, limit_rate=8 * MIB) as pull:
                pull.wait_bytes(MIB)
                wait_until(lambda: adopted(agent)["paused"], "it was not held up")
                time.sleep(0.5)  # the block that is being read ends
                left = adopted(agent)["waiting_bytes"]
                time.sleep(0.5)
                assert adopted(agent)["waiting_bytes"] == left, "nor does it move meanwhile"
        wait_until(lambda: adopted(agent)["waiting_bytes"] < left, "it did not go on")
        agent.kill()
        agent.start()
        wait_until(lambda: adopted(agent)["waiting_files"] == 1, "it did not come back")
        assert adopted(agent)["files"] == 4, "what was noted is not hashed again"
        assert adopt(agent, theirs)["bytes"] == 80 * MIB


def test_two_thousand_small_files_are_adopted_in_seconds(tmp_path: Path):
    theirs = tmp_path / "theirs"
    for n in range(2000):
        write_old(theirs / f"d{n % 20}" / f"{n}.json", b"%d" % n * 100, OLD_S + n)
    with network(tmp_path, 2, settings=QUICK) as (a, b):
        began = time.monotonic()
        done = adopt(a, theirs)
        took_s = time.monotonic() - began
        assert (done["files"], done["waiting_files"]) == (2000, 0)
        told = b.get(done["manifest"], to=str(tmp_path / "out"))
        assert told["files"] == 2000
    assert took_s < 15, took_s
