"""An agent with `ipfs.bitswap` and a real Kubo that has its network key."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from random import Random
from typing import TYPE_CHECKING

import pytest
import trio

from p2pcache.content import cid as cids
from tests.support.bitswap_kubo import LIKE_OURS, trading_kubo
from tests.support.network import network, peer_id, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.agents import Agent
    from tests.support.bitswap_kubo import Trader

BITSWAP = {"ipfs.bitswap": "on", "ipfs.gateway": "127.0.0.1:0"}


@contextmanager
def agent_and_kubo(place: Path, agents: int = 1) -> Iterator[tuple[Trader, list[Agent]]]:
    """Agents of one network, and a Kubo with its key that knows nobody yet."""
    with network(place, agents, settings=BITSWAP) as all_of_them:
        key = (all_of_them[0].home / "network.key").read_bytes()
        with trading_kubo(place / "kubo", key) as kubo:
            yield kubo, all_of_them


def address(agent: Agent) -> str:
    with agent.client() as client:
        return next(a for a in client.init()["addresses"] if "/ip4/127.0.0.1/" in a)


def counts(agent: Agent) -> dict:
    with agent.client() as client:
        found = client.status()["ipfs"]["bitswap"]
    assert found is not None
    return found


def read(agent: Agent, path: str) -> bytes:
    """Through its gateway."""
    with agent.client() as client:
        url = client.status()["ipfs"]["gateway"]
    try:
        with urllib.request.urlopen(f"{url}/ipfs/{path}", timeout=60) as answer:
            return answer.read()
    except urllib.error.HTTPError as exc:
        with exc:
            raise AssertionError(exc.read().decode()) from exc


def providers(kubo: Trader, root: str) -> set[str]:
    rows = run(kubo.lines, "routing/findprovs", root, **{"num-providers": 1})
    return {one["ID"] for row in rows if row["Type"] == 4 for one in row["Responses"]}


def a_folder(place: Path, seed: int) -> dict[str, bytes]:
    random = Random(seed)
    sizes = {"model/weights.bin": 9_000_000, "model/config.json": 700, "ä.txt": 1_300_000}
    files = {path: random.randbytes(size) for path, size in sizes.items()}
    for path, data in files.items():
        (place / path).parent.mkdir(parents=True, exist_ok=True)
        (place / path).write_bytes(data)
    return files


def run(call, *args, **more):
    async def bounded():
        with trio.fail_after(120):
            return await call(*args, **more)

    return trio.run(bounded)


def push(agent: Agent, place: Path) -> str:
    with agent.client() as client:
        root = client.push(place)["root"]
    assert root is not None
    return root


def test_kubo_finds_a_folder_that_an_agent_pushed_and_fetches_it(tmp_path):
    with agent_and_kubo(tmp_path, 2) as (kubo, (middle, holder)):
        files = a_folder(tmp_path / "in", 1)
        root = push(holder, tmp_path / "in")
        wait_until(lambda: counts(holder)["dht"]["told"] > 0, "the other agent was not told")
        run(kubo.connect, address(middle))
        wait_until(lambda: providers(kubo, root) == {peer_id(holder)}, "Kubo finds nobody", 60)
        run(kubo.call, "pin/add", root)
        for path, data in files.items():
            assert run(kubo.call, "cat", f"{root}/{path}") == data
        assert counts(holder)["blocks_sent_total"] >= 12
        assert counts(middle).get("blocks_sent_total", 0) == 0


def test_an_agent_reads_what_a_kubo_of_its_network_has(tmp_path):
    with agent_and_kubo(tmp_path) as (kubo, (agent,)):
        files = a_folder(tmp_path / "in", 2)
        root = run(kubo.add, tmp_path / "in", *LIKE_OURS)
        run(kubo.connect, address(agent))
        for path, data in files.items():
            assert read(agent, f"{root}/{path}".replace("ä", "%C3%A4")) == data
        assert counts(agent)["blocks_received_total"] >= 12


def test_what_is_pushed_while_kubo_waits_for_it_is_served_at_once(tmp_path):
    with agent_and_kubo(tmp_path) as (kubo, (agent,)):
        a_folder(tmp_path / "in", 3)
        run(kubo.connect, address(agent))
        root = run(kubo.add, tmp_path / "in", *LIKE_OURS, "--only-hash")
        took: list[float] = []

        async def wait_and_push() -> None:
            async def wait() -> None:
                await kubo.call("block/get", root)
                took.append(time.monotonic())

            with trio.fail_after(60):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(wait)
                    await trio.sleep(1)
                    assert counts(agent)["wants_of_peers"] == 1
                    assert await trio.to_thread.run_sync(push, agent, tmp_path / "in") == root
                    took.append(time.monotonic())

        trio.run(wait_and_push)
        assert took[0] - took[1] < 2.0 or took[1] - took[0] < 2.0


def test_get_brings_what_only_a_bitswap_peer_has(tmp_path):
    with agent_and_kubo(tmp_path) as (kubo, (agent,)):
        files = a_folder(tmp_path / "in", 7)
        root = run(kubo.add, tmp_path / "in", "--cid-version=0", "--raw-leaves=false")
        run(kubo.connect, address(agent))
        with agent.client() as client:
            assert {f["path"] for f in client.resolve(root)["files"]} == set(files)
        answer = agent.get(root, to=str(tmp_path / "out"))
        assert answer["fetched_bytes"] == sum(map(len, files.values()))
        assert {name: (tmp_path / "out" / name).read_bytes() for name in files} == files
        assert [source["name"] for source in agent.why()["sources"]] == ["ipfs"]
        assert agent.get(root, offline=True)["fetched_bytes"] == 0


def test_what_is_removed_is_served_no_longer(tmp_path):
    with agent_and_kubo(tmp_path) as (kubo, (agent,)):
        a_folder(tmp_path / "in", 4)
        root = push(agent, tmp_path / "in")
        run(kubo.connect, address(agent))
        wait_until(lambda: counts(agent)["dht"]["provided"] > 0, "it is not announced")
        with agent.client() as client:
            client.rm(f"ipfs://{root}", force=True)
        wait_until(lambda: counts(agent)["dht"]["provided"] == 0, "it is still announced")
        with pytest.raises(OSError, match="timed out"):
            run(kubo.call, "block/get", root, timeout_s=2)


def test_agents_without_the_setting_speak_no_bitswap(tmp_path):
    with network(tmp_path, 1) as (agent,):
        with agent.client() as client:
            assert client.status()["ipfs"]["bitswap"] is None
        key = (agent.home / "network.key").read_bytes()
        with trading_kubo(tmp_path / "kubo", key) as kubo:
            run(kubo.connect, address(agent))
            (said,) = run(kubo.lines, "id", peer_id(agent))
            assert not [protocol for protocol in said["Protocols"] if "ipfs/" in protocol
                        and "/id/" not in protocol and "/ping/" not in protocol]  # fmt: skip


def test_doctor_tells_a_kubo_from_an_agent_that_is_absent(tmp_path: Path):
    with agent_and_kubo(tmp_path) as (kubo, [agent]):
        assert agent.stop() == 0
        agent.env["P2PCACHE_NETWORK_BOOTSTRAP"] = kubo.address
        agent.start()

        def rows() -> dict[str, dict]:
            with agent.client() as client:
                return {row["check"]: row for row in client.doctor()}

        wait_until(lambda: "other nodes" in rows(), 30)
        assert kubo.daemon.peer in rows()["other nodes"]["detail"]
        assert kubo.daemon.peer not in rows()["absent"]["detail"]
        assert rows()["bitswap"]["ok"]


def test_what_nobody_has_is_told_within_two_seconds(tmp_path: Path):
    with agent_and_kubo(tmp_path) as (kubo, [agent]):
        run(kubo.connect, address(agent))
        with agent.client() as client:
            url = client.status()["ipfs"]["gateway"]
        took = []
        for number in range(3):  # another one each time: what nobody had is remembered
            missing = cids.format_cid(cids.raw_cid(number.to_bytes(32, "big")))
            began = time.monotonic()
            with pytest.raises(urllib.error.HTTPError) as told:
                urllib.request.urlopen(f"{url}/ipfs/{missing}", timeout=60)
            with told.value as answer:
                assert answer.code == 404
            took.append(time.monotonic() - began)
        assert min(took) < 2.0, took
