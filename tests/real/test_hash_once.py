"""A large file of an origin alone is hashed once; its root and its blocks' hashes follow."""

from __future__ import annotations

import hashlib
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from p2pcache.content import cid as cids
from p2pcache.content import unixfs
from p2pcache.errors import Untrusted
from p2pcache.transfer.growing import HASH_ONCE_BYTES
from tests.support.agents import Agent, made_agent, running_agent, running_agents
from tests.support.faulty_http import Exchange, FaultyServer, ranged
from tests.support.nginx import Nginx, nginx
from tests.support.partial_files import some_bytes
from tests.support.pulling import Pull

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 1 << 20
BODY = some_bytes(HASH_ONCE_BYTES + 5 * MIB + 77, b"hashed once")
SHA256 = hashlib.sha256(BODY).hexdigest()
BLOCKS = b"".join(hashlib.sha256(BODY[at : at + MIB]).digest() for at in range(0, len(BODY), MIB))
ROOT = cids.format_cid(
    unixfs.file_root((BLOCKS[at : at + 32] for at in range(0, len(BLOCKS), 32)), len(BODY)).cid
)
SLOW = 20 * MIB  # bytes/s of a pull that something happens to


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    folder = tmp_path_factory.mktemp("web")
    (folder / "site").mkdir()
    (folder / "site" / "model.bin").write_bytes(BODY)
    with nginx(folder / "site", folder / "data") as server:
        yield server


def ref(base: str) -> str:
    return f"{base}/model.bin#sha256={SHA256}"


def kept_map(agent: Agent) -> bytes:
    return (agent.home / "maps-v1" / SHA256).read_bytes()


def wait_root(agent: Agent, base: str) -> None:
    give_up = time.monotonic() + 30
    while (again := agent.get(ref(base)))["root"] is None:
        assert time.monotonic() < give_up, "it never got its root"
        time.sleep(0.05)
    assert (again["fetched_bytes"], again["root"]) == (0, ROOT)
    assert kept_map(agent) == BLOCKS


def test_it_is_shown_by_its_digest_and_gets_its_root_later(tmp_path: Path, web: Nginx) -> None:
    with running_agent(tmp_path) as agent:
        done = agent.get(ref(web.url))
        assert (done["sha256"], done["root"]) == (SHA256, None)
        assert Path(done["path"]).read_bytes() == BODY
        wait_root(agent, web.url)


def test_what_had_no_root_when_the_agent_was_killed_gets_it_from_the_next(
    tmp_path: Path, web: Nginx
) -> None:
    with running_agent(tmp_path) as agent:
        assert agent.get(ref(web.url))["root"] is None
        agent.kill()
        agent.start()
        wait_root(agent, web.url)


def test_wrong_bytes_are_found_and_only_they_come_again(tmp_path: Path) -> None:
    wrong = bytearray(BODY)
    wrong[40 * MIB + 5] ^= 1
    lies = threading.Event()

    def answer(ask: Exchange) -> bool:
        start, end = ask.range or (0, len(BODY))
        if start <= 40 * MIB + 5 < end and not lies.is_set():
            lies.set()
            return ranged(bytes(wrong))(ask)
        return ranged(BODY)(ask)

    with FaultyServer() as server, running_agent(tmp_path) as agent:
        server.on("/model.bin", answer)
        done = agent.get(ref(server.url("").rstrip("/")))
        assert lies.is_set()
        assert (done["sha256"], done["root"]) == (SHA256, ROOT)
        assert Path(done["path"]).read_bytes() == BODY
        assert kept_map(agent) == BLOCKS


def test_of_a_liar_nothing_is_visible(tmp_path: Path) -> None:
    wrong = bytearray(BODY)
    wrong[9] ^= 1
    with FaultyServer() as server, running_agent(tmp_path) as agent:
        server.on("/model.bin", ranged(bytes(wrong)))
        with pytest.raises(Untrusted):
            agent.get(ref(server.url("").rstrip("/")))
        assert not [path for path in (agent.home / "blobs-v1").rglob("*") if path.is_file()]


def test_a_network_that_opens_in_the_middle_finds_every_block_with_its_hash(
    tmp_path: Path, web: Nginx
) -> None:
    with running_agent(tmp_path) as agent:
        with Pull(agent, ref(web.url), limit_rate=SLOW) as pull:
            pull.wait_bytes(8 * MIB)
            with agent.client() as client:
                client.init()
        assert pull.error is None
        assert pull.answer is not None
        assert pull.answer["root"] == ROOT
        assert kept_map(agent) == BLOCKS


def test_what_a_lone_agent_left_is_hashed_when_one_of_a_network_goes_on(
    tmp_path: Path, web: Nginx
) -> None:
    agent = made_agent(tmp_path)
    with running_agents([agent]):
        with Pull(agent, ref(web.url), limit_rate=SLOW) as pull:
            pull.wait_bytes(32 * MIB)
            agent.kill()
        agent.start()
        with agent.client() as client:
            client.init()
        done = agent.get(ref(web.url))
        assert 0 < done["fetched_bytes"] < len(BODY)
        assert done["root"] == ROOT
        assert kept_map(agent) == BLOCKS
