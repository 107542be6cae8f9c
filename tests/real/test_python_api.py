"""The Python API as docs/python.md shows it: its programs run, type-check, and end as it says."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest
import trio

from p2pcache import AsyncClient, Client, errors
from tests.support.agents import REPO, Agent, running_agent
from tests.support.blobs import MIB
from tests.support.hub_repo import build_repo, lfs, text
from tests.support.hub_stub import hub_stub
from tests.support.minio import PASSWORD, USER, minio
from tests.support.network import wait_until
from tests.support.nginx import Nginx, nginx
from tests.support.partial_files import some_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from p2pcache.agent.localapi.answers import Progress

PAGE = (REPO / "docs" / "python.md").read_text()
PROGRAMS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.M | re.S)
BODY = some_bytes(12 * MIB, b"slow")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A hub, a bucket and an agent for the programs of the page."""
    folder = tmp_path_factory.mktemp("world")
    files = {"config.json": text("{}"), "m.safetensors": lfs(3 * MIB, 3)}
    repo = build_repo(folder / "repo", files, repo_id="org/model")
    with hub_stub(repo) as hub, minio(folder / "minio") as store:
        store.bucket("models")
        env = {
            "HF_ENDPOINT": hub.url,
            "AWS_ENDPOINT_URL": store.url,
            "AWS_ACCESS_KEY_ID": USER,
            "AWS_SECRET_ACCESS_KEY": PASSWORD,
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        with running_agent(folder / "agent", **env) as agent:
            yield agent.env


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.split("agent.")[-1][:24])
def test_every_program_of_the_page_runs(
    program: str, world: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "my-model").mkdir()
    (tmp_path / "my-model" / "w.bin").write_bytes(os.urandom(100_000))
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env={**world, "PYTHONPATH": str(REPO)},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert done.stdout or "threading" in program, "that one speaks only when it is stopped"
    if "s3://" in program:
        assert (tmp_path / "copy" / "w.bin").read_bytes() == (
            tmp_path / "my-model" / "w.bin"
        ).read_bytes()


def test_a_push_that_is_stopped_shows_nothing_and_goes_on(
    world: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "w.bin").write_bytes(BODY)
    place, login = "s3://models/half", {
        key.lower(): value for key, value in world.items() if key.startswith("AWS_")
    }  # fmt: skip
    with Client(world["P2PCACHE_HOME"]) as client:
        with pytest.raises(errors.Interrupted):
            client.push(
                tmp_path / "m", place, limit_rate=2 * MIB, timeout_s=3, to_credentials=login
            )
        with pytest.raises(errors.NotFound):
            client.resolve(place, credentials=login, refresh=True)
        pushed = client.push(tmp_path / "m", place, to_credentials=login)
        assert pushed["to"] is not None
        found = client.resolve(place, credentials=login, refresh=True)
        assert [file["path"] for file in found["files"]] == ["w.bin"]
        assert found["manifest"] == pushed["manifest"]


WRONG = """
from p2pcache import AsyncClient, Client

def wrong(agent: Client) -> None:
    agent.pull("hf://org/model", include="*.json")
    agent.push("x", 7)
    agent.resolve("x")["manifst"]
    agent.why()["seconds"].upper()

async def wrong_too(agent: AsyncClient) -> None:
    (await agent.pull("x", limit_rate="9"))["path"].upper()
"""


def test_the_programs_pass_a_strict_type_check_and_mistakes_do_not(tmp_path: Path) -> None:
    assert len(PROGRAMS) == 4
    for number, program in enumerate(PROGRAMS):
        (tmp_path / f"program_{number}.py").write_text(program)
    (tmp_path / "wrong.py").write_text(WRONG)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "--config-file=",
         "--cache-dir", str(tmp_path / "cache"), "."],
        cwd=tmp_path, env={**os.environ, "MYPYPATH": str(REPO)}, capture_output=True, text=True,
        timeout=300, check=False,
    )  # fmt: skip
    found = re.findall(r"^(\w+)\.py:(\d+): error: .*\[([a-z-]+)\]$", done.stdout, re.M)
    assert {name for name, _, _ in found} == {"wrong"}, done.stdout + done.stderr
    lines = WRONG.splitlines()
    missed = [
        line for number, line in enumerate(lines, 1)
        if "agent." in line and str(number) not in {n for _, n, _ in found}
    ]  # fmt: skip
    assert missed == [], done.stdout


# -- stopping -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    folder = tmp_path_factory.mktemp("slow")
    (folder / "site").mkdir()
    for name in ("thread", "timeout", "trio", "raise"):
        (folder / "site" / f"{name}.bin").write_bytes(BODY + name.encode())
    with nginx(folder / "site", folder / "nginx", limit_rate_bytes_per_s=2 * MIB) as server:
        yield server


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    settings = {"fetch.max_streams": "1"}
    with running_agent(tmp_path_factory.mktemp("agent"), settings=settings) as running:
        yield running


def settled(agent: Agent, out: Path) -> None:
    """Nothing is shown, and nothing runs on."""
    assert not out.exists()
    with agent.client() as client:
        wait_until(lambda: client.status()["pulls"] == [], "the agent stopped it")


def finished(client: Client, url: str, out: Path, name: str) -> None:
    """The same client goes on, from what was verified."""
    done = client.pull(url, to=str(out))
    assert (out / f"{name}.bin").read_bytes() == BODY + name.encode()
    assert done["fetched_bytes"] < len(BODY)


def test_another_thread_stops_a_call_and_the_client_goes_on(
    agent: Agent, slow: Nginx, tmp_path: Path
) -> None:
    url, out, begun = f"{slow.url}/thread.bin", tmp_path / "out", threading.Event()

    def watch(progress: Progress) -> None:
        if progress.get("done_bytes", 0) > 3 * MIB:
            begun.set()

    with agent.client() as client:
        assert client.cancel() is False, "nothing runs"

        def stop() -> None:
            begun.wait(30)
            client.cancel()

        thread = threading.Thread(target=stop)
        thread.start()
        with pytest.raises(errors.Interrupted, match="what was verified is kept"):
            client.pull(url, to=str(out), on_progress=watch)
        thread.join()
        assert client.cancel() is False
        settled(agent, out)
        finished(client, url, out, "thread")


def test_a_timeout_stops_a_call_and_the_client_goes_on(
    agent: Agent, slow: Nginx, tmp_path: Path
) -> None:
    url, out = f"{slow.url}/timeout.bin", tmp_path / "out"
    with agent.client() as client:
        started = time.monotonic()
        with pytest.raises(errors.Interrupted, match="not done after 3 s"):
            client.pull(url, to=str(out), timeout_s=3)
        assert time.monotonic() - started < 6
        settled(agent, out)
        finished(client, url, out, "timeout")
        with pytest.raises(errors.Interrupted):
            client.resolve(url, timeout_s=0.001)
        assert client.resolve(url, timeout_s=30)["file_count"] == 1


async def test_a_trio_scope_stops_a_call_and_progress_may_be_awaited(
    agent: Agent, slow: Nginx, tmp_path: Path
) -> None:
    url, out, told = f"{slow.url}/trio.bin", tmp_path / "out", trio.Event()

    async def watch(progress: Progress) -> None:
        await trio.lowlevel.checkpoint()
        if progress.get("done_bytes", 0) > 3 * MIB:
            told.set()

    async with AsyncClient(agent.home) as client:
        async with trio.open_nursery() as nursery:

            async def pull() -> None:
                await client.pull(url, to=str(out), on_progress=watch)

            nursery.start_soon(pull)
            with trio.fail_after(30):
                await told.wait()
            nursery.cancel_scope.cancel()
        await trio.to_thread.run_sync(settled, agent, out)
        done = await client.pull(url, to=str(out))
        assert done["fetched_bytes"] < len(BODY)


def test_what_progress_raises_stops_the_call(agent: Agent, slow: Nginx, tmp_path: Path) -> None:
    class Enough(Exception):
        pass

    def watch(progress: Progress) -> None:
        if progress.get("done_bytes", 0) > MIB:
            raise Enough

    with agent.client() as client:
        with pytest.raises(Enough):
            client.pull(f"{slow.url}/raise.bin", to=str(tmp_path / "out"), on_progress=watch)
        settled(agent, tmp_path / "out")


def test_every_error_is_on_the_page() -> None:
    named = {kind.__name__ for kind in errors.ALL_ERRORS} | {"P2PCacheError"}
    assert named <= set(re.findall(r"\w+", PAGE))


def test_both_clients_take_the_same_arguments() -> None:
    for name, one in vars(AsyncClient).items():
        if inspect.isfunction(one) and not name.startswith("_") and name != "aclose":
            plain = inspect.signature(vars(Client)[name]).parameters
            assert [p for p in plain if p != "timeout_s"] == list(
                inspect.signature(one).parameters
            ), name
