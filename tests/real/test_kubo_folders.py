"""A folder that no manifest implies (symlinks, empty folders, other profiles) after it came from a
real Kubo: it is IPFS content under its root, and goes when its files go.
"""

from __future__ import annotations

import urllib.request
from typing import TYPE_CHECKING

import pytest

from p2pcache import errors
from tests.support.agents import running_agent
from tests.support.blobs import write_blob
from tests.support.kubo_daemon import kubo_daemon
from tests.support.kubo_rpc import rpc_of
from tests.support.network import wait_until
from tests.support.processes import free_port
from tests.support.watched_pull import at_most

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.agents import Agent
    from tests.support.kubo_daemon import KuboDaemon

pytestmark = pytest.mark.slow

MIB = 1 << 20


@pytest.fixture(scope="module")
def kubo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KuboDaemon]:
    repo = tmp_path_factory.mktemp("kubo") / "repo"
    repo.mkdir()
    with kubo_daemon(repo, None, gateway=True, profile="unixfs-v1-2025") as daemon:
        yield daemon


def folder(where: Path) -> Path:
    (where / "sub" / "empty").mkdir(parents=True)
    write_blob(where.parent / "parts", 2 * MIB + 3).path.rename(where / "sub" / "big")
    (where / "small").write_bytes(b"small")
    (where / "link").symlink_to("sub/big")
    return where


def settings(kubo: KuboDaemon | None) -> dict[str, str]:
    more = {} if kubo is None else {"ipfs.kubo": str(kubo.repo)}
    return {
        "network.enabled": "off", "ipfs.gateway": f"127.0.0.1:{free_port()}",
        "ipfs.rpc": f"127.0.0.1:{free_port()}", **more,
    }  # fmt: skip


def read(agent: Agent, path: str) -> bytes:
    with agent.client() as client:
        url = client.status()["ipfs"]["gateway"]
    with urllib.request.urlopen(f"{url}/ipfs/{path}", timeout=30) as answer:
        return answer.read()


def wait_listed(agent: Agent, root: str) -> None:
    """Until its large file is hashed: the folder's nodes are kept with its manifest."""

    def rows() -> list[str | None]:
        with agent.client() as client:
            return [row["ref"] for row in client.ls()]

    wait_until(lambda: f"ipfs://{root}" in rows(), "the folder is not listed", 30)


def test_it_is_found_under_its_root_and_goes_with_its_files(tmp_path: Path, kubo: KuboDaemon):
    place = folder(tmp_path / "folder")
    root = kubo.add(place)
    with at_most(100):
        with running_agent(tmp_path / "a", settings=settings(kubo)) as agent:
            agent.get(f"ipfs://{root}", to=str(tmp_path / "out"))
            assert (tmp_path / "out" / "sub" / "big").stat().st_size == 2 * MIB + 3
        with running_agent(tmp_path / "a", settings=settings(None)) as agent:
            rpc = rpc_of(agent, tmp_path)
            wait_listed(agent, root)
            assert read(agent, f"{root}/small") == b"small"
            assert b"empty" in read(agent, f"{root}/sub/")
            assert rpc.post(f"dag/stat?arg={root}&offline=true").status == 200, "all blocks"
            assert rpc.post("pin/ls").lines == [{}], "nobody pinned it"
            with agent.client() as client:
                paths = {f["path"] for f in client.resolve(root)["files"]}
                assert paths == {"small", "sub/big"}
                assert client.get(root, offline=True)["fetched_bytes"] == 0
                answer = client.get(f"{root}/sub", offline=True, to=str(tmp_path / "sub"))
                assert answer["fetched_bytes"] == 0
                with pytest.raises(errors.UsageError, match="a symlink to `sub/big`"):
                    client.get(f"{root}/link", offline=True)
                client.export([root], tmp_path / "p.car", plain=True)
                rpc.post("repo/gc")
                assert rpc.post(f"block/stat?arg={root}&offline=true").status == 200
                client.rm(f"ipfs://{root}", force=True)
                assert rpc.post(f"block/stat?arg={root}&offline=true").status == 500
                with pytest.raises(errors.NotFound):
                    client.get(root, offline=True)


def test_a_bundle_carries_its_root_to_another_network(tmp_path: Path, kubo: KuboDaemon):
    root, bundle = kubo.add(folder(tmp_path / "folder")), tmp_path / "b.car"
    with at_most(100):
        with running_agent(tmp_path / "a", settings=settings(kubo)) as agent:
            agent.get(f"ipfs://{root}")
            with agent.client() as client:
                answer = client.export([f"ipfs://{root}"], bundle)
                assert answer["refs"][0]["names"] == [f"ipfs://{root}"]
                assert answer["refs"][0]["root"] != root, "symlinks are no files"
        with running_agent(tmp_path / "b", settings=settings(None)) as agent:
            with agent.client() as client:
                answer = client.import_bundle(bundle)
                assert answer["notes"] == [f"`ipfs://{root}` means it, too"]
                assert [row["ref"] for row in client.ls()] == [f"ipfs://{root}"]
                client.get(root, offline=True, to=str(tmp_path / "out"))
            assert rpc_of(agent, tmp_path).post(f"dag/stat?arg={root}&offline=true").status == 200
    assert (tmp_path / "out" / "small").read_bytes() == b"small"


def test_its_nodes_go_when_its_files_are_evicted(tmp_path: Path, kubo: KuboDaemon):
    root = kubo.add(folder(tmp_path / "folder"))
    with at_most(60), running_agent(tmp_path / "a", settings=settings(kubo)) as agent:
        agent.get(f"ipfs://{root}")
        rpc = rpc_of(agent, tmp_path)
        wait_listed(agent, root)
        assert rpc.post(f"block/stat?arg={root}&offline=true").status == 200
        with agent.client() as client:
            client.gc(target_bytes=100)
        assert rpc.post(f"block/stat?arg={root}&offline=true").status == 500


def test_a_symlink_from_kubo_is_told_and_not_followed(tmp_path: Path, kubo: KuboDaemon):
    root = kubo.add(folder(tmp_path / "folder"))
    with at_most(60), running_agent(tmp_path / "a", settings=settings(kubo)) as agent:
        with pytest.raises(errors.UsageError, match="a symlink to `sub/big`"):
            agent.get(f"{root}/link")
        answer = agent.get(f"{root}/sub/empty", to=str(tmp_path / "out"))
        assert answer["files"] == 0
