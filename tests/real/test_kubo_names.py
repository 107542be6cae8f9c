"""A real Kubo that goes by roots, for what is known by its sha2-256."""

from __future__ import annotations

import sqlite3
import subprocess
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from p2pcache import errors
from p2pcache.content import cid as cids
from tests.support.agents import running_agent
from tests.support.blobs import sha256_file, write_blob
from tests.support.hub_repo import build_repo, lfs, text
from tests.support.hub_stub import hub_stub
from tests.support.kubo import ipfs_binary
from tests.support.kubo_daemon import kubo_daemon
from tests.support.kubo_proxy import flips, kubo_proxy
from tests.support.network import network, peer_id, wait_until
from tests.support.processes import free_port
from tests.support.watched_pull import at_most

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.agents import Agent
    from tests.support.hub_repo import HubRepo
    from tests.support.hub_stub import HubStub
    from tests.support.kubo_daemon import KuboDaemon
    from tests.support.kubo_proxy import KuboProxy

pytestmark = pytest.mark.slow

MIB = 1 << 20
REF = "hf://demo/model"
LARGE, SMALL = "model.safetensors", "small.bin"
LARGE_BYTES, SMALL_BYTES = 24 * MIB + 5, 1000


@pytest.fixture(scope="module")
def kubo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KuboDaemon]:
    repo = tmp_path_factory.mktemp("kubo") / "repo"
    repo.mkdir()
    with kubo_daemon(repo, None, gateway=True, profile="unixfs-v1-2025") as daemon:
        yield daemon


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> HubRepo:
    files = {"config.json": text("{}\n"), LARGE: lfs(LARGE_BYTES, 7), SMALL: lfs(SMALL_BYTES, 8)}
    return build_repo(tmp_path_factory.mktemp("repo"), files)


@pytest.fixture
def hub(repo: HubRepo) -> Iterator[HubStub]:
    with hub_stub(repo) as running:
        yield running


def behind(proxy: KuboProxy) -> dict[str, str]:
    return {"network.enabled": "off", "ipfs.kubo": proxy.url, "ipfs.kubo_gateway": proxy.url}


def settings(kubo: KuboDaemon) -> dict[str, str]:
    return {"network.enabled": "off", "ipfs.kubo": str(kubo.repo)}


def get(agent: Agent, hub: HubStub, **options: Any) -> dict[str, Any]:
    return agent.get(REF, credentials={"hf_endpoint": hub.url}, hf_cache=False, **options)


def knows_and_lost(agent: Agent, hub: HubStub) -> None:
    """It had the model once: the names of its files are known, and their bytes are not here."""
    get(agent, hub, kubo="http://127.0.0.1:9")
    with agent.client() as client:
        client.rm(REF, force=True)
    hub.asked.clear()


def bytes_of(agent: Agent) -> dict[str, int]:
    return {source["kind"]: source["bytes"] for source in agent.why()["sources"]}


def still(proxy: KuboProxy) -> Callable[[str], None]:
    def hold(path: str) -> None:
        proxy.closing.wait(30)

    return hold


def test_a_digest_that_was_here_comes_from_kubo_by_its_root(tmp_path: Path, kubo: KuboDaemon):
    file = write_blob(tmp_path, 5 * MIB + 3, seed=1)
    root = kubo.add(file.path)
    with at_most(60), running_agent(tmp_path / "a", settings=settings(kubo)) as agent:
        with agent.client() as client:
            client.push(file.path)
            client.rm(str(file.path), force=True)
            shown = client.resolve(f"sha256:{file.sha256}")
        assert [(f["sha256"], f["root"], f["present"]) for f in shown["files"]] == [
            (file.sha256, root, False)
        ]
        raw = cids.format_cid(cids.raw_cid(bytes.fromhex(file.sha256)))
        for name in (f"sha256:{file.sha256}", file.sha256, raw):
            answer = agent.get(name, to=str(tmp_path / "out"))
            assert sha256_file(Path(answer["path"])) == file.sha256
            assert bytes_of(agent) == {"kubo": file.size}
            assert (answer["sha256"], answer["root"]) == (file.sha256, root)
            with agent.client() as client:
                client.rm(name, force=True)


def test_a_digest_of_one_block_needs_no_memory(tmp_path: Path, kubo: KuboDaemon):
    file = write_blob(tmp_path, 1000, seed=2)
    kubo.add(file.path)
    with at_most(60), running_agent(tmp_path / "a", settings=settings(kubo)) as agent:
        answer = agent.get(f"sha256:{file.sha256}")
        assert sha256_file(Path(answer["path"])) == file.sha256
        with pytest.raises(errors.NotFound):
            agent.get(f"sha256:{'ab' * 32}")


def test_a_folder_of_one_file_is_known_by_its_root_and_the_file_by_its_own(
    tmp_path: Path, kubo: KuboDaemon
):
    file = write_blob(tmp_path / "folder", 3 * MIB + 1, seed=60)
    root, own = kubo.add(tmp_path / "folder"), kubo.add(file.path)
    with (
        at_most(60),
        running_agent(tmp_path / "a", settings=settings(kubo)) as agent,
        agent.client() as client,
    ):
        agent.get(root)
        listed = [(f"ipfs://{root}", 1)]  # once the file is hashed
        wait_until(lambda: [(r["ref"], r["files"]) for r in client.ls()] == listed, "not listed")
        assert agent.get(root, offline=True)["fetched_bytes"] == 0
        client.rm(root)
        agent.get(own)
        assert [row["ref"] for row in client.ls()] == [f"ipfs://{own}"]
        client.pin(own)
        client.unpin(f"/ipfs/{own}")
        assert client.rm(own)["freed_bytes"] == file.size
        assert client.ls() == []


def test_the_files_of_a_model_come_from_kubo_and_spare_its_hub(
    tmp_path: Path, kubo: KuboDaemon, repo: HubRepo, hub: HubStub
):
    kubo.add(repo.plain)
    with at_most(60), running_agent(tmp_path / "a", settings=settings(kubo)) as agent:
        knows_and_lost(agent, hub)
        get(agent, hub, to=str(tmp_path / "out"))
        assert {p: sha256_file(tmp_path / "out" / p) for p in repo.files} == {
            p: f.sha256 for p, f in repo.files.items()
        }
        came = bytes_of(agent)
        # On a busy machine one piece may measure whether the hub is faster.
        assert came["kubo"] + came["origin"] == LARGE_BYTES + SMALL_BYTES + 3
        assert came["kubo"] >= LARGE_BYTES + SMALL_BYTES - 2 * MIB


def test_what_a_peer_has_is_not_asked_of_kubo(
    tmp_path: Path, kubo: KuboDaemon, repo: HubRepo, hub: HubStub
):
    kubo.add(repo.plain)
    each = {1: {"ipfs.kubo": str(kubo.repo)}}
    with at_most(90), network(tmp_path, 2, each=each) as (holder, agent):
        get(holder, hub)
        knows_and_lost(agent, hub)
        get(agent, hub)
        came = bytes_of(agent)
        assert came["peer"] > came.get("kubo", 0), "Kubo helps out where the peer is silent"
        assert came["peer"] + came.get("kubo", 0) >= LARGE_BYTES


def test_the_root_of_what_only_a_peer_has_is_told_as_its_word(tmp_path: Path):
    files = [write_blob(tmp_path, size, seed=50 + size % 7) for size in (3 * MIB + 1, 100)]
    with at_most(60), network(tmp_path, 2) as (holder, agent):
        for file in files:
            with holder.client() as client:
                root = client.push(file.path)["root"]
            with agent.client() as client:
                shown = client.resolve(f"sha256:{file.sha256}")
            (said,) = shown["files"]
            assert (said["root"], said["size"], said["present"]) == (root, file.size, False)
            assert any(f"the word of peer {peer_id(holder)}" in note for note in shown["notes"])
        with agent.client() as client, pytest.raises(errors.NotFound):
            client.resolve("ab" * 32)


def test_a_lie_is_caught_and_the_hub_finishes(
    tmp_path: Path, kubo: KuboDaemon, repo: HubRepo, hub: HubStub
):
    kubo.add(repo.plain)
    with kubo_proxy(kubo) as proxy, at_most(60):
        proxy.change = flips(9 * MIB + 5)
        with running_agent(tmp_path / "a", settings=behind(proxy)) as agent:
            knows_and_lost(agent, hub)
            get(agent, hub, to=str(tmp_path / "out"))
            assert sha256_file(tmp_path / "out" / LARGE) == repo.files[LARGE].sha256
            (left,) = [s for s in agent.why()["sources"] if s["kind"] == "kubo"]
            assert left["outcome"] == "left"
            assert "block 9" in left["reason"]
            assert bytes_of(agent)["origin"] > 0


def test_a_wrong_pair_costs_time_and_nothing_else(
    tmp_path: Path, kubo: KuboDaemon, repo: HubRepo, hub: HubStub
):
    other = write_blob(tmp_path, LARGE_BYTES, seed=99)
    root = cids.parse_cid(kubo.add(other.path))
    with at_most(90), running_agent(tmp_path / "a", settings=settings(kubo)) as agent:
        knows_and_lost(agent, hub)
        with closing(sqlite3.connect(agent.home / "index.sqlite")) as connection:
            assert connection.execute("UPDATE pairs SET root = ?", (root,)).rowcount == 1
            connection.commit()
        with pytest.raises(errors.P2PCacheError):
            agent.get(f"sha256:{repo.files[LARGE].sha256}")
        get(agent, hub, to=str(tmp_path / "out"))
        assert sha256_file(tmp_path / "out" / LARGE) == repo.files[LARGE].sha256


def test_what_kubo_lacks_is_not_waited_for_nor_searched(tmp_path: Path, kubo: KuboDaemon):
    model = build_repo(tmp_path / "repo", {LARGE: lfs(LARGE_BYTES, 77), SMALL: lfs(500, 78)})
    with (
        kubo_proxy(kubo) as proxy,
        hub_stub(model) as other,
        at_most(60),
        running_agent(tmp_path / "a", settings=behind(proxy)) as agent,
    ):
        knows_and_lost(agent, other)
        proxy.seen.clear()
        get(agent, other)
        assert bytes_of(agent) == {"origin": LARGE_BYTES + 500}
        assert proxy.seen
        assert all("pin/ls" in one or "offline=true" in one for one in proxy.seen)
        with agent.client() as client:
            client.rm(REF, force=True)
        proxy.hold = still(proxy)
        began = time.monotonic()
        get(agent, other)
        assert time.monotonic() - began < 3.0, "0.25 s of it for a Kubo that hangs"
        proxy.closing.set()


def test_a_file_that_is_walked_for_long_comes_from_kubo_while_the_hub_brings_the_rest(
    tmp_path: Path, kubo: KuboDaemon, repo: HubRepo, hub: HubStub
):
    root = kubo.add(repo.plain / LARGE)
    kubo.rpc("pin/rm", root)

    def slowly(path: str) -> None:
        if "files/stat" in path:
            time.sleep(0.3)

    with kubo_proxy(kubo) as proxy, at_most(60):
        proxy.hold = slowly
        with running_agent(tmp_path / "a", settings=behind(proxy)) as agent:
            knows_and_lost(agent, hub)
            get(agent, hub, limit_rate=10 * MIB, to=str(tmp_path / "out"))
            assert sha256_file(tmp_path / "out" / LARGE) == repo.files[LARGE].sha256
            came = bytes_of(agent)
            assert came["kubo"] > 0
            assert came["origin"] > 0


def ipfs(agent: Agent, *command: str) -> str:
    """The real command line on an agent's RPC."""
    with agent.client() as client:
        host, port = str(client.status()["ipfs"]["rpc"]).removeprefix("http://").split(":")
    done = subprocess.run(
        [str(ipfs_binary()), f"--api=/ip4/{host}/tcp/{port}", *command],
        env={"IPFS_PATH": str(agent.home), "HOME": str(agent.home), "IPFS_TELEMETRY": "off"},
        check=True, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    return done.stdout


def test_pins_of_ipfs_and_of_p2pcache_are_the_same_pins(tmp_path: Path):
    where = tmp_path / "folder"
    write_blob(where, 2 * MIB + 1, seed=40)
    write_blob(where, 10, seed=41)
    own = {"network.enabled": "off", "ipfs.rpc": f"127.0.0.1:{free_port()}"}
    with at_most(60), running_agent(tmp_path / "a", settings=own) as agent:
        wait_until(lambda: agent_rpc(agent), "no RPC")
        with agent.client() as client:
            root = client.push(where)["root"]
            client.pin(root)
            assert ipfs(agent, "pin", "ls", "-q", "-t", "recursive").split() == [root]
            ipfs(agent, "pin", "rm", root)
            assert [row["pinned"] for row in client.ls()] == [False]
            ipfs(agent, "pin", "add", root)
            assert [row["pinned"] for row in client.ls()] == [True]
            client.unpin(root)
            assert ipfs(agent, "pin", "ls", "-q", "-t", "recursive") == ""
            (tmp_path / "note").write_text("chunked in another way")
            other = ipfs(agent, "add", "-Q", "--chunker=size-5", str(tmp_path / "note")).strip()
            rows = {row["ref"]: row for row in client.ls()}
            assert rows[f"ipfs://{other}"]["pinned"]
            client.unpin(f"/ipfs/{other}")
            with pytest.raises(errors.NotFound):
                client.unpin(other)


def agent_rpc(agent: Agent) -> str | None:
    with agent.client() as client:
        return client.status()["ipfs"]["rpc"]
