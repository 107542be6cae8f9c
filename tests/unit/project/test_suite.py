"""The tests' own runner, on a project of two tests that each start a server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scripts.suite import BESIDE, QUICK
from tests.support.processes import is_alive

ROOT = Path(__file__).resolve().parents[3]
START = (
    "import pathlib, sys; from scripts import suite; suite.REPO = pathlib.Path(sys.argv[1]);"
    "suite.BESIDE = ['tests/unit'];"
    "sys.exit(suite.main('not lab'))"
)
TEST = """
import pathlib, subprocess, sys

def test_with_a_server():
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"]) as server:
        try:
            pathlib.Path(__file__ + ".pid").write_text(str(server.pid))
            server.wait()
        finally:
            server.kill()
"""


@pytest.mark.parametrize("chosen", [BESIDE, QUICK])
def test_what_a_run_names_is_there(chosen: list[str]) -> None:
    for name in chosen:
        path, _, test = name.partition("::")
        assert (ROOT / path).exists(), name
        assert not test or f"def {test}(" in (ROOT / path).read_text(), name


def test_the_quick_tests_need_no_server_that_has_to_be_built() -> None:
    for name in QUICK:
        path, _, test = name.partition("::")
        text = (ROOT / path).read_text()
        if test:  # one of a file
            text = text.partition(f"def {test}(")[2].partition("\ndef ")[0]
        assert [tool for tool in ("kubo", "olah", "js_peer", "hub_python") if tool in text] == [], (
            name
        )


def test_lock_files_name_no_place_to_download_from() -> None:
    locks = sorted((ROOT / "tests" / "support").glob("*/package-lock.json"))
    assert locks
    for lock in locks:
        assert '"resolved"' not in lock.read_text(), lock


@pytest.mark.slow
def test_sigterm_ends_both_runs_and_what_they_started(tmp_path: Path) -> None:
    tests = [tmp_path / "tests" / "test_a.py", tmp_path / "tests" / "unit" / "test_b.py"]
    for test in tests:
        test.parent.mkdir(exist_ok=True)
        test.write_text(TEST)
    pids = [Path(f"{test}.pid") for test in tests]
    servers: list[int] = []
    suite = subprocess.Popen(
        [sys.executable, "-c", START, str(tmp_path)],
        cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),  # as of a shell's `&`
    )  # fmt: skip
    try:
        give_up = time.monotonic() + 40
        while not all(pid.is_file() and pid.read_text() for pid in pids):
            assert suite.poll() is None
            assert time.monotonic() < give_up
            time.sleep(0.05)
        servers = [int(pid.read_text()) for pid in pids]
        suite.send_signal(signal.SIGTERM)
        assert suite.wait(20) == 128 + signal.SIGTERM
        give_up = time.monotonic() + 20  # they are killed; whose child they become reaps them
        while any(is_alive(pid) for pid in servers):
            assert time.monotonic() < give_up
            time.sleep(0.05)
    finally:
        suite.kill()
        suite.wait()
        for pid in servers:
            if is_alive(pid):
                os.kill(pid, signal.SIGKILL)
