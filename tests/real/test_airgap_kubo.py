"""The air gap: by a file to another network, by name; and Kubo reads and writes the same."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.agents import REPO, agent_env, running_agent
from tests.support.blobs import sha256_file
from tests.support.hub_repo import HubRepo, build_repo, lfs, text
from tests.support.hub_stub import hub_stub
from tests.support.kubo import Kubo, go_car_binary
from tests.support.network import LOOPBACK, join, network, peer_id, peers_of, wait_until
from tests.support.watched_pull import at_most

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

REF = "hf://demo/model"
NOWHERE = {"hf_endpoint": "http://127.0.0.1:9"}
MIB = 1 << 20


@pytest.fixture(scope="module")
def repo(tmp_path_factory) -> HubRepo:
    files = {
        "config.json": text('{"a": 1}\n'),
        "empty.txt": text(""),
        "sub/folder/notes.md": text("# notes\n"),
        "model-00001.safetensors": lfs(5 * MIB + 3, 7),
        "sub/model-00002.safetensors": lfs(MIB, 8),
    }
    return build_repo(tmp_path_factory.mktemp("repo"), files)


@pytest.fixture(scope="module")
def kubo(tmp_path_factory) -> Kubo:
    return Kubo.init(tmp_path_factory.mktemp("kubo") / "repo")


def is_true(folder: Path, repo: HubRepo) -> bool:
    return all(sha256_file(folder / p) == f.sha256 for p, f in repo.files.items())


def test_export_wipe_import_in_another_network_and_get_by_name_without_an_origin(
    tmp_path: Path, repo: HubRepo, kubo: Kubo
):
    car = tmp_path / "model.car"
    with at_most(120):
        with network(tmp_path / "one", 1) as (a,):
            with hub_stub(repo) as hub:
                a.get(REF, credentials={"hf_endpoint": hub.url}, to=str(tmp_path / "a"))
            with a.client() as client:
                (exported,) = client.export([REF], car)["refs"]
            signer = peer_id(a)
        shutil.rmtree(tmp_path / "one")

        assert exported["names"] == ["hf://demo/model@main"]
        assert exported["root"] == kubo.only_hash_folder(tmp_path / "a")
        pinned = kubo.import_car(car)
        assert set(pinned.values()) == {""}
        assert exported["root"] in pinned
        for path in repo.files:
            data = kubo.cat(f"{exported['root']}/{path}")
            assert hashlib.sha256(data).hexdigest() == repo.files[path].sha256
        (record,) = pinned.keys() - {exported["root"]}
        (listed,) = kubo.dag_get(record)["refs"]
        assert listed["manifest"] == {"/": exported["manifest"]}
        assert [name["name"] for name in listed["names"]] == ["hf://demo/model@main"]

        with network(tmp_path / "two", 2) as (b, c):
            with b.client() as client:
                imported = client.import_bundle(car)
            (name,) = imported["refs"][0]["names"]
            assert (name["ref"], name["signer"]) == ("hf://demo/model@main", signer)
            assert name["counts"]
            assert imported["notes"] == []
            b.get(REF, credentials=NOWHERE, to=str(tmp_path / "b"))
            assert is_true(tmp_path / "b", repo)
            notes = " ".join(b.why()["notes"])
            assert f"the word of peer {signer}" in notes
            with b.client() as client:
                assert [row["ref"] for row in client.ls()] == ["hf://demo/model@main"]

            c.get(REF, credentials=NOWHERE, to=str(tmp_path / "c"))  # the LAN is seeded
            assert is_true(tmp_path / "c", repo)
            assert f"the word of peer {signer}" in " ".join(c.why()["notes"])
            assert {s["kind"] for s in c.why()["sources"]} == {"peer"}


def test_the_command_line_without_a_running_agent(tmp_path: Path, kubo: Kubo):
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    (folder / "weights.bin").write_bytes(hashlib.shake_256(b"w").digest(3 * MIB + 1))
    (folder / "sub" / "é.txt").write_bytes(b"text")

    def run(home: str, *args: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "p2pcache", *args],
            cwd=REPO, env=agent_env(tmp_path / home), capture_output=True, text=True,
            timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("a", "push", str(folder))
    root = run("a", "export", str(folder), "-o", str(tmp_path / "x.car")).split()[0]
    assert root == kubo.only_hash_folder(folder)
    manifest = run("b", "import", str(tmp_path / "x.car")).strip()
    out = run("b", "get", manifest, "--offline", "--to", str(tmp_path / "out")).strip()
    assert out == str(tmp_path / "out")
    for name in ("weights.bin", "sub/é.txt"):
        assert (tmp_path / "out" / name).read_bytes() == (folder / name).read_bytes()


def test_the_index_is_the_one_that_go_car_makes(tmp_path: Path):
    folder = tmp_path / "model"
    folder.mkdir()
    for number in range(30):
        (folder / f"{number}").write_bytes(os.urandom(number * 1000))
    (folder / "large").write_bytes(bytes(3 * MIB) + os.urandom(2 * MIB + 1))
    car = tmp_path / "x.car"
    with running_agent(tmp_path / "agent") as agent, agent.client() as client:
        client.push(folder)
        index = client.export([str(folder)], car)["index"]
    made = subprocess.run([go_car_binary(), car], check=True, stdout=subprocess.PIPE, timeout=60)
    assert (tmp_path / "x.car.idx").read_bytes() == made.stdout
    assert index == str(tmp_path / "x.car.idx")


def test_what_kubo_exports_becomes_files_and_a_manifest(tmp_path: Path, kubo: Kubo):
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    files = {"a.txt": b"a", "sub/big": bytes(3 * MIB) + b"tail", "sub/empty": b""}
    for name, data in files.items():
        (folder / name).write_bytes(data)
    of_folder = kubo.export_car(kubo.add_folder(folder), tmp_path / "folder.car")
    single = kubo.add(folder / "sub" / "big")
    of_file = kubo.export_car(single, tmp_path / "file.car")
    with running_agent(tmp_path / "agent") as agent, agent.client() as client:
        (brought,) = client.import_bundle(of_folder)["refs"]
        client.get(brought["manifest"], to=str(tmp_path / "out"))
        (file,) = client.import_bundle(of_file)["refs"]
        assert file["sha256"] == hashlib.sha256(files["sub/big"]).hexdigest()
        client.get(single, to=str(tmp_path / "out2"))
        assert client.verify()["bad"] == []
    for name, data in files.items():
        assert (tmp_path / "out" / name).read_bytes() == data
    (one,) = (tmp_path / "out2").iterdir()
    assert one.read_bytes() == files["sub/big"]


def test_who_joins_after_the_import_finds_the_name_too(tmp_path: Path, repo: HubRepo):
    car = tmp_path / "model.car"
    with at_most(120):
        with running_agent(tmp_path / "a") as a:  # in no network: a key is made for the signature
            with hub_stub(repo) as hub:
                a.get(REF, credentials={"hf_endpoint": hub.url}, hf_cache=False)
            with a.client() as client:
                client.export([REF], car)
        with network(tmp_path / "two", 1) as (b,):
            with b.client() as client:
                client.import_bundle(car)
            with running_agent(tmp_path / "c", settings=LOOPBACK) as c:
                join(c, b)
                wait_until(lambda: peers_of(c), "they know each other")
                c.get(REF, credentials=NOWHERE, to=str(tmp_path / "out"))
            assert is_true(tmp_path / "out", repo)
