"""The tests' own runner, on a project of two tests that each start a server."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scripts.suite import QUICK, STREAMS
from tests.support.after_builds import needs_build
from tests.support.processes import is_alive

ROOT = Path(__file__).resolve().parents[3]
START = (
    "import pathlib, sys; from scripts import suite; suite.REPO = pathlib.Path(sys.argv[1]);"
    "suite.STREAMS = {'timed': (0, []), 'plain': (15, ['tests/unit'])};"
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


@pytest.mark.parametrize("chosen", [QUICK, *(tests for _, tests in STREAMS.values())])
def test_what_a_run_names_is_there(chosen: list[str]) -> None:
    for name in chosen:
        path, _, test = name.partition("::")
        assert (ROOT / path).exists(), name
        assert not test or f"def {test}(" in (ROOT / path).read_text(), name


def test_the_quick_tests_need_no_server_that_has_to_be_built() -> None:
    for name in QUICK:
        path, _, test = name.partition("::")
        if test:  # one of a file
            body = (ROOT / path).read_text().partition(f"def {test}(")[2].partition("\ndef ")[0]
            asks = [one for one in ("kubo", "olah", "js_peer", "hub_python") if one in body]
            assert asks == [], name
        else:
            assert not needs_build(ROOT / path), name


def test_lock_files_name_no_place_to_download_from() -> None:
    locks = sorted((ROOT / "tests" / "support").glob("*/package-lock.json"))
    assert locks
    for lock in locks:
        assert '"resolved"' not in lock.read_text(), lock


def project(folder: Path, *, check: int = 0, builds: str = "") -> list[str]:
    """A project of two streams, whose checks end with a status; the command that tests it."""
    (folder / "scripts").mkdir()
    (folder / "scripts" / "check").write_text(f"#!/bin/sh\nexit {check}\n")
    (folder / "scripts" / "check").chmod(0o755)
    support = folder / "tests" / "support"
    support.mkdir(parents=True)
    (folder / "tests" / "unit").mkdir()
    for package in (support, support.parent):
        (package / "__init__.py").touch()
    shutil.copy(ROOT / "tests" / "support" / "after_builds.py", support)
    (support / "builds.py").write_text(builds)
    return [sys.executable, "-c", START, str(folder)]


@pytest.mark.slow
def test_what_needs_a_build_runs_last_and_begins_when_all_is_built(tmp_path: Path) -> None:
    command = project(
        tmp_path,
        builds="import os, time\n"
        "while not os.path.exists('tests/test_b.py.ran'): time.sleep(0.1)\n"
        "open('built', 'w').write(str(time.monotonic()))\n",
    )
    says = (
        "def test_it():\n    import time; open(__file__ + '.ran', 'w').write(str(time.monotonic()))"
    )
    support, tests = tmp_path / "tests" / "support", tmp_path / "tests"
    (support / "building.py").write_text("")
    (support / "server.py").write_text("from tests.support import building\n")
    (tests / "test_a.py").write_text(f"import tests.support.server\n{says}\n")
    (tests / "test_b.py").write_text(f"{says}\n")
    (tests / "unit" / "test_c.py").write_text(
        f"from tests.support.server import building\n{says}\n"
    )
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, timeout=100)
    built = float((tmp_path / "built").read_text())
    for after in ("test_a.py", "unit/test_c.py"):
        assert built < float((tests / f"{after}.ran").read_text())


def test_a_check_that_fails_ends_the_builds_and_nothing_is_tested(tmp_path: Path) -> None:
    command = project(tmp_path, check=3, builds="import time; time.sleep(300)")
    (tmp_path / "tests" / "test_a.py").write_text("def test_it(): open('ran', 'w')\n")
    assert subprocess.run(command, cwd=ROOT, check=False, timeout=100).returncode == 3
    assert not (tmp_path / "ran").exists()


@pytest.mark.slow
def test_a_build_that_fails_fails_the_run_and_is_shown(tmp_path: Path) -> None:
    command = project(tmp_path, builds="import sys; sys.exit('nothing came')")
    for name in ("test_a.py", "unit/test_b.py"):
        (tmp_path / "tests" / name).write_text("def test_it(): pass\n")
    done = subprocess.run(
        command, cwd=ROOT, check=False, text=True, stdout=subprocess.PIPE, timeout=100
    )
    assert (done.returncode, "nothing came" in done.stdout) == (1, True)


@pytest.mark.slow
def test_sigterm_ends_both_runs_and_what_they_started(tmp_path: Path) -> None:
    tests = [tmp_path / "tests" / "test_a.py", tmp_path / "tests" / "unit" / "test_b.py"]
    command = project(tmp_path)
    for test in tests:
        test.write_text(TEST)
    pids = [Path(f"{test}.pid") for test in tests]
    servers: list[int] = []
    suite = subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),  # as of a shell's `&`
    )  # fmt: skip
    try:
        give_up = time.monotonic() + 120
        while not all(pid.is_file() and pid.read_text() for pid in pids):
            assert suite.poll() is None
            assert time.monotonic() < give_up
            time.sleep(0.05)
        servers = [int(pid.read_text()) for pid in pids]
        suite.send_signal(signal.SIGTERM)
        assert suite.wait(60) == 128 + signal.SIGTERM
        give_up = time.monotonic() + 60  # they are killed; whose child they become reaps them
        while any(is_alive(pid) for pid in servers):
            assert time.monotonic() < give_up
            time.sleep(0.05)
    finally:
        suite.kill()
        suite.wait()
        for pid in servers:
            if is_alive(pid):
                os.kill(pid, signal.SIGKILL)
