"""Agents with `ipfs.bitswap` and a real Kubo that has their network's key."""

from __future__ import annotations

import urllib.error
import urllib.request
from contextlib import contextmanager
from random import Random
from typing import TYPE_CHECKING

import trio

from tests.support.bitswap_kubo import trading_kubo
from tests.support.network import network

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
