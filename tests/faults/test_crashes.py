"""Processes that die: what they verified stays, what they held is free, nothing is left over."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from functools import partial as partial_of
from pathlib import Path

import pytest
import trio

from p2pcache import errors
from p2pcache.lanes.orders import Location, SmallOrder
from p2pcache.transfer.workers import WorkerOptions, open_workers
from tests.support import faulty_http as fh
from tests.support.agents import Agent, no_traceback, running_agent
from tests.support.blobs import MIB, ServedBlob, left_behind, sha256_file, write_blob
from tests.support.faulty_http import FaultyServer
from tests.support.hub_repo import build_repo, many_small_files
from tests.support.nginx import nginx, static_hub
from tests.support.partial_files import PATIENT, PartialFiles, some_bytes
from tests.support.proctable import descendants, wait_gone
from tests.support.pulling import Pull
from tests.support.second_agent import start_and_end
from tests.support.watched_pull import wait_until

# Where a test must act between two moments of a pull. Not nginx's limit_rate: that lets the first
# second's worth of every request through at once.
SLOWLY = {"fetch.limit_rate": "10 MiB"}
IN_SECONDS = {"fetch.limit_rate": "40 MiB"}  # more than one stream, and time enough for every kill
SMALL_FILES_IN_SECONDS = {"fetch.limit_rate": "2 MiB"}
AT_ONCE_S = 15.0  # a takeover and the rest of the pull; a far host would be given a minute
WORKERS_GONE_S = 2.0
LOST_A_KILL = 64 * MIB  # the promise


@pytest.fixture(scope="module")
def blob(tmp_path_factory: pytest.TempPathFactory) -> ServedBlob:
    return write_blob(tmp_path_factory.mktemp("origin"), 160 * MIB + 12_345)


@pytest.fixture(scope="module")
def small_blob(tmp_path_factory: pytest.TempPathFactory) -> ServedBlob:
    return write_blob(tmp_path_factory.mktemp("origin"), 24 * MIB + 1, seed=2)


def is_right(agent: Agent, blob: ServedBlob) -> None:
    stored = blob.in_store(store_of(agent))
    assert sha256_file(stored) == blob.sha256
    assert stored.stat().st_mode & 0o777 == 0o444


def store_of(agent: Agent) -> Path:
    return Path(agent.env.get("P2PCACHE_STORE_PATH", agent.home))


def test_kills_at_random_moments_cost_at_most_64_mib_each_and_never_the_blob(
    tmp_path: Path, blob: ServedBlob
):
    chance = random.Random()  # another moment in every run: the claim holds for all of them
    kills = 3
    with (
        nginx(blob.path.parent, tmp_path / "nginx") as server,
        running_agent(tmp_path, settings=IN_SECONDS) as agent,
    ):
        for kill in range(1, kills + 1):
            with Pull(agent, blob.ref(server)) as pull:
                pull.wait_bytes(kill * blob.size // (kills + 1))
                time.sleep(chance.uniform(0, 0.3))
                agent.kill()
            assert isinstance(pull.error, errors.AgentNotRunning)
            assert not blob.in_store(agent.home).exists()
            agent.start()
        agent.get(blob.ref(server))
        is_right(agent, blob)
        time.sleep(0.2)  # nginx notes the end of a cut connection a moment later
        assert server.body_bytes() <= blob.size + kills * LOST_A_KILL
        agent.stop()
        agent.start()
        assert left_behind(agent.home) == []


def test_the_workers_of_a_killed_agent_end_by_themselves(tmp_path: Path, blob: ServedBlob):
    with (
        nginx(blob.path.parent, tmp_path / "nginx", limit_rate_bytes_per_s=MIB) as server,
        running_agent(tmp_path) as agent,
    ):
        with Pull(agent, blob.ref(server)) as pull:
            pull.wait_bytes(MIB)
            assert agent.process is not None
            workers = descendants(agent.process.pid)
            assert len(workers) >= 2, "a fetcher and the hash behind it"
            agent.kill()
        assert wait_gone(workers, WORKERS_GONE_S) == []


def test_a_kill_amid_small_files_leaves_no_orphan_and_keeps_whole_files(tmp_path: Path):
    repo = build_repo(tmp_path / "repo", many_small_files(400))
    site = tmp_path / "site"
    extra = static_hub(repo, site)
    with (
        nginx(site, tmp_path / "nginx", extra=extra) as server,
        running_agent(tmp_path, settings=SMALL_FILES_IN_SECONDS) as agent,
    ):
        options = {"credentials": {"hf_endpoint": server.url}, "to": str(tmp_path / "out")}
        with Pull(agent, "hf://demo/model", **options) as pull:
            pull.wait_files(100)
            agent.kill()
        assert left_behind(agent.home), "it died with files in hand"
        agent.start()
        assert left_behind(agent.home) == []
        done = agent.get("hf://demo/model", **options)
        assert done["reused_bytes"] > 0
        assert done["fetched_bytes"] + done["reused_bytes"] == repo.total_bytes
        for path, file in repo.files.items():
            assert sha256_file(tmp_path / "out" / path) == file.sha256, path


def test_the_lease_of_a_dead_agent_is_taken_over_at_once(tmp_path: Path, small_blob: ServedBlob):
    store = {"store.path": str(tmp_path / "store"), **SLOWLY}
    with (
        nginx(small_blob.path.parent, tmp_path / "nginx") as server,
        running_agent(tmp_path / "a", settings=store) as first,
        running_agent(tmp_path / "b", settings=store) as second,
    ):
        with Pull(first, small_blob.ref(server)) as pull:
            pull.wait_bytes(8 * MIB)
            first.kill()
        assert left_behind(tmp_path / "store"), "its partial, with its lease"
        began = time.monotonic()
        done = second.get(small_blob.ref(server))
        assert time.monotonic() - began < AT_ONCE_S
        assert done["fetched_bytes"] <= small_blob.size - 8 * MIB
        is_right(second, small_blob)


def test_two_agents_on_one_store_bring_one_copy_together(tmp_path: Path, small_blob: ServedBlob):
    store = {"store.path": str(tmp_path / "store"), **SLOWLY}
    with (
        nginx(small_blob.path.parent, tmp_path / "nginx") as server,
        running_agent(tmp_path / "a", settings=store) as first,
        running_agent(tmp_path / "b", settings=store) as second,
    ):
        ref = small_blob.ref(server)
        with Pull(first, ref) as one, Pull(second, ref) as two:
            pass
        assert one.error is None
        assert two.error is None
        assert server.body_bytes() <= small_blob.size + MIB, "one copy, and each its probe"
        is_right(first, small_blob)
        for agent in (first, second):
            with agent.client() as client:
                assert client.verify()["bad"] == []
        assert left_behind(tmp_path / "store") == []


def test_the_second_agent_goes_on_when_the_first_dies_beside_it(
    tmp_path: Path, small_blob: ServedBlob
):
    store = {"store.path": str(tmp_path / "store"), **SLOWLY}
    with (
        nginx(small_blob.path.parent, tmp_path / "nginx") as server,
        running_agent(tmp_path / "a", settings=store) as first,
        running_agent(tmp_path / "b", settings=store) as second,
    ):
        with Pull(first, small_blob.ref(server)) as one:
            one.wait_bytes(6 * MIB)
            with Pull(second, small_blob.ref(server)) as two:
                time.sleep(0.5)
                first.kill()
                killed = time.monotonic()
        assert two.error is None
        assert time.monotonic() - killed < AT_ONCE_S
        is_right(second, small_blob)


def test_sigterm_drains_and_keeps_what_was_verified(tmp_path: Path, small_blob: ServedBlob):
    with (
        nginx(small_blob.path.parent, tmp_path / "nginx") as server,
        running_agent(tmp_path, settings=SLOWLY) as agent,
    ):
        assert agent.process is not None
        with Pull(agent, small_blob.ref(server)) as pull:
            pull.wait_bytes(8 * MIB)
            workers = descendants(agent.process.pid)
            assert agent.stop() == 0
        assert isinstance(pull.error, errors.Interrupted)
        assert wait_gone(workers, 0.5) == [], "an agent does not leave before its workers"
        no_traceback(agent)
        agent.start()
        done = agent.get(small_blob.ref(server))
        assert done["fetched_bytes"] <= small_blob.size - 8 * MIB
        is_right(agent, small_blob)


def test_a_cancelled_get_keeps_what_was_verified(tmp_path: Path, small_blob: ServedBlob):
    class Enough(Exception):
        pass

    def stop_at_8_mib(progress: object) -> None:
        assert isinstance(progress, dict)
        if progress.get("done_bytes", 0) >= 8 * MIB:
            raise Enough

    with (
        nginx(small_blob.path.parent, tmp_path / "nginx") as server,
        running_agent(tmp_path, settings=SLOWLY) as agent,
    ):
        with agent.client() as client, pytest.raises(Enough):
            client.get(small_blob.ref(server), on_progress=stop_at_8_mib)
        wait_idle(agent)
        assert not small_blob.in_store(agent.home).exists(), "it was stopped, not finished"
        time.sleep(0.3)
        sent = server.body_bytes()
        time.sleep(1.0)
        assert server.body_bytes() == sent, "nobody wants it: nothing goes on in the background"
        done = agent.get(small_blob.ref(server))
        assert done["fetched_bytes"] <= small_blob.size - 8 * MIB
        is_right(agent, small_blob)


def wait_idle(agent: Agent) -> None:
    with agent.client() as client:
        give_up = time.monotonic() + 10
        while client.status()["pulls"]:
            assert time.monotonic() < give_up, "a pull that nobody waits for goes on"
            time.sleep(0.02)


def test_one_of_two_callers_may_leave(tmp_path: Path, small_blob: ServedBlob):
    left = threading.Event()

    def leave(progress: object) -> None:
        assert isinstance(progress, dict)
        if progress.get("done_bytes", 0) >= 4 * MIB:
            left.set()
            raise KeyboardInterrupt

    with (
        nginx(small_blob.path.parent, tmp_path / "nginx") as server,
        running_agent(tmp_path, settings=SLOWLY) as agent,
        Pull(agent, small_blob.ref(server)) as stays,
    ):
        stays.wait_bytes(MIB)
        with agent.client() as client, pytest.raises(KeyboardInterrupt):
            client.get(small_blob.ref(server), on_progress=leave)
        assert left.is_set()
        stays.wait_bytes(small_blob.size)
        give_up = time.monotonic() + 10
        while stays.answer is None and time.monotonic() < give_up:
            time.sleep(0.02)
        assert stays.error is None
        assert server.body_bytes() <= small_blob.size + MIB, "they shared one download"


def test_a_second_agent_on_the_same_home_is_refused(tmp_path: Path):
    with running_agent(tmp_path) as agent:
        second = start_and_end(agent)
        said = second.stderr
        assert second.returncode == errors.LocalFault.exit_code
        assert "already running" in said
        assert "hint:" in said
        assert "Traceback" not in said
        with agent.client() as client:
            assert client.status()["home"] == str(agent.home), "the first is not disturbed"


# -- workers ---------------------------------------------------------------------------------------


def kill_workers() -> None:
    """What the OOM killer does: those that the fork server of this process made."""
    children = descendants(os.getpid())
    for worker in {w for child in children for w in descendants(child.pid)}:
        os.kill(worker.pid, signal.SIGKILL)


def hold(ask: fh.Exchange) -> bool:
    ask.wait(20)
    return False


@pytest.mark.parametrize("deaths", [1, 2])
async def test_a_worker_that_is_killed_is_replaced_once(tmp_path: Path, deaths: int):
    data = some_bytes(MIB)
    partial = PartialFiles(tmp_path / "partial", len(data))
    dst = tmp_path / "small"
    with FaultyServer() as server:
        large = partial.order(server.on("/large", fh.first(deaths, hold, fh.ranged(data))))
        small = SmallOrder(
            Location(server.on("/small", fh.first(deaths, hold, fh.ranged(data)))), str(dst), MIB
        )

        def kill_each(path: str) -> None:
            for death in range(deaths):
                wait_until(lambda death=death: len(server.headers_of(path)) > death, "a request")
                kill_workers()

        async with open_workers(WorkerOptions()) as workers:
            for path, call in (
                ("/large", partial_of(workers.fetch, large)),
                ("/small", partial_of(workers.fetch_small, (small,), PATIENT)),
            ):
                with trio.fail_after(30):
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(trio.to_thread.run_sync, kill_each, path)
                        if deaths == 1:
                            await call()
                            continue
                        with pytest.raises(errors.LocalFault) as caught:
                            await call()
                        assert "OOM" in (caught.value.hint or "")
    if deaths == 1:
        assert partial.read("data") == data
        assert dst.read_bytes() == data
