"""Standard streams that are closed or full, and Ctrl-C at any moment: one line, no traceback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.agent_thread import running_agent
from tests.support.agents import REPO, agent_env

PROGRAM = f"{sys.executable} -m p2pcache"
# No claim about time: why a minute, and why less for a Ctrl-C, test_program says.
PATIENCE_S = 60.0
CTRL_C_S = 20.0


@pytest.fixture
def env(tmp_path):
    env = agent_env(tmp_path) | {"PYTHONPATH": str(REPO)}
    os.mkdir(env["P2PCACHE_HOME"], 0o700)
    return env


@pytest.fixture
def agent(env, tmp_path):
    with running_agent(tmp_path / "p2pcache") as service:
        yield service


def sh(env, line):
    return subprocess.run(
        ["sh", "-c", line],
        env=env, capture_output=True, text=True, timeout=PATIENCE_S, cwd=env["HOME"],
    )  # fmt: skip


@pytest.mark.parametrize(
    "command", ["ls", "ls --json", "status", "completion bash", "--help", "--version", ""]
)
def test_output_on_a_full_disk_exits_13_with_one_line(env, agent, command):
    done = sh(env, f"{PROGRAM} {command} > /dev/full")
    assert done.returncode == 13
    said = json.loads(done.stderr)["message"] if "json" in command else done.stderr.splitlines()[0]
    assert "the output cannot be written: No space left on device" in said
    assert "Traceback" not in done.stderr


def test_a_full_disk_under_the_remarks_fails_nothing(env, agent):
    done = sh(env, f"{PROGRAM} get org/model --to /x 2> /dev/full")
    assert (done.returncode, done.stdout) == (0, "/x\n")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_stream_is_dev_null(env, agent, closed):
    done = sh(env, f"{PROGRAM} get org/model --to /x {closed}; echo $?")
    shown = [] if ">&-" in closed.split() else ["/x"]
    assert done.stdout.splitlines() == [*shown, "0"]
    assert "Traceback" not in done.stderr


def test_a_get_with_closed_streams_brings_its_own_agent_and_the_file(env, tmp_path):
    (tmp_path / "file").write_text("bytes")
    done = sh(env, f"{PROGRAM} get {tmp_path}/file --to {tmp_path}/out <&- 2>&-")
    assert (done.returncode, done.stdout) == (0, f"{tmp_path}/out/file\n")
    done = sh(env, f"{PROGRAM} get {tmp_path}/file --to {tmp_path}/more <&- >&- 2>&-")
    assert done.returncode == 0
    assert (tmp_path / "more" / "file").read_text() == "bytes"


def test_a_command_leaves_no_process_behind_that_uses_its_home(env, tmp_path):
    (tmp_path / "file").write_text("bytes")
    mark = f"P2PCACHE_HOME={env['P2PCACHE_HOME']}".encode()
    for command in ("ls", f"get {tmp_path}/file --to {tmp_path}/out"):
        words = [*PROGRAM.split(), *command.split()]
        done = subprocess.run(words, env=env, timeout=PATIENCE_S, check=True)
        assert done.returncode == 0
        assert not [path for path in Path("/proc").glob("[0-9]*/environ") if has(path, mark)]


def has(environ: Path, mark: bytes) -> bool:
    try:
        return mark in environ.read_bytes().split(b"\0")
    except OSError:  # gone meanwhile, or another user's
        return False


def test_an_embedded_agent_without_standard_input_has_nobody_to_serve(env):
    done = sh(env, f"{PROGRAM} agent run --embedded <&-")
    assert (done.returncode, done.stderr) == (0, "")


def test_an_agent_runs_without_standard_streams(env):
    line = f"{PROGRAM} agent run <&- >&- 2>&- & agent=$!; "
    line += f"until {PROGRAM} status -q >/dev/null 2>&1; do kill -0 $agent || exit 9; done; "
    done = sh(env, line + "kill -TERM $agent; wait $agent")
    assert done.returncode == 0


@pytest.mark.parametrize("delay_ms", [1, 5, 20, 40, 60, 80, 100, 120, 150, 200, 300])
def test_ctrl_c_while_a_command_starts_is_130_and_one_line(env, agent, delay_ms):
    child = starting(env, "p2pcache.__main__", "get", "hang")
    time.sleep(delay_ms / 1000)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=CTRL_C_S)
    assert (child.returncode, out) == (130, "")
    assert err == "error: interrupted; what was verified is kept\n"


@pytest.mark.parametrize("delay_ms", [1, 50, 150, 300, 500, 700])
def test_ctrl_c_while_an_agent_starts_is_one_line(env, delay_ms):
    child = starting(env, "p2pcache.agent.__main__")
    time.sleep(delay_ms / 1000)
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=PATIENCE_S)
    assert child.returncode in (0, 130)
    assert len(err.splitlines()) <= 1
    assert "Traceback" not in err


STARTED = """
import _signal, signal, sys, {module} as m
install = _signal.signal
def told(number, handler):
    before = install(number, handler)
    if number == signal.SIGINT:
        _signal.signal = install
        print(file=sys.stderr, flush=True)
    return before
_signal.signal = told
signal.alarm(60)  # the end of one that never takes Ctrl-C
sys.exit(m.main())
"""


def starting(env, module, *args):
    """A program that has begun: before its line a Ctrl-C still meets Python that starts, not us."""
    program = STARTED.format(module=module)
    child = subprocess.Popen(
        [sys.executable, "-c", program, *args],
        env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert child.stderr.readline() == "\n"
    return child


@pytest.mark.parametrize("module", ["p2pcache.__main__", "p2pcache.agent.__main__"])
def test_a_program_loads_nothing_but_itself_before_it_takes_ctrl_c(env, module):
    """Until then Ctrl-C is a traceback: each module more would be a few milliseconds of that."""
    program = f"import sys; before = set(sys.modules); import {module}; "
    program += "print(*sorted({name.split('.')[0] for name in set(sys.modules) - before}))"
    done = subprocess.run(
        [sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split()) - {"__future__"}  # an editable install has it already
    assert loaded == {"p2pcache"}


@pytest.mark.parametrize("gap_s", [0.0, 0.02, 0.1])
def test_two_quick_ctrl_c_end_an_agent_without_a_traceback(env, gap_s):
    child = subprocess.Popen(
        [sys.executable, "-m", "p2pcache", "agent", "run"],
        env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert "ready" in child.stderr.readline()
    child.send_signal(signal.SIGINT)
    time.sleep(gap_s)
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=PATIENCE_S)
    assert (child.returncode, err) == (0, "")
