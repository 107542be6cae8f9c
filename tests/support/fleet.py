"""Many agents and an origin in namespaces, for what needs links of a known rate."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.agents import agent_env, running_agent
from tests.support.network import knows, wait_until
from tests.support.nginx import nginx, static_hub

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import AbstractContextManager, ExitStack

    from tests.support.agents import Agent
    from tests.support.hub_repo import HubRepo
    from tests.support.namespaces import Lan
    from tests.support.nginx import Nginx

ORIGIN_PORT = 8080
MEET_S = 90.0


def lan_hub(net: Lan, host: int, repo: HubRepo, folder: Path) -> AbstractContextManager[Nginx]:
    """A hub with one repository on one of the hosts."""
    site = folder / "site"
    return nginx(
        site, folder / "nginx", extra=static_hub(repo, site), port=ORIGIN_PORT,
        host=net.ip_of(host), prefix=("setsid", *net.prefix(host)),
    )  # fmt: skip


def fleet(
    stack: ExitStack, net: Lan, count: int, folder: Path,
    *, each: Sequence[Mapping[str, str]] = (), **env: str,
) -> list[Agent]:  # fmt: skip
    """So many agents, on the first hosts, that all know each other by mDNS. `env`: of all;
    `each`: settings, by number.
    """
    agents: list[Agent] = []
    for number in range(count):
        place = folder / f"n{number}"
        place.mkdir(parents=True)
        home = Path(agent_env(place)["P2PCACHE_HOME"])
        if agents:
            home.mkdir(parents=True)
            shutil.copy2(agents[0].home / "network.key", home / "network.key")
        made = running_agent(
            place, settings=each[number] if each else None,
            prefix=("setsid", *net.prefix(number)), **env,
        )  # fmt: skip
        agents.append(stack.enter_context(made))
        if number == 0:
            with agents[0].client() as client:
                client.init()
    for agent in agents:
        wait_until(partial(knows, agent, count - 1), "they do not all meet", MEET_S)
    return agents
