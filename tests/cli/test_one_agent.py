"""One home, one agent: whatever the environment of who starts it, and whoever starts first."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from tests.support.agents import REPO, agent_env

RUN = (sys.executable, "-P", "-m", "p2pcache", "agent", "run")


@pytest.fixture
def env(tmp_path):
    """An agent's environment whose home is too long for a socket in it."""
    found = agent_env(tmp_path, P2PCACHE_NETWORK_MDNS="off", PYTHONPATH=str(REPO))
    return found | {"P2PCACHE_HOME": str(tmp_path / ("h" * 100))}


def runtime(env, tmp_path, name):
    """The same home in a session of its own."""
    folder = tmp_path / name
    folder.mkdir(mode=0o700, exist_ok=True)
    assert len(os.fsencode(folder)) < 70
    return env | {"XDG_RUNTIME_DIR": str(folder)}


@contextmanager
def agent_run(env, log):
    with log.open("wb") as out:
        process = subprocess.Popen(RUN, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(20)


def command(env, *args):
    return subprocess.run(
        [sys.executable, "-P", "-m", "p2pcache", *args],
        env=env, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def wait_for(log, text, process):
    deadline = time.monotonic() + 30
    while text not in log.read_text():
        assert time.monotonic() < deadline, log.read_text()
        assert process.poll() is None, log.read_text()
        time.sleep(0.02)


def test_a_second_agent_of_a_home_is_refused_though_its_socket_is_another(env, tmp_path):
    one, two = (runtime(env, tmp_path, name) for name in ("a", "b"))
    log = tmp_path / "one.log"
    with agent_run(one, log) as first:
        wait_for(log, "agent ready", first)
        refused = subprocess.run(
            RUN, env=two, capture_output=True, text=True, timeout=40, stdin=subprocess.DEVNULL
        )
        assert refused.returncode == 1
        assert "already running" in refused.stderr
        assert str(tmp_path / "a") in refused.stderr


def test_a_command_of_another_session_finds_the_agent_of_its_home(env, tmp_path):
    one, two = (runtime(env, tmp_path, name) for name in ("a", "b"))
    log = tmp_path / "one.log"
    with agent_run(one, log) as first:
        wait_for(log, "agent ready", first)
        for args in (("status", "--json"), ("doctor", "--json"), ("gc", "--dry-run")):
            assert command(two, *args).returncode in (0, 1), args
        said = json.loads(command(two, "status", "--json").stdout)
        assert said["pid"] == first.pid
        assert not (tmp_path / "b" / "p2pcache").exists()


@pytest.mark.parametrize("round_", range(3))
def test_init_while_an_agent_starts_ends_with_both(tmp_path, round_):
    env = agent_env(tmp_path, P2PCACHE_NETWORK_MDNS="off", PYTHONPATH=str(REPO))
    log = tmp_path / "agent.log"
    with agent_run(env, log) as agent:
        time.sleep((0.0, 0.15, 0.4)[round_])
        made = command(env, "init", "--json")
        assert made.returncode == 0, made.stderr
        wait_for(log, "agent ready", agent)
        said = json.loads(command(env, "status", "--json").stdout)
        assert said["pid"] == agent.pid
        again = json.loads(command(env, "init", "--json").stdout)  # waits until it is open
        assert again == json.loads(made.stdout) | {"made": False, "addresses": again["addresses"]}
