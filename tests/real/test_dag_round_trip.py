"""DAGs of any shape through an agent's store: what a real Kubo exports comes out to the byte."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from p2pcache import errors
from tests.support.agents import REPO, agent_env, running_agent
from tests.support.kubo import Kubo
from tests.support.watched_pull import at_most

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.agents import Agent

pytestmark = pytest.mark.slow

MIB = 1 << 20
ALONE = {"network.enabled": "off"}


@pytest.fixture(scope="module")
def kubo(tmp_path_factory: pytest.TempPathFactory) -> Kubo:
    return Kubo.init(tmp_path_factory.mktemp("kubo") / "repo")


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    with running_agent(tmp_path_factory.mktemp("agent"), settings=ALONE) as agent:
        yield agent


def folder(where: Path) -> Path:
    """Files of several blocks and of none, a symlink, a broken one, and an empty folder."""
    (where / "sub" / "empty").mkdir(parents=True)
    (where / "big.bin").write_bytes(hashlib.shake_256(b"big").digest(2 * MIB + 5))
    (where / "sub" / "zeros").write_bytes(bytes(2 * MIB))
    (where / "sub" / "none").write_bytes(b"")
    (where / "sub" / "é.txt").write_bytes(b"text")
    (where / "sub" / "link").symlink_to("../big.bin")
    (where / "broken").symlink_to("nowhere")
    return where


def many(where: Path) -> Path:
    where.mkdir()
    for number in range(300):
        (where / f"{number:04}-{'x' * 200}").write_bytes(str(number).encode())
    return where


SHAPES = {
    "profile": [],
    "cidv0": ["--cid-version=0", "--raw-leaves=false"],
    "raw-leaves": ["--cid-version=0", "--raw-leaves=true"],
    "chunker": ["--chunker=size-100000"],
    "rabin": ["--chunker=rabin-20000-50000-90000"],
    "trickle": ["--trickle", "--chunker=size-65536"],
    "inlined": ["--inline", "--inline-limit=64"],
    "modes": ["--raw-leaves=false", "--preserve-mode", "--preserve-mtime"],
    "blake3": ["--hash=blake3"],
}


@pytest.fixture(scope="module")
def shaped(kubo: Kubo, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The root of each shape."""
    place = tmp_path_factory.mktemp("content")
    made = {name: kubo.add_with(folder(place / name), *SHAPES[name]) for name in SHAPES}
    made["sharded"] = kubo.add_with(many(place / "many"), "--max-directory-links=16")
    (place / "nothing").mkdir()
    made["empty"] = kubo.add_folder(place / "nothing")
    made["file"] = kubo.add_with(place / "profile" / "big.bin")
    made["old file"] = kubo.add_with(place / "profile" / "big.bin", *SHAPES["cidv0"])
    made["leaf"] = kubo.add_with(b"a leaf")
    made["cbor"] = kubo.put_dag({"file": {"/": made["old file"]}, "n": [1, {"/": made["empty"]}]})
    return made


NAMES = [*SHAPES, "sharded", "empty", "file", "old file", "leaf", "cbor"]


@pytest.mark.parametrize("name", NAMES)
def test_what_kubo_exports_comes_out_again_to_the_byte(
    tmp_path: Path, kubo: Kubo, agent: Agent, shaped: dict[str, str], name: str
):
    root = shaped[name]
    theirs = kubo.export_car(root, tmp_path / "k.car")
    with at_most(60), agent.client() as client:
        (row,) = client.import_bundle(theirs)["refs"]
        assert (row["root"], row["pinned"]) == (root, True)
        answer = client.export([f"ipfs://{root}"], tmp_path / "p.car", plain=True)
    assert answer["format"] == "car"
    assert (tmp_path / "p.car").read_bytes() == theirs.read_bytes()


def test_what_an_agent_pushed_is_the_same_in_kubo_and_back(
    tmp_path: Path, kubo: Kubo, agent: Agent
):
    place = tmp_path / "model"
    (place / "sub").mkdir(parents=True)
    (place / "big.bin").write_bytes(hashlib.shake_256(b"mine").digest(2 * MIB + 7))
    (place / "sub" / "small.txt").write_bytes(b"small")
    with at_most(60), agent.client() as client:
        root = client.push(place)["root"]
        ours = tmp_path / "ours.car"
        answer = client.export([str(place)], ours, plain=True)
        assert answer["refs"][0]["root"] == root == kubo.only_hash_folder(place)
        assert answer["size_bytes"] == ours.stat().st_size
    assert kubo.import_car(ours) == {root: ""}
    assert kubo.export_car(root, tmp_path / "k.car").read_bytes() == ours.read_bytes()


def p2pcache(home: Path, *args: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "p2pcache", *args],
        cwd=REPO, env=agent_env(home, P2PCACHE_NETWORK_ENABLED="off"), input=stdin,
        capture_output=True, timeout=60, check=False,
    )  # fmt: skip


def test_pipes_without_a_running_agent_and_what_goes_again(
    tmp_path: Path, kubo: Kubo, shaped: dict[str, str]
):
    root = shaped["cidv0"]
    theirs = kubo.export_car(root, tmp_path / "k.car").read_bytes()
    with at_most(100):
        done = p2pcache(tmp_path / "a", "import", "-", stdin=theirs)
        assert (done.returncode, done.stdout.decode().split()) == (0, [root]), done.stderr
        assert f"unpin {root}" in done.stderr.decode()
        done = p2pcache(tmp_path / "a", "export", f"ipfs://{root}", "-o", "-")
        assert (done.returncode, done.stdout) == (0, theirs), done.stderr
        done = p2pcache(tmp_path / "a", "export", root, "-o", "-", "--json")
        assert done.returncode == 2
        done = p2pcache(tmp_path / "a", "rm", root)
        assert (done.returncode, b"is pinned" in done.stderr) == (2, True)
        assert p2pcache(tmp_path / "a", "unpin", root).returncode == 0
        assert p2pcache(tmp_path / "a", "rm", root).returncode == 0
        done = p2pcache(tmp_path / "a", "export", root, "-o", "-", "--plain")
        assert (done.returncode, done.stdout) == (11, b"")


def test_a_part_of_a_dag_is_not_pinned_and_the_rest_completes_it(
    tmp_path: Path, kubo: Kubo, agent: Agent
):
    (tmp_path / "f").write_bytes(os.urandom(300_000))
    root = kubo.add_with(tmp_path / "f", "--chunker=size-50000")
    whole = kubo.export_car(root, tmp_path / "k.car")
    data, leaf = whole.read_bytes(), (tmp_path / "f").read_bytes()[-50_000:]
    at = data.index(leaf)
    head = len(data[:at]) - 3 - 36  # the frame of that block
    (tmp_path / "part.car").write_bytes(data[:head] + data[at + 50_000 :])
    with agent.client() as client:
        answer = client.import_bundle(tmp_path / "part.car")
        assert not answer["refs"][0]["pinned"]
        assert "not pinned" in answer["notes"][0]
        with pytest.raises(errors.NotFound, match="missing"):
            client.export([root], tmp_path / "p.car")
        assert not (tmp_path / "p.car").exists()
        answer = client.import_bundle(whole)
        assert answer["new_block_bytes"] == 50_000
        client.export([root], tmp_path / "p.car")
    assert (tmp_path / "p.car").read_bytes() == data


def test_what_is_gated_goes_into_no_plain_car(tmp_path: Path, agent: Agent):
    with agent.client() as client:
        with pytest.raises(errors.UsageError, match="everybody"):
            client.export(["bafkqaaa"], tmp_path / "x.car", plain=True, gated=True)
        with pytest.raises(errors.UsageError, match="everybody"):
            client.export(["bafkqaaa", "bafkqaaa"], tmp_path / "x.car", plain=True)
