"""The program as a process of its own: terminals, pipes, Ctrl-C, many at once."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time

import pytest

from p2pcache.agent.localapi.client import Client
from p2pcache.agent.localapi.server import ServerOptions
from tests.support.agent_thread import running_agent

# Nothing here is judged by how long it took. Beside the servers' tests, at the niceness of
# scripts/suite, a process has a thirtieth of a busy core: a command that needs 0.15 s, four.
PATIENCE_S = 60.0  # thirty commands, or an agent that starts
CTRL_C_S = 20.0  # a wait of 30 s for an answer, which a Ctrl-C has to end, is longer


def run(*args, **options):
    """The program in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "p2pcache", *args], capture_output=True, text=True, **options
    )


def test_an_agent_that_another_started_meanwhile_is_not_ours(home):
    waits = (sys.executable, "-c", "import sys; sys.stdin.read()")  # ours is slow to start
    client = Client(home, embed=True, agent_command=waits)
    connecting = threading.Thread(target=client.connect)
    connecting.start()
    wait_until((home / "embedded-agent.log").exists)
    with running_agent(home):
        connecting.join(PATIENCE_S)
        assert not client.embedded
        client.close()


@pytest.mark.parametrize(
    ("command", "typed", "hint"),
    [(["join", ""], "", "p2pcache invite"), (["join", "-"], "\n", "p2pcache invite"),
     (["unban", ""], "", "p2pcache peers --banned")],
)  # fmt: skip
def test_nothing_where_something_is_needed_says_where_to_get_it(agent, command, typed, hint):
    done = run(*command, input=typed)
    assert done.returncode == 2
    assert hint in done.stderr
    assert agent.calls == []


def test_join_reads_a_token_from_stdin_so_that_no_process_list_shows_it(agent):
    done = run("join", "-", input="p2pcache1-token\n")
    assert done.returncode == 0
    assert "2f5996096c987138a1f4f8c4a1edb038  (joined)" in done.stdout
    ((_, sent),) = agent.calls
    assert sent["token"].strip() == "p2pcache1-token"


def test_the_completion_script_gets_names_from_the_program():
    asked = {"_P2PCACHE_COMPLETE": "bash_complete", "COMP_WORDS": "p2pcache res", "COMP_CWORD": "1"}
    done = run(env={**os.environ, **asked})
    assert done.stdout == "plain,resolve\n"


def test_the_program_runs_as_a_module(agent):
    done = run("gc", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["evicted"] == 4


def test_the_upload_limit_of_the_command_line_reaches_a_real_agent(home):
    agent = subprocess.Popen(
        [sys.executable, "-m", "p2pcache", "agent", "run", "--limit-up", "10 MiB/s"],
        stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env={**os.environ, "P2PCACHE_LANES_LIMIT_UP": "1 MiB"},
    )  # fmt: skip
    try:
        wait_until(lambda: run("status").returncode == 0)
        shown = [json.loads(line) for line in run("config", "show", "--json").stdout.splitlines()]
    finally:
        agent.terminate()
        agent.wait(PATIENCE_S)
    (limit,) = [setting for setting in shown if setting["name"] == "lanes.limit_up"]
    assert limit["value"] == 10 << 20


@pytest.mark.parametrize(
    ("command", "key", "kept"),
    [
        ("get", False, "what was verified is kept"),
        ("join", False, "no key is kept"),
        ("join", True, "the network's key is kept"),
    ],
)
def test_ctrl_c_stops_a_call_to_the_agent_exits_130_and_says_what_is_kept(
    agent, home, command, key, kept
):
    if key:
        (home / "network.key").write_text("key")
    child = subprocess.Popen(
        [sys.executable, "-m", "p2pcache", command, "hang"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_until(lambda: agent.calls)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=CTRL_C_S)
    assert (child.returncode, out) == (130, "")
    said, *hints = err.splitlines()
    assert said == f"error: interrupted; {kept}"
    assert [hint.partition(" ")[0] for hint in hints] == (["hint:"] if command == "join" else [])
    wait_until(lambda: agent.cancelled == ["hang"])


def test_a_reader_that_had_enough_is_no_failure(agent):
    child = subprocess.Popen(
        [sys.executable, "-m", "p2pcache", "ls"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    child.stdout.close()  # before it has written anything
    err = child.stderr.read()
    child.stderr.close()
    assert (child.wait(PATIENCE_S), err) == (0, b"")


def test_on_a_terminal_progress_is_one_line_that_is_taken_back(agent):
    shown = on_a_terminal(["get", "slow"], {})
    assert re.search(r"\ra\.bin  [1-4]00/400 B  hf 100%", shown)  # a newer one may replace any
    assert shown.count("\n") == 2  # the summary and the note; never the progress


def test_a_dumb_terminal_gets_no_control_sequences(agent):
    shown = on_a_terminal(["get", "slow"], {"TERM": "dumb"})
    assert "\x1b" not in shown
    assert "fetched" in shown
    assert "\x1b" not in on_a_terminal(["get", "fail:denied"], {"TERM": "dumb"})


@pytest.mark.parametrize("variable", ["P2PCACHE_NO_PROGRESS"])
def test_progress_can_be_turned_off(agent, variable):
    assert "a.bin" not in on_a_terminal(["get", "slow"], {variable: "1"})
    assert "a.bin" not in on_a_terminal(["get", "slow", "-q"], {})
    assert "a.bin" not in on_a_terminal(["get", "slow", "--json"], {})


def test_color_only_on_a_terminal_that_wants_it(agent):
    assert "\x1b[31merror:" in on_a_terminal(["get", "fail:denied"], {"NO_COLOR": ""})
    assert "\x1b" not in on_a_terminal(["get", "fail:denied"], {"NO_COLOR": "1"})
    assert "\x1b" not in run("get", "fail:denied").stderr


def test_thirty_programs_at_once_all_get_their_answer(home):
    with running_agent(home, ServerOptions(max_clients=40)) as service:
        children = [
            subprocess.Popen(
                [sys.executable, "-m", "p2pcache", "get", "org/model", "-q", "--to", f"/{n}"],
                stdout=subprocess.PIPE, text=True,
            )
            for n in range(30)
        ]  # fmt: skip
        answers = [child.communicate(timeout=PATIENCE_S)[0] for child in children]
    assert answers == [f"/{n}\n" for n in range(30)]
    assert len(service.calls) == 30


def test_a_warm_command_loads_nothing_heavy(agent):
    program = (
        "import sys\n"
        "from p2pcache.cli.main import main\n"
        "main(['get', 'org/model', '-q'])\n"
        "heavy = {'trio', 'httpx', 'huggingface_hub', 'rich', 'urllib3', 'asyncio', 'libp2p'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stderr == "[]\n"


def on_a_terminal(args, environment):
    """What a person would see: stdout a pipe, stderr a terminal of 80 columns."""
    ours, theirs = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-m", "p2pcache", *args],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=theirs,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "80", **environment},
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    while True:
        try:
            data = os.read(ours, 4096)
        except OSError:  # Linux: the terminal's other end is closed
            break
        if not data:
            break
        shown += data
    child.wait(PATIENCE_S)
    os.close(ours)
    return shown.decode().replace("\r\n", "\n")


def wait_until(holds):
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)
