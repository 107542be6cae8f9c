"""`get <cid>` out of a real Kubo: alone, beside peers, and what a Kubo may do wrong."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from p2pcache import errors
from tests.support.agents import running_agent
from tests.support.blobs import sha256_file, write_blob
from tests.support.kubo_daemon import kubo_daemon
from tests.support.kubo_proxy import flips, kubo_proxy
from tests.support.network import network, wait_until
from tests.support.watched_pull import at_most

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.agents import Agent
    from tests.support.kubo_daemon import KuboDaemon
    from tests.support.kubo_proxy import KuboProxy

pytestmark = pytest.mark.slow

MIB = 1 << 20
MISSING = "bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi"


@pytest.fixture(scope="module")
def kubo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KuboDaemon]:
    repo = tmp_path_factory.mktemp("kubo") / "repo"
    repo.mkdir()
    with kubo_daemon(repo, None, gateway=True, profile="unixfs-v1-2025") as daemon:
        yield daemon


def settings(kubo: KuboDaemon) -> dict[str, str]:
    return {"network.enabled": "off", "ipfs.kubo": str(kubo.repo)}


def sources(why: dict) -> dict[str, dict]:
    return {source["name"]: source for source in why["sources"]}


@pytest.mark.parametrize("size", [0, 5, MIB, MIB + 1, 40 * MIB + 7])
def test_a_file_comes_from_kubo_by_its_cid(tmp_path: Path, kubo: KuboDaemon, size: int):
    file = write_blob(tmp_path, size)
    root = kubo.add(file.path)
    with at_most(60), running_agent(tmp_path / "a", settings=settings(kubo)) as agent:
        answer = agent.get(f"ipfs://{root}", to=str(tmp_path / "out"))
        assert sha256_file(tmp_path / "out" / answer["path"]) == file.sha256
        assert answer["fetched_bytes"] == size
        used = sources(agent.why())["kubo"]
        assert (used["kind"], used["bytes"], used["outcome"]) == ("kubo", size, "used")
        again = agent.get(root, offline=True)
        assert again["fetched_bytes"] == 0


def folder(where: Path) -> dict[str, str]:
    files = {"big.bin": 3 * MIB + 1, "a/small.txt": 100, "a/b/empty": 0, "a/b/one": MIB}
    made = {}
    for number, (path, size) in enumerate(files.items()):
        blob = write_blob(where.parent / "parts", size, seed=number)
        (where / path).parent.mkdir(parents=True, exist_ok=True)
        blob.path.rename(where / path)
        made[path] = blob.sha256
    return made


def test_a_folder_and_a_path_in_it(tmp_path: Path, kubo: KuboDaemon):
    files = folder(tmp_path / "folder")
    root = kubo.add(tmp_path / "folder")
    with at_most(60), running_agent(tmp_path / "a", settings=settings(kubo)) as agent:
        with agent.client() as client:
            listed = client.resolve(f"{root}/a")
        assert {f["path"] for f in listed["files"]} == {"a/small.txt", "a/b/empty", "a/b/one"}
        answer = agent.get(f"{root}/big.bin", to=str(tmp_path / "one"))
        assert sha256_file(tmp_path / "one" / "big.bin") == files["big.bin"]
        answer = agent.get(f"ipfs://{root}", to=str(tmp_path / "all"))
        assert {p: sha256_file(tmp_path / "all" / p) for p in files} == files
        assert answer["fetched_bytes"] == MIB + 100, "the large file was here"
    with running_agent(tmp_path / "a", settings={"network.enabled": "off"}) as agent:
        answer = agent.get(root, to=str(tmp_path / "again"))
        assert answer["manifest"] is not None
        assert {p: sha256_file(tmp_path / "again" / p) for p in files} == files


def test_a_folder_is_listed_when_somebody_names_it(tmp_path: Path, kubo: KuboDaemon):
    root = folder_root(tmp_path, kubo)
    with at_most(60), running_agent(tmp_path / "a", settings=settings(kubo)) as agent:
        answer = agent.get(root)
        assert answer["manifest"] is None, "its blocks are proven, and nobody waits for more"
        with agent.client() as client:
            manifest = client.pin(root)["manifest"]
            assert [(row["ref"], row["manifest"]) for row in client.ls()] == [
                (f"ipfs://{root}", manifest)
            ]
        assert agent.get(root, offline=True)["manifest"] == manifest


def test_a_folder_is_listed_when_there_is_time(tmp_path: Path, kubo: KuboDaemon):
    root = folder_root(tmp_path, kubo)
    with at_most(60), running_agent(tmp_path / "a", settings=settings(kubo)) as agent:
        agent.get(root)
        with agent.client() as client:
            while not client.ls():
                time.sleep(0.1)
            assert client.get(root, offline=True)["fetched_bytes"] == 0


def folder_root(tmp_path: Path, kubo: KuboDaemon) -> str:
    folder(tmp_path / "folder")
    return kubo.add(tmp_path / "folder")


def test_a_folder_of_small_files_is_recorded_and_comes_with_few_requests(
    tmp_path: Path, kubo: KuboDaemon
):
    (tmp_path / "folder").mkdir()
    for number in range(100):
        (tmp_path / "folder" / f"{number}.txt").write_bytes(b"%d" % number * 500)
    (tmp_path / "folder" / "empty").touch()
    root = kubo.add(tmp_path / "folder")
    settings = {"network.enabled": "off"}
    with at_most(60), kubo_proxy(kubo) as proxy:
        with (
            running_agent(tmp_path / "a", settings=settings | behind(proxy)) as agent,
            agent.client() as client,
        ):
            answer = client.get(root, to=str(tmp_path / "out"))
            assert [row["ref"] for row in client.ls()] == [f"ipfs://{root}"]
        assert answer["files"] == 101
        assert (tmp_path / "out" / "99.txt").read_bytes() == b"99" * 500
        assert 1 <= len([path for path in proxy.seen if "/api/v0/cat" in path]) <= 8
        assert not [p for p in proxy.seen if p.startswith("/ipfs/") and "format" not in p]


@pytest.mark.parametrize("fault", ["a wrong byte", "cut short", "refused"])
def test_what_is_wrong_with_one_body_of_small_files_is_that_ones_alone(
    tmp_path: Path, kubo: KuboDaemon, fault: str
):
    (tmp_path / "folder").mkdir()
    for number in range(20):
        (tmp_path / "folder" / f"{number}.txt").write_bytes(b"%d" % number * 500)
    root = kubo.add(tmp_path / "folder")

    def change(path: str, start: int, body: bytes) -> bytes:
        if "/api/v0/cat" not in path:
            return body
        if fault == "refused":
            raise OSError
        return body[:7000] if fault == "cut short" else body[:7000] + b"?" + body[7001:]

    settings = {"network.enabled": "off"}
    with at_most(60), kubo_proxy(kubo) as proxy:
        proxy.change = change
        with running_agent(tmp_path / "a", settings=settings | behind(proxy)) as agent:
            agent.get(root, to=str(tmp_path / "out"))
            assert sources(agent.why())["kubo"]["outcome"] == "used"
        assert (tmp_path / "out" / "19.txt").read_bytes() == b"19" * 500
        alone = [p for p in proxy.seen if p.startswith("/ipfs/") and "format" not in p]
        assert len(alone) == 20 if fault == "refused" else 1 <= len(alone) < 20


def quickest_s(agent: Agent, ref: str, match: str) -> float:
    """Of some tries that find nothing, until one is as fast as it should be: a busy machine delays
    most of them.
    """
    took: list[float] = []
    while len(took) < 40 and min(took, default=1.0) >= 0.25:
        began = time.monotonic()
        with pytest.raises(errors.NotFound, match=match):
            agent.get(ref)
        took.append(time.monotonic() - began)
    return min(took)


def test_what_kubo_does_not_have_costs_at_most_250_ms(tmp_path: Path, kubo: KuboDaemon):
    with at_most(60), running_agent(tmp_path / "a", settings=settings(kubo)) as agent:
        assert quickest_s(agent, MISSING, "Kubo") < 0.25


def behind(proxy: KuboProxy) -> dict[str, str]:
    return {"ipfs.kubo": proxy.url, "ipfs.kubo_gateway": proxy.url}


def is_question(path: str) -> bool:
    return "/api/" in path or "format=raw" in path


def still(proxy: KuboProxy) -> None:
    """No answer while the test runs."""
    proxy.closing.wait(30)


ALONE = {"network.enabled": "off", "fetch.patience": "8s"}


def test_a_lie_about_one_block_is_caught_named_and_kubo_left(tmp_path: Path, kubo: KuboDaemon):
    file = write_blob(tmp_path, 24 * MIB, seed=3)
    root = kubo.add(file.path)
    with kubo_proxy(kubo) as proxy:
        proxy.change = flips(9 * MIB + 5)
        with at_most(60), running_agent(tmp_path / "a", settings=ALONE | behind(proxy)) as agent:
            with pytest.raises(errors.Untrusted, match=r"kubo: .*block 9"):
                agent.get(root)
            lied = sources(agent.why())["kubo"]
            assert lied["outcome"] == "left"
            assert "block 9" in lied["reason"]
            proxy.change = lambda path, start, body: body
            answer = agent.get(root)  # what was true is kept, and each pull judges anew
            assert 0 < answer["fetched_bytes"] < file.size
            assert sha256_file(Path(answer["path"])) == file.sha256


def test_the_pieces_of_peers_and_the_rest_of_kubo_in_one_pull(tmp_path: Path, kubo: KuboDaemon):
    files = folder(tmp_path / "folder")
    big = write_blob(tmp_path, 32 * MIB, seed=8)
    root = kubo.add(tmp_path / "folder")
    more = big.path.rename(tmp_path / "folder" / "more.bin")
    root = kubo.add(tmp_path / "folder")
    each = {1: {"ipfs.kubo": str(kubo.repo)}}
    with at_most(90), network(tmp_path, 2, each=each) as (holder, agent):
        with holder.client() as client:
            client.push(more)
        agent.get(root, to=str(tmp_path / "out"))
        assert {p: sha256_file(tmp_path / "out" / p) for p in files} == files
        assert sha256_file(tmp_path / "out" / "more.bin") == big.sha256
        by_kind = {s["kind"]: s["bytes"] for s in agent.why()["sources"]}
        assert by_kind == {"peer": big.size, "kubo": 4 * MIB + 101}


def test_a_blob_of_which_a_peer_has_a_part_is_finished_by_kubo(tmp_path: Path, kubo: KuboDaemon):
    file = write_blob(tmp_path, 48 * MIB, seed=4)
    root = kubo.add(file.path)
    with kubo_proxy(kubo) as proxy, at_most(90):
        proxy.change = flips(40 * MIB)  # so that the first agent stops with a part of it
        each = {0: behind(proxy), 1: {"ipfs.kubo": str(kubo.repo)}}
        stop = {"fetch.patience": "2s", "fetch.max_streams": "1", "fetch.limit_rate": "40 MiB"}
        with network(tmp_path, 2, each={**each, 0: {**each[0], **stop}}) as (part, agent):
            with pytest.raises(errors.Untrusted):
                part.get(root)
            proxy.hold = lambda path: None if is_question(path) else still(proxy)
            with ThreadPoolExecutor(1) as pool:
                waiting = pool.submit(part.get, root)  # it shares what it has while it waits
                wait_until(lambda: any("/ipfs/" in path for path in proxy.seen[-1:]), "no pull")
                answer = agent.get(root)
                proxy.closing.set()
                waiting.result(60)
            assert sha256_file(Path(answer["path"])) == file.sha256
            by_kind = {s["kind"]: s["bytes"] for s in agent.why()["sources"]}
            assert by_kind["peer"] > 0
            assert by_kind["kubo"] > 0
            assert sum(by_kind.values()) == file.size


def test_who_else_has_it_finishes_after_a_lie(tmp_path: Path, kubo: KuboDaemon):
    file = write_blob(tmp_path, 32 * MIB, seed=5)
    root = kubo.add(file.path)
    with kubo_proxy(kubo) as proxy, at_most(90):
        proxy.change = flips(17 * MIB)
        with network(tmp_path, 2, each={1: behind(proxy)}) as (holder, agent):
            with holder.client() as client:
                client.push(file.path)
            answer = agent.get(root)
            assert sha256_file(Path(answer["path"])) == file.sha256


@pytest.mark.parametrize("fault", ["down", "frozen", "no kubo"])
def test_without_a_kubo_that_answers_the_peers_bring_it(
    tmp_path: Path, kubo: KuboDaemon, fault: str
):
    file = write_blob(tmp_path, 3 * MIB, seed=6)
    root = kubo.add(file.path)
    with kubo_proxy(kubo) as proxy, at_most(90):
        if fault == "frozen":
            proxy.hold = lambda path: still(proxy)
        place = {"down": "http://127.0.0.1:9", "frozen": proxy.url, "no kubo": str(tmp_path)}
        with network(tmp_path, 2, each={1: {"ipfs.kubo": place[fault]}}) as (holder, agent):
            with holder.client() as client:
                client.push(file.path)
            began = time.monotonic()
            answer = agent.get(root)
            took_s = time.monotonic() - began
            proxy.closing.set()
            assert sha256_file(Path(answer["path"])) == file.sha256
            assert took_s < 2.0
            assert [s["kind"] for s in agent.why()["sources"]] == ["peer"]
            assert any("Kubo" in note for note in answer["notes"]) == (fault != "no kubo")


def test_a_gateway_that_stalls_is_left_for_a_peer(tmp_path: Path, kubo: KuboDaemon):
    file = write_blob(tmp_path, 24 * MIB, seed=7)
    root = kubo.add(file.path)
    behind_it = kubo_proxy(kubo)
    with behind_it as proxy, at_most(120), network(tmp_path, 2, each={1: behind(proxy)}) as both:
        holder, agent = both
        holder.get(root, kubo=str(kubo.repo))
        proxy.hold = lambda path: None if is_question(path) else still(proxy)
        answer = agent.get(root)
        proxy.closing.set()
        assert sha256_file(Path(answer["path"])) == file.sha256


def test_a_part_of_a_file_is_no_file_and_nothing_is_searched(tmp_path: Path, kubo: KuboDaemon):
    file = write_blob(tmp_path, 20 * MIB, seed=9)
    root = kubo.add(file.path, "--pin=false")
    leaf = kubo.rpc("dag/get", root)["Links"][11]["Hash"]["/"]
    with at_most(60), running_agent(tmp_path / "a", settings=settings(kubo)) as agent:
        with agent.client() as client:
            assert client.resolve(root)["total_bytes"] == file.size, "not pinned, and all here"
        kubo.rpc("block/rm", leaf)
        assert quickest_s(agent, root, r"has \d+ of the \d+ bytes") < 0.25


def test_what_is_cut_short_is_asked_for_again_and_never_kept(tmp_path: Path, kubo: KuboDaemon):
    file = write_blob(tmp_path, 20 * MIB, seed=10)
    root = kubo.add(file.path)
    cuts: list[str] = []

    def cut(path: str, start: int, body: bytes) -> bytes:
        if len(body) < MIB or cuts:
            return body
        cuts.append(path)
        return body[: len(body) // 2]

    with kubo_proxy(kubo) as proxy:
        proxy.change = cut
        with at_most(60), running_agent(tmp_path / "a", settings=ALONE | behind(proxy)) as agent:
            answer = agent.get(root)
            assert cuts
            assert sha256_file(Path(answer["path"])) == file.sha256
            assert sources(agent.why())["kubo"]["retries"] > 0


SHAPES = {
    "v0": ["--cid-version=0", "--raw-leaves=false", "--chunker=size-262144"],
    "trickle": ["--trickle"],
    "rabin": ["--chunker=rabin-65536-131072-262144"],
    "wrapped": ["--raw-leaves=false"],
    "small chunks": ["--chunker=size-20000", "--inline"],
}


@pytest.mark.parametrize("shape", SHAPES)
def test_files_of_any_shape_come_block_by_block(tmp_path: Path, kubo: KuboDaemon, shape: str):
    sizes = {"empty": 0, "tiny": 20, "small": 5000, "large": 2 * MIB + 5}
    files = {}
    for number, (name, size) in enumerate(sizes.items()):
        blob = write_blob(tmp_path / "parts", size, seed=20 + number)
        (tmp_path / "folder").mkdir(exist_ok=True)
        blob.path.rename(tmp_path / "folder" / name)
        files[name] = blob.sha256
    root = kubo.add(tmp_path / "folder", *SHAPES[shape])
    with at_most(60), running_agent(tmp_path / "a", settings=settings(kubo)) as agent:
        answer = agent.get(f"ipfs://{root}", to=str(tmp_path / "out"))
        assert {name: sha256_file(tmp_path / "out" / name) for name in files} == files
        assert answer["fetched_bytes"] == sum(sizes.values())
        assert sources(agent.why())["kubo"]["bytes"] == sum(sizes.values())
        one = agent.get(f"{root}/large", offline=True)
        assert sha256_file(Path(one["path"])) == files["large"]
    with running_agent(tmp_path / "a", settings={"network.enabled": "off"}) as agent:
        again = agent.get(root, offline=True)
        assert again["manifest"] is not None, "all files are hashed by now"
        assert answer["manifest"] in (None, again["manifest"])
        assert again["fetched_bytes"] == 0


def test_a_lie_in_a_foreign_file_is_named(tmp_path: Path, kubo: KuboDaemon):
    file = write_blob(tmp_path, 2 * MIB, seed=30)
    root = kubo.add(file.path, "--cid-version=0", "--raw-leaves=false")
    with kubo_proxy(kubo) as proxy:
        told: list[str] = []
        lies: list[str] = []

        def lie(path: str, start: int, body: bytes) -> bytes:
            if "format=raw" not in path or len(body) < MIB or path in told:
                return body
            if not told:  # the listing looks at the first leaf, too
                told.append(path)
                return body
            lies.append(path)
            return body[:-1] + bytes([body[-1] ^ 1])

        proxy.change = lie
        with at_most(60), running_agent(tmp_path / "a", settings=ALONE | behind(proxy)) as agent:
            with pytest.raises(errors.Untrusted, match="kubo"):
                agent.get(root)
            assert len(lies) == 1, "never asked again"
            assert sources(agent.why())["kubo"]["outcome"] == "left"


def test_a_sharded_folder_with_a_symlink(tmp_path: Path, kubo: KuboDaemon):
    where = tmp_path / "folder"
    where.mkdir()
    for number in range(5400):
        (where / f"file-{number:05}").write_text(f"{number}\n")
    (where / "link").symlink_to("file-00000")
    root = kubo.add(where)
    with at_most(120), running_agent(tmp_path / "a", settings=settings(kubo)) as agent:
        answer = agent.get(root, to=str(tmp_path / "out"))
        assert answer["files"] == 5400
        assert (tmp_path / "out" / "file-05399").read_text() == "5399\n"
        assert any("1 symlink" in note for note in answer["notes"])


def test_what_came_from_kubo_may_go_while_kubo_has_it(tmp_path: Path, kubo: KuboDaemon):
    folder(tmp_path / "folder")
    root = kubo.add(tmp_path / "folder")
    with at_most(60), running_agent(tmp_path / "a", settings=settings(kubo)) as agent:
        agent.get(root)
        with agent.client() as client:
            manifest = client.resolve(root)["manifest"]
            assert [row["ref"] for row in client.ls()] == [f"ipfs://{root}"]
            client.rm(manifest)  # not the last known copy
        assert agent.get(root)["fetched_bytes"] > 0
