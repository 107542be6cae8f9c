"""The RPC of an agent with bitswap, by Kubo's own command line: a Kubo of its network is met, read
from, found and told of what we provide.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from tests.support.bitswap_agents import counts, providers, run
from tests.support.bitswap_kubo import LIKE_OURS, trading_kubo
from tests.support.kubo_rpc import FILE, rpc_of
from tests.support.network import network, peer_id, wait_until
from tests.support.processes import free_port

if TYPE_CHECKING:
    from tests.support.kubo_rpc import Server

MIB = 1 << 20


def answered(rpc: Server, *args: str) -> bytes:
    status, out, complaint = rpc.command(*args)
    assert status == 0, complaint
    return out


@pytest.mark.slow
def test_kubos_command_line_connects_us_to_a_kubo_and_reads_what_it_alone_has(tmp_path):
    data = random.Random(3).randbytes(3 * MIB)
    (tmp_path / "file").write_bytes(data)
    settings = {"ipfs.bitswap": "on", "ipfs.rpc": f"127.0.0.1:{free_port()}"}
    with network(tmp_path, 1, settings=settings) as (agent,):
        key = (agent.home / "network.key").read_bytes()
        with trading_kubo(tmp_path / "kubo", key) as kubo:
            rpc = rpc_of(agent, tmp_path)
            wait_until(lambda: counts(agent)["dht"] is not None, "no bitswap")
            root = run(kubo.add, tmp_path / "file", *LIKE_OURS)

            status, _, complaint = rpc.command("swarm", "connect", kubo.address[:-4] + "AAAA")
            assert status == 1
            assert "failure" in complaint or "peer" in complaint
            said = answered(rpc, "swarm", "connect", kubo.address).decode()
            assert said == f"connect {kubo.daemon.peer} success\n"
            assert kubo.daemon.peer in answered(rpc, "swarm", "peers").decode()
            assert answered(rpc, "cat", root) == data
            assert counts(agent)["blocks_received_total"] == 4

            theirs = "k" * 700
            (tmp_path / "late").write_text(theirs)
            late = run(kubo.add, tmp_path / "late", *LIKE_OURS)
            wait_until(
                lambda: (
                    answered(rpc, "routing", "findprovs", "-n", "1", late).decode().strip()
                    == kubo.daemon.peer
                ),
                "Kubo's record is not found",
            )
            ours = rpc.upload("add", ("ours", b"o" * 700, FILE)).lines[-1]["Hash"]
            answered(rpc, "routing", "provide", ours)
            wait_until(lambda: providers(kubo, ours) == {peer_id(agent)}, "ours is not found", 60)
            assert run(kubo.call, "cat", ours) == b"o" * 700
            answered(rpc, "swarm", "connect", kubo.address)  # once more: it is connected
