"""The RPC of real agents: what was added outlives a restart, and peers are seen, found and read."""

from __future__ import annotations

import random

import pytest

from tests.support.agents import running_agent
from tests.support.kubo_rpc import FILE, rpc_of
from tests.support.network import network, peer_id, wait_until
from tests.support.processes import free_port

pytestmark = pytest.mark.slow

MIB = 1 << 20
HELLO = "bafkreibm6jg3ux5qumhcn2b3flc3tyu6dmlb4xa7u5bf44yegnrjhc4yeq"


def test_what_was_added_and_pinned_outlives_a_restart(tmp_path):
    data = random.Random(1).randbytes(3 * MIB)
    settings = {"ipfs.rpc": f"127.0.0.1:{free_port()}"}
    with running_agent(tmp_path, settings=settings) as agent:
        rpc = rpc_of(agent, tmp_path)
        top = rpc.upload("add", ("d/a", data, FILE), ("d/b", b"hello", FILE)).lines[-1]["Hash"]
        loose = rpc.upload("add?pin=false", ("c", b"loose", FILE)).lines[-1]["Hash"]
        rpc.post(f"files/cp?arg=/ipfs/{top}&arg=/kept")
        rpc.upload("files/write?arg=/w&create=true", ("w", b"written", FILE))
        agent.kill()
        agent.start()
        rpc = rpc_of(agent, tmp_path)
        assert rpc.post(f"cat?arg={top}/a").body == data
        assert top in rpc.post("pin/ls?type=recursive").lines[0]["Keys"]
        assert rpc.post("files/read?arg=/w").body == b"written"
        rpc.post(f"pin/rm?arg={top}")
        gone = [row["Key"]["/"] for row in rpc.post("repo/gc").lines]
        assert loose in gone
        assert rpc.post("files/read?arg=/kept/a").body == data  # the files API keeps it
        assert rpc.post(f"cat?arg={loose}&offline=true").status == 500
        with agent.client() as client:
            assert all(check["ok"] for check in client.doctor() if check["check"] == "ipfs rpc")


def test_agents_see_each_other_and_read_what_a_peer_has(tmp_path):
    data = random.Random(2).randbytes(5 * MIB)
    each = {number: {"ipfs.rpc": f"127.0.0.1:{free_port()}"} for number in range(2)}
    with network(tmp_path, 2, each=each) as (one, two):
        here, there = rpc_of(one, tmp_path), rpc_of(two, tmp_path)
        assert here.post("id").lines[0]["ID"] == peer_id(one)
        peers = here.post("swarm/peers").lines[0]["Peers"]
        assert [peer["Peer"] for peer in peers] == [peer_id(two)]
        address = there.post("id").lines[0]["Addresses"][0]
        said = here.post("swarm/connect", ("arg", address))
        assert said.lines[0]["Strings"] == [f"connect {peer_id(two)} success"]
        (tmp_path / "file").write_bytes(data)
        with one.client() as client:
            client.push(str(tmp_path / "file"))
        root = here.upload("add?only-hash=true", ("file", data, FILE)).lines[0]["Hash"]
        assert there.post(f"cat?arg={root}&offset=100&length=50").body == data[100:150]
        assert there.post(f"block/stat?arg={root}&offline=true").status == 200
        here.upload("block/put", ("x", b"hello", FILE))
        assert here.post(f"routing/provide?arg={HELLO}").status == 200
        wait_until(
            lambda: (
                [
                    row["Responses"][0]["ID"]
                    for row in there.post(f"routing/findprovs?arg={HELLO}").lines
                ]
                == [peer_id(one)]
            ),
            "no provider was found",
        )


def test_without_a_network_calls_that_need_one_say_so(tmp_path):
    settings = {"ipfs.rpc": f"127.0.0.1:{free_port()}"}
    with running_agent(tmp_path, settings=settings) as agent:
        rpc = rpc_of(agent, tmp_path)
        assert rpc.post("swarm/peers").lines == [{"Peers": None}]
        rpc.upload("block/put", ("x", b"hello", FILE))
        said = rpc.post(f"routing/provide?arg={HELLO}")
        assert said.status == 500
        assert "no network" in said.lines[0]["Message"]
        connect = "swarm/connect?arg=/ip4/127.0.0.1/tcp/1/p2p/" + rpc.post("id").lines[0]["ID"]
        assert "no network" in rpc.post(connect).lines[0]["Message"]
