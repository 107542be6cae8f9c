"""An agent in the public IPFS network, which here are two real Kubos without a network key."""

from __future__ import annotations

import http.client
import socket
import time
import urllib.error
import urllib.parse
import urllib.request
from contextlib import ExitStack, contextmanager
from random import Random
from typing import TYPE_CHECKING

import pytest
import trio

from p2pcache.content import cid as cids
from p2pcache.content.peerid import parse_peer_id
from p2pcache.errors import Denied, NotFound, Unavailable
from p2pcache.net.bitswap import wire
from p2pcache.net.bitswap.driver import open_bitswap
from p2pcache.net.host import open_host
from p2pcache.net.identity import Identity
from tests.support.agents import running_agent
from tests.support.bitswap_kubo import LIKE_OURS, ON_A_LAN, Trader, trading_kubo
from tests.support.bitswap_store import MemoryBlocks
from tests.support.kubo_daemon import kubo_daemon
from tests.support.net_node import LOOPBACK
from tests.support.network import LOOPBACK as PRIVATE
from tests.support.network import peer_id, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.agents import Agent

WAIT_S = 60.0


@pytest.fixture(scope="module")
def kubos(tmp_path_factory) -> Iterator[tuple[Trader, Trader]]:
    """The second one is no server of the DHT: who has not its record does not hear of it."""
    client = {"Routing": ON_A_LAN["Routing"] | {"Type": "dhtclient"}}
    with ExitStack() as stack:
        near = stack.enter_context(trading_kubo(tmp_path_factory.mktemp("near"), None))
        repo = tmp_path_factory.mktemp("far")
        far = Trader(stack.enter_context(kubo_daemon(repo, None, changes=client)), repo)
        run(far.connect, near.address)
        yield near, far


@contextmanager
def public_agent(place: Path, kubo: Trader, mode: str, **settings: str) -> Iterator[Agent]:
    """It knows that Kubo, has a private network, and a gateway to read through."""
    wanted = {
        **PRIVATE,
        "ipfs.public": mode,
        "ipfs.public_bootstrap": kubo.address,
        "ipfs.gateway": "127.0.0.1:0",
        **settings,
    }
    with running_agent(place, settings=wanted) as agent:
        yield agent


def public(agent: Agent) -> dict:
    with agent.client() as client:
        found = client.status()["ipfs"]["public"]
    assert found is not None
    return dict(found)


def wait_met(agent: Agent) -> None:
    wait_until(lambda: public(agent).get("peers"), "it met nobody", WAIT_S)


def url(agent: Agent, path: str) -> str:
    with agent.client() as client:
        gateway = client.status()["ipfs"]["gateway"]
    return f"{gateway}/ipfs/{urllib.parse.quote(path)}"


def read(agent: Agent, path: str) -> bytes:
    """Through its gateway."""
    with urllib.request.urlopen(url(agent, path), timeout=WAIT_S) as answer:
        return bytes(answer.read())


def run(call, *args, **more):
    async def bounded():
        with trio.fail_after(WAIT_S):
            return await call(*args, **more)

    return trio.run(bounded)


def a_folder(place: Path, seed: int, mib: int = 18) -> dict[str, bytes]:
    random = Random(seed)
    sizes = {"model/weights.bin": mib << 20, "model/config.json": 700, "ä.txt": 1_300_000}
    files = {path: random.randbytes(size) for path, size in sizes.items()}
    for path, data in files.items():
        (place / path).parent.mkdir(parents=True, exist_ok=True)
        (place / path).write_bytes(data)
    return files


def push(agent: Agent, path: Path) -> str:
    with agent.client() as client:
        root = client.push(path)["root"]
    assert root is not None
    return root


def a_file(place: Path, seed: int) -> Path:
    place.write_bytes(Random(seed).randbytes(3000))
    return place


def is_refused_to(kubo: Trader, root: str) -> bool:
    try:
        run(kubo.call, "block/get", root, timeout_s=2)
    except OSError:
        return True
    return False


def test_what_others_have_is_fetched_and_nothing_is_given(kubos, tmp_path):
    near, far = kubos
    met, found = a_folder(tmp_path / "met", 1), a_folder(tmp_path / "found", 2)
    met_root = run(near.add, tmp_path / "met", *LIKE_OURS)
    found_root = run(far.add, tmp_path / "found", *LIKE_OURS)
    at_home = {"ipfs.public_listen": LOOPBACK[0]}  # else no loopback address is dialled
    with public_agent(tmp_path / "agent", near, "fetch", **at_home) as agent:
        wait_met(agent)
        for path, data in met.items():
            assert read(agent, f"{met_root}/{path}") == data
        assert public(agent)["peers"] == 1
        for path, data in found.items():
            assert read(agent, f"{found_root}/{path}") == data, "found by its record"
        assert public(agent)["peers"] == 2
        mine = push(agent, a_file(tmp_path / "mine", 3))
        with agent.client() as client:
            assert "not `share`" in client.publish(mine)["notes"][0]
        assert is_refused_to(near, mine)
        assert is_refused_to(near, met_root) is False, "Kubo itself has it"
        counts = public(agent)
        assert counts["bitswap"].get("blocks_sent_total", 0) == 0
        assert counts["lan_dht"]["provided"] == counts["dht"]["provided"] == 0


def test_what_is_published_is_found_and_given_and_nothing_else(kubos, tmp_path):
    near, far = kubos
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        listen = {"ipfs.public_listen": f"/ip4/127.0.0.1/tcp/{port}"}
        stack = ExitStack()
        agent = stack.enter_context(public_agent(tmp_path / "agent", near, "share", **listen))
        with agent.client() as client:
            client.init()
        wait_until(lambda: public(agent)["why"], "the port is taken", WAIT_S)
        assert "cannot listen" in public(agent)["why"]
        with agent.client() as client:
            (row,) = (one for one in client.doctor() if one["check"] == "public ipfs")
        assert not row["ok"]
    with stack:
        wait_met(agent)
        files = a_folder(tmp_path / "in", 4)
        root = push(agent, tmp_path / "in")
        secret = push(agent, a_file(tmp_path / "secret", 5))
        assert is_refused_to(near, root)
        with agent.client() as client:
            answer = client.publish((tmp_path / "in").as_uri().removeprefix("file://"))
            assert (answer["root"], answer["notes"]) == (root, [])
            assert client.published()[0]["root"] == root
        wait_until(lambda: public(agent)["lan_dht"]["told"], "nobody was told", WAIT_S)
        assert providers(far, root) == {public(agent)["peer"]}, "found by its record"
        run(far.call, "pin/add", root)
        for path, data in files.items():
            assert run(far.call, "cat", f"{root}/{path}") == data
        assert is_refused_to(far, secret)
        assert public(agent)["peer"] != peer_id(agent), "the two cannot be linked"
        with junk(port):
            run(strangers_get, agent, root, secret)
        with agent.client() as client:
            client.unpublish(root)
        run(strangers_get, agent, None, root, secret)
        assert public(agent)["lan_dht"]["provided"] == 0


@contextmanager
def junk(port: int) -> Iterator[None]:
    """Connections to the public port that say nothing, or nonsense, and stay."""
    with ExitStack() as stack:
        for number in range(40):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=5))
            if number % 2:
                sock.sendall(Random(number).randbytes(5000))
        yield


def providers(kubo: Trader, root: str) -> set[str]:
    rows = run(kubo.lines, "routing/findprovs", root, **{"num-providers": 1})
    return {one["ID"] for row in rows if row["Type"] == 4 for one in row["Responses"]}


async def strangers_get(agent: Agent, given: str | None, *refused: str) -> None:
    """Who dials the public host gets what is published, is told at once that nothing else is here,
    and can speak nothing of the private network; who dials the private one gets nowhere.
    """
    status = public(agent)
    peer = parse_peer_id(status["peer"])
    with agent.client() as client:
        network = client.init()
    async with (
        open_host(Identity.generate(), None, LOOPBACK) as host,
        open_bitswap(host, MemoryBlocks()) as bitswap,
        bitswap.session() as session,
    ):
        await host.connect(peer, status["addresses"], timeout_s=10)
        if given is not None:
            await session.get(cids.parse_cid(given), timeout_s=20)
        for root in refused:
            started = trio.current_time()
            with pytest.raises(NotFound):
                await session.get(cids.parse_cid(root), timeout_s=20)
            assert trio.current_time() - started < 10
        nonsense = await host.open_stream(peer, wire.PROTOCOLS[0], timeout_s=5)
        await nonsense.send_all(bytes(range(100, 200)))
        for protocol in ("/p2pcache/sync/1", "/p2pcache/kad/1.0.0", "/ipfs/lan/kad/1.0.0"):
            with pytest.raises(Unavailable):
                await host.open_stream(peer, protocol, timeout_s=5)
        private = [one for one in network["addresses"] if "/127.0.0.1/" in one]
        assert private
        with pytest.raises((Denied, Unavailable)):
            await host.connect(
                parse_peer_id(network["peer"]), [private[0].split("/p2p/")[0]], timeout_s=10
            )


def test_a_kubo_that_stops_half_way_ends_the_answer_and_nothing_else(tmp_path):
    files = a_folder(tmp_path / "in", 6, mib=40)
    with ExitStack() as stack:
        kubo = stack.enter_context(trading_kubo(tmp_path / "kubo", None))
        root = run(kubo.add, tmp_path / "in", *LIKE_OURS)
        with public_agent(tmp_path / "agent", kubo, "fetch") as agent:
            wait_met(agent)
            assert public(agent)["addresses"] == [], "nobody can dial it"
            address = url(agent, f"{root}/model/weights.bin")
            with urllib.request.urlopen(address, timeout=WAIT_S) as answer:
                got = answer.read(4 << 20)
                stack.close()
                started = time.monotonic()
                with pytest.raises(http.client.IncompleteRead) as caught:
                    answer.read()
                got += caught.value.partial
            assert time.monotonic() - started < 45
            assert files["model/weights.bin"].startswith(got)
            wait_until(lambda: not public(agent)["peers"], "it is still there", WAIT_S)
            with agent.client() as client:
                (row,) = (one for one in client.doctor() if one["check"] == "public ipfs")
            assert "public_bootstrap" in (row["hint"] or "")
            with pytest.raises(urllib.error.HTTPError) as refused:
                read(agent, f"{root}/ä.txt")
            with refused.value as said:
                assert said.code in (404, 504)
            assert public(agent)["bitswap"]["wants"] == 0
