"""The lock of a home: who has it, who waits, and what a damaged record means."""

import json
import multiprocessing
import os
import socket
import threading
import time

import pytest

from p2pcache.agent.localapi.home_lock import NAME, elsewhere, held
from p2pcache.errors import LocalFault


def take(home, *, embedded=False, wait_s=0.3, path=None, said=None):
    said = [] if said is None else said
    return held(home, path or home / "x.sock", embedded=embedded, say=said.append, wait_s=wait_s)


@pytest.fixture
def listening(home):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(home / "other.sock"))
        sock.listen()
        yield home / "other.sock"


def test_two_never_have_it_and_the_next_gets_it(home):
    with take(home), pytest.raises(LocalFault, match=f"pid {os.getpid()} on .* does not answer"):
        take(home).__enter__()
    with take(home):
        pass


def test_who_starts_while_another_ends_waits_for_its_end(home):
    first = take(home)
    first.__enter__()
    threading.Timer(0.2, lambda: first.__exit__(None, None, None)).start()
    began = time.monotonic()
    with take(home, wait_s=10):
        assert time.monotonic() - began < 5


def test_one_that_answers_is_named_at_once(home, listening):
    began = time.monotonic()
    with take(home, path=listening), pytest.raises(LocalFault, match=r"already running on .*other"):
        take(home, wait_s=10).__enter__()
    assert time.monotonic() - began < 5


def test_an_agent_waits_for_that_of_a_command_and_a_command_uses_it(home, listening):
    said = []
    with take(home, path=listening, embedded=True):
        with pytest.raises(LocalFault, match="already running"):
            take(home, embedded=True, wait_s=10).__enter__()
        with pytest.raises(LocalFault, match="still in use"):
            take(home, said=said).__enter__()
    assert said == [f"waiting for the agent of a command (pid {os.getpid()}) to end"]


def test_it_ends_with_its_process_also_when_that_is_killed(home):
    context = multiprocessing.get_context("fork")
    ready = context.Event()

    def hold():
        with take(home):
            ready.set()
            time.sleep(60)

    process = context.Process(target=hold)
    process.start()
    assert ready.wait(10)
    process.kill()
    process.join()
    with take(home, wait_s=5):
        pass


@pytest.mark.parametrize(
    "record", [b"", b"{", b"[]", b"7", b'{"pid": 1}', b"\xff\xfe", json.dumps(
        {"pid": "1", "host": 2, "socket": ["/x"], "embedded": None}).encode()]
)  # fmt: skip
def test_a_damaged_record_points_nowhere_and_keeps_nobody_out(home, record):
    (home / NAME).write_bytes(record)
    assert elsewhere(home, home / "agent.sock") is None
    with take(home):
        pass


def test_a_record_of_a_dead_agent_points_nowhere(home, listening):
    with take(home, path=listening):
        pass
    assert elsewhere(home, home / "agent.sock") == listening
    listening.unlink()
    assert elsewhere(home, home / "agent.sock") is None
    assert elsewhere(home, listening) is None
