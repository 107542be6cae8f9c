"""Agents in one network, for the benchmarks: each a process with a home of its own, on loopback."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from p2pcache.errors import LocalFault, Unavailable
from scripts.bench_support import agent, progress

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import ExitStack
    from pathlib import Path

    from scripts.bench_support import Agent

LOOPBACK = {"P2PCACHE_NETWORK_HOSTS": "127.0.0.1", "P2PCACHE_NETWORK_MDNS": "off"}
MEET_S = 60.0
JOIN_TRIES = 3
POLL_S = 0.005


def wait_until(true: Callable[[], object], what: str, timeout_s: float = MEET_S) -> float:
    """Seconds until it holds. Raises RuntimeError with what did not come true."""
    began = time.monotonic()
    while not true():
        if time.monotonic() - began > timeout_s:
            raise RuntimeError(f"not after {timeout_s:g} s: {what}")
        time.sleep(POLL_S)
    return time.monotonic() - began


def peers_of(running: Agent) -> set[str]:
    """The peers that an agent is connected with."""
    with running.client() as client:
        return {peer["peer"] for peer in client.peers()}


def join(running: Agent, host: Agent) -> None:
    """Join the network of another agent, by token."""
    with host.client() as client:
        token = client.invite(expires_s=600)["token"]
    with running.client() as client:
        for _ in range(JOIN_TRIES):
            try:
                client.join(token)
            except (LocalFault, Unavailable) as exc:  # a busy machine imports for long
                progress(f"joining again: {exc.message}")
            else:
                return
        client.join(token)


def joined(
    stack: ExitStack,
    folder: Path,
    count: int,
    *,
    all_know: bool = True,
    last: str | None = None,
    **more: str,
) -> list[Agent]:
    """So many agents, which end with `stack`. All know each other, or only the first.

    `last`: the module that the last one runs, if not the product's.
    """

    def start(number: int) -> Agent:
        home = folder / f"n{number}"
        module = last if number == count - 1 else None
        return stack.enter_context(agent(home, module, **LOOPBACK, **more))

    agents = [start(number) for number in range(count)]
    with agents[0].client() as client:
        client.init()
    for running in agents[1:]:  # one after another: each imports a network stack
        join(running, agents[0])
    if all_know:
        wait_until(
            lambda: all(len(peers_of(running)) == count - 1 for running in agents),
            "all agents know all others",
        )
    return agents
