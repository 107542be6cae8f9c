from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio

from p2pcache import config
from p2pcache.agent.localapi.server import serve
from tests.support.scripted_service import ScriptedService


class Agent:
    """A running server of a scripted service, for tests inside trio."""

    def __init__(self, home, service, clients):
        self.home = home
        self.path = config.socket_path(home)
        self.service = service
        self.clients = clients
        self.opened = []  # streams that tests opened; closed with the agent


@pytest.fixture
def home(tmp_path):
    folder = tmp_path / "home"
    folder.mkdir(mode=0o700)
    return folder


@pytest.fixture
def agent_of(home):
    @asynccontextmanager
    async def open_agent(options=None):
        service = ScriptedService()
        async with trio.open_nursery() as nursery:
            clients = await nursery.start(
                partial(serve, config.socket_path(home), service, options=options)
            )
            agent = Agent(home, service, clients)
            with trio.fail_after(20):
                yield agent
            for stream in agent.opened:
                await stream.aclose()
            nursery.cancel_scope.cancel()

    return open_agent
