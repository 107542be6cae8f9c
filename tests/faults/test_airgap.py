"""Bundles that go wrong: gated content, words without weight, kill -9, full disks, exit codes."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from p2pcache import errors
from p2pcache.content.peerid import parse_peer_id
from p2pcache.store.store import Store
from tests.support.agents import REPO, agent_env, running_agent
from tests.support.blobs import MIB, sha256_file
from tests.support.hub_repo import HubRepo, build_repo, lfs, text
from tests.support.hub_stub import GOOD_TOKEN, hub_stub
from tests.support.network import LOOPBACK, network, peer_id
from tests.support.tmpfs import tmpfs
from tests.support.watched_pull import at_most

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.agents import Agent

pytestmark = pytest.mark.slow

REF = "hf://demo/model"
NOWHERE = {"hf_endpoint": "http://127.0.0.1:9"}
NOTHING = (errors.NotFound, errors.Unavailable, errors.Denied)
LARGE = "model.safetensors"


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> HubRepo:
    files = {"config.json": text('{"a": 1}\n'), LARGE: lfs(8 * MIB + 5, 7)}
    return build_repo(tmp_path_factory.mktemp("repo"), files)


def get(agent: Agent, to: Path, **options: object) -> dict[str, object]:
    return agent.get(REF, credentials=NOWHERE, to=str(to), **options)


def is_true(folder: Path, repo: HubRepo) -> bool:
    return all(sha256_file(folder / p) == f.sha256 for p, f in repo.files.items())


def exported(agent: Agent, repo: HubRepo, car: Path, *, gated: bool = False) -> str:
    """An agent gets the model from its hub and exports it; gives who signed."""
    with hub_stub(repo) as hub:
        if gated:
            hub.gated.add("demo/model")
        credentials = {"hf_endpoint": hub.url} | ({"hf_token": GOOD_TOKEN} if gated else {})
        agent.get(REF, credentials=credentials, hf_cache=False)
    with agent.client() as client:
        if gated:
            with pytest.raises(errors.Denied, match="gated or private") as caught:
                client.export([REF], car)
            assert "--gated" in str(caught.value.hint)
            assert not car.exists()
        (ref,) = client.export([REF], car, gated=gated)["refs"]
        assert ref["restricted"] == gated
    return peer_id(agent)


def test_gated_content_needs_the_flag_and_stays_gated_on_the_other_side(
    tmp_path: Path, repo: HubRepo
):
    car = tmp_path / "model.car"
    with at_most(150):
        with running_agent(tmp_path / "a", settings=LOOPBACK) as a:
            exported(a, repo, car, gated=True)
        assert car.stat().st_mode & 0o777 == 0o600
        with network(tmp_path / "two", 2) as (b, c):
            with b.client() as client:
                (ref,) = client.import_bundle(car)["refs"]
            assert ref["restricted"]
            get(b, tmp_path / "b")
            assert is_true(tmp_path / "b", repo)

            large = hashlib.sha256((tmp_path / "b" / LARGE).read_bytes()).hexdigest()
            for name in (REF, ref["manifest"], f"sha256:{large}"):
                with pytest.raises(NOTHING):
                    c.get(name, credentials=NOWHERE, hf_cache=False)
            with b.client() as client, pytest.raises(errors.Denied):
                client.export([f"sha256:{large}"], tmp_path / "leak.car")  # by another name
            with b.client() as client:
                client.grant("hf://demo/model", peer_id(c), expires_s=60)
            time.sleep(0.5)  # it travels
            get(c, tmp_path / "c", offline=True)
            assert is_true(tmp_path / "c", repo)


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory, repo: HubRepo) -> tuple[Path, str]:
    """A bundle of the model, and who signed what its name means."""
    folder = tmp_path_factory.mktemp("signed")
    with at_most(60), running_agent(folder / "a", settings=LOOPBACK) as a:
        return folder / "model.car", exported(a, repo, folder / "model.car")


def test_a_word_that_does_not_count_is_kept_and_told_and_counts_when_it_is_let(
    tmp_path: Path, repo: HubRepo, signed: tuple[Path, str]
):
    car, signer = signed
    none = {**LOOPBACK, "names.trust": "none"}
    with at_most(90), running_agent(tmp_path / "b", settings=none) as b:
        with b.client() as client:
            answer = client.import_bundle(car)
        assert not answer["refs"][0]["names"][0]["counts"]
        assert signer in answer["notes"][0]
        assert "names.trust" in answer["notes"][0]
        with pytest.raises(NOTHING):
            get(b, tmp_path / "b")
        get(b, tmp_path / "b", trust=signer)
        assert is_true(tmp_path / "b", repo)


def test_the_word_of_a_banned_agent_is_not_kept(tmp_path: Path, signed: tuple[Path, str]):
    car, signer = signed
    with at_most(90), running_agent(tmp_path / "b", settings=LOOPBACK) as b:
        with Store.open(b.home) as store:
            store.others.ban(parse_peer_id(signer), "it lied", 1000.0)
        with b.client() as client:
            answer = client.import_bundle(car)
        assert answer["refs"][0]["names"] == []
        assert "banned" in answer["notes"][0]
        with pytest.raises(NOTHING):
            get(b, tmp_path / "b", trust=signer)


def test_what_an_origin_told_here_is_not_replaced_by_a_bundle(
    tmp_path: Path, signed: tuple[Path, str]
):
    car, _ = signed
    newer = build_repo(tmp_path / "newer", {"config.json": text("newer\n")})
    with at_most(90), running_agent(tmp_path / "b", settings=LOOPBACK) as b:
        with hub_stub(newer) as hub:
            b.get(REF, credentials={"hf_endpoint": hub.url}, hf_cache=False)
            with b.client() as client:
                client.import_bundle(car)
        there = {"hf_endpoint": hub.url}
        b.get(REF, credentials=there, to=str(tmp_path / "b"), offline=True)
        assert is_true(tmp_path / "b", newer)


def big_bundle(folder: Path, size: int) -> tuple[Path, Path]:
    """A pushed file of random bytes and its bundle."""
    source = folder / "source"
    source.mkdir()
    (source / "model").write_bytes(os.urandom(size))
    with running_agent(folder / "a", settings=LOOPBACK) as a, a.client() as client:
        client.push(source)
        client.export([str(source)], folder / "x.car")
    return source / "model", folder / "x.car"


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return big_bundle(tmp_path_factory.mktemp("large"), 96 * MIB)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return big_bundle(tmp_path_factory.mktemp("small"), 2 * MIB + 1)[1]


@pytest.mark.parametrize("share", [0.2, 0.6, 0.95])
def test_a_killed_import_leaves_nothing_half_and_the_next_one_works(
    tmp_path: Path, large: tuple[Path, Path], share: float
):
    model, car = large
    with at_most(120), running_agent(tmp_path / "b", settings=LOOPBACK) as b:
        began = time.monotonic()
        with b.client() as client:
            client.import_bundle(car)
            client.rm(client.ls()[0]["manifest"], force=True)  # nobody else has it
        whole_s = time.monotonic() - began
        importing = subprocess.Popen(
            [sys.executable, "-m", "p2pcache", "import", str(car)],
            cwd=REPO, env=b.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        time.sleep(share * whole_s + 0.15)  # 0.15 s: until the command asks
        b.kill()
        importing.wait()
        b.start()
        with b.client() as client:
            assert client.verify()["bad"] == []
            manifest = client.import_bundle(car)["refs"][0]["manifest"]
            client.get(manifest, to=str(tmp_path / "out"))
        left = [p for p in (b.home / "tmp-v1").rglob("*") if p.is_file() and p.stat().st_size > 999]
        assert left == []
    assert sha256_file(tmp_path / "out" / "model") == sha256_file(model)


def test_a_killed_export_leaves_no_bundle_and_the_next_one_works(tmp_path: Path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "model").write_bytes(os.urandom(96 * MIB))
    car = tmp_path / "x.car"
    with at_most(90), running_agent(tmp_path / "a", settings=LOOPBACK) as a:
        with a.client() as client:
            client.push(source)
        exporting = subprocess.Popen(
            [sys.executable, "-m", "p2pcache", "export", str(source), "-o", str(car)],
            cwd=REPO, env=a.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        while not car.with_name("x.car.part").exists():
            time.sleep(0.001)
        a.kill()
        exporting.wait()
        assert not car.exists()
        a.start()
        with a.client() as client:
            client.export([str(source)], car)
            assert client.import_bundle(car)["new_bytes"] == 0
        assert not car.with_name("x.car.part").exists()


def test_ctrl_c_stops_an_import_and_leaves_an_agent_that_works(
    tmp_path: Path, large: tuple[Path, Path]
):
    _, car = large
    with at_most(60), running_agent(tmp_path / "b", settings=LOOPBACK) as b:
        importing = subprocess.Popen(
            [sys.executable, "-m", "p2pcache", "import", str(car)],
            cwd=REPO, env=b.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        drafts = b.home / "tmp-v1"
        while not [p for p in drafts.rglob("*") if len(p.name) == 16 and p.is_file()]:
            time.sleep(0.001)
        importing.send_signal(signal.SIGINT)
        assert importing.wait(10) == 130
        time.sleep(0.5)
        assert [p for p in drafts.rglob("*") if len(p.name) == 16 and p.is_file()] == []
        with b.client() as client:
            assert client.ls() == []
            client.import_bundle(car)


def test_a_full_disk_is_told_on_both_sides_and_leaves_nothing(tmp_path: Path):
    _, car = big_bundle(tmp_path, 24 * MIB)
    with at_most(60), tmpfs(tmp_path / "disk", 16 * MIB) as disk:
        with running_agent(tmp_path / "a", settings=LOOPBACK) as a, a.client() as client:
            client.push(tmp_path / "source")
            with pytest.raises(errors.DiskFull):
                client.export([str(tmp_path / "source")], disk.path / "x.car")
            assert list(disk.path.iterdir()) == []
        with (
            running_agent(
                tmp_path / "b", settings={**LOOPBACK, "store.path": str(disk.path / "store")}
            ) as b,
            b.client() as client,
        ):
            with pytest.raises(errors.DiskFull):
                client.import_bundle(car)
            assert client.ls() == []


@pytest.mark.parametrize(
    ("damage", "code"),
    [("none", 0), ("cut", 12), ("flip", 12), ("noise", 12), ("gone", 11)],
)
def test_the_exit_code_and_the_hint_say_what_was_wrong(
    tmp_path: Path, small: Path, damage: str, code: int
):
    car = tmp_path / "x.car"
    body = bytearray(small.read_bytes())
    if damage == "cut":
        body = body[:-100]
    elif damage == "flip":
        body[-100] ^= 1
    elif damage == "noise":
        body = bytearray(os.urandom(1000))
    car.write_bytes(body)
    if damage == "gone":
        car.unlink()
    done = subprocess.run(
        [sys.executable, "-m", "p2pcache", "import", str(car)],
        cwd=REPO, env=agent_env(tmp_path / "b"), capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    assert (done.stdout != "") == (code == 0)


def test_what_is_not_all_here_is_not_exported(tmp_path: Path, repo: HubRepo):
    with at_most(60), running_agent(tmp_path / "a", settings=LOOPBACK) as a:
        with hub_stub(repo) as hub:
            a.get(
                REF, credentials={"hf_endpoint": hub.url}, hf_cache=False, include=["config.json"]
            )
        with a.client() as client:
            with pytest.raises(errors.NotFound, match=LARGE) as caught:
                client.export([REF], tmp_path / "x.car")
            assert "p2pcache get" in str(caught.value.hint)
            with pytest.raises(errors.NotFound):
                client.export(["hf://never/heard"], tmp_path / "x.car")
        assert not (tmp_path / "x.car").exists()
