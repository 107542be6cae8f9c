"""Many agents and an origin in namespaces, for what needs links of a known rate."""

from __future__ import annotations

import shutil
from functools import partial
from typing import TYPE_CHECKING

from tests.support.agents import made_agent, running_agents
from tests.support.network import MODULE, knows, wait_until
from tests.support.nginx import nginx, static_hub

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import AbstractContextManager, ExitStack
    from pathlib import Path

    from tests.support.agents import Agent
    from tests.support.hub_repo import HubRepo
    from tests.support.namespaces import Lan
    from tests.support.nginx import Nginx

ORIGIN_PORT = 8080
MEET_S = 90.0
AT_ONCE = 4  # agents that start together: each wants a core for a second


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
    made = [
        made_agent(
            folder / f"n{number}", settings=each[number] if each else None,
            prefix=("setsid", *net.prefix(number)), module=MODULE, argv=(), **env,
        )
        for number in range(count)
    ]  # fmt: skip
    (first,) = stack.enter_context(running_agents(made[:1]))
    with first.client() as client:
        client.init()
    for start in range(1, count, AT_ONCE):
        some = made[start : start + AT_ONCE]
        for agent in some:
            shutil.copy2(first.home / "network.key", agent.home / "network.key")
        stack.enter_context(running_agents(some))
    for agent in made:
        stack.callback(agent.tell_to_stop)
    for agent in made:
        wait_until(partial(knows, agent, count - 1), "they do not all meet", MEET_S)
    return made
