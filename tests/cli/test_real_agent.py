"""Commands against a real agent and real origins: what a user types, and what then happens."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.support.agents import REPO, running_agent

ROOT = str(REPO)


@pytest.fixture(scope="module")
def agent(tmp_path_factory):
    with running_agent(tmp_path_factory.mktemp("agent"), settings={"resolve.ttl": "1ms"}) as agent:
        yield agent


@pytest.fixture
def p2pcache(agent, tmp_path):
    """The program, in `tmp_path`, beside a running agent: `p2pcache("get", ref)`."""

    def run(*args, **options):
        return program(agent.env, tmp_path, *args, **options)

    return run


def program(env, folder, *args, **options):
    return subprocess.run(
        [sys.executable, "-m", "p2pcache", *args],
        capture_output=True, text=True, cwd=folder, env=env | {"PYTHONPATH": ROOT}, timeout=60,
        **options,
    )  # fmt: skip


def folder_of(path, **files):
    path.mkdir()
    for name, text in files.items():
        (path / name).write_text(text)
    return path


def test_several_files_without_a_place_say_how_to_have_them(p2pcache, tmp_path):
    folder_of(tmp_path / "www", a="one", b="two")
    done = p2pcache("get", "./www")
    assert (done.returncode, done.stdout) == (0, "")
    assert "`--to DIR`" in done.stderr.splitlines()[-1]
    assert json.loads(p2pcache("get", "./www", "--json").stdout)["path"] is None
    placed = p2pcache("get", "./www", "--to", "out")
    assert placed.stdout == f"{tmp_path / 'out'}\n"
    assert "--to" not in placed.stderr
    assert "--to" not in p2pcache("get", "./www", "--dry-run").stderr
