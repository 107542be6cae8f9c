"""Commands against a real agent and real origins: what a user types, and what then happens."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.support.agents import REPO, agent_env, running_agent

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


@pytest.fixture
def gone(tmp_path):
    """A shell's line run in a folder that was removed under it."""

    def run(env, line):
        (tmp_path / "here").mkdir()
        line = f"cd {tmp_path}/here && rmdir {tmp_path}/here && {line}"
        return subprocess.run(
            ["sh", "-c", line.replace("p2pcache ", f"{sys.executable} -m p2pcache ")],
            env=env | {"PYTHONPATH": ROOT}, capture_output=True, text=True, timeout=60,
        )  # fmt: skip

    return run


def test_a_working_directory_that_is_gone_matters_to_relative_paths_alone(tmp_path, gone):
    env = agent_env(tmp_path)
    (tmp_path / "file").write_text("bytes")
    done = gone(env, f"p2pcache get {tmp_path}/file --to {tmp_path}/out")
    assert (done.returncode, done.stdout) == (0, f"{tmp_path}/out/file\n")
    assert "1 file" in gone(env, f"p2pcache push {tmp_path}/file").stderr
    for wrong in ("get ./file", f"get {tmp_path}/file --to out"):
        done = gone(env, f"p2pcache {wrong}")
        assert (done.returncode, done.stdout) == (2, "")
        assert "relative to a working directory that is gone" in done.stderr
    done = gone(env | {"P2PCACHE_HOME": "rel"}, "p2pcache ls --json")
    assert json.loads(done.stderr)["message"] == "the working directory is gone"


def test_an_agent_keeps_no_hold_of_the_folder_it_was_started_in(agent):
    assert os.readlink(f"/proc/{agent.process.pid}/cwd") == "/"


@pytest.mark.parametrize("args", [["--json"], ["--json", "ls"], ["config", "--json", "--nope"]])
def test_an_error_of_usage_is_json_where_json_was_asked_for(p2pcache, args):
    done = p2pcache(*args)
    assert (done.returncode, done.stdout) == (2, "")
    assert json.loads(done.stderr)["code"] == "usage"


def test_a_bad_setting_is_wrong_usage_whoever_starts_the_agent(tmp_path):
    env = agent_env(tmp_path) | {"P2PCACHE_STORE_CAPACITY": "0"}
    for args in (["ls"], ["agent", "run"]):
        done = program(env, tmp_path, *args)
        assert done.returncode == 2
        assert done.stderr.startswith("error: P2PCACHE_STORE_CAPACITY: store.capacity: ")


@pytest.mark.parametrize("home", ["/proc/nope", "/etc/passwd"])
def test_a_home_that_cannot_be_says_what_to_set(tmp_path, home):
    for args in (["ls"], ["agent", "run"]):
        done = program(agent_env(tmp_path) | {"P2PCACHE_HOME": home}, tmp_path, *args)
        assert done.returncode == 1
        assert "hint: set P2PCACHE_HOME" in done.stderr
