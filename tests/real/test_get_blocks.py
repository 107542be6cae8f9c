"""`get` of what is here as blocks: by the RPC and by an import."""

from __future__ import annotations

import hashlib
from random import Random
from typing import TYPE_CHECKING

import pytest

from p2pcache import errors
from tests.support.agents import running_agent
from tests.support.kubo import Kubo
from tests.support.kubo_rpc import FILE, rpc_of
from tests.support.processes import free_port
from tests.support.watched_pull import at_most

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.agents import Agent

pytestmark = pytest.mark.slow

MIB = 1 << 20


@pytest.fixture(scope="module")
def kubo(tmp_path_factory: pytest.TempPathFactory) -> Kubo:
    return Kubo.init(tmp_path_factory.mktemp("kubo") / "repo")


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    settings = {"network.enabled": "off", "ipfs.rpc": f"127.0.0.1:{free_port()}"}
    with running_agent(tmp_path_factory.mktemp("agent"), settings=settings) as agent:
        yield agent


def test_what_the_rpc_took_is_got_offline(tmp_path: Path, agent: Agent):
    big = Random(1).randbytes(2 * MIB + 9)
    rpc = rpc_of(agent, tmp_path)
    rows = rpc.upload("add", ("d/big", big, FILE), ("d/e/small", b"small", FILE)).lines
    root, single = rows[-1]["Hash"], next(row["Hash"] for row in rows if row["Name"] == "d/big")
    with at_most(60), agent.client() as client:
        listed = client.resolve(root)
        assert {f["path"]: f["size"] for f in listed["files"]} == {"big": len(big), "e/small": 5}
        answer = client.get(f"{root}/e", to=str(tmp_path / "part"), offline=True)
        assert (tmp_path / "part" / "e" / "small").read_bytes() == b"small"
        assert (answer["fetched_bytes"], answer["reused_bytes"]) == (0, 5)
        answer = client.get(f"ipfs://{root}", to=str(tmp_path / "all"), offline=True)
        assert (answer["fetched_bytes"], answer["reused_bytes"]) == (0, len(big) + 5)
        assert (tmp_path / "all" / "big").read_bytes() == big
        assert client.get(root, offline=True)["reused_bytes"] == len(big) + 5
        again = client.get(single, to=str(tmp_path / "one"), offline=True)
        assert hashlib.sha256((tmp_path / "one" / single).read_bytes()).digest() == (
            hashlib.sha256(big).digest()
        )
        assert again["fetched_bytes"] == 0
        with pytest.raises(errors.NotFound):
            client.get(f"{root}/nothing", offline=True)


@pytest.mark.parametrize("options", [["--cid-version=0"], ["--trickle", "--chunker=size-4096"]])
def test_what_was_imported_in_another_shape_is_got(
    tmp_path: Path, kubo: Kubo, agent: Agent, options: list[str]
):
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "file").write_bytes(Random(2).randbytes(700_000))
    (folder / "sub" / "link").symlink_to("file")
    (folder / "empty").write_bytes(b"")
    root = kubo.add_with(folder, *options)
    with at_most(60), agent.client() as client:
        client.import_bundle(kubo.export_car(root, tmp_path / "k.car"))
        answer = client.get(root, to=str(tmp_path / "out"), offline=True)
        assert "symlinks are left out" in " ".join(answer["notes"])
        for name in ("sub/file", "empty"):
            assert (tmp_path / "out" / name).read_bytes() == (folder / name).read_bytes()
        with pytest.raises(errors.UsageError, match="a symlink to `file`"):
            client.get(f"{root}/sub/link", offline=True)
        client.export([root], tmp_path / "p.car", plain=True)  # the blocks stay
    assert (tmp_path / "p.car").read_bytes() == (tmp_path / "k.car").read_bytes()


def test_a_part_that_is_here_is_not_taken_for_the_whole(tmp_path: Path, kubo: Kubo, agent: Agent):
    data = Random(3).randbytes(3 * MIB)
    (tmp_path / "file").write_bytes(data)
    root = kubo.add_with(tmp_path / "file", "--chunker=size-100000")
    car = kubo.export_car(root, tmp_path / "k.car").read_bytes()
    at = car.index(data[-45_728:])
    (tmp_path / "part.car").write_bytes(car[: at - 36 - 3])
    with agent.client() as client:
        client.import_bundle(tmp_path / "part.car")
        with pytest.raises(errors.NotFound):
            client.resolve(root, offline=True)
