"""What the open network is told of what is here, with stubs for all that is outside."""

from __future__ import annotations

from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest
import trio

from p2pcache.agent.network import AgentNetwork
from p2pcache.agent.peering import peers_of
from p2pcache.store.store import Store
from tests.support.gated import ADMIN, ME, World


class Told:
    """Stands for the network and for the DHT; writes down what they are told."""

    def __init__(self) -> None:
        self.pulls: list[tuple[bytes, bool]] = []
        self.provided: list[bytes] = []
        self.asked: list[bytes] = []

    @asynccontextmanager
    async def swarm(self, manifest, names, *, quiet):
        self.pulls.append((manifest, quiet))
        send, events = trio.open_memory_channel(1)
        async with send:
            yield SimpleNamespace(events=events)

    def members(self):
        return []

    def provide(self, names) -> None:
        self.provided += names

    @asynccontextmanager
    async def find(self, name):
        self.asked.append(name)
        send, found = trio.open_memory_channel(1)
        await send.aclose()
        yield found


@pytest.fixture
def world(tmp_path):
    with Store.open(tmp_path / "store") as store:
        yield World(store)


def opened_network(world: World) -> tuple[AgentNetwork, Told]:
    told = Told()
    opened = AgentNetwork(
        identity=ME, key=None, admin=ADMIN.peer_id, host=None, server=None, store=world.store,
        now=lambda: world.now, book=None, tls=None,
    )  # fmt: skip
    opened.network = opened.dht = told
    return opened, told


async def test_a_pull_of_what_is_gated_is_told_and_looked_up_nowhere(world):
    opened, told = opened_network(world)
    for manifest in (world.gated, world.public):
        async with peers_of(opened, manifest, world.names(), None):
            await trio.sleep(0.05)
    assert told.pulls == [(world.gated, True), (world.public, False)]
    assert told.provided == [world.public]
    assert told.asked == [world.public]
