"""An agent with `ipfs.bitswap` and a real Kubo that has its network key."""

from __future__ import annotations

import random
import time

import pytest
import trio

from p2pcache.content import cid as cids
from tests.support.bitswap_agents import (
    a_folder,
    address,
    agent_and_kubo,
    counts,
    providers,
    push,
    read,
    run,
)
from tests.support.bitswap_kubo import LIKE_OURS, trading_kubo
from tests.support.network import network, peer_id, wait_until

NOBODY_HAS = cids.format_cid(cids.make_cid(cids.DAG_CBOR, b"\x12\x20" + bytes(32)))  # no file


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


def test_the_rate_of_a_pull_holds_for_blocks_too(tmp_path):
    with agent_and_kubo(tmp_path) as (kubo, (agent,)):
        (tmp_path / "large").write_bytes(random.Random(5).randbytes(6 << 20))
        root = run(kubo.add, tmp_path / "large", "--cid-version=0", "--raw-leaves=false")
        run(kubo.connect, address(agent))
        agent.get(root, limit_rate=2 << 20)
        assert agent.why()["times"]["fetch_s"] > 0.8 * 3


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


def test_doctor_tells_a_kubo_from_an_agent_that_is_absent(tmp_path):
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


def test_what_nobody_has_is_told_soon(tmp_path):
    with agent_and_kubo(tmp_path, 2) as (kubo, (agent, _)):
        run(kubo.connect, address(agent))
        wait_until(lambda: counts(agent)["dht"]["servers"] >= 2, "no servers")
        began = time.monotonic()
        with pytest.raises(AssertionError, match="nobody has"):
            read(agent, f"{NOBODY_HAS}?format=raw")
        assert time.monotonic() - began < 2
