"""Several real agents in one network on loopback, each a process with a home of its own."""

from __future__ import annotations

import contextlib
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

from p2pcache.errors import NotFound
from tests.support.agents import START_S, Agent, made_agent, running_agents

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

WAIT_S = 20.0
MODULE = "p2pcache.agent"
LOOPBACK = {"network.hosts": "127.0.0.1", "network.mdns": "off"}


def wait_until(true: Callable[[], object], what: str, seconds: float = WAIT_S) -> None:
    """Poll until it holds; fails with `what`."""
    give_up = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < give_up, what
        time.sleep(0.02)


def peers_of(agent: Agent) -> set[str]:
    """The peer ids that an agent is connected with."""
    with agent.client() as client:
        return {peer["peer"] for peer in client.peers()}


def peer_id(agent: Agent) -> str:
    """Who an agent is."""
    with agent.client() as client:
        return client.init()["peer"]


def knows(agent: Agent, count: int) -> bool:
    """Whether it is connected with so many others."""
    return len(peers_of(agent)) == count


def is_given(agent: Agent, ref: str) -> bool:
    """Whether it gets content that nobody else but its network has."""
    try:
        agent.get(ref)
    except NotFound:
        return False
    return True


def join(agent: Agent, host: Agent) -> None:
    """Have one agent join another's network by token."""
    with host.client() as client:
        token = client.invite(expires_s=600)["token"]
    with agent.client() as client:
        client.join(token)


@contextlib.contextmanager
def network(
    folder: Path,
    count: int,
    *,
    settings: Mapping[str, str] | None = None,
    each: Mapping[int, Mapping[str, str]] | None = None,
    bad: Mapping[int, Mapping[str, str]] | None = None,
    old: Mapping[int, Mapping[str, str]] | None = None,
    env: Mapping[str, str] | None = None,
) -> Iterator[list[Agent]]:
    """So many agents that all know each other; the first made the network.

    `each`: more settings, by number. `env`: of all, such as HF_ENDPOINT. `bad`: those
    that run with a fault, with their environment (`tests.support.bad_agent`). `old`: those that
    were not upgraded (`tests.support.old_agent`).
    """
    made = []
    for number in range(count):
        chosen = {**LOOPBACK, **(settings or {}), **(each or {}).get(number, {})}
        kind = next((k for k, them in (("bad", bad), ("old", old)) if number in (them or {})), None)
        module = MODULE if kind is None else f"tests.support.{kind}_agent"
        variables = {**(bad or {}), **(old or {})}.get(number, env or {})
        made.append(
            made_agent(
                folder / f"n{number}", settings=chosen, prefix=(), module=module, argv=(),
                **variables,
            )
        )  # fmt: skip
    with running_agents(made) as agents:
        with agents[0].client() as client:
            client.init()
        with ThreadPoolExecutor(max_workers=count) as pool:
            list(pool.map(lambda agent: join(agent, agents[0]), agents[1:]))
        for agent in agents:
            wait_until(partial(knows, agent, count - 1), "they do not all know others", START_S)
        yield list(agents)
