"""Agents that stall, freeze, die, leave, or run out of disk while others pull from them.

Real processes on loopback. Uploads are limited, so that half a pull is a moment one can hit.
"""

from __future__ import annotations

import contextlib
import socket
import time
from typing import TYPE_CHECKING

import pytest

from p2pcache import errors
from tests.support.agents import frozen, running_agent
from tests.support.blobs import MIB, ServedBlob, sha256_file, write_blob
from tests.support.hub_repo import HubRepo, build_repo, lfs
from tests.support.network import LOOPBACK, join, network, peer_id, peers_of, wait_until
from tests.support.nginx import nginx, static_hub
from tests.support.processes import free_port
from tests.support.pulling import Pull
from tests.support.tmpfs import tmpfs
from tests.support.watched_pull import at_most

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.agents import Agent

pytestmark = pytest.mark.slow

SIZE = 48 * MIB + 12_345


@pytest.fixture(scope="module")
def blob(tmp_path_factory: pytest.TempPathFactory) -> ServedBlob:
    return write_blob(tmp_path_factory.mktemp("blob"), SIZE)


def push(blob: ServedBlob, *agents: Agent) -> None:
    for agent in agents:
        with agent.client() as client:
            client.push(blob.path)


def bans(agent: Agent) -> list[str]:
    with agent.client() as client:
        return [ban["peer"] for ban in client.bans()]


def got(agent: Agent) -> dict[str, int]:
    return {s["name"]: s["bytes"] for s in agent.why()["sources"]}


def is_whole(blob: ServedBlob, agent: Agent) -> bool:
    return sha256_file(blob.in_store(agent.home)) == blob.sha256


def test_a_peer_that_drips_loses_its_pieces_to_the_others(tmp_path: Path, blob: ServedBlob):
    each = {0: {"lanes.limit_up": "1 KiB"}}
    with at_most(90), network(tmp_path, 3, each=each) as (dripping, good, b):
        push(blob, dripping, good)
        began = time.monotonic()
        b.get(f"sha256:{blob.sha256}")
        assert time.monotonic() - began < 12, "its first block alone would take 17 minutes"
        assert is_whole(blob, b)
        assert got(b)[peer_id(good)] > blob.size - 2 * MIB
        assert bans(b) == [], "slow is no lie"


def test_a_peer_frozen_half_way_delays_no_piece_by_more_than_two_seconds(
    tmp_path: Path, blob: ServedBlob
):
    settings = {"lanes.limit_up": "16 MiB"}
    with at_most(90), network(tmp_path, 3, settings=settings) as (a, c, b):
        push(blob, a, c)
        with Pull(b, f"sha256:{blob.sha256}") as pull:
            pull.wait_bytes(blob.size // 2)
            with frozen(a):
                began = time.monotonic()
                pull._thread.join(30)
                took_s = time.monotonic() - began
        assert pull.error is None
        # 24 MiB at 16 MiB/s, and 2 s; the rest is for a loaded machine. Links notice after 8 s
        assert took_s < 1.5 + 2 + 3
        assert is_whole(blob, b)
        assert bans(b) == []


def test_a_killed_peer_that_comes_back_as_somebody_else_is_another_peer(
    tmp_path: Path, blob: ServedBlob
):
    port = str(free_port())  # one that is asked for is taken again, or it is an error
    each = {
        0: {"lanes.limit_up": "12 MiB", "network.port": port},
        1: {"lanes.limit_up": "2 MiB"},
    }
    with at_most(120), network(tmp_path, 3, each=each) as (a, c, b):
        push(blob, a, c)
        before = peer_id(a)
        with Pull(b, f"sha256:{blob.sha256}") as pull:
            pull.wait_bytes(blob.size // 2)
            a.kill()
            (a.home / "identity.key").unlink()
            a.start()
            after = peer_id(a)
            assert after != before
            assert (a.home / "network.port").read_text().strip() == port
        assert pull.error is None
        assert is_whole(blob, b)
        wait_until(lambda: peers_of(b) == {after, peer_id(c)}, "the new one is a member")
        assert got(b).get(after, 0) > 0, "it serves at once"
        assert bans(b) == []


def test_a_pull_whose_only_holder_died_ends_and_says_who_it_was(tmp_path: Path, blob: ServedBlob):
    each = {0: {"lanes.limit_up": "12 MiB"}, 1: {"fetch.peer_return": "3s"}}
    with at_most(90), network(tmp_path, 2, each=each) as (a, b):
        push(blob, a)
        holder = peer_id(a)
        with Pull(b, f"sha256:{blob.sha256}") as pull:
            pull.wait_bytes(blob.size // 2)
            a.kill()
            began = time.monotonic()
        assert 2.5 < time.monotonic() - began < 3 + 6, "not before a restart had its time"
        assert isinstance(pull.error, errors.Unavailable)
        assert f"held by: {holder} (last seen" in pull.error.message


def test_an_only_holder_that_restarts_is_found_again_by_the_same_pull(
    tmp_path: Path, blob: ServedBlob
):
    with at_most(90), network(tmp_path, 2, each={0: {"lanes.limit_up": "12 MiB"}}) as (a, b):
        push(blob, a)
        with Pull(b, f"sha256:{blob.sha256}") as pull:
            pull.wait_bytes(blob.size // 2)
            a.kill()
            time.sleep(6)  # longer than `hope_s`
            a.start()
        assert pull.error is None
        assert is_whole(blob, b)


def test_a_peer_that_left_while_its_record_stays_costs_seconds(tmp_path: Path, blob: ServedBlob):
    with (
        at_most(120),
        nginx(blob.path.parent, tmp_path / "nginx") as server,
        network(tmp_path, 2) as (a, c),
        running_agent(tmp_path / "b", settings=LOOPBACK) as b,
    ):
        push(blob, a)
        time.sleep(1)  # it is discoverable within one (tests/real/test_dht)
        a.kill()  # nothing is withdrawn
        wait_until(lambda: not peers_of(c), "its death is noticed")
        join(b, c)
        began = time.monotonic()
        with pytest.raises(errors.NotFound):
            b.get(f"sha256:{blob.sha256}")
        assert time.monotonic() - began < 12
        began = time.monotonic()
        b.get(blob.ref(server))
        assert time.monotonic() - began < 12
        assert is_whole(blob, b)
        assert bans(b) == []


def test_an_origin_that_dies_half_way_is_not_missed_when_peers_have_the_rest(tmp_path: Path):
    files = {f"part-{n}.safetensors": lfs(8 * MIB + n, n) for n in range(3)}
    repo = build_repo(tmp_path / "repo", files)
    site = tmp_path / "site"
    extra = static_hub(repo, site)
    each = {2: {"fetch.limit_rate": "2 MiB"}}
    with (
        at_most(120),
        contextlib.ExitStack() as origin,
        network(tmp_path, 3, each=each) as (a, c, b),
    ):
        hub = origin.enter_context(nginx(site, tmp_path / "nginx", extra=extra))
        credentials = {"hf_endpoint": hub.url}
        for agent, names in ((a, "part-[01]*"), (c, "part-[12]*")):
            agent.get("hf://demo/model", credentials=credentials, include=[names])
            agent.stop()
        with Pull(b, "hf://demo/model", credentials=credentials, to=str(tmp_path / "out")) as pull:
            pull.wait_bytes(MIB)
            with frozen(b):  # however long they take to start, it is still half way
                for agent in (a, c):
                    agent.launch()
                for agent in (a, c):
                    agent.wait_ready()
            wait_until(lambda: len(peers_of(b)) == 2, "both are back")
            assert hub.body_bytes() > 0
            origin.close()
            assert pull.done_bytes < 0.9 * repo.total_bytes
        assert pull.error is None, "between them they have all of it"
        is_all(repo, tmp_path / "out")
        served = {name for name, count in got(b).items() if count}
        assert {peer_id(a), peer_id(c)} <= served
        assert bans(b) == []


def is_all(repo: HubRepo, folder: Path) -> None:
    for path, file in repo.files.items():
        assert sha256_file(folder / path) == file.sha256, path


def test_two_hundred_idle_strangers_do_not_disturb_a_pull_between_agents(
    tmp_path: Path, blob: ServedBlob
):
    with (
        at_most(120),
        network(tmp_path, 2) as (a, b),
        running_agent(tmp_path / "late", settings=LOOPBACK) as late,
        contextlib.ExitStack() as idle,
    ):
        push(blob, a)
        with b.client() as client:
            lane = int(client.peers()[0]["lane"].rpartition(":")[2])
        with a.client() as client:
            host = int(client.init()["addresses"][0].split("/")[4])
        for port, count in ((lane, 200), (host, 300)):  # the host has 256 places
            for _ in range(count):
                one = socket.socket()
                idle.enter_context(one)
                one.bind(("127.0.0.9", 0))
                one.settimeout(5)
                with contextlib.suppress(ConnectionResetError):  # one too many of that address
                    one.connect(("127.0.0.1", port))
        began = time.monotonic()
        join(late, a)  # a newcomer gets in, past them
        assert time.monotonic() - began < 8
        assert peer_id(a) in peers_of(late)
        b.get(f"sha256:{blob.sha256}")
        assert time.monotonic() - began < 20
        assert is_whole(blob, b)


def test_a_full_disk_bans_nobody_and_keeps_what_came(tmp_path: Path, blob: ServedBlob):
    with (
        at_most(120),
        tmpfs(tmp_path / "disk", 96 * MIB) as disk,
        network(tmp_path, 2, settings={"lanes.limit_up": "16 MiB"}) as (a, c),
        running_agent(
            tmp_path / "b", settings={**LOOPBACK, "store.path": str(disk.path / "store")}
        ) as b,
    ):
        push(blob, a, c)
        join(b, a)
        wait_until(lambda: len(peers_of(b)) == 2, "it knows both")
        with Pull(b, f"sha256:{blob.sha256}") as pull:
            pull.wait_bytes(12 * MIB)
            filler = disk.fill()
        assert isinstance(pull.error, errors.DiskFull)
        filler.unlink()
        assert bans(b) == []
        assert len(peers_of(b)) == 2, "nobody is cut for it"
        done = b.get(f"sha256:{blob.sha256}")
        assert done["fetched_bytes"] < blob.size
        assert sha256_file(blob.in_store(disk.path / "store")) == blob.sha256
