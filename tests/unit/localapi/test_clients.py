"""Both clients against a real server on a real socket."""

import math
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import trio

import p2pcache
from p2pcache import config
from p2pcache.agent.localapi import connection
from p2pcache.agent.localapi.calls import absolute_ref, get, push
from p2pcache.agent.localapi.client import Client, connect
from p2pcache.agent.localapi.embedded import start_agent
from p2pcache.agent.localapi.listener import is_listening
from p2pcache.agent.localapi.server import ServerOptions
from p2pcache.errors import (
    ALL_ERRORS,
    AgentNotRunning,
    LocalFault,
    Untrusted,
    UsageError,
)
from tests.support.agent_thread import running_agent
from tests.support.agents import agent_env
from tests.support.scripted_service import LAST_ITEM_COUNT, MANIFEST

SCRIPTED = (sys.executable, "-m", "tests.support.scripted_service")


def operations(ref="hf://org/model"):
    """Every operation of both clients with arguments, and what must come back."""
    return [
        (lambda c: c.resolve(ref), lambda a: [f["present"] for f in a["files"]] == [True, False]),
        (lambda c: c.get(ref, to="/x"), lambda a: a["path"] == "/x"),
        (lambda c: c.pull(ref, hf_cache="/hf"), lambda a: a["path"] == "/hf"),
        (lambda c: c.push("."), lambda a: a["manifest"] == MANIFEST),
        (lambda c: c.export([ref], "/x.car", gated=True), lambda a: a["refs"][0]["restricted"]),
        (lambda c: c.import_bundle("/x.car"), lambda a: a["new_bytes"] == 300),
        (lambda c: c.ls(), lambda a: len(a) == LAST_ITEM_COUNT),
        (lambda c: c.pin(ref), lambda a: a["manifest"] == MANIFEST),
        (lambda c: c.unpin(ref), lambda a: a["manifest"] == MANIFEST),
        (lambda c: c.rm(ref, force=True), lambda a: a["freed_bytes"] == 1 << 20),
        (lambda c: c.gc(target_bytes=5), lambda a: a["evicted"] == 4),
        (lambda c: c.verify(), lambda a: a["checked"] == 9),
        (lambda c: c.status(), lambda a: a["pid"] == os.getpid()),
        (lambda c: c.why(), lambda a: a["ref"] == "last"),
        (lambda c: c.doctor(), lambda a: [check["ok"] for check in a] == [True, False]),
        (lambda c: c.config(), lambda a: a["home"]["source"] == "environment"),
        (lambda c: c.shutdown(), lambda a: a == {}),
    ]


def test_every_operation_of_the_sync_client_arrives(home):
    with running_agent(home) as service, Client(home) as client:
        for call, is_right in operations():
            assert is_right(call(client))
    assert len(service.calls) == len(operations())


async def test_every_operation_of_the_trio_client_arrives(agent_of):
    async with agent_of() as agent, p2pcache.AsyncClient(agent.home) as client:
        for call, is_right in operations():
            assert is_right(await call(client))


def test_the_readmes_python_example_runs_where_no_agent_does(tmp_path):
    readme = (Path(__file__).parents[3] / "README.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", readme, re.S)
    body = tmp_path / "model.bin"
    body.write_bytes(b"weights")
    program = example.replace("hf://org/name@main", str(body))
    done = subprocess.run(
        [sys.executable, "-c", program], env=agent_env(tmp_path), capture_output=True, text=True
    )
    assert done.stderr == ""
    assert Path(done.stdout.strip()).read_bytes() == b"weights"


def test_both_clients_offer_the_same_operations():
    def public(kind):
        return {name for name in dir(kind) if not name.startswith("_")}

    of_one_connection = {"close", "connect", "embedded", "cancel"}  # trio's way is a cancel scope
    assert public(p2pcache.AsyncClient) - {"aclose"} == public(Client) - of_one_connection


@pytest.mark.parametrize("kind", ALL_ERRORS)
def test_the_agents_errors_come_out_as_themselves_and_the_client_goes_on(home, kind):
    with running_agent(home), Client(home) as client:
        with pytest.raises(kind) as caught:
            client.get(f"fail:{kind.code}")
        assert type(caught.value) is kind
        assert caught.value.hint == "do this"
        assert client.gc()["evicted"] == 4


@pytest.mark.parametrize("ref", [None, 7, b"hf://org/model", ""])
def test_what_is_no_ref_is_wrong_usage_before_anything_is_asked(home, ref):
    with running_agent(home) as service, Client(home) as client:
        for call in (client.get, client.resolve, client.pin, client.why):
            with pytest.raises(UsageError, match="ref"):
                call(ref)
        assert client.gc()["evicted"] == 4
    assert [op for op, _ in service.calls] == ["gc"]


def test_progress_is_reported_in_order(home):
    seen = []
    with running_agent(home), Client(home) as client:
        client.get("slow", on_progress=lambda progress: seen.append(progress["done_bytes"]))
    assert seen == sorted(seen)
    assert seen[-1] == 300


def test_an_exception_in_on_progress_stops_the_pull_and_leaves_a_usable_client(home):
    with running_agent(home) as service, Client(home) as client:
        with pytest.raises(ZeroDivisionError):
            client.get("hang", on_progress=lambda progress: 1 / 0)
        assert client.gc()["evicted"] == 4
        wait_until(lambda: service.cancelled == ["hang"])


def test_ctrl_c_is_confirmed_by_the_agent_before_it_reaches_the_caller(home):
    with running_agent(home) as service, Client(home) as client:
        with pytest.raises(KeyboardInterrupt):
            client.get("hang", on_progress=lambda progress: os.kill(os.getpid(), signal.SIGINT))
        assert service.cancelled == ["hang"]
        assert client.gc()["evicted"] == 4


def test_without_an_agent_the_error_says_how_to_start_one(home):
    with pytest.raises(AgentNotRunning) as caught:
        connect(home)
    assert "p2pcache agent run" in caught.value.hint


def test_a_restarted_agent_is_found_again(home):
    with Client(home) as client:
        for _ in range(2):
            with running_agent(home):
                assert client.gc()["evicted"] == 4


async def test_the_trio_client_finds_a_restarted_agent_again(agent_of, home):
    async with agent_of() as agent:
        client = p2pcache.AsyncClient(home)
        await client.gc()
    async with agent_of() as agent:
        assert (await client.gc())["evicted"] == 4
        await client.aclose()
    assert not agent.service.cancelled


def test_an_agent_that_goes_away_before_it_answers_is_named(home):
    with running_agent(home) as service, Client(home) as client:

        def stop_it(progress):
            with Client(home) as second:
                second.shutdown()

        with pytest.raises(AgentNotRunning, match="went away"):
            client.get("hang", on_progress=stop_it)
    assert service.stop.is_set()


@pytest.mark.parametrize("noise", [b"SSH-2.0-OpenSSH\r\n", b"\x00\x00\x00\x01\x80", b"\xff" * 8])
def test_what_listens_but_is_no_agent_is_not_believed(home, noise):
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.fspath(config.socket_path(home)))
        listening.listen()

        def answer():
            accepted, _ = listening.accept()
            with accepted:
                accepted.recv(4096)
                accepted.sendall(noise)

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(Untrusted):
            connect(home)
        thread.join()


def test_a_silent_agent_is_given_up(home, monkeypatch):
    monkeypatch.setattr(connection, "CONNECT_S", 0.05)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.fspath(config.socket_path(home)))
        listening.listen()
        with pytest.raises(p2pcache.errors.Unavailable, match="said nothing"):
            connect(home)


def test_arguments_that_cannot_be_sent_fail_before_anything_is_asked(home):
    with running_agent(home) as service, Client(home) as client:
        with pytest.raises(UsageError):
            client.get("\udcff")
        with pytest.raises(LocalFault):
            client.call("get", {"ref": "\udcff"})
        assert client.gc()["evicted"] == 4
    assert [op for op, _ in service.calls] == ["gc"]


def test_unknown_operations_are_usage_errors(home):
    with running_agent(home), Client(home) as client, pytest.raises(UsageError):
        client.call("frobnicate", {})


async def test_fifty_calls_share_sixteen_connections(agent_of):
    options = ServerOptions(max_clients=16)
    async with agent_of(options) as agent, p2pcache.AsyncClient(agent.home) as client:
        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(client.resolve, "hf://org/model")
        assert len(agent.service.calls) == 50


async def test_cancelling_a_call_cancels_it_in_the_agent_and_nothing_else(agent_of):
    async with agent_of() as agent, p2pcache.AsyncClient(agent.home) as client:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.get, "hang")
            await agent.service.began.wait()
            assert (await client.gc())["evicted"] == 4
            nursery.cancel_scope.cancel()
        with trio.fail_after(5):
            while agent.service.cancelled != ["hang"]:  # noqa: ASYNC110
                await trio.sleep(0.001)
        assert (await client.gc())["evicted"] == 4


def test_many_programs_at_once(home):
    failures = []

    def work():
        try:
            for _ in range(20):
                with Client(home) as client:
                    assert len(client.ls()) == LAST_ITEM_COUNT
        except BaseException as exc:
            failures.append(exc)
            raise

    with running_agent(home) as service:
        threads = [threading.Thread(target=work) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert not failures
    assert len(service.calls) == 12 * 20


def test_an_embedded_agent_lives_as_long_as_somebody_needs_it(home):
    first = connect(home, embed=True, agent_command=SCRIPTED)
    pid = first.connect().pid
    second = connect(home, embed=True, agent_command=SCRIPTED)
    assert second.connect().pid == pid  # shared, not a second one
    began = time.monotonic()
    first.close()
    assert time.monotonic() - began < 3.0, "an agent that stays is not waited for"
    assert second.gc()["evicted"] == 4  # still there for the second
    second.close()
    wait_until(lambda: not config.socket_path(home).exists())


def test_an_embedded_agent_has_ended_when_its_client_is_closed(home):
    slow = "import time, trio, tests.support.scripted_service as s; trio.run(s._embedded)"
    command = (sys.executable, "-c", f"{slow}; time.sleep(0.8)")
    with connect(home, embed=True, agent_command=command) as client:
        pid = client.connect().pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_the_embedded_agent_of_a_killed_program_goes_too(home):
    program = (
        "import sys, p2pcache\n"
        "agent = p2pcache.connect(sys.argv[1], embed=True, agent_command=sys.argv[2:])\n"
        "print(agent.connect().pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program, str(home), *SCRIPTED],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with child:
        assert int(child.stdout.readline())
        assert config.socket_path(home).exists()
        child.kill()
    wait_until(lambda: not config.socket_path(home).exists())


def test_an_agent_that_does_not_come_up_shows_the_end_of_its_log(home):
    failing = (sys.executable, "-c", "import sys; sys.exit('no space for the store')")
    with pytest.raises(LocalFault, match="no space for the store"):
        connect(home, embed=True, agent_command=failing)


async def test_the_trio_client_embeds_one_agent_for_many_calls(home):
    async with p2pcache.AsyncClient(home, embed=True, agent_command=SCRIPTED) as client:
        pids = set()

        async def note_pid():
            pids.add((await client.status())["pid"])

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(note_pid)
    assert len(pids) == 1


async def test_an_embedded_agent_that_died_is_started_again(home):
    async with p2pcache.AsyncClient(home, embed=True, agent_command=SCRIPTED) as client:
        first = (await client.status())["pid"]
        os.kill(first, signal.SIGKILL)
        path = config.socket_path(home)
        await trio.to_thread.run_sync(wait_until, lambda: not is_listening(path))
        assert (await client.status())["pid"] != first


def test_the_callers_paths_are_made_absolute_and_other_refs_are_left(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/u")
    assert absolute_ref("./a") == str(tmp_path / "a")
    assert absolute_ref("..") == str(tmp_path.parent)
    assert absolute_ref("~/a") == "/home/u/a"
    for ref in ("org/name", "hf://org/name", "sha256:00", "https://x/./y", "/abs"):
        assert absolute_ref(ref) == ref


@pytest.mark.parametrize("call", [
    lambda: absolute_ref("./a\udcff"),
    lambda: absolute_ref("/a\udcff"),
    lambda: push("a\udcff"),
    lambda: get("org/name", to="/x/\udcff"),
    lambda: get("org/name", hf_cache="/x/\udcff"),
])  # fmt: skip
def test_a_path_that_is_no_text_is_refused_by_name(call):
    with pytest.raises(UsageError, match="is not UTF-8"):
        call()


def test_the_callers_credentials_and_cache_travel_and_to_turns_the_cache_off(home, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("HF_HUB_CACHE", "/hub")
    with running_agent(home) as service, Client(home) as client:
        client.get("org/name")
        client.get("org/name", to="out")
        client.get("org/name", to="out", hf_cache=True, credentials={})
    first, second, third = (args for _, args in service.calls)
    assert first["credentials"]["hf_token"] == "secret"
    assert (first["hf_cache"], first["to"]) == ("/hub", None)
    assert (second["hf_cache"], second["to"]) == (None, os.path.abspath("out"))
    assert (third["hf_cache"], third["credentials"]) == ("/hub", {})


def test_importing_p2pcache_and_the_sync_client_loads_no_trio():
    heavy = "{'trio', 'httpx', 'huggingface_hub', 'rich', 'click', 'urllib3'}"
    program = (
        "import sys, p2pcache\n"
        "assert 'msgpack' not in sys.modules\n"
        "p2pcache.Client, p2pcache.connect\n"
        f"print(sorted({heavy} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")
    assert len(p2pcache.__all__) <= 12


def wait_until(holds, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_start_that_takes_its_time_is_told_once(tmp_path):
    told = []
    with pytest.raises(LocalFault, match="the agent ended"):
        start_agent(
            tmp_path, tmp_path / "agent.sock", ["sh", "-c", "sleep 2.5; exit 3"],
            on_slow=lambda: told.append(1),
        )  # fmt: skip
    assert told == [1]
    with pytest.raises(LocalFault):
        start_agent(tmp_path, tmp_path / "agent.sock", ["false"], on_slow=lambda: told.append(2))
    assert told == [1]


@pytest.mark.parametrize("timeout_s", [0, -1, math.nan])
def test_a_timeout_that_is_none_is_refused_before_anybody_is_asked(tmp_path, timeout_s):
    with Client(tmp_path) as client, pytest.raises(UsageError, match="more than 0"):
        client.resolve("org/name", timeout_s=timeout_s)
