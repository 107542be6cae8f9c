"""All tests: `python -m scripts.suite [--quick] MARKS [pytest arguments]`.

Those that start real servers wait most of the time. What needs no server, or has no deadline, runs
beside them, at a low priority, so that no deadline of theirs is missed for it; arguments of pytest
make it one run.
`--quick` runs tests/unit beside a few that start servers, QUICK: some 90 s of a core each.
What fails is run once more, alone: a machine that is busy with something else breaks deadlines.
Both results are printed; what fails twice fails. SIGTERM ends both as Ctrl-C does: with what they
started.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO

REPO = Path(__file__).parents[1]
BESIDE = [
    "tests/unit", "tests/sim",
    # these start servers, and nothing in them is judged by how long it took
    "tests/cli/test_commands.py", "tests/cli/test_damage.py", "tests/cli/test_docs.py",
    "tests/cli/test_bptr.py", "tests/cli/test_one_agent.py", "tests/cli/test_output.py",
    "tests/cli/test_preload.py", "tests/cli/test_preload_reasons.py", "tests/cli/test_program.py",
    "tests/cli/test_real_agent.py", "tests/cli/test_streams.py", "tests/contract",
    "tests/faults/test_budget.py", "tests/faults/test_disk_faults.py",
    "tests/faults/test_proxies.py", "tests/faults/test_redirects.py",
    "tests/faults/test_store_crash.py", "tests/faults/test_store_disk_full.py",
    "tests/real/test_airgap_kubo.py", "tests/real/test_bptr.py", "tests/real/test_dag_kubo.py",
    "tests/real/test_get.py", "tests/real/test_hf_cache.py", "tests/real/test_hf_source.py",
    "tests/real/test_http_source.py", "tests/real/test_ipfs_backend.py",
    "tests/real/test_ipfs_gateway_agent.py", "tests/real/test_ipfs_gateway_helia.py",
    "tests/real/test_ipfs_gateway_kubo.py",
    "tests/real/test_kubo_rpc_add.py", "tests/real/test_kubo_rpc_agent.py",
    "tests/real/test_kubo_rpc_blocks.py", "tests/real/test_kubo_rpc_clients.py",
    "tests/real/test_kubo_rpc_files.py", "tests/real/test_kubo_rpc_read.py",
    "tests/real/test_lanes_nginx.py", "tests/real/test_lean_libp2p.py",
    "tests/real/test_ollama.py", "tests/real/test_origins.py", "tests/real/test_py_libp2p_fixes.py",
    "tests/real/test_s3_source.py",
    "tests/real/test_unixfs_kubo.py",
]  # fmt: skip
# One act of each kind: the command line, an agent, its sources, pulls and their faults, a network.
# They need nginx, and none of the servers that take minutes to build.
QUICK = [
    "tests/cli/test_docs.py", "tests/cli/test_program.py",
    "tests/real/test_get.py::test_a_file_comes_from_nginx_plain_and_over_a_private_authority",
    "tests/real/test_http_source.py",
    "tests/faults/test_fetch_faults.py", "tests/faults/test_peer_pulls.py",
    "tests/faults/test_shared_pulls.py", "tests/faults/test_small_blobs.py",
    "tests/sim/test_brings.py", "tests/sim/test_members.py",
    "tests/real/test_agents_network.py::"
    "test_three_agents_that_joined_one_after_the_other_all_know_each_other",
]  # fmt: skip
NICENESS = "15"
ENDS_S = 30.0
FAILED = 1  # of pytest: some tests did
running: list[subprocess.Popen[bytes]] = []
AGAIN = ["--last-failed", "--last-failed-no-failures", "none"]


def pytest(marks: str, *arguments: str, cache: str) -> list[str]:
    """The command of one run, which remembers what failed in a folder of its own."""
    return [
        sys.executable, "-m", "pytest", "-m", marks, "--durations=25",
        "-o", f"cache_dir=.pytest_cache/{cache}", *arguments,
    ]  # fmt: skip


def start(command: list[str], log: IO[bytes] | None = None) -> subprocess.Popen[bytes]:
    """One run; its output goes to ours, or to a log."""
    process = subprocess.Popen(
        command, cwd=REPO, stdin=subprocess.DEVNULL, stdout=log, stderr=log and subprocess.STDOUT
    )
    running.append(process)
    return process


def run(command: list[str]) -> int:
    """Its exit status."""
    process = start(command)
    try:
        return process.wait()
    finally:
        stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """Where the run is interrupted, it is too: it has servers to end."""
    if process.poll() is None:
        try:
            process.wait(ENDS_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def end(number: int, _frame: object) -> None:
    """A terminal's Ctrl-C reaches all; what is sent to us alone has to be passed on."""
    signal.signal(number, signal.SIG_IGN)
    for process in running:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
    sys.exit(128 + number)


def both(marks: str, *, quick: bool = False) -> dict[str, tuple[list[str], int]]:
    """Run everything in two halves, or little of it: by name, the command and its status."""
    chosen = QUICK if quick else ["tests", *(f"--ignore={folder}" for folder in BESIDE)]
    servers = pytest(marks, *chosen, cache="servers")
    plain = pytest(marks, *(["tests/unit"] if quick else BESIDE), cache="plain")
    with tempfile.TemporaryFile() as log:
        beside = start(["nice", "-n", NICENESS, *plain], log)
        try:
            status = run(servers)
            beside_status = beside.wait()
        finally:
            stop(beside)
        print("\nscripts/test: what ran beside the others:", flush=True)
        log.seek(0)
        sys.stdout.buffer.write(log.read())
        sys.stdout.flush()
    return {"servers": (servers, status), "plain": (plain, beside_status)}


def main(*arguments: str) -> int:
    """0 when all passed, at the second time at last."""
    quick = arguments[:1] == ("--quick",)
    marks, *arguments_of_pytest = arguments[quick:]
    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's `&` has it ignored
    if arguments_of_pytest:
        command = pytest(marks, *arguments_of_pytest, cache="chosen")
        runs = {"chosen": (command, run(command))}
    else:
        runs = both(marks, quick=quick)
    worst = 0
    for command, status in runs.values():
        if status == FAILED:
            print("scripts/test: what failed is run once more, alone", flush=True)
            status = run([*command, *AGAIN])
        worst = max(worst, abs(status))
    return worst


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
