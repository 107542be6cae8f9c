"""`push` to a real Kubo: only what it lacks, pinned there; what failed claims nothing."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from p2pcache import errors
from tests.support.agents import REPO, running_agent
from tests.support.bitswap_kubo import ON_A_LAN
from tests.support.blobs import write_blob
from tests.support.cut_proxy import CutProxy
from tests.support.kubo_daemon import KuboError, kubo_daemon
from tests.support.network import wait_until
from tests.support.watched_pull import at_most

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.agents import Agent
    from tests.support.blobs import ServedBlob
    from tests.support.kubo_daemon import KuboDaemon

pytestmark = pytest.mark.slow

MIB = 1 << 20


@pytest.fixture(scope="module")
def kubo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KuboDaemon]:
    repo = tmp_path_factory.mktemp("kubo") / "repo"
    repo.mkdir()
    with kubo_daemon(repo, None, gateway=True) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory, kubo: KuboDaemon) -> Iterator[Agent]:
    with running_agent(tmp_path_factory.mktemp("agent"), settings=settings(str(kubo.repo))) as one:
        yield one


def settings(where: str) -> dict[str, str]:
    return {"network.enabled": "off", "ipfs.kubo": where}


def push(agent: Agent, what: str, **options: object) -> dict:
    with agent.client() as client:
        return dict(client.push(what, to="ipfs", **options))  # type: ignore[arg-type]


def folder(where: Path, seed: int) -> Path:
    """Of new content, with a file twice and an empty one."""
    sizes = {"big.bin": 3 * MIB + 1, "a/small.txt": 100, "a/b/empty": 0, "a/b/one": MIB}
    for number, (path, size) in enumerate(sizes.items()):
        blob = write_blob(where.parent / "parts", size, seed=100 * seed + number)
        (where / path).parent.mkdir(parents=True, exist_ok=True)
        blob.path.rename(where / path)
    shutil.copy(where / "big.bin", where / "again.bin")
    return where


def is_pinned(kubo: KuboDaemon, root: str) -> bool:
    try:
        kubo.rpc("pin/ls", root)
    except KuboError:
        return False
    return True


def test_a_folder_gets_to_kubo_and_is_pinned_and_is_not_sent_twice(
    tmp_path: Path, agent: Agent, kubo: KuboDaemon
) -> None:
    given = folder(tmp_path / "folder", 1)
    with at_most(60):
        said = push(agent, str(given), dry_run=True)
        assert not is_pinned(kubo, said["root"])
        assert (said["to"]["sent_blocks"], said["to"]["pinned"]) == (0, False)
        # the blocks of the file, its node, one block each, nothing; three folders
        assert said["to"]["missing_blocks"] == 4 + 1 + 1 + 1 + 1 + 3
        done = push(agent, str(given))
        assert (done["to"]["sent_blocks"], done["to"]["sent_bytes"]) == (
            said["to"]["missing_blocks"], said["to"]["missing_bytes"],
        )  # fmt: skip
        assert done["to"]["pinned"]
        assert is_pinned(kubo, done["root"])
        again = push(agent, done["root"])
        assert (again["to"]["missing_blocks"], again["to"]["pinned"]) == (0, True)
        listed = kubo.rpc("ls", f"{done['root']}/a/b")["Objects"][0]["Links"]
        assert {link["Name"]: link["Size"] for link in listed} == {"empty": 0, "one": MIB}
        assert "announced" in done["to"]["notes"][0], "this Kubo has no routing"
        assert not done["to"]["provided"]


def test_one_file_by_its_path_and_by_its_names(
    tmp_path: Path, agent: Agent, kubo: KuboDaemon
) -> None:
    file = write_blob(tmp_path, 2 * MIB + 5, seed=77)
    with at_most(60):
        done = push(agent, str(file.path))
        assert (done["sha256"], done["files"]) == (file.sha256, 1)
        assert is_pinned(kubo, done["root"])
        for name in (f"sha256:{file.sha256}", done["root"], f"ipfs://{done['root']}"):
            assert push(agent, name)["root"] == done["root"], name
        assert push(agent, done["manifest"])["root"] != done["root"], "a folder with one file"


def test_blocks_that_kubo_has_of_another_file_are_not_sent(
    tmp_path: Path, agent: Agent, kubo: KuboDaemon
) -> None:
    file = write_blob(tmp_path, 8 * MIB, seed=78)
    (tmp_path / "part").write_bytes(file.path.read_bytes()[: 5 * MIB])
    with at_most(60):
        push(agent, str(tmp_path / "part"))
        done = push(agent, str(file.path))
        assert done["to"]["sent_blocks"] == 3 + 1
        assert is_pinned(kubo, done["root"])


def test_it_comes_from_its_origin_first_and_goes_to_the_kubo_that_is_named(
    tmp_path: Path, kubo: KuboDaemon
) -> None:
    file = write_blob(tmp_path, MIB + 9, seed=79)
    root = kubo.add(file.path, "--chunker=size-1048576", "--raw-leaves", "--cid-version=1")
    (tmp_path / "second").mkdir()
    with (
        at_most(60),
        kubo_daemon(tmp_path / "second", None, gateway=True) as second,
        running_agent(tmp_path / "a", settings=settings(str(kubo.repo))) as agent,
    ):
        with pytest.raises(errors.NotFound):
            push(agent, root, dry_run=True, kubo=str(second.repo))
        done = push(agent, root)  # the configured one has it: it is brought from there
        assert done["root"] == root
        done = push(agent, root, kubo=f"http://{second.api}")
        assert done["to"]["sent_blocks"] == 3
        assert is_pinned(second, root)


def test_a_kubo_with_a_network_announces_it(tmp_path: Path, agent: Agent) -> None:
    (tmp_path / "file").write_bytes(b"for others, too")
    with ExitStack() as stack:
        kubos = []
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            started = kubo_daemon(tmp_path / name, None, gateway=True, changes=ON_A_LAN)
            kubos.append(stack.enter_context(started))
        one, two = kubos
        two.rpc("swarm/connect", f"{one.addresses[0]}/p2p/{one.peer}")
        done = push(agent, str(tmp_path / "file"), kubo=str(one.repo))
        assert (done["to"]["provided"], done["to"]["notes"]) == (True, [])


def test_a_push_that_was_killed_goes_on_where_it_was(tmp_path: Path, kubo: KuboDaemon) -> None:
    file = write_blob(tmp_path, 48 * MIB, seed=80)
    with (
        at_most(120),
        CutProxy(kubo.api, 40 * MIB, stall=True) as proxy,
        running_agent(tmp_path / "a", settings=settings(str(kubo.repo))) as agent,
        ThreadPoolExecutor(1) as pool,
    ):
        begun = pool.submit(push, agent, str(file.path), kubo=proxy.url)
        assert proxy.reached.wait(60)
        agent.kill()
        with pytest.raises(errors.P2PCacheError):
            begun.result()
        assert not is_pinned(kubo, unixfs_root(agent, file))
        agent.start()
        left = push(agent, str(file.path))
        assert 0 < left["to"]["sent_blocks"] < 40, "what Kubo took before is not sent again"
        assert is_pinned(kubo, left["root"])


def unixfs_root(agent: Agent, file: ServedBlob) -> str:
    """Of a file that nobody told us yet."""
    done = subprocess.run(
        [sys.executable, "-m", "p2pcache", "cid", str(file.path)],
        cwd=REPO, env=agent.env, check=True, capture_output=True, text=True,
    )  # fmt: skip
    return done.stdout.split()[0]


def test_a_connection_that_is_cut_half_way_is_no_success(
    tmp_path: Path, agent: Agent, kubo: KuboDaemon
) -> None:
    file = write_blob(tmp_path, 6 * MIB, seed=81)
    with at_most(60), CutProxy(kubo.api, 3 * MIB) as proxy:
        with pytest.raises(errors.Unavailable) as failed:
            push(agent, str(file.path), kubo=proxy.url)
        assert "not sent twice" in (failed.value.hint or "")
        assert not is_pinned(kubo, unixfs_root(agent, file))


def test_a_kubo_that_is_down_or_is_none(tmp_path: Path, agent: Agent, kubo: KuboDaemon) -> None:
    (tmp_path / "file").write_bytes(b"nobody gets this")
    with at_most(60):
        with pytest.raises(errors.Unavailable, match="cannot be reached"):
            push(agent, str(tmp_path / "file"), kubo="http://127.0.0.1:9")
        with pytest.raises(errors.Unavailable, match="no Kubo runs"):
            push(agent, str(tmp_path / "file"), kubo=str(tmp_path))
        with pytest.raises(errors.UsageError, match="no destination"), agent.client() as client:
            client.push(str(tmp_path / "file"), to="nowhere")
        with (
            running_agent(tmp_path / "b", settings={"network.enabled": "off"}) as other,
            pytest.raises(errors.UsageError, match="no Kubo is configured"),
        ):
            push(other, str(tmp_path / "file"))


def test_the_program_pushes_and_says_what_was_sent(
    tmp_path: Path, agent: Agent, kubo: KuboDaemon
) -> None:
    (tmp_path / "file").write_bytes(b"by the program")

    def run(*args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "p2pcache", "push", *args],
            cwd=REPO, env=agent.env, check=False, capture_output=True, text=True, timeout=60,
        )  # fmt: skip

    with at_most(60):
        dry = run(str(tmp_path / "file"), "ipfs", "--dry-run")
        assert (dry.returncode, "1 block, 14 B would be sent" in dry.stderr) == (0, True)
        done = run(str(tmp_path / "file"), "--to", "ipfs", "--json")
        told = json.loads(done.stdout)
        assert (done.returncode, told["to"]["sent_bytes"], told["to"]["pinned"]) == (0, 14, True)
        assert is_pinned(kubo, told["root"])
        assert run(str(tmp_path / "file"), "--dry-run").returncode == 2, "without a destination"
        assert run("hf://org/model").returncode == 2, "a ref needs one"
        assert run(str(tmp_path / "file"), "s3").returncode == 2


def test_what_was_sent_is_told_with_the_origins(tmp_path: Path, agent: Agent, kubo: KuboDaemon):
    def told() -> int:
        with agent.client() as client:
            return sum(one["sent_bytes"] for one in client.origins())

    before = told()
    sent = push(agent, str(folder(tmp_path / "in", 77)))["to"]["sent_bytes"]
    assert sent > 0
    wait_until(lambda: told() == before + sent, "it is not told")
