"""The IPFS gateway of real agents: what they hold, and what another agent of their network has."""

from __future__ import annotations

import socket
import time
from urllib.parse import urlsplit

import pytest

from tests.support.agents import made_agent, running_agent, running_agents
from tests.support.ipfs_gateway import Gateway, cids_of
from tests.support.kubo_daemon import kubo_daemon
from tests.support.network import network, wait_until
from tests.support.stored import MIB, content

SETTINGS = {"ipfs.gateway": "127.0.0.1:0"}
GONE_S = 30.0
BIG = content(3 * MIB + 5, 1)
UNKNOWN = "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy"


def gateway_of(agent) -> Gateway:
    """Where its gateway listens; it does so soon after the agent is ready."""

    def url() -> str | None:
        with agent.client() as client:
            return client.status()["ipfs"]["gateway"]

    end = time.monotonic() + GONE_S
    while (found := url()) is None:
        assert time.monotonic() < end
        time.sleep(0.05)
    place = urlsplit(found)
    return Gateway(place.hostname, place.port)


def pushed(agent, path) -> str:
    with agent.client() as client:
        return client.push(str(path))["root"]


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "folder"
    (made / "sub").mkdir(parents=True)
    (made / "hello.txt").write_bytes(b"hello\n")
    (made / "sub" / "big.bin").write_bytes(BIG)
    return made


def test_what_was_pushed_is_served_as_files_blocks_and_cars(tmp_path, folder):
    with running_agent(tmp_path / "a", settings=SETTINGS) as agent:
        gateway = gateway_of(agent)
        root = pushed(agent, folder)
        assert gateway.ask(f"/ipfs/{root}/hello.txt").body == b"hello\n"
        assert gateway.ask(f"/ipfs/{root}/sub/big.bin", Range="bytes=-5").body == BIG[-5:]
        car = gateway.ask(f"/ipfs/{root}?format=car")
        assert (car.status, len(cids_of(car.body))) == (200, 8)
        assert b"hello.txt" in gateway.ask(f"/ipfs/{root}/").body
        with agent.client() as client:
            checks = {check["check"]: check["ok"] for check in client.doctor()}
        assert checks["ipfs gateway"]


def test_without_the_setting_nothing_listens(tmp_path):
    with running_agent(tmp_path / "a") as agent, agent.client() as client:
        nothing = {
            "gateway": None, "rpc": None, "why": None, "bitswap": None, "waits": False,
            "public": None,
        }  # fmt: skip
        assert client.status()["ipfs"] == nothing


def test_a_port_that_is_taken_is_told_and_the_agent_works(tmp_path, folder):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        settings = {"ipfs.gateway": f"127.0.0.1:{port}"}
        with running_agent(tmp_path / "a", settings=settings) as agent:
            assert pushed(agent, folder)

            def trouble() -> str:
                with agent.client() as client:
                    return client.status()["ipfs"]["why"] or ""

            wait_until(lambda: f"port {port}" in trouble(), "the trouble is told")
            other.close()
            gateway_of(agent)


@pytest.mark.slow
def test_a_file_that_another_agent_has_comes_from_it(tmp_path):
    file = tmp_path / "big.bin"
    file.write_bytes(BIG)
    with network(tmp_path, 2, settings=SETTINGS) as (a, b):
        root = pushed(a, file)
        gateway = gateway_of(b)
        found = gateway.ask(f"/ipfs/{root}")
        assert (found.status, found.body) == (200, BIG)
        with b.client() as client:
            assert client.status()["store"]["blobs"] == 1
        missing = "bafkreibav37qjfhifdiyrrye4h2irjmjwfnoahir63frfh3cckoku3gfim"
        assert gateway.ask(f"/ipfs/{missing}").status == 404
        began = time.monotonic()
        assert gateway.ask(f"/ipfs/{missing}", Cache_Control="only-if-cached").status == 412
        assert time.monotonic() - began < GONE_S


def test_two_agents_on_one_machine_have_gateways_of_their_own(tmp_path):
    agents = [made_agent(tmp_path / name, settings=SETTINGS) for name in "ab"]
    with running_agents(agents) as running:
        assert len({gateway_of(agent).port for agent in running}) == 2


def test_what_only_the_configured_kubo_has_comes_block_by_block(tmp_path, folder):
    (tmp_path / "kubo").mkdir()
    with kubo_daemon(tmp_path / "kubo", None, gateway=True) as kubo:
        root = kubo.add(folder, "--trickle", "--chunker=size-1000")
        settings = SETTINGS | {"ipfs.kubo": str(kubo.repo)}
        with running_agent(tmp_path / "a", settings=settings) as agent:
            gateway = gateway_of(agent)
            assert gateway.ask(f"/ipfs/{root}/sub/big.bin", Range="bytes=-5").body == BIG[-5:]
            missing = gateway.ask(f"/ipfs/{UNKNOWN}?format=raw")
            assert missing.status == 404, "nobody searches for it"
