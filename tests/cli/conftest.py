"""A home of its own for the commands of a test, and an agent there that gives fixed answers."""

import pytest

from tests.support.agent_thread import running_agent


@pytest.fixture
def home(tmp_path, monkeypatch):
    folder = tmp_path / "home"
    folder.mkdir(mode=0o700)
    monkeypatch.setenv("P2PCACHE_HOME", str(folder))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return folder


@pytest.fixture
def agent(home):
    with running_agent(home) as service:
        yield service
