"""Agents that lie to others: real processes; the liars are real agents with one fault in them.

Each line of docs/faults-network.md says what was taken out of the product to see its test fail.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
import trio

from p2pcache import errors
from p2pcache.content.peerid import parse_peer_id
from p2pcache.net.host import open_host
from p2pcache.net.identity import Identity
from p2pcache.net.network_key import load_network_key
from p2pcache.net.sync.wire import PROTOCOL, Hello, LaneInfo, encode
from tests.support.agents import REPO
from tests.support.blobs import MIB, ServedBlob, sha256_file, write_blob
from tests.support.network import network, peer_id, peers_of, wait_until
from tests.support.pulling import Pull
from tests.support.watched_pull import at_most

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.agents import Agent

pytestmark = pytest.mark.slow

SIZE = 32 * MIB + 12_345
FAIR = {"lanes.limit_up": "16 MiB"}  # so that everybody is asked for a part
IMPATIENT = {"fetch.patience": "8s"}  # it would be asked seven times in 40 s


@pytest.fixture(scope="module")
def blob(tmp_path_factory: pytest.TempPathFactory) -> ServedBlob:
    return write_blob(tmp_path_factory.mktemp("blob"), SIZE)


def push(blob: ServedBlob, *agents: Agent) -> None:
    for agent in agents:
        with agent.client() as client:
            client.push(blob.path)


def rot(blob: ServedBlob, agent: Agent) -> None:
    """One wrong bit in every block of a blob that was verified when it came; its time stays."""
    path = blob.in_store(agent.home)
    was = path.stat()
    with path.open("r+b") as file:
        for at in range(0, blob.size, MIB):
            file.seek(at)
            byte = file.read(1)[0]
            file.seek(at)
            file.write(bytes([byte ^ 1]))
    os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))  # a blob with another time is not here


def bans(agent: Agent) -> dict[str, str]:
    with agent.client() as client:
        return {ban["peer"]: ban["reason"] for ban in client.bans()}


def bytes_of(agent: Agent, peer: str) -> int:
    return sum(s["bytes"] for s in agent.why()["sources"] if s["name"] == peer)


def is_whole(blob: ServedBlob, agent: Agent) -> bool:
    return sha256_file(blob.in_store(agent.home)) == blob.sha256


def said(agent: Agent, *argv: str) -> str:
    """What the command prints."""
    done = subprocess.run(
        [sys.executable, "-m", "p2pcache", *argv],
        cwd=REPO, env=agent.env, capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip
    return done.stdout


def test_a_corrupt_peer_of_three_is_banned_by_name_and_no_bad_byte_is_kept_or_shared(
    tmp_path: Path, blob: ServedBlob
):
    with at_most(120), network(tmp_path, 5, settings=FAIR) as (liar, good, better, b, c):
        push(blob, liar, good, better)
        rot(blob, liar)
        ref = f"sha256:{blob.sha256}"
        with Pull(b, ref) as first, Pull(c, ref) as second:
            pass  # each gets what the other has so far, too
        assert (first.error, second.error) == (None, None)
        assert is_whole(blob, b)
        assert is_whole(blob, c)
        named = peer_id(liar)
        wait_until(lambda: named in bans(b), "the liar is banned")
        assert set(bans(b)) == {named}
        assert set(bans(c)) <= {named}, "who passes on what it could not know is no liar"
        assert "block" in bans(b)[named]
        assert bytes_of(b, named) == 0
        assert named in said(b, "peers", "--banned")
        wait_until(lambda: named not in peers_of(b), "it is cut")
        b.stop()
        b.start()
        wait_until(lambda: len(peers_of(b)) == 3, "the others are back")
        time.sleep(1)
        assert named not in peers_of(b), "a ban outlasts a restart"
        assert set(bans(b)) == {named}
        said(b, "unban", named)
        wait_until(lambda: named in peers_of(b), "it is let in again", 60)
        assert bans(b) == {}


@pytest.mark.parametrize("fault", ["ForgedWords", "ForgedMap"])
def test_a_forged_block_map_keeps_nobody_from_the_bytes_and_its_teller_is_named(
    tmp_path: Path, blob: ServedBlob, fault: str
):
    bad = {0: {"BAD_AGENT_FAULT": fault, "BAD_AGENT_SIZE": str(blob.size)}}
    with at_most(90), network(tmp_path, 4, settings=FAIR, bad=bad) as (forger, good, better, b):
        push(blob, forger, good, better)
        done = b.get(f"sha256:{blob.sha256}")
        assert done["fetched_bytes"] == blob.size
        assert is_whole(blob, b)
        wait_until(lambda: bans(b), "the forger is banned")
        assert set(bans(b)) == {peer_id(forger)}
        assert "signed" in str(bans(b)) if fault == "ForgedWords" else "said" in str(bans(b))


def test_a_wrong_size_is_not_believed_and_its_teller_is_named(tmp_path: Path, blob: ServedBlob):
    bad = {0: {"BAD_AGENT_FAULT": "WrongSize"}}
    with at_most(90), network(tmp_path, 3, bad=bad) as (liar, good, b):
        push(blob, liar, good)
        b.get(f"sha256:{blob.sha256}")
        assert is_whole(blob, b)
        assert bytes_of(b, peer_id(good)) == blob.size
        wait_until(lambda: bans(b), "the liar is banned")
        assert set(bans(b)) == {peer_id(liar)}


def test_a_peer_that_advertises_what_it_lacks_costs_little_and_is_not_banned(
    tmp_path: Path, blob: ServedBlob
):
    bad = {0: {"BAD_AGENT_FAULT": "Boaster", "BAD_AGENT_SIZE": str(blob.size)}}
    with at_most(90), network(tmp_path, 3, bad=bad) as (boaster, good, b):
        push(blob, good)
        began = time.monotonic()
        b.get(f"sha256:{blob.sha256}")
        took_s = time.monotonic() - began
        assert took_s < 10
        assert is_whole(blob, b)
        assert bytes_of(b, peer_id(good)) == blob.size
        assert bytes_of(b, peer_id(boaster)) == 0
        asked = [s["requests"] for s in b.why()["sources"] if s["name"] == peer_id(boaster)]
        assert asked < [8], "it is asked less and less"
        assert bans(b) == {}, "it may have been true a moment ago"


def test_when_the_only_holder_lacks_it_the_pull_ends(tmp_path: Path, blob: ServedBlob):
    bad = {0: {"BAD_AGENT_FAULT": "Boaster", "BAD_AGENT_SIZE": str(blob.size)}}
    with at_most(60), network(tmp_path, 2, bad=bad, settings=IMPATIENT) as (_, b):
        with pytest.raises((errors.NotFound, errors.Unavailable)):
            b.get(f"sha256:{blob.sha256}")
        assert not blob.in_store(b.home).exists()


def test_a_pull_by_digest_that_fails_says_whom_it_asked_and_what_came(
    tmp_path: Path, blob: ServedBlob
):
    with at_most(90), network(tmp_path, 2) as (liar, b):
        push(blob, liar)
        rot(blob, liar)
        with pytest.raises(errors.Untrusted):
            b.get(f"sha256:{blob.sha256}")
        receipt = b.why()
        (source,) = receipt["sources"]
        named = peer_id(liar)
        assert source["name"] == named
        wait_until(lambda: named in bans(b), "it sent other bytes than it signed: it is banned")
        assert "signed" in bans(b)[named]
        assert source["requests"] > 0
        assert source["wire_bytes"] > 0


HELLO = Hello(1, 0, bytes(16), "stranger", (), LaneInfo(4433, (), bytes(32), b"certificate"))
JUNK = {
    "huge": b"\xff\xff\xff\xff" + bytes(1 << 16),
    "bomb": b"\0\0\0\x09\x94\x04\x01\xc0\xdd\xff\0\0\0",  # a list of 4 billion names
    "truncated": encode(HELLO)[:-7],
    "random": os.urandom(1 << 16),
    "not hello first": b"\0\0\0\x03\x92\x02\x01",
    "hello, then huge": encode(HELLO) + b"\xff\xff\xff\xff" + bytes(1 << 16),
    "hello, then junk": encode(HELLO) + b"\0\0\0\x02\xc1\xc1",
    "hello, then random": encode(HELLO) + os.urandom(1 << 16),
    "hello twice": encode(HELLO) * 2,
}


async def speak(agent: Agent, junk: bytes, addresses: list[str]) -> bool:
    """A member with the key sends this; whether its link was ended within 5 s."""
    key = load_network_key(agent.home / "network.key")
    plain = [address.partition("/p2p/")[0] for address in addresses]
    peer = parse_peer_id(addresses[0].rpartition("/")[2])
    async with open_host(Identity.generate(), key, ["/ip4/127.0.0.1/tcp/0"]) as stranger:
        await stranger.connect(peer, plain, timeout_s=5)
        stream = await stranger.open_stream(peer, PROTOCOL, timeout_s=5)
        try:
            await stream.send_all(junk)
        except errors.Unavailable:
            return True  # it was cut while it still spoke
        if junk == JUNK["truncated"]:
            await stream.aclose()
            return True
        with trio.move_on_after(5):
            while stranger.connected():  # noqa: ASYNC110  # it looks from outside
                await trio.sleep(0.01)
            return True
    return False


def test_junk_in_place_of_sync_frames_ends_its_own_link_and_nothing_else(
    tmp_path: Path, blob: ServedBlob
):
    with at_most(90), network(tmp_path, 2) as (a, b):
        with a.client() as client:
            addresses = client.init()["addresses"]
            since = {p["peer"]: p["connected_s"] for p in client.peers()}
        ended = {what: trio.run(speak, a, junk, addresses) for what, junk in JUNK.items()}
        assert all(ended.values()), ended
        with a.client() as client:
            now = {p["peer"]: p["connected_s"] for p in client.peers()}
        assert set(now) == {peer_id(b)}
        assert now[peer_id(b)] > since[peer_id(b)], "the same link"
        assert bans(a) == {}
        push(blob, a)
        b.get(f"sha256:{blob.sha256}")
        assert is_whole(blob, b)
